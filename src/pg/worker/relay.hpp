// Collects what a trainer says between two writes, as the JSON arguments of pgtrain_private.record_attempt.
// Bounded: of many progress messages in one batch some are left out, never the last.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

struct Batch {
  std::string progress, metrics, tasks, samples, events, evaluations;  // empty: nothing
};

class Relay {
 public:
  explicit Relay(int32_t attempt) : attempt_(attempt) {}

  void add(const protocol::up::Progress &message);
  void add(const protocol::up::Metric &message);
  void add(const protocol::up::Task &message);
  void add(const protocol::up::Evaluation &message);
  void add(const protocol::up::Sample &message);
  void add(const protocol::up::Log &message);
  void add_event(const std::string &status, const std::string &json_object);

  bool is_empty() const;
  Batch take();

 private:
  int32_t attempt_;
  int task_number_ = 0;
  bool has_progress_ = false;
  double seconds_written_ = 0;
  protocol::up::Progress last_;
  std::vector<std::string> metrics_, tasks_, samples_, events_;
  int left_out_ = 0;
  int64_t last_at_ = -1;  // where among the metrics the last progress of this batch lies
  std::string evaluation_before_, evaluation_after_;
};

// JSON of single values. A number that was not measured, or is no number, is null.
std::string json_text(const std::string &text);
std::string json_number(double number);

}  // namespace pgtrain::pg::worker
