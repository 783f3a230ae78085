// One model written as a folder, as shards and as GGUF is the same model; what is not a whole model is refused by name.
#include "engine/models/checkpoint_source.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "../temporary_folder.hpp"
#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/weights.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::models {
namespace {

using Weights = std::map<std::string, std::vector<float>>;

const std::string kLlama3 =
    R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192})";

std::string llama(const std::string& type, const std::string& more) {
  return R"({"model_type":")" + type +
         R"(","vocab_size":70,"hidden_size":32,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,)"
         R"("max_position_embeddings":128)" +
         (more.empty() ? "" : "," + more) + "}";
}
const std::vector<std::string>& configs() {
  static const std::vector<std::string> all = {
      llama("llama", ""),
      llama("llama", kLlama3 + R"(,"tie_word_embeddings":true)"),
      llama("llama", R"("attention_bias":true,"mlp_bias":true)"),
      llama("mistral", R"("sliding_window":16)"),
      llama("qwen2", R"("rope_scaling":{"type":"linear","factor":2})"),
      llama("qwen3", R"("tie_word_embeddings":true,"rope_scaling":{"rope_type":"yarn","factor":2.1,"original_max_position_embeddings":64})"),
      llama("llama", R"("rope_theta":123456.7,"rope_scaling":{"rope_type":"yarn","factor":4,"attention_factor":1.0})"),
      llama("llama", R"("rope_scaling":{"type":"dynamic","factor":3})"),
      R"({"model_type":"gpt2","vocab_size":70,"n_embd":32,"n_layer":2,"n_head":4,"n_positions":64,"n_inner":96})"};
  return all;
}

Weights random_weights(const ModelConfig& config, std::mt19937& random) {
  Weights out;
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    std::size_t count = 1;
    for (const auto extent : parameter.shape) count *= extent;
    auto& values = out[parameter.name];
    for (std::size_t i = 0; i < count; ++i) values.push_back(std::normal_distribution<float>()(random));
  }
  return out;
}

std::vector<io::TensorToWrite> to_write(const ModelConfig& config, const Weights& weights) {
  std::vector<io::TensorToWrite> out;
  for (const ParameterShape& parameter : parameter_shapes(config))
    out.push_back({parameter.name, io::StoredType::F32, parameter.shape, weights.at(parameter.name).data()});
  return out;
}

void write_gguf(const std::string& path, const ModelConfig& config, const Weights& weights, io::BlockType type,
                const char* more = "general.file_type") {
  io::GgufWriter writer(path);
  write_gguf_metadata(writer, config, "test");
  writer.set_u32("tokenizer.ggml.eos_token_id", 2);
  writer.set_u32(more, 8);
  std::vector<std::vector<float>> values;
  if (config.rope.kind == RopeKind::Llama3) {
    values.push_back(rope_factors(config.rope, config.head_width));
    writer.declare(kRopeFactors, {values.back().size()}, io::BlockType::F32);
  }
  for (const ParameterShape& parameter : parameter_shapes(config)) {
    const GgufPlace place = gguf_place(config, parameter);
    values.emplace_back(weights.at(parameter.name).size());
    to_gguf_layout(place, config.head_width, weights.at(parameter.name).data(), values.back().data());
    writer.declare(place.name, place.shape, place.shape.size() == 2 ? type : io::BlockType::F32);
  }
  for (const auto& tensor : values) writer.write(tensor.data(), tensor.size());
  writer.commit();
}

void expect_same(const CheckpointSource& source, const ModelConfig& config, const Weights& weights, float tolerance) {
  EXPECT_EQ(source.config().model_type, config.model_type);
  EXPECT_EQ(source.config().window, config.window);
  const ModelConfig wanted_config = source.gguf() == nullptr ? config : gguf_config(config);
  EXPECT_EQ(source.config().context, wanted_config.context);
  EXPECT_EQ(source.config().slides, config.slides);
  EXPECT_EQ(source.config().norm_epsilon, config.norm_epsilon);
  EXPECT_EQ(source.config().ties_head, config.ties_head);
  EXPECT_EQ(source.config().rope.kind, wanted_config.rope.kind);
  EXPECT_EQ(source.config().rope.attention_factor, config.rope.attention_factor);
  EXPECT_EQ(rope_table(source.config(), source.config().context), rope_table(config, source.config().context));
  ASSERT_EQ(source.tensors().size(), weights.size());
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const SourceTensor& tensor = source.tensors()[i];
    EXPECT_EQ(source.index_of(tensor.name), i);
    const auto& wanted = weights.at(tensor.name);
    ASSERT_EQ(tensor.elements, wanted.size()) << tensor.name;
    std::vector<float> values(wanted.size());
    std::vector<core::Bf16> halves(wanted.size());
    source.read_f32(i, values.data());
    source.read_bf16(i, halves.data());
    for (std::size_t k = 0; k < wanted.size(); ++k) {
      ASSERT_NEAR(values[k], wanted[k], tolerance) << tensor.name << " " << k;
      ASSERT_EQ(halves[k].bits, core::to_bf16(values[k]).bits) << tensor.name << " " << k;
    }
  }
}

