// Every file that the engine reads, damaged at random: weights, config.json, tokenizer.json, checkpoints, samples. The larger
// sizes that a file may claim are bounded by what it holds; test/fuzz has the targets for a coverage-guided fuzzer.
#include <fstream>

#include "../model_folder.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/model.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/training.hpp"
#include "mutations.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine {
namespace {

constexpr std::size_t kSlack = std::size_t{1} << 20;
// A JSON value in memory is larger than its text.
constexpr std::size_t kTreeFactor = 256;

class Hostile : public ::testing::Test {
 protected:
  Hostile() : seed_(test::seed()), random_(seed_), cpu_(backend::open("cpu", {.threads = 1, .memory_limit_bytes = std::size_t{256} << 20})) {}

  // A run that leaves a checkpoint after its second step and the artifacts after its third.
  void train_once() {
    std::vector<std::string> texts;
    for (int i = 0; i < 30; ++i) texts.push_back("sample number " + std::to_string(i) + " of a small text");
    io::write_file(folder_.path("data.samples"), data::encode_documents(texts));
    train::Observer silent;
    train::train(options(), folder_.path("data.samples"), "", folder_.path(), *cpu_, silent);
  }
  static train::TrainingOptions options() {
    train::TrainingOptions options;
    options.layers = 1, options.width = 8, options.heads = 1, options.context = 8, options.batch_size = 2;
    options.steps = 3, options.checkpoint_every = 2, options.precision = "fp32", options.evaluation_batches = 1;
    return options;
  }
  std::string read(const char* name) const { return std::string(io::MappedFile(folder_.path(name)).bytes()); }
  // Without waiting for the disk, which io::write_file does.
  static void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size())); }
  std::string trace(int round) const { return "seed " + std::to_string(seed_) + " round " + std::to_string(round); }

  unsigned seed_;
  std::mt19937 random_;
  std::unique_ptr<backend::Backend> cpu_;
  TemporaryFolder folder_;
};

TEST_F(Hostile, SafetensorsHeadersClaimNoMemory) {
  train_once();
  const std::string good = read(train::kModelFile);
  Outcome outcome;
  for (int round = 0; round < 3000; ++round) {
    const std::string file = mutated(random_, good, 600);
    expect_well_behaved(trace(round), {"model_invalid"}, 16 * good.size() + kSlack, outcome, [&] { io::SafetensorsHeader::parse(file, "mutated"); });
  }
  EXPECT_GT(outcome.refused, 1000);
  EXPECT_GT(outcome.accepted, 100);
}

// Each of a model's files in turn, beside the two good ones.
TEST_F(Hostile, ModelsAreLoadedOrRefused) {
  train_once();
  for (const char* name : {train::kModelFile, train::kConfigFile, train::kTokenizerFile}) {
    const std::string good = read(name);
    Outcome outcome;
    for (int round = 0; round < 400; ++round) {
      write(folder_.path(name), mutated(random_, good, 600));
      expect_well_behaved(std::string(name) + " " + trace(round), {"model_invalid", "out_of_memory"}, kTreeFactor * good.size() + kSlack, outcome, [&] {
        train::Ask ask;
        ask.max_tokens = 3;
        train::answer(folder_.path(), ask, *cpu_);
      });
    }
    EXPECT_GT(outcome.refused, 100) << name;
    EXPECT_GT(outcome.accepted, 0) << name;
    write(folder_.path(name), good);
  }
}

// The context is as large as the file says in one small matrix; keys and values of it in every layer would be a thousand times that.
TEST_F(Hostile, ALargeContextTakesWhatIsWritten) {
  models::ModelConfig config = models::fresh_gpt2(256, 8, 1, 1 << 17, 257, 256);
  std::vector<float> values(static_cast<std::size_t>(config.context) * 8, 0.01f);
  std::vector<io::TensorToWrite> tensors;
  for (const models::ModelWeight& parameter : models::model_weights(config))
    tensors.push_back({parameter.name, io::StoredType::F32, {parameter.shape.begin(), parameter.shape.end()}, values.data()});
  const io::WrittenFile written = io::write_safetensors(folder_.path(train::kModelFile), tensors);
  write(folder_.path(train::kConfigFile), config.to_json());
  write(folder_.path(train::kTokenizerFile), tokenizers::Tokenizer::bytes().to_json());
  ASSERT_LT(written.bytes, std::uint64_t{16} << 20);
  train::Ask ask;
  ask.prompt = "abc", ask.max_tokens = 3;
  EXPECT_LE(train::answer(folder_.path(), ask, *cpu_).tokens, 3);  // within the 256 MiB of this device
}

