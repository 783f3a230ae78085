// From the samples of a run to its two stores of tokens: what is trained on and what is held out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/core/error.hpp"
#include "engine/data/documents.hpp"
#include "engine/data/records.hpp"
#include "engine/data/token_store.hpp"

namespace pgtrain::engine::data {

struct LoadOptions {
  double held_out_fraction = 0;
  std::uint64_t seed = 0;
  std::string folder;                // for the stores; empty keeps them in memory
  std::function<void()> keep_alive;  // called every few megabytes; may throw to leave
  const Documents* validation = nullptr;  // held out, all of them; held_out_fraction is 0 then
};

// Of validation samples: whatever is wrong with them is said of them, not of those that are trained on.
template <class Act>
auto about_validation(const Act& act) {
  try {
    return act();
  } catch (const core::Error& error) {
    throw core::Error(error.code, "validation data: " + error.message, error.detail, error.hint);
  }
}

// Stores of preferences hold pairs: sequence 2k is chosen, 2k + 1 the rejected one beside it.
struct SplitTokens {
  TokenStore training, held_out;
  std::uint64_t held_out_samples = 0;
  // Of everything, marks included and before anything is cut to the context.
  std::uint64_t total_tokens = 0;
};

// Plain texts, to train a model from scratch. One text alone is cut: its last tokens are held out.
SplitTokens tokenize_texts(const Documents& documents, const tokenizers::Tokenizer& tokenizer, const LoadOptions& options);

// Records, all of them preferences or none. One record alone is trained on, and nothing is held out.
SplitTokens tokenize_records(const Documents& documents, const tokenizers::Tokenizer& tokenizer, const RecordReader& reader, bool wants_preferences,
                             const LoadOptions& options);

}  // namespace pgtrain::engine::data
