// Which modules get adapters or train whole: names, paths, patterns, and what is refused, for both families.
#include <gtest/gtest.h>

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/models/model.hpp"

namespace pgtrain::engine::models {
namespace {

ModelConfig small_llama(bool ties_head) {
  ModelConfig config;
  config.model_type = "llama";
  config.layers = 3, config.width = 16, config.heads = 4, config.kv_heads = 2, config.head_width = 4, config.inner_width = 12, config.context = 32, config.vocab_size = 19;
  config.ties_head = ties_head;
  config.slides = {false, false, false};
  return config;
}

AdapterOptions options(std::vector<std::string> targets, std::vector<std::string> saved = {}) {
  AdapterOptions out;
  out.targets = std::move(targets), out.modules_to_save = std::move(saved);
  return out;
}

std::vector<std::string> modules(const ModelConfig& config, const AdapterOptions& given) {
  std::vector<std::string> out;
  for (const AdapterSpec& spec : adapter_specs(config, given)) out.push_back(spec.module);
  return out;
}

std::string refusal(const ModelConfig& config, const AdapterOptions& given) {
  try {
    adapter_specs(config, given);
  } catch (const core::Error& error) {
    return error.code + ": " + error.message;
  }
  return "";
}

TEST(Adapters, TargetsAreNamesPathsAndPatterns) {
  const ModelConfig llama = small_llama(true), gpt2 = fresh_gpt2(2, 16, 2, 8, 19, 18);
  EXPECT_EQ(linear_modules(llama), (std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}));
  EXPECT_EQ(linear_modules(gpt2), (std::vector<std::string>{"c_attn", "c_proj", "c_fc"}));
  EXPECT_EQ(modules(llama, options({"all-linear"})).size(), 21u);
  EXPECT_EQ(modules(llama, options({"all-linear"})), modules(llama, options(linear_modules(llama))));
  EXPECT_EQ(modules(llama, options({"v_proj"})),
            (std::vector<std::string>{"model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj", "model.layers.2.self_attn.v_proj"}));
  EXPECT_EQ(modules(llama, options({"model.layers.2.mlp.up_proj"})), (std::vector<std::string>{"model.layers.2.mlp.up_proj"}));
  EXPECT_EQ(modules(llama, options({".*\\.[12]\\..*(q|k)_proj"})).size(), 4u);
  EXPECT_EQ(modules(gpt2, options({"c_proj"})).size(), 4u);
  EXPECT_EQ(modules(gpt2, options({"mlp.c_proj"})), (std::vector<std::string>{"transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"}));
}

// Tried one way after the other, the first would take longer than anybody waits; the second would need a deep stack.
TEST(Adapters, PatternsTakeNoLongerThanTheyAreLong) {
  const ModelConfig llama = small_llama(true);
  EXPECT_NE(refusal(llama, options({"(.*)*(.*)*(.*)*(.*)*(.*)*x"})).find("matches no linear layer"), std::string::npos);
  EXPECT_NE(refusal(llama, options({"((a?){300}){300}"})).find("too large a pattern"), std::string::npos);
  EXPECT_NE(refusal(llama, options({"(q)_proj\\1"})).find("no regular expression"), std::string::npos);
  EXPECT_EQ(modules(llama, options({"model\\.layers\\.[0-9]{1,3}\\.self_attn\\.[qk]_proj"})).size(), 6u);
}

TEST(Adapters, LieWhereTheirModulesDo) {
  const ModelConfig llama = small_llama(true);
  const auto specs = adapter_specs(llama, options({"v_proj", "up_proj"}));
  ASSERT_EQ(specs.size(), 6u);
  EXPECT_EQ(specs[0].weight, "model.layers.0.self_attn.qkv_proj.weight");
  EXPECT_EQ(specs[0].column, 16 + 8);
  EXPECT_EQ(specs[0].in, 16);
  EXPECT_EQ(specs[0].out, 8);
  EXPECT_EQ(specs[1].weight, "model.layers.0.mlp.gate_up_proj.weight");
  EXPECT_EQ(specs[1].column, 12);
  const auto fc = adapter_specs(fresh_gpt2(1, 16, 2, 8, 19, 18), options({"c_fc"}));
  ASSERT_EQ(fc.size(), 1u);
  EXPECT_TRUE(fc[0].is_in_out);
  EXPECT_EQ(fc[0].in, 16);
  EXPECT_EQ(fc[0].out, 64);
}

TEST(Adapters, WhatMatchesNothingIsRefusedByName) {
  const ModelConfig llama = small_llama(true);
  for (const auto& [targets, named] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"q_proj", "w_proj"}, "w_proj"}, {{"(q|k)_proj"}, "(q|k)_proj"}, {{"lm_head"}, "lm_head"}, {{"embed_tokens"}, "embed_tokens"}, {{"[q_proj"}, "[q_proj"},
           {{""}, "no name"}, {{}, "no module"}, {{std::string(600, 'a')}, "no name"}}) {
    const std::string message = refusal(llama, options(targets));
    EXPECT_EQ(message.rfind("config_invalid: lora_targets", 0), 0u) << message;
    EXPECT_NE(message.find(named), std::string::npos) << message;
  }
}

TEST(Adapters, ModulesToSaveTrainWhole) {
  const ModelConfig tied = small_llama(true), own = small_llama(false), gpt2 = fresh_gpt2(2, 16, 2, 8, 19, 18);
  EXPECT_EQ(saved_weights(own, options({}, {"lm_head", "embed_tokens"})), (std::vector<std::string>{"model.embed_tokens.weight", "lm_head.weight"}));
  EXPECT_EQ(saved_weights(tied, options({}, {"norm"})).size(), 7u);  // as PEFT compares: each path that ends so
  EXPECT_EQ(saved_weights(gpt2, options({}, {"wpe", "ln_f"})), (std::vector<std::string>{"transformer.wpe.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"}));
  EXPECT_EQ(saved_weights(tied, options({}, {"q_proj", "k_proj", "v_proj"})).size(), 3u);
  // A module that trains whole has no adapter beside it.
  EXPECT_EQ(modules(tied, options({"all-linear"}, {"o_proj"})).size(), 18u);

  const graph::Graph graph = build_model(own, {options({"q_proj"}, {"lm_head"}), false}, graph::DType::F32, 1, 4);
  std::vector<std::string> trained;
  for (const graph::Parameter& parameter : graph.parameters)
    if (parameter.trains) trained.push_back(parameter.name);
  EXPECT_EQ(trained.size(), 7u);
  EXPECT_EQ(std::count(trained.begin(), trained.end(), "lm_head.weight"), 1);

  for (const auto& [name, reason] : std::vector<std::pair<std::string, std::string>>{
           {"lm_head", "tied"}, {"embed_tokens", "head at once"}, {"q_proj", "part"}, {"score", "names no module"}, {"", "names no module"}}) {
    const std::string message = refusal(tied, options({"o_proj"}, {name}));
    EXPECT_EQ(message.rfind("config_invalid: modules_to_save", 0), 0u) << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace pgtrain::engine::models
