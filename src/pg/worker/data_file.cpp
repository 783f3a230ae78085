// See data_file.hpp.
#include "pg/compat.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "pg/worker/data_file.hpp"
#include "pg/worker/file_store.hpp"

namespace pgtrain::pg::worker {
namespace {

using call::Type;

constexpr int64_t most_at_once = 2000;
constexpr int64_t bytes_at_once = 16 << 20;  // or one sample, where that is longer

call::Statement texts_statement{
    "select pgtrain_private.sample_text(s.content) from pgtrain.dataset_samples s"
    " where s.dataset_id = $1 and s.ordinal > $2 and s.ordinal <= $3 order by s.ordinal",
    {Type::Int8, Type::Int8, Type::Int8}};
call::Statement records_statement{
    "select s.content::text from pgtrain.dataset_samples s where s.dataset_id = $1 and s.ordinal > $2 and s.ordinal <= $3 order by s.ordinal",
    {Type::Int8, Type::Int8, Type::Int8}};

}  // namespace

bool takes_records(const protocol::down::Job &job) {
  return std::any_of(job.config.begin(), job.config.end(), [](const protocol::ConfigPair &pair) { return pair.first == "base_model" && !pair.second.empty(); });
}

int64_t samples_at_once(int64_t longest_bytes) { return std::clamp<int64_t>(bytes_at_once / std::max<int64_t>(1, longest_bytes), 1, most_at_once); }

DataFile::DataFile(const JobFolder &folder, bool are_records, const char *name)
    : name_(name), path_(folder.file(name)), are_records_(are_records), descriptor_(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
  if (descriptor_ < 0) throw Error(code::Unavailable, text_of_system_error("cannot make", path_));
}

DataFile::~DataFile() { close(descriptor_); }

int64_t DataFile::add_samples(const call::Spi &spi, int64_t dataset_id, int64_t after, int64_t until) {
  int64_t count = 0;
  for (const call::Row &row : (are_records_ ? records_statement : texts_statement).execute(spi, {dataset_id, after, until})) {
    add(row.text(0));
    ++count;
  }
  return count;
}

protocol::InputFile DataFile::finish() {
  flush();
  return protocol::InputFile{name_, bytes_, {}};
}

void DataFile::add(const std::string &text) {
  const auto length = static_cast<uint32_t>(text.size());
  for (int shift = 0; shift < 32; shift += 8) buffer_.push_back(static_cast<char>(length >> shift));
  buffer_ += text;
  if (buffer_.size() > (1 << 20)) flush();
}

void DataFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t put = ::write(descriptor_, buffer_.data() + done, buffer_.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw Error(code::Unavailable, text_of_system_error("cannot write", path_));
    done += static_cast<size_t>(put);
  }
  bytes_ += buffer_.size();
  buffer_.clear();
}

}  // namespace pgtrain::pg::worker
