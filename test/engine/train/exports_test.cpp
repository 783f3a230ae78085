// Exports: what is written reads back, gives the losses of the model that trained, and damage is found; adapters of others are read or
// refused by name.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <tuple>

#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors_set.hpp"
#include "engine/models/model.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/model_tokenizer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

namespace fs = std::filesystem;
using models::Tuning;

constexpr int kLength = 16;
const std::vector<ExportKind> kAll = {ExportKind::Peft, ExportKind::Merged, ExportKind::GgufF16, ExportKind::GgufQ8_0,
                                      ExportKind::GgufQ4_K};
const std::string kTemplate = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}";

models::ModelConfig config_of(const std::string& type) {
  if (type == "gpt2") return models::fresh_gpt2(2, 64, 4, 32, 257, 256);
  models::ModelConfig config;
  config.model_type = type;
  config.layers = 2, config.width = 64, config.heads = 4, config.kv_heads = 2, config.head_width = 16, config.inner_width = 256,
  config.context = 32, config.vocab_size = 257;
  config.ties_head = type == "qwen3", config.qk_norm = type == "qwen3";
  config.qkv_bias = type == "qwen2";
  config.window = type == "mistral" ? 8 : 0;
  config.slides.assign(2, config.window > 0);
  config.eos = {256};
  config.stored_type = "float32";
  if (type == "llama") {
    config.rope = {models::RopeKind::Llama3, 5e5, 8, 1, 4, 2048};
    config.output_bias = config.qkv_bias = config.mlp_bias = true;
  }
  return config;
}

Tuning adapted() {
  models::AdapterOptions options;
  options.rank = 4, options.alpha = 6, options.dropout = 0.25, options.is_rank_stabilised = true, options.targets = {"all-linear"};
  return {options, false};
}

// A model with all its parts, its weights drawn from `random`.
struct Model {
  Model(const models::ModelConfig& config, const Tuning& tuning, backend::Backend& device, std::mt19937& random)
      : graph(models::build_model(config, tuning, graph::DType::F32, 1, kLength)), store(graph, device, graph::Mode::Evaluate) {
    std::vector<float> weights(static_cast<std::size_t>(store.count()));
    for (float& weight : weights) weight = std::normal_distribution<float>(0, 0.3f)(random);
    store.upload_weights(weights.data());
  }
  double loss() {
    graph::Executor executor(graph, store, graph::Mode::Evaluate);
    std::vector<std::int32_t> tokens, positions, segments(kLength, 0), targets;
    for (int i = 0; i < kLength; ++i) tokens.push_back(i * 37 % 250), positions.push_back(i), targets.push_back(i * 101 % 257);
    executor.set_input("tokens", tokens.data()), executor.set_input("positions", positions.data());
    executor.set_input("segments", segments.data()), executor.set_input("targets", targets.data());
    executor.forward();
    return executor.loss_sum() / kLength;
  }
  graph::Graph graph;
  graph::ParameterStore store;
};

class Exports : public testing::Test {
 protected:
  // A base model on disk: all of its weights drawn, written as a merged checkpoint.
  std::unique_ptr<models::CheckpointSource> make_base(const models::ModelConfig& config) {
    const std::string folder = folder_.path("base-" + config.model_type);
    fs::create_directory(folder);
    Model model(config, {}, *device_, random_);
    const Tuning none;
    const ExportRequest request{.folder = folder,
                                .config = config,
                                .tuning = none,
                                .store = model.store,
                                .tokenizer = tokenizer_,
                                .chat_template = "base",
                                .kinds = {ExportKind::Merged}};
    write_exports(request);
    check_exports(request);
    return models::CheckpointSource::open(folder);
  }
  double loss_of_files(const std::string& path) {
    const auto source = models::CheckpointSource::open(path);
    Model model(source->config(), {}, *device_, random_);
    models::load_weights(*source, {}, 1, model.store);
    return model.loss();
  }
  std::string fresh_folder(const char* name) {
    fs::create_directory(folder_.path(name));
    return folder_.path(name);
  }

