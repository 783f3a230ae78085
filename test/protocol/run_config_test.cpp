// run_config_test.cpp: what users may configure and how a mistake is answered.
#include <gtest/gtest.h>

#include <algorithm>

#include "protocol/messages.hpp"
#include "protocol/run_config.hpp"

namespace pgtrain::protocol::test {
namespace {

RunConfig frozen(const ConfigPairs& given) {
  RunConfig config;
  ConfigError error;
  EXPECT_TRUE(freeze_config(given, config, error)) << error.message << " " << error.hint;
  return config;
}

ConfigError refused(const ConfigPairs& given) {
  RunConfig config;
  ConfigError error;
  EXPECT_FALSE(freeze_config(given, config, error)) << config.canonical_text();
  EXPECT_TRUE(config.pairs().empty()) << "a refused configuration leaves nothing behind";
  return error;
}

size_t lines(const std::string& text) { return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); }

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(RunConfig, DefaultsAreConcrete) {
  const RunConfig config = frozen({});
  EXPECT_EQ(config.pairs().size(), config_fields().size());
  EXPECT_EQ(config.text("size"), "tiny");
  EXPECT_EQ(config.integer("layers"), 4);
  EXPECT_EQ(config.integer("width"), 256);
  EXPECT_EQ(config.integer("context"), 256);
  EXPECT_EQ(config.integer("vocab_size"), 257);
  EXPECT_EQ(config.integer("batch_size"), 8);
  EXPECT_EQ(config.real("learning_rate"), 0.001);
  EXPECT_EQ(config.integer("warmup_steps"), 50);
  EXPECT_EQ(config.tokens_per_step(), 8u * 256);
  EXPECT_EQ(config.planned_tokens(1), 500u * 8 * 256);
  for (const auto& [key, value] : config.pairs()) EXPECT_TRUE(!value.empty() || key == "sample_prompt" || key == "base_model" || key == "chat_template" || key == "modules_to_save" || key == "suffix") << key;
}

TEST(RunConfig, EverySizeHasItsPreset) {
  EXPECT_EQ(frozen({{"size", "nano"}}).integer("width"), 64);
  EXPECT_EQ(frozen({{"size", "micro"}}).integer("layers"), 4);
  EXPECT_EQ(frozen({{"size", "small"}}).integer("heads"), 6);
  EXPECT_EQ(frozen({{"size", "medium"}}).integer("context"), 512);
  EXPECT_EQ(frozen({{"size", "base"}}).integer("layers"), 12);
  EXPECT_EQ(frozen({{"size", "base"}, {"layers", "3"}}).integer("layers"), 3) << "what is given wins";
}

TEST(RunConfig, FreezingIsIdempotentAndBlindToOrderAndSpelling) {
  const RunConfig one = frozen({{"steps", "1000"}, {"learning_rate", "1e-3"}, {"size", "nano"}, {"tokenizer", "bpe"}});
  const RunConfig other = frozen({{"size", "nano"}, {"tokenizer", "bpe"}, {"learning_rate", "0.00100"}, {"steps", "1e3"}});
  EXPECT_EQ(one.canonical_text(), other.canonical_text());
  EXPECT_EQ(frozen(one.pairs()).canonical_text(), one.canonical_text());
  EXPECT_NE(one.canonical_text(), frozen({{"size", "nano"}}).canonical_text());
  EXPECT_EQ(lines(one.canonical_text()), config_fields().size());
}

TEST(RunConfig, TwoPromptsNeverShareACanonicalText) {
  const RunConfig trick = frozen({{"sample_prompt", "a\nsample_temperature=3"}});
  const RunConfig other = frozen({{"sample_prompt", "a\\nsample_temperature=3"}});
  EXPECT_NE(trick.canonical_text(), other.canonical_text());
  EXPECT_EQ(lines(trick.canonical_text()), config_fields().size());
}

TEST(RunConfig, EmptyValueMeansTheDefault) { EXPECT_EQ(frozen({{"steps", ""}}).integer("steps"), 500); }

TEST(RunConfig, ZeroMeansTheRuleHoweverItIsSpelt) {
  for (const char* zero : {"0", "-0", "0.0", "-0e5"}) EXPECT_EQ(frozen({{"learning_rate", zero}}).real("learning_rate"), 0.001) << zero;
}

TEST(RunConfig, UnknownKeyNamesTheNearest) {
  const std::pair<const char*, const char*> pairs[] = {
      {"learning_rat", "learning_rate"}, {"lr", "learning_rate"}, {"Learning-Rate", "learning_rate"},
      {"learningRate", "learning_rate"}, {"sedd", "seed"},        {"setps", "steps"},
      {"block_size", "context"},         {"n_layer", "layers"},   {"bacth_size", "batch_size"},
      {"wieght_decay", "weight_decay"},  {"n_epochs", "epochs"},
      {"r", "lora_rank"},                {"target_modules", "lora_targets"}, {"model", "base_model"}};
  for (const auto& [given, meant] : pairs) {
    const ConfigError error = refused({{given, "1"}});
    EXPECT_EQ(error.key, given);
    EXPECT_TRUE(holds(error.hint, std::string("\"") + meant + "\"")) << given << ": " << error.hint;
  }
  EXPECT_TRUE(holds(refused({{"zzzzzzzzzzzz", "1"}}).hint, "Known keys: base_model")) << "nothing near: all are listed";
}

TEST(RunConfig, BadValuesNameWhatIsAllowed) {
  EXPECT_TRUE(holds(refused({{"size", "huge"}}).hint, "nano, micro, tiny, small, medium or base"));
  EXPECT_TRUE(holds(refused({{"steps", "-1"}}).hint, "between 0 and 100000000 steps"));
  EXPECT_TRUE(holds(refused({{"steps", "many"}}).message, "not a whole number"));
  EXPECT_TRUE(holds(refused({{"steps", "1.5"}}).message, "not a whole number"));
  EXPECT_TRUE(holds(refused({{"beta1", "1"}}).message, "out of range"));
  EXPECT_TRUE(holds(refused({{"learning_rate", "-1"}}).hint, "between 0 and"));
  EXPECT_TRUE(holds(refused({{"seed", "-1"}}).message, "out of range"));
  EXPECT_TRUE(holds(refused({{"steps", "99999999999999999999"}}).key, "steps"));
  for (const char* value : {"nan", "inf", "1e999", "0x10", " 1", "1 ", "true", "{}"})
    EXPECT_EQ(refused({{"learning_rate", value}}).key, "learning_rate") << value;
  EXPECT_TRUE(holds(refused({{"steps", "1"}, {"steps", "2"}}).message, "twice"));
  EXPECT_TRUE(holds(refused({{"sample_prompt", std::string(5000, 'x')}}).hint, "4096"));
  for (const std::string& text : {std::string("\xff"), std::string("a\0b", 3), std::string("\xc3")})
    EXPECT_TRUE(holds(refused({{"sample_prompt", text}}).message, "not valid UTF-8"));
}

TEST(RunConfig, FieldsThatMustAgree) {
  EXPECT_TRUE(holds(refused({{"width", "100"}, {"heads", "3"}}).hint, "102"));
  EXPECT_TRUE(holds(refused({{"width", "1024"}, {"heads", "2"}}).hint, "at least 8"));
  EXPECT_TRUE(holds(refused({{"width", "136"}, {"heads", "1"}}).message, "a head would be 136 wide; at most 128"));
  EXPECT_EQ(frozen({{"width", "128"}, {"heads", "1"}}).integer("heads"), 1) << "as wide as every device takes";
  EXPECT_EQ(refused({{"width", "36"}, {"heads", "1"}}).key, "width");
  EXPECT_EQ(refused({{"context", "1"}}).key, "context");
  EXPECT_EQ(frozen({{"size", "nano"}, {"width", "256"}}).integer("heads"), 8) << "heads keep their width";
  EXPECT_EQ(refused({{"vocab_size", "300"}}).key, "vocab_size");
  EXPECT_EQ(refused({{"tokenizer", "bpe"}, {"vocab_size", "100"}}).key, "vocab_size");
  EXPECT_EQ(frozen({{"tokenizer", "bpe"}}).integer("vocab_size"), 2048);
  EXPECT_EQ(refused({{"steps", "10"}, {"warmup_steps", "11"}}).key, "warmup_steps");
  EXPECT_EQ(refused({{"samples", "1"}, {"sample_tokens", "65"}, {"size", "nano"}}).key, "sample_tokens");
  EXPECT_EQ(refused({{"held_out_fraction", "0"}, {"evaluate_every", "5"}}).key, "evaluate_every");
}

TEST(RunConfig, ABaseModelChangesTheDefaults) {
  const RunConfig config = frozen({{"base_model", "smollm"}});
  EXPECT_EQ(config.text("method"), "lora");
  EXPECT_EQ(config.text("loss_on"), "answers");
  EXPECT_EQ(config.text("long_samples"), "truncate");
  EXPECT_EQ(config.text("exports"), "peft");
  EXPECT_EQ(config.real("lora_alpha"), 32);
  EXPECT_EQ(config.integer("context"), 512);
  EXPECT_EQ(config.integer("layers"), 0) << "the base model's";
  EXPECT_EQ(config.real("learning_rate"), 2e-4);
  EXPECT_EQ(config.real("weight_decay"), 0);
  EXPECT_EQ(config.integer("steps"), 0);
  EXPECT_EQ(config.real("epochs"), 3);
  EXPECT_EQ(config.planned_steps(32000), 14) << "30,000 tokens less the held-out ones in steps of 2,048";
  EXPECT_EQ(frozen(config.pairs()).canonical_text(), config.canonical_text());
  const RunConfig full = frozen({{"base_model", "smollm"}, {"method", "full"}, {"objective", "dpo"}});
  EXPECT_EQ(full.real("learning_rate"), 1e-6);
  EXPECT_EQ(full.text("exports"), "merged");
  EXPECT_EQ(full.real("weight_decay"), 0.1);
  EXPECT_EQ(frozen(full.pairs()).canonical_text(), full.canonical_text());
  for (const char* key : {"method", "epochs", "batch_size", "learning_rate", "context"})
    EXPECT_EQ(frozen({{"base_model", "smollm"}, {key, "auto"}}).canonical_text(), config.canonical_text()) << key;
}

TEST(RunConfig, TheBaseModelsContextIsTheLimit) {
  const RunFacts facts{128};
  RunConfig config;
  ConfigError error;
  ASSERT_TRUE(freeze_config({{"base_model", "tiny"}}, config, error, facts));
  EXPECT_EQ(config.integer("context"), 128);
  EXPECT_FALSE(freeze_config({{"base_model", "tiny"}, {"context", "129"}}, config, error, facts));
  EXPECT_EQ(error.key, "context");
}

TEST(RunConfig, AValidationDatasetTakesThePlaceOfHeldOutSamples) {
  RunFacts facts;
  facts.has_validation = true;
  RunConfig config;
  ConfigError error;
  const ConfigPairs asked = {{"base_model", "m"}, {"evaluate_every", "10"}, {"checkpoint_every", "10"}, {"keep_best", "true"}, {"early_stopping_patience", "2"}};
  ASSERT_TRUE(freeze_config(asked, config, error, facts)) << error.message;
  EXPECT_EQ(config.real("held_out_fraction"), 0);
  EXPECT_EQ(config.integer("evaluation_batches"), 0) << "all of it";
  EXPECT_EQ(config.planned_steps(32000), 15) << "30,000 tokens, none held out, in steps of 2,048";
  // Frozen, it is frozen again with the dataset, or where it is of no run to be; without the dataset there is nothing to evaluate on.
  RunConfig again;
  EXPECT_TRUE(freeze_config(config.pairs(), again, error, facts)) << error.message;
  EXPECT_EQ(again.canonical_text(), config.canonical_text());
  EXPECT_TRUE(freeze_config(config.pairs(), again, error, {0, std::nullopt})) << error.message;
  EXPECT_FALSE(freeze_config(config.pairs(), again, error));
  EXPECT_EQ(error.key, "evaluate_every");
  EXPECT_FALSE(freeze_config({{"held_out_fraction", "0.05"}}, config, error, facts)) << "given, though it is the default";
  EXPECT_EQ(error.key, "held_out_fraction");
  EXPECT_TRUE(freeze_config({{"held_out_fraction", "0"}, {"evaluate_every", "5"}, {"evaluation_batches", "3"}}, config, error, facts)) << error.message;
  EXPECT_EQ(config.integer("evaluation_batches"), 3);
  EXPECT_EQ(frozen({}).text("held_out_fraction"), "0.05");
  EXPECT_EQ(frozen({}).text("evaluation_batches"), "16");
}

TEST(RunConfig, WhatDoesNotGoTogetherIsRefused) {
  const std::pair<ConfigPairs, const char*> wrong[] = {
      {{{"method", "lora"}}, "method"},
      {{{"objective", "dpo"}}, "objective"},
      {{{"lora_rank", "8"}}, "lora_rank"},
      {{{"adapter_precision", "bf16"}}, "adapter_precision"},
      {{{"chat_template", "x"}}, "chat_template"},
      {{{"exports", "gguf_f16"}}, "exports"},
      {{{"exports", "peft"}}, "exports"},
      {{{"exports", "merged,merged"}}, "exports"},
      {{{"exports", "onnx"}}, "exports"},
      {{{"base_model", "m"}, {"layers", "2"}}, "layers"},
      {{{"base_model", "m"}, {"tokenizer", "bpe"}}, "tokenizer"},
      {{{"base_model", "m"}, {"steps", "5"}, {"epochs", "2"}}, "epochs"},
      {{{"base_model", "m"}, {"optimizer", "muon"}}, "optimizer"},
      {{{"base_model", "m"}, {"optimizer", "adamw_8bit"}, {"moments", "bf16"}}, "moments"},
      {{{"base_model", "m"}, {"method", "full"}, {"use_dora", "true"}}, "use_dora"},
      {{{"keep_best", "true"}}, "keep_best"},
      {{{"keep_best", "true"}, {"evaluate_every", "40"}, {"checkpoint_every", "60"}}, "keep_best"},
      {{{"keep_best", "true"}, {"evaluate_every", "40"}, {"checkpoint_every", "0"}}, "keep_best"},
      {{{"keep_best", "true"}, {"held_out_fraction", "0"}}, "keep_best"},
      {{{"early_stopping_patience", "2"}}, "early_stopping_patience"},
      {{{"early_stopping_threshold", "0.1"}}, "early_stopping_threshold"},
      {{{"base_model", "m"}, {"dpo_beta", "0.5"}}, "dpo_beta"}};
  for (const auto& [given, key] : wrong) EXPECT_EQ(refused(given).key, key);
}

TEST(RunConfig, FormsMayBeApartBySpacesToo) {
  EXPECT_EQ(frozen({{"base_model", "m"}, {"exports", "peft, merged ,gguf_f16"}}).text("exports"), "peft,merged,gguf_f16");
  EXPECT_EQ(frozen({{"base_model", "m"}, {"exports", " "}}).text("exports"), "peft");
}

// As OpenAI's interface has it; the frozen factors are frozen again by the trainer and must not be multiplied twice.
TEST(RunConfig, TheRateCanBeMultiplied) {
  EXPECT_EQ(frozen({}).learning_rate(), 0.001);
  EXPECT_EQ(frozen({{"learning_rate_multiplier", "auto"}}).canonical_text(), frozen({}).canonical_text());
  const RunConfig config = frozen({{"learning_rate_multiplier", "0.5"}});
  EXPECT_EQ(config.learning_rate(), 0.0005);
  EXPECT_EQ(frozen(config.pairs()).learning_rate(), 0.0005);
  EXPECT_EQ(frozen({{"learning_rate", "0.02"}, {"learning_rate_multiplier", "2"}}).learning_rate(), 0.04);
  EXPECT_EQ(refused({{"learning_rate_multiplier", "0"}}).key, "learning_rate_multiplier");
  EXPECT_TRUE(holds(refused({{"learning_rate", "1e12"}, {"learning_rate_multiplier", "10"}}).message, "more than 1e+12"));
}

TEST(RunConfig, EpochsFromScratch) {
  const RunConfig config = frozen({{"epochs", "2"}, {"size", "nano"}, {"held_out_fraction", "0"}});
  EXPECT_EQ(config.integer("steps"), 0);
  EXPECT_EQ(config.planned_steps(10240), 20) << "bytes are tokens";
}

TEST(RunConfig, RandomPairsNeverCrashAndNeverPassUnfrozen) {
  Fresh fresh;
  const auto& fields = config_fields();
  const char* values[] = {"0", "1", "-1", "1e3", "1e18", "9223372036854775807", "", "nano", "bpe", "0.5", "\xff", "fp32", "512"};
  int passed = 0;
  for (int round = 0; round < 20000; ++round) {
    ConfigPairs given;
    for (uint64_t i = fresh.below(5); i > 0; --i) {
      std::string key = fields[fresh.below(fields.size())].name;
      if (fresh.below(10) == 0) key[fresh.below(key.size())] = static_cast<char>(fresh.engine());
      given.emplace_back(key, values[fresh.below(std::size(values))]);
    }
    RunConfig config;
    ConfigError error;
    if (!freeze_config(given, config, error)) {
      EXPECT_NE(error.message, "");
      EXPECT_NE(error.hint, "");
      continue;
    }
    ++passed;
    ASSERT_EQ(frozen(config.pairs()).canonical_text(), config.canonical_text()) << "seed " << fresh.seed;
    ASSERT_TRUE(config.has_base_model() || config.integer("width") % config.integer("heads") == 0);
  }
  EXPECT_GT(passed, 100);
}

}  // namespace
}  // namespace pgtrain::protocol::test
