// One pass over the samples; nothing of them stays in memory.
#include "engine/data/load.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"

namespace pgtrain::engine::data {
namespace {

using Id = tokenizers::Tokenizer::Id;

constexpr std::size_t kBytesBetweenCalls = std::size_t{1} << 20;

class Pulse {
 public:
  explicit Pulse(const std::function<void()>& call) : call_(call) {}
  void after(std::size_t bytes) {
    since_ += bytes;
    if (!call_ || since_ < kBytesBetweenCalls) return;
    call_();
    since_ = 0;
  }

 private:
  const std::function<void()>& call_;
  std::size_t since_ = 0;
};

SplitTokens empty_stores(const tokenizers::Tokenizer& tokenizer, const LoadOptions& options) {
  return {TokenStore(tokenizer.vocab_size(), options.folder), TokenStore(tokenizer.vocab_size(), options.folder)};
}

// With the store that the sample is for.
using TakeSample = std::function<void(std::size_t index, std::string_view text, TokenStore& store)>;

void for_each_sample(const Documents& documents, const LoadOptions& options, SplitTokens& split, const TakeSample& take) {
  const std::vector<bool> is_held_out = choose_held_out(documents.size(), options.held_out_fraction, options.seed);
  Pulse pulse(options.keep_alive);
  documents.for_each([&](std::size_t index, std::string_view text) {
    take(index, text, is_held_out[index] ? split.held_out : split.training);
    split.held_out_samples += is_held_out[index];
    pulse.after(text.size());
  });
  if (options.validation == nullptr) return;
  about_validation([&] {
    options.validation->for_each([&](std::size_t index, std::string_view text) {
      take(index, text, split.held_out);
      pulse.after(text.size());
    });
  });
  split.held_out_samples = options.validation->size();
}

}  // namespace

SplitTokens tokenize_texts(const Documents& documents, const tokenizers::Tokenizer& tokenizer, const LoadOptions& options) {
  SplitTokens split = empty_stores(tokenizer, options);
  const Id end = tokenizer.end_of_text();
  std::vector<Id> ids;
  for_each_sample(documents, options, split, [&](std::size_t index, std::string_view text, TokenStore& store) {
    ids.clear();
    tokenizer.encode(text, ids);
    split.total_tokens += ids.size() + 1;
    if (documents.size() == 1 && options.held_out_fraction > 0 && ids.size() >= 2) {
      const std::size_t tail = std::clamp<std::size_t>(static_cast<std::size_t>(std::llround(options.held_out_fraction * static_cast<double>(ids.size()))), 1, ids.size() - 1);
      split.training.add_document(ids.data(), ids.size() - tail, end, index);
      split.held_out.add_document(ids.data() + ids.size() - tail, tail, end, index);
      split.held_out_samples = 1;
      return;
    }
    store.add_document(ids.data(), ids.size(), end, index);
  });
  return split;
}

SplitTokens tokenize_records(const Documents& documents, const tokenizers::Tokenizer& tokenizer, const RecordReader& reader, bool wants_preferences,
                             const LoadOptions& options) {
  SplitTokens split = empty_stores(tokenizer, options);
  Record record;
  for_each_sample(documents, options, split, [&](std::size_t index, std::string_view json, TokenStore& store) {
    reader.read(json, index, record);
    const bool is_preference = record.kind == RecordKind::Preference;
    if (is_preference != wants_preferences)
      throw core::Error("data_invalid", "sample " + std::to_string(index + 1) + (is_preference ? ": a preference, in a supervised run" : ": no preference, in a run that learns from preferences"), "",
                        is_preference ? "Train with objective => dpo, or give records with text, prompt and completion, or messages."
                                      : "Give records with chosen and rejected, or train with objective => supervised.");
    store.add(record.sequence, index);
    split.total_tokens += record.sequence.tokens.size();
    if (is_preference) {
      store.add(record.rejected, index);
      split.total_tokens += record.rejected.tokens.size();
    }
  });
  return split;
}

}  // namespace pgtrain::engine::data
