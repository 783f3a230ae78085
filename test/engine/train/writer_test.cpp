// What generation promises around the model: many prompts as one by one, pieces that join to the answer, stop strings that are never
// told, repetition, min_p, prompts as conversations, adapters over base models.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "../model_folder.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/io/file.hpp"
#include "engine/train/adapter_files.hpp"
#include "engine/train/generation.hpp"
#include "engine/train/sampler.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

// A random GPT-2 over bytes in a folder; it writes any byte, so characters of several bytes come broken and whole.
class Folder {
 public:
  explicit Folder(std::mt19937& random) : device(backend::open("cpu", {.threads = 1})) {
    const graph::Graph graph = models::build_model(config, {}, core::DType::F32, 1, 1);
    graph::ParameterStore store(graph, *device, graph::Mode::Evaluate);
    std::vector<float> weights(static_cast<std::size_t>(store.count()));
    for (const graph::Parameter& parameter : store.parameters())
      for (std::int64_t i = 0; i < parameter.count; ++i)
        weights[static_cast<std::size_t>(parameter.offset + i)] = (parameter.name.find("ln_") != std::string::npos && parameter.name.ends_with("weight") ? 1.0f : 0.0f) + 0.3f * std::normal_distribution<float>()(random);
    store.upload_weights(weights.data());
    write_model(folder.path(), config, store);
  }
  std::vector<GenerateResult> ask(const std::vector<std::string>& prompts, const GenerateOptions& options, const PieceObserver& observer = {}) {
    return generate({folder.path(), ""}, prompts, options, *device, {}, observer);
  }

  const models::ModelConfig config = models::fresh_gpt2(2, 16, 2, 96, 257, 256);
  TemporaryFolder folder;
  std::unique_ptr<backend::Backend> device;
};

std::vector<std::string> random_prompts(std::mt19937& random, std::size_t count) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < count; ++i) {
    out.emplace_back();
    for (std::size_t length = random() % 30; length > 0; --length) core::append_utf8(out.back(), static_cast<char32_t>(random() % 3 == 0 ? 0x400 + random() % 64 : 'a' + random() % 26));
  }
  return out;
}

TEST(Writer, ManyPromptsAreAnsweredAsEachAlone) {
  std::mt19937 random(test::seed());
  Folder model(random);
  const auto prompts = random_prompts(random, 11);  // more than are written at once
  GenerateOptions ask;
  ask.temperature = 0, ask.max_tokens = 20;
  const auto together = model.ask(prompts, ask);
  ASSERT_EQ(together.size(), prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = model.ask({prompts[i]}, ask);
    EXPECT_EQ(together[i].text, alone[0].text) << i;
    EXPECT_EQ(together[i].tokens, alone[0].tokens);
    EXPECT_EQ(together[i].prompt_tokens, 1 + static_cast<int>(prompts[i].size()));
    EXPECT_EQ(together[i].end_reason, alone[0].end_reason);
  }
}

TEST(Writer, PiecesAreWholeCharactersAndJoinToTheAnswer) {
  std::mt19937 random(test::seed());
  Folder model(random);
  GenerateOptions ask;
  ask.temperature = 1.5, ask.max_tokens = 60, ask.seed = random();
  const auto prompts = random_prompts(random, 5);
  std::vector<std::string> joined(prompts.size());
  std::vector<int> ends(prompts.size(), 0);
  const auto results = model.ask(prompts, ask, [&](std::size_t prompt, const std::string& text, const GenerateResult& so_far) {
    EXPECT_EQ(core::first_invalid_utf8(text), std::string::npos);
    EXPECT_EQ(ends[prompt], 0) << "a piece after the last one";
    joined[prompt] += text;
    EXPECT_EQ(joined[prompt], so_far.text);
    ends[prompt] += !so_far.end_reason.empty();
  });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(joined[i], results[i].text);
    EXPECT_EQ(ends[i], 1);
  }
}

TEST(Writer, StopStringsEndTheTextAndAreNeverTold) {
  std::mt19937 random(test::seed());
  Folder model(random);
  int stopped = 0;
  for (int round = 0; round < 20; ++round) {
    GenerateOptions ask;
    ask.temperature = 1, ask.max_tokens = 60, ask.seed = random();
    const auto prompts = random_prompts(random, 1);
    const std::string whole = model.ask(prompts, ask)[0].text;
    // From the text itself, of one to five bytes where characters begin; another one that does not come, but begins as the text does.
    const std::size_t begin = core::complete_utf8_prefix(std::string_view(whole).substr(0, random() % (whole.size() + 1)));
    const std::size_t end = begin + core::complete_utf8_prefix(std::string_view(whole).substr(begin, 1 + random() % 5));
    if (end <= begin || whole.substr(begin, end - begin).find("\xEF\xBF\xBD") != std::string::npos) continue;
    ask.stop = {whole.substr(begin, end - begin), whole.substr(0, begin) + "#never"};
    std::string told;
    const auto result = model.ask(prompts, ask, [&](std::size_t, const std::string& text, const GenerateResult&) {
      told += text;
      EXPECT_EQ(told.find(ask.stop[0]), std::string::npos);
      EXPECT_EQ(whole.compare(0, told.size(), told), 0) << "a part of a stop string was told";
    })[0];
    if (result.end_reason != "stop") continue;
    ++stopped;
    EXPECT_EQ(result.text, whole.substr(0, whole.find(ask.stop[0])));
    EXPECT_EQ(told, result.text);
  }
  EXPECT_GT(stopped, 0);
}

