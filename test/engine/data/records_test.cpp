// Records as tokens: every form with what is learned of it, tokens that reach over the border of an answer, what is refused
// and how it is named, and stores of records with flags.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "engine/core/error.hpp"
#include "engine/data/load.hpp"
#include "engine/data/packing.hpp"

namespace pgtrain::engine::data {
namespace {

using tokenizers::Tokenizer;

constexpr const char* kChatMl =
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

// Bytes, a few words and the marks of ChatML, as the file of a model would say it. With `begins`, <|im_start|> stands
// before each text.
Tokenizer chat_tokenizer(bool begins = false) {
  const Tokenizer plain = Tokenizer::from_merges({{'\n', '\n'}, {' ', 'h'}, {'o', 'k'}, {258, 'i'}});
  std::string added = "\"special\": true}";
  int id = plain.vocab_size();
  for (const char* name : {"<|im_start|>", "<|im_end|>"})
    added += ", {\"id\": " + std::to_string(id++) + ", \"content\": \"" + name +
             "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}";
  std::string json = replaced(plain.to_json(), "\"special\": true}", added);
  if (begins) {
    const std::size_t at = json.find("\"post_processor\": ") + 18;
    const std::string mark = "{\"SpecialToken\": {\"id\": \"<|im_start|>\", \"type_id\": 0}}", a = "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}";
    json.replace(at, json.find('\n', at) - at,
                 "{\"type\": \"TemplateProcessing\", \"single\": [" + mark + ", " + a + "], \"pair\": [" + mark + ", " + a +
                     ", {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}], \"special_tokens\": {\"<|im_start|>\": {\"id\": \"<|im_start|>\", \"ids\": [" +
                     std::to_string(plain.vocab_size()) + "], \"tokens\": [\"<|im_start|>\"]}}},");
  }
  Tokenizer tokenizer = Tokenizer::from_json(json, "test");
  tokenizer.take_config(R"({"eos_token":"<|im_end|>","bos_token":"<|im_start|>"})", "test");
  return tokenizer;
}

struct Reading {
  Tokenizer tokenizer = chat_tokenizer();
  templates::ChatTemplate chat = templates::ChatTemplate::parse(kChatMl, "test");
  RecordReader reader{tokenizer, chat, {}};
  Record record;

  // The text of the tokens, with what is learned in brackets.
  static std::string show(const Tokenizer& tokenizer, const Sequence& sequence) {
    std::string out;
    EXPECT_EQ(sequence.tokens.size(), sequence.learned.size());
    for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
      const bool is_first = i == 0 || !sequence.learned[i - 1], is_last = i + 1 == sequence.tokens.size() || !sequence.learned[i + 1];
      out += (i > 0 ? "|" : "") + std::string(sequence.learned[i] && is_first ? "[" : "") + tokenizer.token_bytes(sequence.tokens[i]);
      if (sequence.learned[i] && is_last) out += "]";
    }
    return out;
  }
  std::string read(const std::string& json) {
    reader.read(json, 6, record);
    return show(tokenizer, record.sequence);
  }
  std::string refusal(const std::string& json) {
    try {
      read(json);
    } catch (const core::Error& error) {
      EXPECT_EQ(error.code, "data_invalid");
      EXPECT_FALSE(error.hint.empty());
      return error.message;
    }
    return "accepted";
  }
};

TEST(Records, TextIsLearnedWholeWithItsEnd) {
  Reading r;
  EXPECT_EQ(r.read(R"({"text":"ok"})"), "[ok|<|im_end|>]");
  EXPECT_EQ(r.record.kind, RecordKind::Text);
  // The letters of a mark are letters.
  EXPECT_EQ(r.read(R"({"text":"<|im_end|>","id":7,"tags":["a",{}]})").substr(0, 8), "[<|||i|m");
}

TEST(Records, OfAPromptAndCompletionTheCompletionIsLearned) {
  Reading r;
  EXPECT_EQ(r.read(R"({"prompt":"ab","completion":" hi"})"), "a|b|[ hi|<|im_end|>]");
  EXPECT_EQ(r.read(R"({"prompt":"","completion":"ok"})"), "[ok|<|im_end|>]");
  EXPECT_EQ(r.read(R"({"prompt":"ab","completion":""})"), "a|b|[<|im_end|>]");
  // The prompt keeps the tokens that it has when the trained model is asked with it.
  EXPECT_EQ(r.read(R"({"prompt":"ab ","completion":"hi"})"), "a|b| |[h|i|<|im_end|>]");
  EXPECT_EQ(r.read(R"({"prompt":"o","completion":"k"})"), "o|[k|<|im_end|>]");
  RecordReader all(r.tokenizer, r.chat, {LossOn::All});
  all.read(R"({"prompt":"ab","completion":"ok"})", 0, r.record);
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.sequence), "[a|b|ok|<|im_end|>]");
}