  TemporaryFolder folder_;
  std::unique_ptr<backend::Backend> device_ = backend::open("cpu");
  std::mt19937 random_{test::seed()};
  tokenizers::Tokenizer tokenizer_ = tokenizers::Tokenizer::bytes();
};

void load_base(const models::CheckpointSource& base, const Tuning& tuning, Model& model) {
  std::vector<float> trained(static_cast<std::size_t>(model.store.count()));
  model.store.download_weights(trained.data());
  models::load_weights(base, tuning, 1, model.store);
  model.store.upload_weights(trained.data());
}

TEST_F(Exports, OfAnAdapterGiveItsLossInEveryFormat) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3", "gpt2"}) {
    SCOPED_TRACE(type);
    const auto base = make_base(config_of(type));
    const Tuning tuning = adapted();
    Model model(base->config(), tuning, *device_, random_);
    load_base(*base, tuning, model);
    const std::string folder = fresh_folder(type);
    const ExportRequest request{.folder = folder,
                                .config = base->config(),
                                .tuning = tuning,
                                .base = base.get(),
                                .store = model.store,
                                .tokenizer = tokenizer_,
                                .chat_template = kTemplate,
                                .base_name = "of/a \"base\"",
                                .kinds = kAll};
    const std::vector<Artifact> artifacts = write_exports(request);
    check_exports(request);
    for (const Artifact& artifact : artifacts) EXPECT_EQ(fs::file_size(artifact.path), artifact.bytes) << artifact.name;

    const double wanted = model.loss();
    EXPECT_GT(std::fabs(loss_of_files(folder_.path(std::string("base-") + type)) / wanted - 1), 5e-5) << "the adapter changes too little to be seen";
    EXPECT_NEAR(loss_of_files(folder) / wanted, 1, 1e-5);
    EXPECT_NEAR(loss_of_files(folder + "/model-f16.gguf") / wanted, 1, 2e-3);
    EXPECT_NEAR(loss_of_files(folder + "/model-q8_0.gguf") / wanted, 1, 2e-2);
    EXPECT_NEAR(loss_of_files(folder + "/model-q4_k.gguf") / wanted, 1, 0.2);

    const AdapterFolder adapter(folder, base->config());
    EXPECT_EQ(adapter.base_name(), "of/a \"base\"");
    const Tuning again{adapter.options(), false};
    Model other(base->config(), again, *device_, random_);
    load_base(*base, again, other);
    adapter.load(other.store);
    EXPECT_EQ(other.loss(), wanted);
  }
}

