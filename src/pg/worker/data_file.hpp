// The file of samples that a job reads: for each its length as four bytes, lowest first, then its text; or, where the job starts from
// a model, its record as JSON, of which the model's template makes text. Called by device workers and by functions of sessions.
#pragma once

#include <cstdint>
#include <string>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"
#include "pg/worker/job_folder.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// Whether the job's samples are records: its configuration names a base model.
bool takes_records(const protocol::down::Job &job);

// So many samples are read at a time that their text does not fill the memory, where the longest has so many bytes.
int64_t samples_at_once(int64_t longest_bytes);

inline constexpr char data_name[] = "data.samples";
inline constexpr char validation_name[] = "validation.samples";

class DataFile {
 public:
  DataFile(const JobFolder &folder, bool are_records, const char *name = data_name);
  ~DataFile();
  DataFile(const DataFile &) = delete;
  DataFile &operator=(const DataFile &) = delete;

  // Appends those samples of a dataset whose place is above `after` and at most `until`; returns how many there are.
  int64_t add_samples(const call::Spi &spi, int64_t dataset_id, int64_t after, int64_t until);
  // The whole file, for the job.
  protocol::InputFile finish();

 private:
  void add(const std::string &text);
  void flush();

  const char *name_;
  std::string path_;
  bool are_records_;
  int descriptor_;
  std::string buffer_;
  uint64_t bytes_ = 0;
};

}  // namespace pgtrain::pg::worker