std::string refusal(const std::string& path) {
  try {
    CheckpointSource::open(path);
  } catch (const core::Error& error) {
    EXPECT_TRUE(error.code == "model_invalid" || error.code == "io_error") << error.code;
    EXPECT_FALSE(error.hint.empty()) << error.message;
    return error.message;
  }
  return "";
}

TEST(CheckpointSource, ReadsTheSameModelFromAllForms) {
  std::mt19937 random(test::seed());
  for (const std::string& text : configs()) {
    SCOPED_TRACE(text);
    const TemporaryFolder folder;
    const ModelConfig config = ModelConfig::from_json(text, "config.json");
    const Weights weights = random_weights(config, random);
    io::write_file(folder.path("config.json"), text);
    io::write_safetensors(folder.path("model.safetensors"), to_write(config, weights));
    expect_same(*CheckpointSource::open(folder.path()), config, weights, 0);

    // Two shards.
    std::filesystem::remove(folder.path("model.safetensors"));
    auto tensors = to_write(config, weights);
    const std::vector<io::TensorToWrite> first(tensors.begin(), tensors.begin() + 5), second(tensors.begin() + 5, tensors.end());
    io::write_safetensors(folder.path("model-00001-of-00002.safetensors"), first);
    io::write_safetensors(folder.path("model-00002-of-00002.safetensors"), second);
    std::string map;
    for (std::size_t i = 0; i < tensors.size(); ++i)
      map += (i > 0 ? "," : "") + ("\"" + tensors[i].name + "\":\"model-0000") + (i < 5 ? "1" : "2") + "-of-00002.safetensors\"";
    io::write_file(folder.path("model.safetensors.index.json"), "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map + "}}");
    expect_same(*CheckpointSource::open(folder.path()), config, weights, 0);

    write_gguf(folder.path("f32.gguf"), config, weights, io::BlockType::F32);
    const auto source = CheckpointSource::open(folder.path("f32.gguf"));
    expect_same(*source, config, weights, 0);
    EXPECT_EQ(source->config().eos, std::vector<int>{2});
    write_gguf(folder.path("q8.gguf"), config, weights, io::BlockType::Q8_0);
    expect_same(*CheckpointSource::open(folder.path("q8.gguf")), config, weights, 0.03f);
    EXPECT_EQ(CheckpointSource::open(folder.path("q8.gguf"))->tensors()[0].stored_type, "Q8_0");
  }
}

// Larger than the buffer, in every layout.
TEST(CheckpointSource, ReadsLargeTensorsInPieces) {
  std::mt19937 random(test::seed());
  for (
      const char* text :
      {R"({"model_type":"llama","vocab_size":10,"hidden_size":320,"intermediate_size":96,"num_hidden_layers":1,"num_attention_heads":10,"max_position_embeddings":128})",
       R"({"model_type":"gpt2","vocab_size":10,"n_embd":160,"n_layer":1,"n_head":4,"n_positions":64})"}) {
    const TemporaryFolder folder;
    const ModelConfig config = ModelConfig::from_json(text, "config.json");
    const Weights weights = random_weights(config, random);
    write_gguf(folder.path("a.gguf"), config, weights, io::BlockType::F32);
    expect_same(*CheckpointSource::open(folder.path("a.gguf")), config, weights, 0);
  }
}

