// The walk. It never looks back, so a text costs what it is long, whatever it holds.
#include "engine/tokenizers/learned_marks.hpp"

#include <algorithm>

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁
constexpr std::size_t kLongestGap = 256;                 // letters without a token that are searched over

}  // namespace

LearnedMarks::LearnedMarks(const BpeModel& model, const std::vector<PreTokenizerStep>& steps, std::vector<bool>& learned)
    : model_(model), space_(kSpaceMark), learned_(learned) {
  for (const PreTokenizerStep& step : steps)
    if (step.kind == PreTokenizerStep::Kind::Metaspace) space_ = step.replacement;
}

void LearnedMarks::add_range(std::size_t begin, std::size_t end) {
  if (begin == end) return;
  if (!ranges_.empty() && ranges_.back().second == begin) ranges_.back().second = end;
  else ranges_.emplace_back(begin, end);
}

// A token that stands for no byte belongs to where it stands.
bool LearnedMarks::meets(const Ranges& ranges, std::size_t& first, std::size_t begin, std::size_t end) {
  while (first < ranges.size() && ranges[first].second <= begin) ++first;
  return first < ranges.size() && (ranges[first].first < end || ranges[first].first == begin);
}

void LearnedMarks::take_token(std::size_t begin, std::size_t end) { learned_.push_back(meets(ranges_, first_, begin, end)); }

void LearnedMarks::take_added(std::size_t begin, std::size_t end) {
  learned_.push_back(meets(stretch_ranges_, stretch_first_, begin, end));
  at_ = end;
}

void LearnedMarks::begin_stretch(const std::vector<NormalizerStep>& normalizers, std::string_view text, std::size_t begin, std::string_view normal) {
  normal_ = normal;
  at_ = stretch_first_ = 0;
  stretch_ranges_.clear();
  const bool is_changed = normal.data() != text.data() || normal.size() != text.size();
  std::size_t raw = 0, made = 0;  // the last place that is known in both
  const auto place_of = [&](std::size_t at) {
    if (!is_changed) return at;
    made += normal_position(normalizers, text.substr(raw, at - raw), raw);
    raw = at;
    return std::min(made, normal.size());
  };
  for (std::size_t i = first_; i < ranges_.size() && ranges_[i].first < begin + text.size(); ++i) {
    if (ranges_[i].second <= begin) continue;
    const std::size_t from = place_of(std::max(ranges_[i].first, begin) - begin);
    const std::size_t to = ranges_[i].second >= begin + text.size() ? normal.size() : place_of(ranges_[i].second - begin);
    if (from < to) stretch_ranges_.emplace_back(from, to);
  }
}

// How long a part of a stretch becomes; `at` is where it begins. What is added in front or cut off at the ends happens to
// the stretch, not to its parts.
std::size_t LearnedMarks::normal_position(const std::vector<NormalizerStep>& normalizers, std::string_view part, std::size_t at) const {
  std::vector<NormalizerStep> steps;
  for (NormalizerStep step : normalizers) {
    if (step.kind == NormalizerStep::Kind::Strip) step.strip_right = false;
    if (at == 0 || (step.kind != NormalizerStep::Kind::Strip && step.kind != NormalizerStep::Kind::Prepend)) steps.push_back(std::move(step));
  }
  std::string storage;
  return normalize(steps, part, storage).size();
}

// Where normal_ goes on behind the letters of a token that begins at `at`.
std::size_t LearnedMarks::follow(std::string_view letters, std::size_t at) const {
  for (std::size_t i = 0; i < letters.size();) {
    const std::string_view rest = normal_.substr(at);
    // Before single bytes are compared: other letters begin with the same byte as this mark.
    if (!model_.byte_level && letters.substr(i, space_.size()) == space_) {
      i += space_.size();
      at += rest.starts_with(space_) ? space_.size() : rest.starts_with(' ') ? 1 : 0;
    } else if (!rest.empty() && letters[i] == rest[0]) {
      ++i, ++at;
    } else if (letters[i] == ' ') {
      ++i;  // put in front of the text
    } else {
      // Letters that no token stands for lie before it.
      const std::size_t found = normal_.substr(at, kLongestGap).find(letters.substr(i));
      if (found == std::string_view::npos) return at;
      at += found;
    }
  }
  return at;
}

void LearnedMarks::take_tokens(const TokenId* tokens, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t begin = at_;
    const std::string& letters = model_.token(tokens[i]);
    if (!model_.byte_level && letters.size() == 6 && letters.starts_with("<0x")) {
      at_ = std::min(at_ + 1, normal_.size());
    } else if (tokens[i] == model_.unknown) {
      // One of these stands for a letter, or for a run of them: up to where the next token goes on.
      if (at_ < normal_.size()) at_ += static_cast<std::size_t>(character_at(normal_, at_).bytes);
    } else {
      at_ = follow(letters, at_);
    }
    learned_.push_back(meets(stretch_ranges_, stretch_first_, begin, at_));
  }
}

}  // namespace pgtrain::engine::tokenizers