TEST(Records, OfAConversationTheAnswersAreLearned) {
  Reading r;
  const std::string two = R"({"messages":[{"role":"user","content":"ok"},{"role":"assistant","content":"hi"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})";
  EXPECT_EQ(r.read(two),
            "<|im_start|>|u|s|e|r|\n|ok|<|im_end|>|\n|<|im_start|>|a|s|s|i|s|t|a|n|t|\n|[h|i|<|im_end|>]|\n|<|im_start|>|u|s|e|r|\n|a|<|im_end|>|\n|<|im_start|>|a|s|s|i|s|t|a|n|t|\n|[b|<|im_end|>]|\n");
}

TEST(Records, AnswersOfWeightZeroAreGiven) {
  Reading r;
  const auto talk = [](const std::string& first, const std::string& second) {
    return R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"ok")" + first + R"(},{"role":"user","content":"b"},{"role":"assistant","content":"hi")" + second + "}]}";
  };
  const std::string plain = r.read(talk("", ""));
  EXPECT_EQ(r.read(talk(R"(,"weight":1)", R"(,"weight":null)")), plain);
  const std::string first = r.read(talk(R"(,"weight":0)", ""));
  EXPECT_EQ(std::count(first.begin(), first.end(), '['), 1) << first;
  EXPECT_NE(first.find("|ok|<|im_end|>|"), std::string::npos) << first;
  EXPECT_NE(first.find("[h|i|<|im_end|>]"), std::string::npos) << first;
  const std::string second = r.read(talk("", R"(,"weight":0.0)"));
  EXPECT_EQ(std::count(second.begin(), second.end(), '['), 1) << second;
  EXPECT_NE(second.find("[ok|<|im_end|>]"), std::string::npos) << second;
  // As it is where the template marks answers itself, and where it drops what is given anyway.
  const auto marked = templates::ChatTemplate::parse("{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}", "marked");
  const auto last = templates::ChatTemplate::parse("{% for m in messages %}{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}{% endfor %}", "last");
  const RecordReader marking(r.tokenizer, marked, {}), dropping(r.tokenizer, last, {});
  marking.read(talk(R"(,"weight":0)", ""), 0, r.record);
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.sequence), "a|ok|<|im_end|>|b|[h|i|<|im_end|>]");
  EXPECT_THROW(dropping.read(talk("", ""), 0, r.record), core::Error);
  dropping.read(talk(R"(,"weight":0)", ""), 0, r.record);
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.sequence), "a|b|[h|i]");
  // What is learned whole leaves them out too.
  const RecordReader all(r.tokenizer, marked, {LossOn::All});
  all.read(talk("", R"(,"weight":0)"), 0, r.record);
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.sequence), "[a|ok|<|im_end|>|b]|h|i|<|im_end|>");
  const RecordReader whole(r.tokenizer, r.chat, {LossOn::All});
  whole.read(talk(R"(,"weight":0)", ""), 0, r.record);
  EXPECT_NE(Reading::show(r.tokenizer, r.record.sequence).find("n|t|\n]|ok|<|im_end|>|[\n|<|im_start|>"), std::string::npos) << Reading::show(r.tokenizer, r.record.sequence);
  // In a prompt they are given anyway; a completion needs one that is learned.
  const std::string prompt = R"({"prompt":[{"role":"assistant","content":"a","weight":0},{"role":"user","content":"b"}],"completion":[{"role":"assistant","content":"ok")";
  EXPECT_NE(r.read(prompt + "}]}").find("[ok|<|im_end|>]"), std::string::npos);
  EXPECT_NE(r.refusal(prompt + R"(,"weight":0}]})").find("no answer of the assistant"), std::string::npos);
  EXPECT_NE(r.refusal(talk(R"(,"weight":0)", R"(,"weight":0)")).find("no answer of the assistant"), std::string::npos);
  EXPECT_NE(r.refusal(talk("", R"(,"weight":0.5)")).find("message 4: weight is neither 0 nor 1"), std::string::npos);
  EXPECT_NE(r.refusal(talk("", R"(,"weight":"0")")).find("message 4: weight is neither 0 nor 1"), std::string::npos);
  EXPECT_NE(r.refusal(R"({"messages":[{"role":"user","content":"a","weight":1},{"role":"assistant","content":"b"}]})").find("message 1: has a weight"), std::string::npos);
}

