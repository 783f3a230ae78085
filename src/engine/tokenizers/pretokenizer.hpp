// Cuts text into the pieces inside which byte pairs may merge, exactly as GPT-2's pattern does:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// A hand-written scanner for this one pattern. Bytes that are not UTF-8 count as "other". Called by encode and by the trainer.
#pragma once

#include <cstddef>
#include <string_view>

namespace pgtrain::engine::tokenizers {

// End of the piece that begins at byte `at`; at < text.size().
std::size_t next_piece_end(std::string_view text, std::size_t at);

template <typename Visit>
void for_each_piece(std::string_view text, Visit&& visit) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = next_piece_end(text, at);
    visit(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace pgtrain::engine::tokenizers