// Ranks and weights of modules by patterns, as PEFT matches them, through all that adapters go through.
TEST_F(Exports, OfAdaptersWithPatternsGiveTheirLoss) {
  for (const char* type : {"llama", "qwen3", "gpt2"}) {
    SCOPED_TRACE(type);
    const bool is_gpt2 = std::string(type) == "gpt2";
    const auto base = make_base(config_of(type));
    Tuning tuning = adapted();
    models::AdapterOptions& options = *tuning.adapters;
    options.targets = {"all-linear"}, options.modules_to_save.clear();
    options.rank_pattern = {{is_gpt2 ? "c_fc" : "q_proj", 2}, {is_gpt2 ? "h.1..*c_proj" : "layers.1..*(k|down)_proj", 9}, {"proj", 77}};
    options.alpha_pattern = {{is_gpt2 ? "^transformer.h.0.mlp.c_fc" : "^model.layers.0.self_attn.q_proj", 5.5}};
    std::map<std::string, std::pair<std::int64_t, double>> found;
    for (const models::AdapterSpec& spec : models::adapter_specs(base->config(), options)) found[spec.module] = {spec.rank, spec.alpha};
    using Wanted = std::pair<std::int64_t, double>;
    const double alpha = options.alpha;
    EXPECT_EQ(found.at(is_gpt2 ? "transformer.h.0.mlp.c_fc" : "model.layers.0.self_attn.q_proj"), Wanted(2, 5.5));
    EXPECT_EQ(found.at(is_gpt2 ? "transformer.h.1.mlp.c_fc" : "model.layers.1.self_attn.q_proj"), Wanted(2, alpha));
    EXPECT_EQ(found.at(is_gpt2 ? "transformer.h.1.mlp.c_proj" : "model.layers.1.mlp.down_proj"), Wanted(9, alpha));
    EXPECT_EQ(found.at(is_gpt2 ? "transformer.h.0.attn.c_proj" : "model.layers.0.mlp.down_proj"), Wanted(options.rank, alpha)) << "an end begins behind a dot";

    Model model(base->config(), tuning, *device_, random_);
    load_base(*base, tuning, model);
    const std::string folder = fresh_folder(type);
    const ExportRequest request{.folder = folder, .config = base->config(), .tuning = tuning, .base = base.get(), .store = model.store, .tokenizer = tokenizer_, .kinds = {ExportKind::Peft, ExportKind::Merged}};
    write_exports(request);
    check_exports(request);
    const double wanted = model.loss();
    EXPECT_NEAR(loss_of_files(folder) / wanted, 1, 1e-5);
    const AdapterFolder adapter(folder, base->config());
    const Tuning again{adapter.options(), false};
    Model other(base->config(), again, *device_, random_);
    load_base(*base, again, other);
    adapter.load(other.store);
    EXPECT_EQ(other.loss(), wanted);
  }
}

TEST_F(Exports, AdaptersAreStoredInTheTypeThatWasAskedFor) {
  const auto base = make_base(config_of("llama"));
  const Tuning tuning = adapted();
  Model model(base->config(), tuning, *device_, random_);
  load_base(*base, tuning, model);
  std::map<std::string, std::vector<float>> whole;
  for (const auto& [precision, type, most] : {std::tuple("fp32", io::StoredType::F32, 0.0f), {"bf16", io::StoredType::BF16, 1.0f / 256}, {"fp16", io::StoredType::F16, 1.0f / 2048}}) {
    SCOPED_TRACE(precision);
    const std::string folder = fresh_folder(precision);
    const ExportRequest request{
        .folder = folder, .config = base->config(), .tuning = tuning, .base = base.get(), .store = model.store, .tokenizer = tokenizer_, .adapter_precision = precision, .kinds = {ExportKind::Peft}};
    write_exports(request);
    check_exports(request);
    const io::SafetensorsFile file(folder + "/adapter_model.safetensors");
    for (const io::StoredTensor& tensor : file.tensors()) EXPECT_EQ(tensor.type, type) << tensor.name;
    AdapterFolder(folder, base->config()).visit([&](const std::string& name, const std::vector<float>& values) {
      const std::vector<float>& exact = whole.emplace(name, values).first->second;
      for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], exact[i], most * std::fabs(exact[i]) + (most > 0 ? 1e-7f : 0)) << name;
    });
  }
  // What half cannot hold is said with the setting that holds it.
  std::vector<float> weights(static_cast<std::size_t>(model.store.count()), 70000.0f);
  model.store.upload_weights(weights.data());
  try {
    write_exports({.folder = fresh_folder("too large"), .config = base->config(), .tuning = tuning, .base = base.get(), .store = model.store, .tokenizer = tokenizer_, .adapter_precision = "fp16", .kinds = {ExportKind::Peft}});
    ADD_FAILURE() << "70000 is no half";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "model_invalid");
    EXPECT_NE(error.hint.find("adapter_precision"), std::string::npos) << error.hint;
  }
}