TEST(Writer, RepetitionIsPenalised) {
  std::mt19937 random(test::seed());
  Folder model(random);
  GenerateOptions ask;
  ask.temperature = 0, ask.max_tokens = 40;
  const auto distinct = [&] {
    const std::string text = model.ask({"aaaa"}, ask)[0].text;
    std::string sorted = text;
    std::sort(sorted.begin(), sorted.end());
    return std::unique(sorted.begin(), sorted.end()) - sorted.begin();
  };
  const auto without = distinct();
  ask.repetition_penalty = 50;
  EXPECT_GE(distinct(), without);
  std::vector<float> logits = {2.0f, -2.0f, 4.0f};
  penalize_repetition(logits.data(), {true, true, false}, 4);
  EXPECT_EQ(logits, (std::vector<float>{0.5f, -8.0f, 4.0f}));
}

TEST(Writer, MinPLeavesTheLikely) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const auto seen = [&](const SamplerOptions& options) {
    std::vector<int> counts(4, 0);
    for (int i = 0; i < 4000; ++i) ++counts[static_cast<std::size_t>(choose_token(logits, options, (i + 0.5) / 4000))];
    return counts;
  };
  EXPECT_EQ(seen({.temperature = 1, .min_p = 0.35})[2], 0);
  EXPECT_NEAR(seen({.temperature = 1, .min_p = 0.35})[0], 2500, 2);
  EXPECT_GT(seen({.temperature = 1, .min_p = 0.25})[2], 0);
  EXPECT_EQ(seen({.temperature = 1, .min_p = 1})[0], 4000);
  EXPECT_EQ(seen({.temperature = 1, .top_p = 0.9, .min_p = 0.35})[2], 0);
  // A vocabulary of which only a stretch is sorted gives what a whole sort gives.
  std::mt19937 random(test::seed());
  std::vector<float> many(5000);
  for (float& logit : many) logit = std::normal_distribution<float>()(random);
  for (const double top_p : {0.01, 0.5, 0.99})
    for (int i = 0; i < 20; ++i) {
      const double uniform = (i + 0.5) / 20;
      const std::int32_t chosen = choose_token(many, {.temperature = 0.7, .top_p = top_p}, uniform);
      EXPECT_EQ(chosen, choose_token(many, {.temperature = 0.7, .top_k = 5000, .top_p = top_p}, uniform));
    }
}

TEST(Writer, ConversationsNeedATemplateAndOptionsMeanSomething) {
  std::mt19937 random(test::seed());
  Folder model(random);
  const auto code_of = [&](const GenerateOptions& options, const std::string& prompt) -> std::string {
    try {
      model.ask({prompt}, options);
    } catch (const core::Error& error) {
      return error.code;
    }
    return "";
  };
  GenerateOptions chat;
  chat.is_chat = true, chat.max_tokens = 3;
  const std::string messages = R"([{"role": "user", "content": "hello"}])";
  EXPECT_EQ(code_of(chat, messages), "config_invalid");
  chat.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}";
  EXPECT_EQ(code_of(chat, messages), "");
  EXPECT_EQ(model.ask({messages}, chat)[0].prompt_tokens, static_cast<int>(std::string("[user] hello\n[assistant] ").size()));
  EXPECT_NE(code_of(chat, "no list"), "");
  for (const auto& change : std::vector<std::function<void(GenerateOptions&)>>{[](auto& o) { o.min_p = 1.5; }, [](auto& o) { o.min_p = std::nan(""); }, [](auto& o) { o.repetition_penalty = 0; },
                                                                              [](auto& o) { o.stop = {""}; }, [](auto& o) { o.stop = {"\xFF"}; }, [](auto& o) { o.precision = "fp8"; }}) {
    GenerateOptions wrong;
    change(wrong);
    EXPECT_EQ(code_of(wrong, "a"), "config_invalid");
  }
}

TEST(Writer, AnAdapterAnswersOverItsBaseModel) {
  std::mt19937 random(test::seed());
  Folder base(random);
  models::Tuning tuning;
  tuning.adapters.emplace();
  tuning.adapters->rank = 2, tuning.adapters->alpha = 16, tuning.adapters->targets = {"all-linear"};
  const graph::Graph graph = models::build_model(base.config, tuning, core::DType::F32, 1, 1);
  graph::ParameterStore store(graph, *base.device, graph::Mode::Evaluate);
  std::vector<float> weights(static_cast<std::size_t>(store.count()));
  for (float& weight : weights) weight = 0.5f * std::normal_distribution<float>()(random);
  store.upload_weights(weights.data());
  TemporaryFolder adapter;
  write_adapter(adapter.path(), base.config, *tuning.adapters, "base", store);
  GenerateOptions ask;
  ask.temperature = 0, ask.max_tokens = 30;
  const auto source = models::CheckpointSource::open(base.folder.path());
  models::load_weights(*source, tuning, 0, store);
  store.upload_weights(weights.data());
  models::Decoder decoder(base.config, tuning, store, {});
  const std::string wanted = write_text(decoder, base.config, tokenizers::Tokenizer::bytes(), "abc", ask, {}).text;
  EXPECT_EQ(generate({adapter.path(), base.folder.path()}, {"abc"}, ask, *base.device)[0].text, wanted);
  EXPECT_NE(generate({"", base.folder.path()}, {"abc"}, ask, *base.device)[0].text, wanted);
  EXPECT_THROW(generate({adapter.path(), ""}, {"abc"}, ask, *base.device), core::Error);
}

}  // namespace
}  // namespace pgtrain::engine::train
