// libFuzzer target of dataset records: whatever the bytes, sequences that the store and the packing keep to the last token, or
// core::Error that names the sample.
//
// The first byte chooses the chat template and what is learned, the rest is the record. `make fuzz` runs it, starting from
// test/fuzz/seeds/records, which replay.cpp gives it in the ordinary suite.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/data/packing.hpp"
#include "engine/data/pairs.hpp"
#include "engine/data/records.hpp"

namespace {

using namespace pgtrain::engine;
using tokenizers::Tokenizer;

void require(bool holds) {
  if (!holds) __builtin_trap();
}

// Words, marks, and a normal form, so that letters and tokens do not lie side by side.
Tokenizer make_tokenizer() {
  std::string json = Tokenizer::from_merges({{'\n', '\n'}, {' ', 'h'}, {'o', 'k'}, {258, 'i'}, {' ', ' '}}).to_json();
  const std::string mark = "\"special\": true}";
  json.insert(json.find(mark) + mark.size(),
              ", {\"id\": 262, \"content\": \"<|im_start|>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}"
              ", {\"id\": 263, \"content\": \"<|im_end|>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true, \"normalized\": false, \"special\": true}");
  const std::string none = "\"normalizer\": null";
  json.replace(json.find(none), none.size(), "\"normalizer\": {\"type\": \"NFC\"}");
  Tokenizer tokenizer = Tokenizer::from_json(json, "fuzz");
  tokenizer.take_config(R"({"eos_token":"<|im_end|>","bos_token":"<|im_start|>"})", "fuzz");
  return tokenizer;
}

constexpr const char* kTemplates[] = {
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role | upper }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[ASSISTANT] {% endif %}",
};

void check(const Tokenizer& tokenizer, const data::Sequence& sequence, data::TokenStore& store) {
  require(sequence.tokens.size() >= 2 && sequence.tokens.size() == sequence.learned.size());
  std::uint64_t learned = 0;
  for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
    require(sequence.tokens[i] >= 0 && sequence.tokens[i] < tokenizer.vocab_size());
    learned += i > 0 && sequence.learned[i];
  }
  require(learned > 0);
  const std::uint64_t before = store.total_learned();
  store.add(sequence, 0);
  require(store.total_learned() == before + learned);
}

template <typename Stream, typename Batch>
std::uint64_t run_through(Stream stream, Batch batch) {
  std::uint64_t learned = 0;
  for (int batches = 0; stream.next(batch); ++batches) {
    std::uint64_t here = 0;
    for (const std::int32_t target : batch.targets) here += target >= 0;
    require(here == batch.predictions);
    learned += here;
  }
  return learned;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Tokenizer tokenizer = make_tokenizer();
  if (size == 0) return 0;
  std::optional<templates::ChatTemplate> chat;
  if (data[0] % 4 < 3) chat = templates::ChatTemplate::parse(kTemplates[data[0] % 4], "fuzz");
  const data::RecordReader reader(tokenizer, chat, {data[0] / 4 % 2 == 0 ? data::LossOn::Answers : data::LossOn::All});
  data::Record record;
  try {
    reader.read({reinterpret_cast<const char*>(data) + 1, size - 1}, 0, record);
  } catch (const core::Error& error) {
    require(error.code == "data_invalid" && error.message.starts_with("sample 1: ") && !error.hint.empty());
    require(core::first_invalid_utf8(error.message) == std::string::npos);
    return 0;
  }
  data::TokenStore store(tokenizer.vocab_size());
  check(tokenizer, record.sequence, store);
  try {
    if (record.kind != data::RecordKind::Preference) {
      const auto fit = data::fit_samples(store, 16, data::LongSamples::Split);
      require(fit.learned == store.total_learned());
      require(run_through(data::TrainingStream(store, {2, 16, 1, data::LongSamples::Split, 1}), data::Batch()) == fit.learned);
      return 0;
    }
    check(tokenizer, record.rejected, store);
    const data::PairOptions options{2, 64, 1, data::LongSamples::Truncate, 1};
    require(run_through(data::PairStream(store, options), data::PairBatch()) == data::fit_pairs(store, options).learned);
  } catch (const core::Error& error) {
    require(error.code == "data_invalid");
  }
  return 0;
}