TEST_F(Exports, OfAWholeModelAreItsBits) {
  const auto base = make_base(config_of("qwen3"));
  const Tuning none;
  Model model(base->config(), none, *device_, random_);
  for (const auto& [precision, most] : {std::pair{"auto", 1e-12}, std::pair{"bf16", 2e-2}, std::pair{"fp16", 3e-3}}) {
    const std::string folder = fresh_folder(precision);
    ExportRequest request{.folder = folder,
                          .config = base->config(),
                          .tuning = none,
                          .base = base.get(),
                          .store = model.store,
                          .tokenizer = tokenizer_,
                          .stored_precision = precision,
                          .kinds = {ExportKind::Merged}};
    const auto artifacts = write_exports(request);
    check_exports(request);
    EXPECT_EQ(artifacts.size(), 5u);
    EXPECT_NEAR(loss_of_files(folder) / model.loss(), 1, most) << precision;
    request.kinds = {ExportKind::Peft};
    EXPECT_THROW(write_exports(request), core::Error);
  }
}

TEST_F(Exports, LargeModelsAreCutIntoShards) {
  const models::ModelConfig config = config_of("mistral");
  const Tuning none;
  Model model(config, none, *device_, random_);
  const std::string folder = fresh_folder("shards");
  const ExportRequest request{.folder = folder,
                              .config = config,
                              .tuning = none,
                              .store = model.store,
                              .tokenizer = tokenizer_,
                              .kinds = {ExportKind::Merged},
                              .shard_bytes = 100'000};
  write_exports(request);
  check_exports(request);
  EXPECT_FALSE(fs::exists(folder + "/model.safetensors"));
  EXPECT_TRUE(fs::exists(folder + "/model.safetensors.index.json"));
  EXPECT_GT(io::SafetensorsSet(folder).entries().size(), 10u);
  EXPECT_EQ(loss_of_files(folder), model.loss());
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_TRUE(entry.path().extension() != ".safetensors" || entry.file_size() < 110'000u) << entry.path();
}

TEST_F(Exports, ModelsFromGgufFilesKeepTheirVocabulary) {
  const auto folder_base = make_base(config_of("llama"));
  const Tuning none, tuning = adapted();
  Model whole(folder_base->config(), none, *device_, random_);
  const std::string first = fresh_folder("first");
  ExportRequest request{.folder = first,
                        .config = folder_base->config(),
                        .tuning = none,
                        .store = whole.store,
                        .tokenizer = tokenizer_,
                        .chat_template = kTemplate,
                        .kinds = {ExportKind::GgufF16}};
  write_exports(request);
  check_exports(request);

  const auto base = models::CheckpointSource::open(first + "/model-f16.gguf");
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*base);
  Model model(base->config(), tuning, *device_, random_);
  load_base(*base, tuning, model);
  const std::string second = fresh_folder("second");
  const ExportRequest again{.folder = second,
                            .config = base->config(),
                            .tuning = tuning,
                            .base = base.get(),
                            .store = model.store,
                            .tokenizer = tokenizer,
                            .chat_template = base->chat_template(),
                            .kinds = kAll};
  write_exports(again);
  check_exports(again);
  EXPECT_NEAR(loss_of_files(second) / model.loss(), 1, 2e-2);  // bf16, as the base says nothing better
  const io::GgufFile file(second + "/model-q8_0.gguf");
  EXPECT_EQ(file.header().find_texts("tokenizer.ggml.tokens").size(), 257u);
  EXPECT_EQ(file.header().find_text("tokenizer.chat_template"), kTemplate);
}

TEST_F(Exports, WhatTheConfigurationDoesNotSayTheVocabularyDoes) {
  models::ModelConfig config = config_of("qwen2");
  config.eos.clear();
  const Tuning none;
  Model model(config, none, *device_, random_);
  const std::string folder = fresh_folder("silent");
  const ExportRequest request{
      .folder = folder, .config = config, .tuning = none, .store = model.store, .tokenizer = tokenizer_, .kinds = {ExportKind::GgufF16, ExportKind::Merged}};
  write_exports(request);
  check_exports(request);
  EXPECT_EQ(models::CheckpointSource::open(folder + "/model-f16.gguf")->config().eos, std::vector<int>{256});
}

TEST_F(Exports, GgufTypesFallBackWhereRowsAreNoWholeBlocks) {
  models::ModelConfig config = config_of("mistral");
  config.width = 48, config.inner_width = 512, config.head_width = 8;
  const Tuning none;
  Model model(config, none, *device_, random_);
  const std::string folder = fresh_folder("types");
  const ExportRequest request{
      .folder = folder, .config = config, .tuning = none, .store = model.store, .tokenizer = tokenizer_, .kinds = {ExportKind::GgufQ4_K}};
  write_exports(request);
  check_exports(request);
  const io::GgufFile file(folder + "/model-q4_k.gguf");
  const auto type = [&](const char* name) { return io::block_format(file.header().find_tensor(name)->type).name; };
  EXPECT_STREQ(type("blk.0.ffn_down.weight"), "Q4_K");     // rows of 512
  EXPECT_STREQ(type("blk.0.attn_output.weight"), "Q8_0");  // of 32
  EXPECT_STREQ(type("blk.0.attn_q.weight"), "F16");        // of 48
  EXPECT_STREQ(type("blk.0.attn_norm.weight"), "F32");
}

TEST_F(Exports, DamageInAnyFileIsFound) {
  const auto base = make_base(config_of("qwen2"));
  const Tuning tuning = adapted();
  Model model(base->config(), tuning, *device_, random_);
  const std::string folder = fresh_folder("damaged");
  const ExportRequest request{.folder = folder,
                              .config = base->config(),
                              .tuning = tuning,
                              .base = base.get(),
                              .store = model.store,
                              .tokenizer = tokenizer_,
                              .chat_template = kTemplate,
                              .kinds = kAll};
  const auto artifacts = write_exports(request);
  for (const Artifact& artifact : artifacts) {
    const std::string whole = io::read_small_file(artifact.path, 1 << 26);
    std::string text = whole;
    if (artifact.name == kTokenizerConfigFile || artifact.name == kAdapterConfigFile || artifact.name == kConfigFile) {
      const std::size_t digit = text.find_last_of(artifact.name == kTokenizerConfigFile ? "t" : "48");
      text[digit] = artifact.name == kTokenizerConfigFile ? 'u' : '5';
    } else {
      text[text.size() - (artifact.name == kTokenizerFile || artifact.name == kGenerationConfigFile ? text.size() / 2 : artifact.name == kChatTemplateFile ? 20 : 100)] ^= 0x11;
    }
    io::write_file(artifact.path, text);
    EXPECT_THROW(check_exports(request), core::Error) << artifact.name;
    io::write_file(artifact.path, whole);
  }
  check_exports(request);
}

TEST_F(Exports, ValuesThatAreNoNumbersAreRefused) {
  const models::ModelConfig config = config_of("mistral");
  const Tuning none;
  Model model(config, none, *device_, random_);
  std::vector<float> weights(static_cast<std::size_t>(model.store.count()), 1.0f);
  weights[100] = std::nanf("");
  model.store.upload_weights(weights.data());
  const ExportRequest request{.folder = fresh_folder("nan"),
                              .config = config,
                              .tuning = none,
                              .store = model.store,
                              .tokenizer = tokenizer_,
                              .kinds = {ExportKind::Merged}};
  try {
    write_exports(request);
    ADD_FAILURE() << "written";
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "non_finite_loss");
  }
}

