// config_test.cpp: what submit_run freezes, the engine takes: no run that waits for a device may then be refused for its
// configuration alone. Random configurations, each field at its ends and between, against the engine's own checks.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "engine/backend/backend.hpp"
#include "engine/core/error.hpp"
#include "engine/data/records.hpp"
#include "engine/models/model.hpp"
#include "engine/train/options.hpp"
#include "protocol/messages.hpp"
#include "protocol/run_config.hpp"
#include "trainer/options.hpp"

namespace pgtrain::trainer::test {
namespace {

using namespace protocol;
using protocol::test::Fresh;

std::string ends_or_between(const ConfigField& field, Fresh& fresh) {
  if (field.kind == FieldKind::Text) return std::string(fresh.below(2) ? 0 : static_cast<size_t>(field.maximum), 'x');
  if (field.kind == FieldKind::Choice) {
    const std::string choices = field.choices;
    std::vector<std::string> names{""};
    for (const char c : choices) {
      if (c == '|') names.emplace_back();
      else names.back().push_back(c);
    }
    return names[fresh.below(names.size())];
  }
  const double most = std::min(field.maximum, 9e15);
  const double part = std::pow(2.0, -static_cast<double>(fresh.below(40)));  // small values as often as large ones
  const double value = fresh.below(4) == 0 ? field.minimum : fresh.below(4) == 0 ? most : field.minimum + (most - field.minimum) * part;
  if (field.kind != FieldKind::Real) return std::to_string(static_cast<int64_t>(value));
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

// Shapes that pass are rare among random ones, so heads and width are often chosen to go together.
ConfigPairs random_config(Fresh& fresh) {
  ConfigPairs given;
  for (const ConfigField& field : config_fields())
    if (fresh.below(4) == 0) given.emplace_back(field.name, ends_or_between(field, fresh));
  if (fresh.below(2) == 0) {
    std::erase_if(given, [](const auto& pair) { return pair.first == "width" || pair.first == "heads"; });
    const uint64_t heads = 1 + fresh.below(128), head = 8 * (1 + fresh.below(18));
    given.emplace_back("heads", std::to_string(heads));
    given.emplace_back("width", std::to_string(heads * head));
  }
  return given;
}

TEST(Config, TheLongestRecordIsOne) { EXPECT_EQ(static_cast<size_t>(longest_record_bytes), engine::data::kLongestRecord); }

TEST(Config, ACommaInAPatternPartsNothing) {
  RunConfig config;
  ConfigError error;
  ASSERT_TRUE(freeze_config({{"base_model", "m"}, {"lora_targets", R"(h\.[0-9]{1,2}\.attn , (a|b,c),[(,;]x, c_fc,\(,\))"}}, config, error)) << error.message;
  EXPECT_EQ(training_options(config, {}).lora_targets, (std::vector<std::string>{R"(h\.[0-9]{1,2}\.attn)", "(a|b,c)", "[(,;]x", "c_fc", R"(\()", R"(\))"}));
}

TEST(Config, WhatIsFrozenTheEngineTakes) {
  Fresh fresh;
  int frozen = 0;
  for (int round = 0; round < 30000; ++round) {
    RunConfig config;
    ConfigError error;
    if (!freeze_config(random_config(fresh), config, error)) continue;
    ++frozen;
    down::Job job;
    if (config.has_base_model()) job.base.push_back({"model.safetensors", 1, ""});
    SCOPED_TRACE(config.canonical_text() + "seed " + std::to_string(fresh.seed));
    try {
      const engine::train::TrainingOptions given = training_options(config, job), resolved = engine::train::resolve(given);
      ASSERT_EQ(engine::train::describe_for_resume(given), engine::train::describe_for_resume(resolved)) << "the engine filled in something else";
      if (config.has_base_model()) continue;
      ASSERT_LE(resolved.width / resolved.heads, engine::backend::kWidestHead);
      if (round % 50 != 0) continue;
      const auto model = engine::train::model_config(resolved, resolved.vocab_size, resolved.vocab_size - 1);
      const auto graph = engine::models::build_model(model, {}, engine::core::DType::Bf16, resolved.batch_size, resolved.context);
      ASSERT_EQ(static_cast<uint64_t>(graph.parameter_count()), engine::models::count_parameters(model));
    } catch (const engine::core::Error& refused) {
      FAIL() << refused.code << ": " << refused.message;
    }
  }
  EXPECT_GT(frozen, 300);
}

}  // namespace
}  // namespace pgtrain::trainer::test
