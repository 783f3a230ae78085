// Learns the merges of a byte-level BPE from documents.
//
// Deterministic: the most frequent pair merges first, of equals the one with the smaller ids. Bounded: at most
// max_text_bytes are counted (whole documents, evenly chosen) and pieces are cut at kLongestPiece bytes for counting,
// so a document without spaces costs no more than one with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::tokenizers {

struct BpeTrainingOptions {
  int vocab_size = 2048;                       // of the result, bytes and end mark included; may stay below
  std::size_t max_text_bytes = std::size_t{64} << 20;
  std::function<void()> keep_alive;            // called often; may throw to leave
};

Tokenizer train_bpe(const std::vector<std::string_view>& documents, const BpeTrainingOptions& options);

}  // namespace pgtrain::engine::tokenizers
