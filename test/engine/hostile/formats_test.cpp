// Model files of others, damaged at random: GGUF. What a file claims is bounded by what it holds.
#include <fstream>

#include "../temporary_folder.hpp"
#include "engine/io/gguf.hpp"
#include "mutations.hpp"

namespace pgtrain::engine {
namespace {

constexpr std::size_t kSlack = std::size_t{1} << 16;

std::string small_gguf() {
  const TemporaryFolder folder;
  io::GgufWriter writer(folder.path("a"));
  writer.set_text("general.architecture", "llama");
  writer.set_u32("llama.block_count", 1);
  writer.set_texts("tokenizer.ggml.tokens", {"a", "bc", "def"});
  writer.set_f32s("tokenizer.ggml.scores", {1, 2, 3});
  writer.declare("token_embd.weight", {3, 32}, io::BlockType::Q8_0);
  writer.declare("output_norm.weight", {32}, io::BlockType::F32);
  writer.declare("output.weight", {1, 256}, io::BlockType::Q4_K);
  const std::vector<float> values(3 * 32 + 32 + 256, 0.5f);
  writer.write(values.data(), values.size());
  writer.commit();
  return std::string(io::MappedFile(folder.path("a")).bytes());
}

TEST(HostileFormats, GgufFilesClaimNoMemory) {
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  const std::string good = small_gguf();
  Outcome outcome;
  for (int round = 0; round < 20000; ++round) {
    const std::string file = mutated(random, good, 400);
    expect_well_behaved("seed " + std::to_string(seed) + " round " + std::to_string(round), {"model_invalid"}, 16 * good.size() + kSlack, outcome, [&] {
      const io::GgufHeader header = io::GgufHeader::parse(file, "mutated");
      for (const auto& field : header.metadata())
        if (field.second.kind == io::GgufKind::Array && field.second.element == io::GgufKind::Text) header.find_texts(field.first);
      for (const io::GgufTensor& tensor : header.tensors()) ASSERT_LE(header.data_begin() + tensor.end, file.size());
    });
  }
  EXPECT_GT(outcome.refused, 5000);
  EXPECT_GT(outcome.accepted, 200);
}

}  // namespace
}  // namespace pgtrain::engine