TEST(CheckpointSource, ReadsTextsAndOldNames) {
  std::mt19937 random(1);
  const TemporaryFolder folder;
  const ModelConfig config = ModelConfig::from_json(configs().back(), "config.json");
  const Weights weights = random_weights(config, random);
  const std::vector<float> mask(64 * 64, 1.0f);
  auto tensors = to_write(config, weights);
  for (auto& tensor : tensors) tensor.name = tensor.name.substr(std::string("transformer.").size());  // as OpenAI's own upload has them
  tensors.push_back({"h.0.attn.bias", io::StoredType::F32, {1, 1, 64, 64}, mask.data()});
  tensors.push_back({"lm_head.weight", io::StoredType::F32, {70, 32}, weights.at("transformer.wte.weight").data()});
  io::write_safetensors(folder.path("model.safetensors"), tensors);
  io::write_file(folder.path("config.json"), configs().back());
  io::write_file(folder.path("generation_config.json"), R"({"eos_token_id":[69,3]})");
  io::write_file(folder.path("tokenizer.json"), "{\"a\": 1}");
  io::write_file(folder.path("tokenizer_config.json"),
                 R"({"chat_template":[{"name":"tools","template":"x"},{"name":"default","template":"{{ a }}"}]})");
  const auto source = CheckpointSource::open(folder.path());
  expect_same(*source, config, weights, 0);
  EXPECT_EQ(source->config().eos, (std::vector<int>{69, 3}));
  EXPECT_EQ(source->tokenizer_json(), "{\"a\": 1}");
  EXPECT_EQ(source->chat_template(), "{{ a }}");
  io::write_file(folder.path("chat_template.jinja"), "{{ b }}");
  EXPECT_EQ(source->chat_template(), "{{ b }}");
  EXPECT_EQ(source->gguf(), nullptr);
}

class Refusals : public ::testing::Test {
 protected:
  Refusals() : config_(ModelConfig::from_json(configs()[0], "config.json")) {
    std::mt19937 random(1);
    weights_ = random_weights(config_, random);
    io::write_file(folder_.path("config.json"), configs()[0]);
  }
  void expect(const std::string& path, std::initializer_list<const char*> parts) {
    const std::string message = refusal(path);
    EXPECT_NE(message, "");
    for (const char* part : parts) EXPECT_NE(message.find(part), std::string::npos) << part << "\n-> " << message;
  }
  TemporaryFolder folder_;
  ModelConfig config_;
  Weights weights_;
};

TEST_F(Refusals, TensorsThatAreNotTheModels) {
  auto tensors = to_write(config_, weights_);
  tensors.erase(tensors.begin() + 3);
  tensors[0].shape = {35, 64};
  tensors.push_back({"model.layers.0.adapter.weight", io::StoredType::F32, {1}, weights_.begin()->second.data()});
  io::write_safetensors(folder_.path("model.safetensors"), tensors);
  expect(folder_.path(), {"1 missing", "1 of another shape", "1 not known", "model.layers.0.self_attn.k_proj.weight",
                          "model.embed_tokens.weight has [35, 64], [70, 32] is needed", "model.layers.0.adapter.weight"});
  auto whole = to_write(config_, weights_);
  whole[2].type = io::StoredType::I32;
  io::write_safetensors(folder_.path("model.safetensors"), whole);
  expect(folder_.path(), {"I32 cannot be used as a weight", "self_attn.q_proj.weight"});
  write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16);
  std::string bytes(io::MappedFile(folder_.path("a.gguf")).bytes());
  bytes.replace(bytes.find("blk.1.ffn_up"), 12, "blk.1.ffn_xx");
  io::write_file(folder_.path("a.gguf"), bytes);
  expect(folder_.path("a.gguf"), {"1 missing", "blk.1.ffn_up.weight", "1 not known", "blk.1.ffn_xx.weight"});
}

TEST_F(Refusals, FoldersWithoutAModel) {
  expect(folder_.path(), {"has neither model.safetensors nor model.safetensors.index.json"});
  io::write_file(folder_.path("training_args.bin"), "x");
  io::write_file(folder_.path("pytorch_model.bin"), "x");
  expect(folder_.path(), {"pytorch_model.bin", "pickled weights are not read"});
  expect(folder_.path("pytorch_model.bin"), {"pickled weights are not read"});
  io::write_file(folder_.path("renamed.gguf"), std::string("PK\x03\x04", 4) + std::string(64, '\0'));
  expect(folder_.path("renamed.gguf"), {"pickle"});
  std::filesystem::remove(folder_.path("config.json"));
  io::write_file(folder_.path("adapter_config.json"), "{}");
  expect(folder_.path(), {"holds an adapter"});
  expect(folder_.path("nothing.gguf"), {"nothing.gguf"});
  expect(folder_.path("model.safetensors"), {"no configuration"});
}

