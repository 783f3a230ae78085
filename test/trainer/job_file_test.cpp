// job_file_test.cpp: job files damaged at random: read, or refused by file and line, and what is read passes the same checks as
// any configuration; never a crash, never memory that the file does not pay for.
#include <filesystem>
#include <fstream>

#include "engine/hostile/mutations.hpp"
#include "engine/temporary_folder.hpp"
#include "protocol/run_config.hpp"
#include "trainer/job_file.hpp"
#include "support/seed.hpp"

namespace pgtrain::trainer::test {
namespace {

using engine::Outcome;

TEST(JobFile, IsReadOrRefused) {
  const unsigned seed = pgtrain::test::seed();
  std::mt19937 random(seed);
  const engine::TemporaryFolder folder;
  const std::string path = folder.path("fuzzed.job");
  std::ofstream(folder.path("data.samples"), std::ios::binary) << std::string("\3\0\0\0abc", 7);
  const std::string good = "# by hand\nkind = train\ndevice = cpu\nthreads = 2\nmemory_limit_bytes = 1000000\nprompt = once\nmax_tokens = 12\ntemperature = 0.5\n"
                           "top_k = 5\ntop_p = 0.9\nseed = 4\nsize = nano\nsteps = 10\nlearning_rate = 1e-3\nwidth = 64\nheads = 2\n";
  // Whatever became of the lines before, the last ones name the folder: nothing is written elsewhere.
  const std::string places = "\nwork_folder = " + folder.path() + "\ntext = \ndata = " + folder.path("data.samples") + "\n";
  Outcome read, frozen;
  for (int round = 0; round < 4000; ++round) {
    std::string text = engine::mutated(random, good, good.size());
    if (round % 200 == 0) text += std::string(std::size_t{1} << 20, static_cast<char>(random()));
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text << places;
    const std::string trace = "seed " + std::to_string(seed) + " round " + std::to_string(round);
    protocol::ConfigPairs config;
    bool is_read = false;
    engine::expect_well_behaved(trace, {"config_invalid", "io_error"}, 16 * (text.size() + places.size()) + (std::size_t{1} << 20), read, [&] {
      config = read_job_file(path).job.config;
      is_read = true;
    });
    if (!is_read) continue;
    protocol::RunConfig result;
    protocol::ConfigError error;
    const bool is_frozen = protocol::freeze_config(config, result, error);
    (is_frozen ? frozen.accepted : frozen.refused)++;
    if (!is_frozen) {
      EXPECT_FALSE(error.message.empty() || error.hint.empty()) << trace;
    }
  }
  EXPECT_GT(read.refused, 100);
  EXPECT_GT(frozen.accepted, 100);
  EXPECT_GT(frozen.refused, 100);
}

}  // namespace
}  // namespace pgtrain::trainer::test
