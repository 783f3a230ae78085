// Text is copied up to the first character that the form may change; from the character before it, decomposed, ordered
// and composed up to the next that stands alone. So plain text costs one look per character, and a long run of marks
// one sort.
#include "engine/tokenizers/unicode_normalizer.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "engine/tokenizers/char_class.hpp"
#include "engine/tokenizers/normalization_data.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28, kSyllableCount = kLeadCount * kVowelCount * kTailCount;
constexpr char32_t kFirstComposing = 0x300;  // below it nothing composes with what stands before it

bool is_syllable(char32_t point) { return point >= kSyllables && point < kSyllables + kSyllableCount; }

const Decomposition* find_decomposition(char32_t point) {
  const auto* found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), point,
                                       [](const Decomposition& entry, char32_t value) { return entry.from < value; });
  return found != std::end(kDecompositions) && found->from == point ? found : nullptr;
}

unsigned char combining_class(char32_t point) {
  if (point < kFirstComposing) return 0;
  const auto* after = std::upper_bound(std::begin(kCombiningRanges), std::end(kCombiningRanges), point,
                                       [](char32_t value, const CombiningRange& range) { return value < range.first; });
  return after != std::begin(kCombiningRanges) && point <= std::prev(after)->last ? std::prev(after)->combining_class : 0;
}

std::uint64_t pair_of(char32_t first, char32_t second) { return std::uint64_t{first} << 32 | second; }

struct Compositions {
  std::unordered_map<std::uint64_t, char32_t> made;
  std::unordered_map<char32_t, bool> seconds;

  Compositions() {
    for (const Decomposition& entry : kDecompositions) {
      if (!entry.composes) continue;
      made.emplace(pair_of(entry.first, entry.second), entry.from);
      seconds.emplace(entry.second, true);
    }
  }
};

const Compositions& compositions() {
  static const Compositions all;
  return all;
}

// 0 = the two do not compose.
char32_t compose(char32_t first, char32_t second) {
  if (first >= kLeads && first < kLeads + kLeadCount && second >= kVowels && second < kVowels + kVowelCount)
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  if (is_syllable(first) && (first - kSyllables) % kTailCount == 0 && second > kTails && second < kTails + kTailCount)
    return first + (second - kTails);
  const auto& made = compositions().made;
  const auto found = made.find(pair_of(first, second));
  return found == made.end() ? 0 : found->second;
}

// What a character is to a form, so that text can be cut where nothing acts across the cut.
enum class Role : unsigned char { Alone, Changes };

Role role_slow(char32_t point, bool composes) {
  if (is_syllable(point)) return composes && (point - kSyllables) % kTailCount != 0 ? Role::Alone : Role::Changes;
  if (find_decomposition(point) != nullptr || combining_class(point) != 0) return Role::Changes;
  if (!composes) return Role::Alone;
  const bool is_jamo_second = (point >= kVowels && point < kVowels + kVowelCount) || (point > kTails && point < kTails + kTailCount);
  return is_jamo_second || compositions().seconds.count(point) != 0 ? Role::Changes : Role::Alone;
}

struct Roles {
  std::vector<Role> below;  // of the basic plane, where nearly all text is
  explicit Roles(bool composes) : below(0x10000, Role::Alone) {
    for (char32_t point = 0xC0; point < 0x10000; ++point) below[point] = role_slow(point, composes);
    // Letters of Latin-1 and what NFC leaves whole: they change only with a mark behind them, which is found by the mark.
    if (!composes) return;
    for (const Decomposition& entry : kDecompositions)
      if (entry.composes && entry.from < 0x10000 && combining_class(entry.from) == 0 && compositions().seconds.count(entry.from) == 0)
        below[entry.from] = Role::Alone;
  }
};

Role role_of(char32_t point, bool composes) {
  static const Roles composed(true), decomposed(false);
  if (point == kNoCharacter) return Role::Alone;
  if (point < 0x10000) return (composes ? composed : decomposed).below[point];
  return role_slow(point, composes);
}

struct Unit {
  char32_t point;
  unsigned char combining_class;
};

void decompose(char32_t point, std::vector<Unit>& out) {
  if (is_syllable(point)) {
    const char32_t index = point - kSyllables, tail = index % kTailCount;
    out.push_back({kLeads + index / (kVowelCount * kTailCount), 0});
    out.push_back({kVowels + index / kTailCount % kVowelCount, 0});
    if (tail != 0) out.push_back({kTails + tail, 0});
    return;
  }
  if (const Decomposition* parts = find_decomposition(point)) {
    decompose(parts->first, out);
    if (parts->second != 0) decompose(parts->second, out);
    return;
  }
  out.push_back({point, combining_class(point)});
}

void order_marks(std::vector<Unit>& units) {
  for (std::size_t at = 0; at < units.size();) {
    if (units[at].combining_class == 0) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < units.size() && units[end].combining_class != 0) ++end;
    std::stable_sort(units.begin() + static_cast<std::ptrdiff_t>(at), units.begin() + static_cast<std::ptrdiff_t>(end),
                     [](const Unit& a, const Unit& b) { return a.combining_class < b.combining_class; });
    at = end;
  }
}

void compose_units(std::vector<Unit>& units) {
  std::size_t kept = 0, starter = units.size();
  int last_class = -1;  // of the units kept since the starter; -1 = none
  for (const Unit unit : std::vector<Unit>(units)) {
    if (starter < units.size() && last_class < static_cast<int>(unit.combining_class)) {
      if (const char32_t made = compose(units[starter].point, unit.point); made != 0) {
        units[starter].point = made;
        continue;
      }
    }
    if (unit.combining_class == 0) {
      starter = kept;
      last_class = -1;
    } else {
      last_class = unit.combining_class;
    }
    units[kept++] = unit;
  }
  units.resize(kept);
}

std::string normalize(std::string_view text, bool composes) {
  std::string out;
  std::vector<Unit> units;
  std::size_t copied = 0, before = 0;  // before: begin of the character in front of `at`
  bool has_before = false;
  for (std::size_t at = 0; at < text.size();) {
    const Character next = character_at(text, at);
    if (role_of(next.value, composes) == Role::Alone) {
      has_before = next.value != kNoCharacter;
      before = at;
      at += static_cast<std::size_t>(next.bytes);
      continue;
    }
    const std::size_t begin = has_before ? before : at;
    out.append(text.substr(copied, begin - copied));
    units.clear();
    if (has_before) decompose(character_at(text, begin).value, units);
    while (at < text.size()) {
      const Character more = character_at(text, at);
      if (role_of(more.value, composes) == Role::Alone) break;
      decompose(more.value, units);
      at += static_cast<std::size_t>(more.bytes);
    }
    order_marks(units);
    if (composes) compose_units(units);
    for (const Unit& unit : units) core::append_utf8(out, unit.point);
    copied = at;
    has_before = false;
  }
  if (out.empty() && copied == 0) return std::string(text);
  out.append(text.substr(copied));
  return out;
}

}  // namespace

std::string to_nfc(std::string_view text) { return normalize(text, true); }
std::string to_nfd(std::string_view text) { return normalize(text, false); }

}  // namespace pgtrain::engine::tokenizers
