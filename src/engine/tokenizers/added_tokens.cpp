// A trie that is walked from each place where a token may begin. Patterns are short (kMaxAddedTokenBytes, checked by the
// reader), so a walk is.
#include "engine/tokenizers/added_tokens.hpp"

#include <algorithm>

#include "engine/tokenizers/char_class.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

bool is_word_before(std::string_view text, std::size_t end) {
  return end > 0 && (character_at(text, character_before(text, end)).bits & kWord) != 0;
}
bool is_word_at(std::string_view text, std::size_t at) { return at < text.size() && (character_at(text, at).bits & kWord) != 0; }

std::size_t spaces_begin(std::string_view text, std::size_t end, std::size_t least) {
  while (end > least) {
    const std::size_t last = character_before(text, end);
    if (last < least || (character_at(text, last).bits & kSpace) == 0) break;
    end = last;
  }
  return end;
}

std::size_t spaces_end(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Character next = character_at(text, at);
    if ((next.bits & kSpace) == 0) break;
    at += static_cast<std::size_t>(next.bytes);
  }
  return at;
}

}  // namespace

std::size_t Marking::index_of(std::size_t byte) const {
  const auto after = std::upper_bound(stretches.begin(), stretches.end(), byte,
                                      [](std::size_t value, const Stretch& stretch) { return value < stretch.begin; });
  return static_cast<std::size_t>(after - stretches.begin()) - 1;
}

Marking::Where Marking::where(std::size_t begin, std::size_t end) const {
  std::size_t at = index_of(begin);
  const bool allows = stretches[at].allows_special;
  for (++at; at < stretches.size() && stretches[at].begin < end; ++at)
    if (stretches[at].allows_special != allows) return Where::Mixed;
  return allows ? Where::Allowed : Where::Forbidden;
}

void AddedTokenMatcher::add(const AddedToken& token) {
  std::uint32_t node = 0;
  for (const char c : token.pattern) {
    const auto [edge, is_new] =
        edges_.emplace(std::uint64_t{node} << 8 | static_cast<unsigned char>(c), static_cast<std::uint32_t>(ends_.size()));
    if (is_new) ends_.push_back(-1);
    node = edge->second;
  }
  ends_[node] = static_cast<std::int32_t>(tokens_.size());
  starts_[static_cast<unsigned char>(token.pattern[0])] = true;
  tokens_.push_back(token);
}

AddedTokenMatcher::Found AddedTokenMatcher::longest_at(std::string_view text, std::size_t at, const Marking& marking,
                                                       std::size_t offset) const {
  Found found;
  std::uint32_t node = 0;
  for (std::size_t end = at; end < text.size();) {
    const auto edge = edges_.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[end]));
    if (edge == edges_.end()) break;
    node = edge->second;
    ++end;
    if (ends_[node] < 0) continue;
    const AddedToken& token = tokens_[ends_[node]];
    const Marking::Where where = token.special ? marking.where(offset + at, offset + end) : Marking::Where::Allowed;
    // Letters of a message and of the template around it make no token together.
    if (where == Marking::Where::Mixed) continue;
    found = {&token, end, where == Marking::Where::Allowed};
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, const Marking& marking, std::size_t offset, std::vector<Match>& out) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Found found = longest_at(text, at, marking, offset);
    if (found.token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = found.end;
    at = found.end;
    if (!found.counts) continue;
    if (found.token->single_word && (is_word_before(text, begin) || is_word_at(text, end))) continue;
    if (found.token->lstrip) begin = std::max(done, spaces_begin(text, begin, std::min(begin, done)));
    if (found.token->rstrip) end = spaces_end(text, end);
    if (done < begin) out.push_back({-1, done, begin});
    out.push_back({found.token->id, begin, end});
    done = end;
  }
  if (done < text.size()) out.push_back({-1, done, text.size()});
}

}  // namespace pgtrain::engine::tokenizers