TEST_F(Hostile, CheckpointsAreContinuedOrRefused) {
  train_once();
  const std::string good = read(train::kCheckpointFile), path = folder_.path("damaged.safetensors");
  const std::size_t header = 1200;
  Outcome outcome;
  for (int round = 0; round < 600; ++round) {
    write(path, mutated(random_, good, header));
    // A moment that is huge but finite may make the next step diverge.
    const std::set<std::string> codes = {"model_invalid", "config_invalid", "data_invalid", "non_finite_loss"};
    expect_well_behaved(trace(round), codes, kTreeFactor * good.size() + kSlack, outcome, [&] {
      train::Observer silent;
      const train::TrainingResult result = train::train(options(), folder_.path("data.samples"), path, folder_.path(), *cpu_, silent);
      EXPECT_EQ(result.steps, options().steps) << trace(round);
    });
  }
  EXPECT_GT(outcome.refused, 200);
  EXPECT_GT(outcome.accepted, 10);
}

// The numbers of a checkpoint alone: steps taken, tokens, the place in the data.
TEST_F(Hostile, CheckpointsNumbersAreHeldAgainstTheRun) {
  train_once();
  const std::string good = read(train::kCheckpointFile), path = folder_.path("damaged.safetensors");
  const io::SafetensorsHeader header = io::SafetensorsHeader::parse(good, "good");
  Outcome outcome;
  for (const io::StoredTensor& tensor : header.tensors) {
    if (tensor.name != "state/counts" && tensor.name != "state/cursor") continue;
    for (std::uint64_t at = tensor.begin; at < tensor.end; at += 8)
      for (const std::int64_t value : {INT64_MIN, std::int64_t{-1}, std::int64_t{1}, std::int64_t{4}, std::int64_t{1} << 32, INT64_MAX}) {
        std::string file = good;
        std::memcpy(file.data() + header.data_begin + at, &value, 8);
        write(path, file);
        expect_well_behaved(tensor.name + " at " + std::to_string(at - tensor.begin) + " is " + std::to_string(value), {"model_invalid"}, kTreeFactor * good.size() + kSlack, outcome, [&] {
          train::Observer silent;
          const train::TrainingResult result = train::train(options(), folder_.path("data.samples"), path, folder_.path(), *cpu_, silent);
          EXPECT_EQ(result.steps, options().steps) << tensor.name << " " << value;
        });
      }
  }
  EXPECT_GT(outcome.refused, 20);
}

TEST_F(Hostile, SamplesAreReadOrRefused) {
  std::vector<std::string> texts;
  for (int i = 0; i < 20; ++i) texts.push_back(std::string(1 + random_() % 40, 'a') + "\xE6\x97\xA5");
  const std::string good = data::encode_documents(texts);
  Outcome outcome;
  for (int round = 0; round < 5000; ++round) {
    const std::string file = mutated(random_, good, good.size());
    expect_well_behaved(trace(round), {"data_invalid"}, 64 * good.size() + kSlack, outcome, [&] {
      const data::Documents documents(file);
      std::size_t bytes = 0;
      documents.for_each([&](std::size_t, std::string_view text) { bytes += 4 + text.size(); });
      EXPECT_EQ(bytes, file.size()) << trace(round);
    });
  }
  EXPECT_GT(outcome.refused, 1000);
  EXPECT_GT(outcome.accepted, 50);
}

TEST_F(Hostile, TokenizersAreReadOrRefused) {
  const std::string good = tokenizers::Tokenizer::from_merges({{'t', 'h'}, {257, 'e'}, {' ', 258}, {0xC3, 0xA9}}).to_json();
  const std::string text = "the the caf\xC3\xA9 \xFF\x01";
  Outcome outcome;
  for (int round = 0; round < 1500; ++round) {
    const std::string file = mutated(random_, good, good.size());
    expect_well_behaved(trace(round), {"model_invalid"}, kTreeFactor * good.size() + kSlack, outcome, [&] {
      const auto tokenizer = tokenizers::Tokenizer::from_json(file, "mutated");
      std::vector<tokenizers::Tokenizer::Id> ids;
      tokenizer.encode(text, ids);
      for (const tokenizers::Tokenizer::Id id : ids) EXPECT_TRUE(id >= 0 && id < tokenizer.vocab_size()) << trace(round);
      tokenizer.decode_text(ids, false);
    });
  }
  EXPECT_GT(outcome.refused, 300);
  EXPECT_GT(outcome.accepted, 10);
}

TEST_F(Hostile, ConfigsAreReadOrRefused) {
  models::ModelConfig config = models::fresh_gpt2(2, 24, 3, 11, 37, 36);
  const std::string good = config.to_json();
  Outcome outcome;
  for (int round = 0; round < 5000; ++round) {
    const std::string file = mutated(random_, good, good.size());
    expect_well_behaved(trace(round), {"model_invalid"}, kTreeFactor * good.size() + kSlack, outcome, [&] {
      const auto read = models::ModelConfig::from_json(file, "mutated");
      EXPECT_GT(read.heads, 0);
      EXPECT_EQ(read.width % read.heads, 0);
      EXPECT_GT(models::count_parameters(read), 0u);
    });
  }
  EXPECT_GT(outcome.refused, 1000);
  EXPECT_GT(outcome.accepted, 50);
}

}  // namespace
}  // namespace pgtrain::engine