TEST(ExportNames, AreParsedOrRefused) {
  EXPECT_EQ(parse_exports("gguf_q8_0, peft,peft"), (std::vector<ExportKind>{ExportKind::Peft, ExportKind::GgufQ8_0}));
  EXPECT_TRUE(parse_exports("").empty());
  for (const char* wrong : {"gguf", "peft,,merged", "peft;merged"}) EXPECT_THROW(parse_exports(wrong), core::Error) << wrong;
}

class Adapters : public Exports {
 protected:
  void SetUp() override {
    base_ = make_base(config_of("mistral"));
    tuning_.adapters->modules_to_save = {"lm_head", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "norm"};
    Model model(base_->config(), tuning_, *device_, random_);
    path_ = fresh_folder("adapter");
    const ExportRequest request{.folder = path_,
                                .config = base_->config(),
                                .tuning = tuning_,
                                .base = base_.get(),
                                .store = model.store,
                                .tokenizer = tokenizer_,
                                .kinds = {ExportKind::Peft}};
    write_exports(request);
    check_exports(request);
    config_ = io::read_small_file(path_ + "/adapter_config.json", 1 << 20);
  }
  std::string refusal() {
    try {
      AdapterFolder(path_, base_->config());
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "model_invalid");
      return error.message;
    }
    return "";
  }
  // The configuration with another value of one field.
  void set(const std::string& field, const std::string& value) {
    const std::size_t at = config_.find("\"" + field + "\": ");
    std::string text = config_;
    if (at == std::string::npos)
      text.insert(1, "\"" + field + "\": " + value + ",");
    else
      text.replace(at, text.find('\n', at) - at, "\"" + field + "\": " + value + ",");
    io::write_file(path_ + "/adapter_config.json", text);
  }
  // The tensors with another name for one of them.
  void rename(const std::string& from, const std::string& to, std::vector<std::uint64_t> shape = {}) {
    const io::SafetensorsFile file(path_ + "/adapter_model.safetensors");
    std::vector<io::TensorToWrite> tensors;
    for (const io::StoredTensor& tensor : file.tensors()) {
      const bool is_it = tensor.name == from;
      if (is_it && to.empty()) continue;
      tensors.push_back({is_it ? to : tensor.name, tensor.type, is_it && !shape.empty() ? shape : tensor.shape, file.data(tensor).data()});
    }
    fs::create_directory(path_ + "/other");
    io::write_safetensors(path_ + "/other/adapter_model.safetensors", tensors);
    io::write_file(path_ + "/other/adapter_config.json", config_);
  }
  std::string refusal_of_other() {
    std::swap(path_, other_ = path_ + "/other");
    const std::string out = refusal();
    std::swap(path_, other_);
    return out;
  }

  std::unique_ptr<models::CheckpointSource> base_;
  Tuning tuning_ = adapted();
  std::string path_, other_, config_;
};