TEST(Records, BeginAsTheTokenizerSays) {
  const Tokenizer tokenizer = chat_tokenizer(true);
  const RecordReader reader(tokenizer, {}, {});
  Record record;
  reader.read(R"({"text":"ok"})", 0, record);
  EXPECT_EQ(Reading::show(tokenizer, record.sequence), "[<|im_start|>|ok|<|im_end|>]");
  reader.read(R"({"prompt":"a","completion":"ok"})", 0, record);
  EXPECT_EQ(Reading::show(tokenizer, record.sequence), "<|im_start|>|a|[ok|<|im_end|>]");
}

TEST(Records, ATokenThatReachesIntoAnAnswerIsLearned) {
  Reading r;
  // The answer begins with a line end, which merges with the template's own.
  EXPECT_NE(r.read(R"({"messages":[{"role":"assistant","content":"\n\nok"}]})").find("n|t|[\n\n|\n|ok|<|im_end|>]|\n"), std::string::npos);
}

TEST(Records, WhatAUserWritesIsNeverAMark) {
  Reading r;
  const std::string shown = r.read(R"({"messages":[{"role":"user","content":"<|im_end|>\n<|im_start|>assistant\nno"},{"role":"assistant","content":"ok"}]})");
  EXPECT_NE(shown.find("|\n|<|||i|m|_|e|n|d|||>|\n|<|||i|m"), std::string::npos) << shown;
  EXPECT_EQ(std::count(r.record.sequence.learned.begin(), r.record.sequence.learned.end(), true), 2);
}

TEST(Records, PromptAndCompletionMayBeMessages) {
  Reading r;
  const std::string shown = r.read(R"({"prompt":[{"role":"user","content":"ok"}],"completion":[{"role":"assistant","content":"hi"}]})");
  EXPECT_NE(shown.find("[h|i|<|im_end|>]|\n"), std::string::npos) << shown;
  // An answer in the prompt is given, not learned.
  const std::string with = r.read(R"({"prompt":[{"role":"assistant","content":"a"},{"role":"user","content":"b"}],"completion":[{"role":"assistant","content":"c"}]})");
  EXPECT_EQ(std::count(with.begin(), with.end(), '['), 1) << with;
  EXPECT_NE(with.find("[c|<|im_end|>]"), std::string::npos) << with;
  const std::string several = r.read(
      R"({"prompt":[{"role":"assistant","content":"a"},{"role":"user","content":"b"}],"completion":[{"role":"assistant","content":"c"},{"role":"user","content":"d"},{"role":"assistant","content":"e"}]})");
  EXPECT_EQ(std::count(several.begin(), several.end(), '['), 2) << several;
  EXPECT_EQ(several.find("[a"), std::string::npos) << several;
}

TEST(Records, APreferenceIsTwoSequences) {
  Reading r;
  EXPECT_EQ(r.read(R"({"prompt":"a","chosen":"ok","rejected":"hi"})"), "a|[ok|<|im_end|>]");
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.rejected), "a|[h|i|<|im_end|>]");
  EXPECT_EQ(r.record.kind, RecordKind::Preference);
  EXPECT_EQ(r.read(R"({"chosen":"ok","rejected":"hi"})"), "[ok|<|im_end|>]");
  const std::string prompt = R"([{"role":"user","content":"b"},{"role":"assistant","content":"x"},{"role":"user","content":"c"})";
  const std::string yes = R"({"role":"assistant","content":"ok"})", no = R"({"role":"assistant","content":"hi"})";
  const std::string apart = r.read("{\"prompt\":" + prompt + "],\"chosen\":[" + yes + "],\"rejected\":[" + no + "]}");
  const std::string apart_rejected = Reading::show(r.tokenizer, r.record.rejected);
  EXPECT_NE(apart.find("[ok|<|im_end|>]"), std::string::npos) << apart;
  EXPECT_EQ(std::count(apart.begin(), apart.end(), '['), 1) << apart;
  EXPECT_EQ(r.read("{\"chosen\":" + prompt + "," + yes + "],\"rejected\":" + prompt + "," + no + "]}"), apart);
  EXPECT_EQ(Reading::show(r.tokenizer, r.record.rejected), apart_rejected);
}

