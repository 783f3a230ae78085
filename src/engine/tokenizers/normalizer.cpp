// The steps; each makes a new string only where there is something to change.
#include "engine/tokenizers/normalizer.hpp"

#include "engine/tokenizers/char_class.hpp"
#include "engine/tokenizers/unicode_normalizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

std::string_view strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const Character first = character_at(text, 0);
    if ((first.bits & kSpace) == 0) break;
    text.remove_prefix(static_cast<std::size_t>(first.bytes));
  }
  while (right && !text.empty()) {
    const std::size_t last = character_before(text, text.size());
    if ((character_at(text, last).bits & kSpace) == 0) break;
    text = text.substr(0, last);
  }
  return text;
}

bool is_ascii(std::string_view text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) >= 128) return false;
  return true;
}

}  // namespace

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t found = text.find(pattern); found != std::string_view::npos; found = text.find(pattern, at)) {
    out.append(text.substr(at, found - at)).append(content);
    at = found + pattern.size();
  }
  return out.append(text.substr(at));
}

std::string_view normalize(const std::vector<NormalizerStep>& steps, std::string_view text, std::string& storage) {
  using Kind = NormalizerStep::Kind;
  for (const NormalizerStep& step : steps) {
    std::string made;
    switch (step.kind) {
      case Kind::Strip:
        text = strip(text, step.strip_left, step.strip_right);
        continue;
      case Kind::Nfc:
      case Kind::Nfd:
        if (is_ascii(text)) continue;
        made = step.kind == Kind::Nfc ? to_nfc(text) : to_nfd(text);
        break;
      case Kind::Prepend:
        if (text.empty()) continue;
        made.reserve(step.content.size() + text.size());
        made.append(step.content).append(text);
        break;
      case Kind::Replace:
        if (text.find(step.pattern) == std::string_view::npos) continue;
        made = replace_all(text, step.pattern, step.content);
        break;
    }
    storage = std::move(made);
    text = storage;
  }
  return text;
}

}  // namespace pgtrain::engine::tokenizers