TEST_F(Adapters, WithSavedModulesComeBack) {
  const AdapterFolder folder(path_, base_->config());
  EXPECT_EQ(folder.options().modules_to_save, tuning_.adapters->modules_to_save);
  EXPECT_EQ(folder.options().targets.size(), 2u * 4);  // o, gate, up, down
  const core::JsonValue root = core::JsonValue::parse(config_, "c");
  EXPECT_EQ(root.at("target_modules").elements().size(), 4u);
  EXPECT_EQ(root.at("lora_alpha").as_integer(), 6);
}

TEST_F(Adapters, WithOptionsThatComputeSomethingElseAreRefusedByName) {
  for (const auto& [field, value] : std::initializer_list<std::pair<const char*, const char*>>{{"peft_type", "\"IA3\""},
                                                                                               {"bias", "\"all\""},
                                                                                               {"init_lora_weights", "\"pissa\""},
                                                                                               {"rank_pattern", "{\"q_proj\": 0}"},
                                                                                               {"rank_pattern", "{\"(\": 2}"},
                                                                                               {"alpha_pattern", "{\"[\": 2}"},
                                                                                               {"layer_replication", "[[0, 1]]"},
                                                                                               {"lora_bias", "true"},
                                                                                               {"of_the_future", "\"yes\""},
                                                                                               {"r", "0"},
                                                                                               {"lora_dropout", "1.5"}}) {
    set(field, value);
    EXPECT_NE(refusal().find(field), std::string::npos) << field << ": " << refusal();
  }
  set("r", "8");
  EXPECT_NE(refusal().find("shape"), std::string::npos) << refusal();
  set("of_the_future", "null");
  EXPECT_EQ(refusal(), "");
}