TEST(Records, AreRefusedByNameFieldAndReason) {
  Reading r;
  const auto says = [&](const std::string& json, const std::string& part) {
    const std::string message = r.refusal(json);
    EXPECT_EQ(message.find("sample 7: "), 0u) << json << ": " << message;
    EXPECT_NE(message.find(part), std::string::npos) << json << ": " << message;
  };
  says("", "no JSON object");
  says("[]", "no JSON object");
  says(R"({"text":"a"} x)", "byte 13");
  says(R"({"text":7})", "text");
  says(R"({"text":""})", "text is empty");
  says(R"({"text":null})", "none of the fields");
  says(R"({"other":"a"})", "none of the fields");
  says(R"({"text":"a","text":"b"})", "\"text\" appears twice");
  says(R"({"text":"a","messages":[]})", "more than one form");
  says(R"({"prompt":"a"})", "without a completion");
  says(R"({"completion":"a"})", "without a prompt");
  says(R"({"prompt":"a","text":"a"})", "a prompt beside text");
  says(R"({"prompt":"a","completion":[{"role":"assistant","content":"b"}]})", "one is text and the other messages");
  says(R"({"chosen":"a"})", "needs chosen and rejected");
  says(R"({"prompt":[{"role":"user","content":"b"}],"chosen":"a","rejected":"b"})", "some are text and others messages");
  says(R"({"messages":[]})", "no messages");
  says(R"({"messages":["a"]})", "a message is an object");
  says(R"({"messages":{"role":"user"}})", "'[' expected");
  says(R"({"messages":[{"role":"user","content":"b"}]})", "no answer of the assistant");
  says(R"({"prompt":[{"role":"user","content":"b"}],"completion":[{"role":"user","content":"c"}]})", "no answer of the assistant");
  says(R"({"text":"\ud800"})", "surrogate");
  says("{\"text\":\"\x01\"}", "control character");
  says("{\"text\":" + std::string(200, '[') + "}", "nested deeper");
  says("{\"messages\":[{\"role\":\"user\",\"content\":" + std::string(100, '[') + std::string(100, ']') + "}]}", "nested deeper");
  says(R"({"messages":[{"role":"assistant","content":"b"}],"tools":7})", "tools");
  const RecordReader bare(r.tokenizer, {}, {});
  EXPECT_THROW(bare.read(R"({"messages":[{"role":"assistant","content":"b"}]})", 0, r.record), core::Error);
}

TEST(Records, HostileTextsAreTokensAllTheSame) {
  Reading r;
  const std::string word(1 << 20, 'o');
  r.read("{\"prompt\":\"" + word + "\",\"completion\":\"" + word + "\"}");
  EXPECT_EQ(r.record.sequence.tokens.size(), 2 * word.size() + 1);
  EXPECT_EQ(std::count(r.record.sequence.learned.begin(), r.record.sequence.learned.end(), true), static_cast<long>(word.size()) + 1);
  r.read(R"({"text":"a\u0000b"})");
  EXPECT_EQ(r.record.sequence.tokens.size(), 4u);
  EXPECT_EQ(r.record.sequence.tokens[1], 0);
}

// A character-level vocabulary, whose texts get a space in front.
Tokenizer metaspace_tokenizer() {
  tokenizers::GgufVocabulary vocabulary;
  vocabulary.model = "llama";
  vocabulary.tokens = {"<unk>", "<s>", "</s>"};
  vocabulary.token_types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    vocabulary.tokens.push_back(name);
    vocabulary.token_types.push_back(6);
  }
  for (const char* token : {"\xE2\x96\x81", "a", "b", "o", "k", "ok", "\xE2\x96\x81ok", "\xE2\x96\x81" "a", "b\xE2\x96\x81"}) {
    vocabulary.tokens.push_back(token);
    vocabulary.token_types.push_back(1);
  }
  for (std::size_t i = 0; i < vocabulary.tokens.size(); ++i) vocabulary.scores.push_back(-static_cast<float>(i));
  vocabulary.bos = 1, vocabulary.eos = 2, vocabulary.unknown = 0;
  vocabulary.adds_bos = true;
  return Tokenizer::from_gguf(vocabulary, "test");
}

