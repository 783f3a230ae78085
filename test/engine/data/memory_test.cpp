// A dataset that becomes tokens takes no memory in proportion to its size: measured in a process of its own.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "../temporary_folder.hpp"
#include "engine/data/load.hpp"
#include "engine/data/packing.hpp"
#include "engine/io/file.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20, kText = 160 * kMebibyte;

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Bytes that the most hungry moment took beyond the start.
std::size_t measure(const std::string& path, const std::string& folder) {
  const std::size_t start = resident_bytes();
  std::size_t most = start;
  const auto look = [&] { most = std::max(most, resident_bytes()); };
  const io::MappedFile file(path);
  const Documents documents(file.bytes(), look, [&](std::size_t begin, std::size_t end) { file.forget(begin, end); });
  const tokenizers::Tokenizer tokenizer = tokenizers::Tokenizer::bytes();
  const RecordReader reader(tokenizer, {}, {});
  const SplitTokens split = tokenize_records(documents, tokenizer, reader, false, {0.1, 1, folder, look});
  const StreamOptions options{4, 1024, 1, LongSamples::Split, 1};
  fit_samples(split.training, options.columns, options.long_samples);
  look();
  TrainingStream stream(split.training, options);
  Batch batch;
  for (int batches = 0; stream.next(batch); ++batches)
    if (batches % 256 == 0) look();
  look();
  return split.total_tokens < kText * 9 / 10 ? SIZE_MAX : most - start;
}

TEST(Memory, DoesNotGrowWithTheDataset) {
  TemporaryFolder folder;
  {
    std::ofstream out(folder.path("data.samples"), std::ios::binary);
    const std::string record = encode_documents({"{\"prompt\":\"" + std::string(1000, 'q') + "\",\"completion\":\"" + std::string(3000, 'a') + "\"}"});
    for (std::size_t bytes = 0; bytes < kText; bytes += record.size()) out << record;
  }
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(measure(folder.path("data.samples"), folder.path()) < 48 * kMebibyte ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "the text has " << kText / kMebibyte << " MiB, its tokens twice that";
}

}  // namespace
}  // namespace pgtrain::engine::data