TEST_F(Adapters, WithOtherTensorsAreRefusedByName) {
  const std::string down = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight";
  rename(down, "base_model.model.model.layers.1.mlp.up_proj.lora_C.weight");
  EXPECT_NE(refusal_of_other().find("lora_C"), std::string::npos);
  rename(down, "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight");
  EXPECT_NE(refusal_of_other().find("only one of"), std::string::npos);
  rename(down, down, {64, 4});
  EXPECT_NE(refusal_of_other().find(down), std::string::npos);
  rename("base_model.model.lm_head.weight", "");
  EXPECT_NE(refusal_of_other().find("lm_head"), std::string::npos);
  fs::rename(path_ + "/adapter_model.safetensors", path_ + "/adapter_model.bin");
  EXPECT_NE(refusal().find("pickle"), std::string::npos) << refusal();
}

// A vocabulary read from a GGUF file is written as it was.
TEST(GgufVocabularies, AreWhatWasRead) {
  const auto expect_same = [](const tokenizers::Tokenizer& tokenizer, const std::string& text) {
    const auto again = tokenizers::Tokenizer::from_gguf(tokenizer.to_gguf(), "again");
    ASSERT_EQ(again.vocab_size(), tokenizer.vocab_size());
    std::vector<tokenizers::Tokenizer::Id> ours, theirs;
    tokenizer.encode_template(text, true, ours), again.encode_template(text, true, theirs);
    EXPECT_EQ(ours, theirs);
    for (int id = 0; id < again.vocab_size(); ++id) EXPECT_EQ(again.token_text(id), tokenizer.token_text(id));
  };
  const std::string text = "the quick brown fox <|endoftext|> \xC3\xA9\xE4\xB8\xAD 1234";
  expect_same(tokenizers::Tokenizer::bytes(), text);
  expect_same(tokenizers::Tokenizer::from_merges({{'t', 'h'}, {257, 'e'}, {' ', 258}, {'1', '2'}}), text);

  tokenizers::GgufVocabulary scored;
  scored.model = "llama";
  const auto add = [&](const std::string& token, int type, float score) {
    scored.tokens.push_back(token), scored.token_types.push_back(type), scored.scores.push_back(score);
  };
  add("<unk>", 2, 0), add("<s>", 3, 0), add("</s>", 3, 0);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    add(name, 6, 0);
  }
  add("ab", 1, -1), add("bc", 1, -3), add("abc", 1, -2),
      add("\xE2\x96\x81"
          "a",
          1, -4);
  for (const char* token : {"a", "b", "c", "\xE2\x96\x81"}) add(token, 1, -100);
  scored.bos = 1, scored.eos = 2, scored.unknown = 0;
  const auto tokenizer = tokenizers::Tokenizer::from_gguf(scored, "scored");
  expect_same(tokenizer, "abc bc ab\na");
  EXPECT_EQ(tokenizer.to_gguf().token_types, scored.token_types);
  // Read from tokenizer.json there are merges and no scores.
  expect_same(tokenizers::Tokenizer::from_json(tokenizer.to_json(), "t"), "abc bc ab\na");
}

TEST(GgufVocabularies, OfMergesThatScoresCannotOrderAreRefused) {
  // "abc" of a and bc comes first, of ab and c last, with another token between.
  const std::string json =
      R"({"version": "1.0", "added_tokens": [], "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "bc": 4, "abc": 5, "ab": 6}, "merges": [["b", "c"], ["a", "bc"], ["a", "b"], ["ab", "c"]]}})";
  const auto tokenizer = tokenizers::Tokenizer::from_json(json, "t");
  EXPECT_THROW(tokenizer.to_gguf(), core::Error);
}

}  // namespace
}  // namespace pgtrain::engine::train