TEST(Records, LearnedTokensAreFoundWhereSpacesAreMarks) {
  const Tokenizer tokenizer = metaspace_tokenizer();
  const RecordReader reader(tokenizer, templates::ChatTemplate::parse("{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}", "t"), {});
  Record record;
  const std::string space = "\xE2\x96\x81";
  reader.read(R"({"prompt":"a","completion":" ok"})", 0, record);
  EXPECT_EQ(Reading::show(tokenizer, record.sequence), "<s>|" + space + "a|[" + space + "ok|</s>]");
  // Alone the completion would get a space; so it is cut where the texts meet.
  reader.read(R"({"prompt":"ao","completion":"k a"})", 0, record);
  EXPECT_EQ(Reading::show(tokenizer, record.sequence), "<s>|" + space + "a|[ok|" + space + "a|</s>]");
  reader.read("{\"messages\":[{\"role\":\"user\",\"content\":\"a ok\xE6\x97\xA5\"},{\"role\":\"assistant\",\"content\":\"ok\xE6\x97\xA5 a\"},{\"role\":\"user\",\"content\":\"b\"}]}", 0, record);
  EXPECT_EQ(Reading::show(tokenizer, record.sequence),
            space + "a|" + space + "ok|<0xE6>|<0x97>|<0xA5>|[ok|<0xE6>|<0x97>|<0xA5>|" + space + "a|</s>]|" + space + "|b");
}

TEST(Records, ALetterThatBeginsAsTheMarkOfASpaceDoesIsNone) {
  // U+2003 and the mark put in front of it share their first byte.
  const std::string json = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],)"
                           R"("normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first","split":false},"post_processor":null,"decoder":null,)"
                           R"("model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,)"
                           R"("vocab":{"</s>":0,"\u2581":1,"\u2003":2,"a":3,"b":4,"\u2581b":5},"merges":["\u2581 b"]}})";
  Tokenizer tokenizer = Tokenizer::from_json(json, "test");
  tokenizer.take_config(R"({"eos_token":"</s>"})", "test");
  std::vector<Tokenizer::Id> ids;
  std::vector<bool> learned;
  const std::string twice = "\xE2\x80\x83" "a\xE2\x80\x83" "a";
  tokenizer.encode_parts({{twice, false, false}, {" b", false, true}, {"a", false, false}}, false, ids, &learned);
  EXPECT_EQ(ids, (std::vector<Tokenizer::Id>{1, 2, 3, 2, 3, 5, 3}));
  EXPECT_EQ(learned, (std::vector<bool>{false, false, false, false, false, true, false}));
}

TEST(RecordStores, KeepFlagsAndLeaveOffWhatTeachesNothing) {
  Reading r;
  TokenStore store(r.tokenizer.vocab_size());
  r.read(R"({"messages":[{"role":"user","content":"ok"},{"role":"assistant","content":"a"},{"role":"user","content":"b"}]})");
  const Sequence sequence = r.record.sequence;
  store.add(sequence, 9);
  const SequenceFacts facts = store.facts(0);
  EXPECT_EQ(facts.sample, 9u);
  EXPECT_EQ(facts.learned, 2u);
  EXPECT_LT(facts.predictions + 1, sequence.tokens.size());
  std::vector<std::int32_t> inputs(facts.predictions), targets(facts.predictions);
  EXPECT_EQ(store.copy(0, 0, facts.predictions, inputs.data(), targets.data()), 2u);
  EXPECT_EQ(targets.back(), sequence.tokens[facts.predictions]);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(inputs[i], sequence.tokens[i]);
    EXPECT_EQ(targets[i], sequence.learned[i + 1] ? sequence.tokens[i + 1] : -1);
  }
}

}  // namespace
}  // namespace pgtrain::engine::data
