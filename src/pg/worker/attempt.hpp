// One attempt at a run, from the claimed lease to the end of it: folder, data, trainer, supervision, and the transition that
// ends it. Holds no transaction while it waits. Called by the device worker; returns when the lease has ended, whatever
// happened, and throws nothing but what ends the worker itself.
//
//   Preparing -> StartingTrainer -> Training -> Publishing -> Cleaning
//        \_____________\_______________\-> Stopping -> Cleaning
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pg/compat.hpp"

#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/trainer.hpp"

namespace pgtrain::pg::worker {

// How an attempt ended; one transition of the run belongs to each.
enum class Ending { None, Succeeded, Cancelled, Paused, Failed, QueuedAgain };

enum class StopWish { None, Cancel, Pause, Limit, GiveWay, Shutdown };

class Attempt {
 public:
  Attempt(const Claim &claim, int device, int64_t device_id);
  void run();

 private:
  struct DatasetPart {
    int64_t dataset_id;
    int64_t sample_count;
    int64_t samples_at_once;  // so few that their text does not fill the memory
    bool is_validation;
  };

  // Preparing.
  void load_job();
  void write_data();
  protocol::InputFile write_samples(const char *name, bool is_validation);
  void fetch_checkpoint();
  std::string fetch(int64_t file_id);
  void fetch_base();
  // Training.
  void start_trainer();
  void supervise();
  void look_at(const protocol::UpMessage &message);
  void look_at_clock();
  void write_batch();
  bool keep_lease();
  bool must_give_way(const call::Spi &spi);
  // What the trainer says.
  void on(const protocol::up::Hello &) {}
  void on(const protocol::up::Plan &message);
  void on(const protocol::up::Data &message);
  void on(const protocol::up::Piece &) {}
  void on(const protocol::up::Description &) {}
  void on(const protocol::up::Speed &) {}
  void on(const protocol::up::Task &message) { relay_.add(message); }
  void on(const protocol::up::Progress &message) { relay_.add(message); }
  void on(const protocol::up::Metric &message) { relay_.add(message); }
  void on(const protocol::up::Evaluation &message) { relay_.add(message); }
  void on(const protocol::up::Sample &message) { relay_.add(message); }
  void on(const protocol::up::Log &message) { relay_.add(message); }
  void on(const protocol::up::Heartbeat &) {}
  void on(const protocol::up::File &message);
  void on(const protocol::up::Failed &message);
  void on(const protocol::up::Done &message);
  void store_checkpoint(const FileClaim &claim, int64_t step);
  void keep_artifact(const protocol::up::File &message);
  // Stopping and ending.
  void wish(StopWish wish);
  void end_by_stop();
  void end_as(Ending ending, const char *reason, std::string message = {}, std::string detail = {}, std::string hint = {});
  void end_of_trainer();
  void publish();
  void make_transition();
  void requeue_after(const Error &error);

  Claim claim_;
  int device_;
  int64_t device_id_;
  std::optional<JobFolder> folder_;
  std::optional<Trainer> trainer_;
  Relay relay_;
  protocol::down::Job job_;
  std::vector<DatasetPart> datasets_;
  std::optional<int64_t> checkpoint_file_;
  int rank_ = 0;               // in the queue: lower goes before
  TimestampTz claimed_at_ = 0;

  struct Kept {
    std::string name;
    FileClaim claim;
  };
  std::vector<Kept> artifacts_;
  std::optional<protocol::up::Done> done_;

  bool is_planned_ = false;
  TimestampTz heard_at_ = 0, written_at_ = 0, started_at_ = 0, looked_at_ = 0;
  StopWish wish_ = StopWish::None;
  TimestampTz stop_deadline_ = 0;

  Ending ending_ = Ending::None;
  bool counts_ = true;
  std::string reason_, message_, detail_, hint_;
  std::optional<std::string> exit_status_;
};

}  // namespace pgtrain::pg::worker
