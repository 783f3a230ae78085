// Added tokens: texts that are one token wherever they stand, found before anything else happens to a text.
//
// As in the `tokenizers` package: those that are not `normalized` are looked for in the raw text, then the others in each
// normalized stretch between; leftmost first, of those the longest; single_word, lstrip and rstrip as there.
// A special token counts only where it stands wholly inside text that may hold one (Marking), which is how a chat
// template's <|im_start|> becomes a token and the same letters inside a user's message do not.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/tokenizers/bpe_model.hpp"

namespace pgtrain::engine::tokenizers {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
  std::string pattern;  // what is looked for: the content, normalized where that is asked for
};

// Which bytes of a text may hold special tokens: true from the begin of each stretch to the begin of the next.
struct Marking {
  struct Stretch {
    std::size_t begin;
    bool allows_special;
  };
  std::vector<Stretch> stretches;  // by begin; the first begins at 0

  bool allows_at(std::size_t byte) const { return stretches[index_of(byte)].allows_special; }
  enum class Where { Allowed, Forbidden, Mixed };
  Where where(std::size_t begin, std::size_t end) const;

 private:
  std::size_t index_of(std::size_t byte) const;
};

class AddedTokenMatcher {
 public:
  struct Match {
    TokenId id;  // -1 = plain text
    std::size_t begin, end;
  };

  void add(const AddedToken& token);
  bool is_empty() const { return tokens_.empty(); }
  // Cuts text in tokens and what is between. marking's offsets are those of text shifted by `offset`.
  void split(std::string_view text, const Marking& marking, std::size_t offset, std::vector<Match>& out) const;

 private:
  struct Found {
    const AddedToken* token = nullptr;
    std::size_t end = 0;
    bool counts = false;
  };
  Found longest_at(std::string_view text, std::size_t at, const Marking& marking, std::size_t offset) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;  // node << 8 | byte -> node
  std::vector<std::int32_t> ends_ = {-1};                   // per node: index in tokens_
  std::array<bool, 256> starts_{};
};

}  // namespace pgtrain::engine::tokenizers
