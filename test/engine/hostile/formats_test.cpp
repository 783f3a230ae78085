// Model files of others, damaged at random: GGUF, folders with shards, config.json. What a file claims is bounded by what it holds.
#include <fstream>

#include "../temporary_folder.hpp"
#include "engine/io/gguf.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/checkpoint_source.hpp"
#include "mutations.hpp"
#include "support/seed.hpp"

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
  const unsigned seed = test::seed();
  std::mt19937 random(seed);
  const std::string good = small_gguf();
  Outcome outcome;
  for (int round = 0; round < 20000; ++round) {
    const std::string file = mutated(random, good, 400);
    expect_well_behaved("seed " + std::to_string(seed) + " round " + std::to_string(round), {"model_invalid"}, 16 * good.size() + kSlack,
                        outcome, [&] {
                          const io::GgufHeader header = io::GgufHeader::parse(file, "mutated");
                          for (const auto& field : header.metadata())
                            if (field.second.kind == io::GgufKind::Array && field.second.element == io::GgufKind::Text)
                              header.find_texts(field.first);
                          for (const io::GgufTensor& tensor : header.tensors()) ASSERT_LE(header.data_begin() + tensor.end, file.size());
                        });
  }
  EXPECT_GT(outcome.refused, 5000);
  EXPECT_GT(outcome.accepted, 200);
}

const char* const kConfig =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":40,"hidden_size":32,"intermediate_size":32,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,)"
    R"("max_position_embeddings":128,"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192},)"
    R"("eos_token_id":[1,2],"rms_norm_eps":1e-05,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})";

class HostileCheckpoints : public ::testing::Test {
 protected:
  HostileCheckpoints()
      : seed_(test::seed()),
        random_(seed_),
        config_(models::ModelConfig::from_json(kConfig, "config.json")),
        values_(40 * 32, 0.5f) {
    const auto parameters = models::parameter_shapes(config_);
    std::vector<io::TensorToWrite> first, second;
    std::string map;
    for (const models::ParameterShape& parameter : parameters) {
      auto& shard = first.size() < 5 ? first : second;
      shard.push_back({parameter.name, io::StoredType::F32, parameter.shape, values_.data()});
      map += (map.empty() ? "" : ",") + ("\"" + parameter.name) + "\":\"" + (&shard == &first ? "a" : "b") + ".safetensors\"";
    }
    io::write_safetensors(folder_.path("a.safetensors"), first);
    io::write_safetensors(folder_.path("b.safetensors"), second);
    write("model.safetensors.index.json", "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map + "}}");
    write("config.json", kConfig);
    write_gguf();
  }
  void write_gguf() {
    io::GgufWriter writer(folder_.path("model.gguf"));
    models::write_gguf_metadata(writer, config_, "hostile");
    const std::vector<float> factors = models::rope_factors(config_.rope, config_.head_width);
    writer.declare(models::kRopeFactors, {factors.size()}, io::BlockType::F32);
    for (const models::ParameterShape& parameter : models::parameter_shapes(config_))
      writer.declare(models::gguf_place(config_, parameter).name, parameter.shape, io::BlockType::F32);
    writer.write(factors.data(), factors.size());
    for (const models::ParameterShape& parameter : models::parameter_shapes(config_))
      writer.write(values_.data(), parameter.shape[0] * (parameter.shape.size() == 2 ? parameter.shape[1] : 1));
    writer.commit();
  }
  void write(const char* name, const std::string& bytes) {
    std::ofstream(folder_.path(name), std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

  // Damages one file at a time and opens the whole; what opens is read.
  Outcome damage(const char* name, const std::string& path, std::size_t front, int rounds) {
    const std::string good(io::MappedFile(folder_.path(name)).bytes());
    Outcome outcome;
    for (int round = 0; round < rounds; ++round) {
      write(name, mutated(random_, good, front));
      expect_well_behaved(std::string(name) + " seed " + std::to_string(seed_) + " round " + std::to_string(round),
                          {"model_invalid", "io_error"}, (std::size_t{1} << 20) + 256 * good.size(), outcome, [&] {
                            const auto source = models::CheckpointSource::open(path);
                            for (std::size_t i = 0; i < source->tensors().size(); ++i) {
                              std::vector<float> read(source->tensors()[i].elements);
                              source->read_f32(i, read.data());
                            }
                          });
    }
    write(name, good);
    return outcome;
  }

  unsigned seed_;
  std::mt19937 random_;
  TemporaryFolder folder_;
  models::ModelConfig config_;
  std::vector<float> values_;
};

TEST_F(HostileCheckpoints, AreReadOrRefused) {
  const struct {
    const char* name;
    std::size_t front;
  } files[] = {{"config.json", 1000}, {"model.safetensors.index.json", 2000}, {"a.safetensors", 600}};
  for (const auto& file : files) {
    const Outcome outcome = damage(file.name, folder_.path(), file.front, 1500);
    EXPECT_GT(outcome.refused, 300) << file.name;
    EXPECT_GT(outcome.accepted, 2) << file.name;  // a few bits that mean nothing, among many that do
  }
  const Outcome outcome = damage("model.gguf", folder_.path("model.gguf"), 2500, 3000);
  EXPECT_GT(outcome.refused, 500);
  EXPECT_GT(outcome.accepted, 50);
}

}  // namespace
}  // namespace pgtrain::engine