TEST_F(Refusals, ShardsThatAreNotWhatTheIndexSays) {
  const std::string index = folder_.path("model.safetensors.index.json");
  io::write_safetensors(folder_.path("a.safetensors"), to_write(config_, weights_));
  io::write_file(index, R"({"weight_map":{"model.norm.weight":"../a.safetensors"}})");
  expect(folder_.path(), {"is not the name of a safetensors file in this folder"});
  io::write_file(index, R"({"weight_map":{"model.norm.weight":"b.safetensors"}})");
  expect(folder_.path(), {"b.safetensors", "is missing"});
  io::write_file(index, R"({"weight_map":{"model.norm.weight":"a.safetensors"}})");
  expect(folder_.path(), {"is not where model.safetensors.index.json says"});
  std::string map;
  for (const auto& tensor : to_write(config_, weights_)) map += "\"" + tensor.name + "\":\"a.safetensors\",";
  io::write_file(index, "{\"weight_map\":{" + map + "\"more\":\"a.safetensors\"}}");
  expect(folder_.path(), {"\"more\" is missing"});
  io::write_file(index, R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})");
  expect(folder_.path(), {"twice"});
  io::write_file(index, R"({"metadata":{}})");
  expect(folder_.path(), {"weight_map is missing or empty"});
}

TEST_F(Refusals, GgufFilesByFieldAndValue) {
  const auto expect_changed = [&](const char* from, const char* to, std::initializer_list<const char*> parts) {
    write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16);
    std::string bytes(io::MappedFile(folder_.path("a.gguf")).bytes());
    ASSERT_EQ(std::string(from).size(), std::string(to).size());
    ASSERT_NE(bytes.find(from), std::string::npos) << from;
    bytes.replace(bytes.find(from), std::string(from).size(), to);
    io::write_file(folder_.path("a.gguf"), bytes);
    expect(folder_.path("a.gguf"), parts);
  };
  expect_changed("llama", "gemma", {"general.architecture", "gemma is not supported", "llama (mistral among them), qwen2, qwen3"});
  expect_changed("llama.block_count", "llama.block_xount", {"llama.block_count", "missing"});
  expect_changed("token_embd.weight", "token_embx.weight", {"token_embd.weight"});
  write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16);
  EXPECT_EQ(CheckpointSource::open(folder_.path("a.gguf"))->chat_template(), "");
  for (const char* field : {"split.count", "llama.expert_count"}) {
    write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16, field);
    expect(folder_.path("a.gguf"), {field, "not"});
  }
  ModelConfig other = config_;
  other.rope.kind = RopeKind::Llama3, other.rope.factor = 8, other.rope.low_frequency_factor = 2, other.rope.original_context = 8192;
  write_gguf(folder_.path("a.gguf"), other, weights_, io::BlockType::F16);
  expect(folder_.path("a.gguf"), {"rope_freqs.weight", "low 1, high 4"});
}

TEST_F(Refusals, RotationsThatLlamaCppComputesOtherwise) {
  ModelConfig yarn = config_;
  yarn.rope.kind = RopeKind::Yarn, yarn.rope.factor = 4, yarn.rope.original_context = 32, yarn.rope.attention_factor = yarn_attention_factor(4);
  for (const char* field : {"yarn_beta_fast", "yarn_beta_slow", "yarn_ext_factor", "yarn_attn_factor", "yarn_log_multiplier"}) {
    write_gguf(folder_.path("a.gguf"), yarn, weights_, io::BlockType::F16, ("llama.rope.scaling." + std::string(field)).c_str());
    expect(folder_.path("a.gguf"), {field, "8 is not supported, supported: "});
  }
  write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16, "llama.rope.scaling.attn_factor");
  expect(folder_.path("a.gguf"), {"attn_factor", "8 is not supported, supported: 1"});
  EXPECT_EQ(gguf_obstacle(yarn), "");
  for (const auto change : {+[](Rope& rope) { rope.fast_turns = 16; }, +[](Rope& rope) { rope.slow_turns = 2; }, +[](Rope& rope) { rope.rounds_turns = false; }}) {
    ModelConfig other = yarn;
    change(other.rope);
    EXPECT_NE(gguf_obstacle(other).find("yarn"), std::string::npos);
    EXPECT_THROW(write_gguf(folder_.path("b.gguf"), other, weights_, io::BlockType::F16), core::Error);
  }
}

// llama.cpp has no windows in models of the architecture llama.
TEST_F(Refusals, WindowsOfGgufFilesThatNobodyComputes) {
  write_gguf(folder_.path("a.gguf"), config_, weights_, io::BlockType::F16, "llama.attention.sliding_window");
  const auto source = CheckpointSource::open(folder_.path("a.gguf"));
  EXPECT_EQ(source->config().context, 128);
  EXPECT_EQ(source->config().window, 0);
  EXPECT_EQ(source->config().model_type, "llama");
}

}  // namespace
}  // namespace pgtrain::engine::models
