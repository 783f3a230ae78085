// Encoding: added tokens out of the raw text, normalize what is between, added tokens out of that, split, merge.
#include "engine/tokenizers/tokenizer.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/tokenizers/byte_characters.hpp"
#include "engine/tokenizers/learned_marks.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kLongestText = std::size_t{1} << 31;  // merging counts symbols in 32 bits

}  // namespace

Tokenizer::Id Tokenizer::end_of_text() const {
  if (end_of_text_ >= 0) return end_of_text_;
  if (special_ids_.eos >= 0) return special_ids_.eos;
  throw core::Error("model_invalid", "the tokenizer names no token that ends a text", "",
                    "Put tokenizer_config.json with eos_token, or config.json with eos_token_id, beside tokenizer.json.");
}

std::string Tokenizer::token_text(Id id) const {
  if (id >= model_.size()) {
    const auto found =
        std::lower_bound(added_.begin(), added_.end(), id, [](const AddedToken& token, Id value) { return token.id < value; });
    return found != added_.end() && found->id == id ? found->content : "";
  }
  return model_.byte_level && model_.is_findable(id) ? spell(model_.token(id)) : model_.token(id);
}

std::optional<Tokenizer::Id> Tokenizer::find_token(std::string_view text) const {
  if (const auto found = added_ids_.find(std::string(text)); found != added_ids_.end()) return found->second;
  std::string bytes;
  if (model_.byte_level && !unspell(text, bytes)) return std::nullopt;
  const Id id = model_.find(model_.byte_level ? bytes : text);
  return id < 0 ? std::nullopt : std::optional(id);
}

void Tokenizer::take_config(std::string_view json, const std::string& name) {
  const core::JsonValue root = core::JsonValue::parse(json, name);
  const auto take = [&](const char* field, Id& id) {
    const core::JsonValue* value = root.find(field);
    if (value == nullptr || value->is_null()) return;
    const std::string& text = value->kind() == core::JsonValue::Kind::Object ? value->at("content").as_string() : value->as_string();
    const std::optional<Id> found = find_token(text);
    if (!found)
      throw core::Error("model_invalid", name + ": " + field + " \"" + core::printable(text) + "\" is not in the vocabulary", "",
                        "The file does not belong to this tokenizer.json; take both from the same model.");
    id = *found;
  };
  take("bos_token", special_ids_.bos);
  take("eos_token", special_ids_.eos);
  take("pad_token", special_ids_.pad);
  take("unk_token", special_ids_.unknown);
}

void Tokenizer::encode_parts(const std::vector<TextPart>& parts, bool adds_special, std::vector<Id>& out, std::vector<bool>* learned) const {
  std::string joined;
  Marking marking;
  std::size_t size = 0;
  std::optional<LearnedMarks> marks;
  if (learned != nullptr) marks.emplace(model_, pre_tokenizers_, *learned);
  for (const TextPart& part : parts) {
    if (marks && part.is_learned) marks->add_range(size, size + part.text.size());
    if (marking.stretches.empty() || marking.stretches.back().allows_special != part.is_template)
      marking.stretches.push_back({size, part.is_template});
    size += part.text.size();
  }
  if (size > kLongestText)
    throw core::Error("data_invalid", "a text of " + std::to_string(size) + " bytes is too long to encode", "", "Cut texts at 2 GiB.");
  std::string_view text = parts.empty() ? std::string_view() : parts[0].text;
  if (parts.size() > 1) {
    joined.reserve(size);
    for (const TextPart& part : parts) joined.append(part.text);
    text = joined;
  }
  if (adds_special) begin_text(out);
  if (marks && adds_special) marks->take_unlearned(before_.size());
  if (is_plain_bytes_ && (marking.stretches.size() < 2) && (parts.empty() || !parts[0].is_template)) {
    out.reserve(out.size() + text.size());
    for (const char c : text) out.push_back(model_.byte_token(static_cast<unsigned char>(c)));
    for (std::size_t at = 0; marks && at < text.size(); ++at) marks->take_token(at, at + 1);
  } else if (!text.empty()) {
    std::vector<AddedTokenMatcher::Match> matches;
    raw_.split(text, marking, 0, matches);
    for (const auto& match : matches) {
      if (match.id < 0) {
        encode_stretch(text.substr(match.begin, match.end - match.begin), match.begin, marking, out, marks ? &*marks : nullptr);
        continue;
      }
      out.push_back(match.id);
      if (marks) marks->take_token(match.begin, match.end);
    }
  }
  if (adds_special)
    for (const auto& [name, id] : after_) out.push_back(id);
  if (marks && adds_special) marks->take_unlearned(after_.size());
}

void Tokenizer::encode_stretch(std::string_view text, std::size_t begin, const Marking& marking, std::vector<Id>& out, LearnedMarks* marks) const {
  std::string storage;
  const std::string_view normal = normalize(normalizers_, text, storage);
  if (marks != nullptr) marks->begin_stretch(normalizers_, text, begin, normal);
  const auto encode_piece = [&](std::string_view piece) {
    const std::size_t first = out.size();
    model_.encode(piece, out);
    if (marks != nullptr) marks->take_tokens(out.data() + first, out.size() - first);
  };
  if (normalized_.is_empty()) {
    pre_tokenize(pre_tokenizers_, 0, normal, begin == 0, encode_piece);
    return;
  }
  std::vector<AddedTokenMatcher::Match> matches;
  normalized_.split(normal, marking_after_normalizing(marking, text, begin, normal), 0, matches);
  for (const auto& match : matches) {
    if (match.id < 0) {
      pre_tokenize(pre_tokenizers_, 0, normal.substr(match.begin, match.end - match.begin), begin == 0 && match.begin == 0, encode_piece);
      continue;
    }
    out.push_back(match.id);
    if (marks != nullptr) marks->take_added(match.begin, match.end);
  }
}

Marking Tokenizer::marking_after_normalizing(const Marking& marking, std::string_view text, std::size_t begin,
                                             std::string_view normalized) const {
  Marking made;
  made.stretches.push_back({0, marking.allows_at(begin)});
  if (!has_normalized_special_) return made;
  for (const auto& stretch : marking.stretches) {
    if (stretch.begin <= begin || stretch.begin >= begin + text.size()) continue;
    // Where what stands before the boundary ends up.
    std::string storage;
    const std::size_t at = std::min(normalize(normalizers_, text.substr(0, stretch.begin - begin), storage).size(), normalized.size());
    made.stretches.push_back({std::max(at, made.stretches.back().begin), stretch.allows_special});
  }
  return made;
}

std::string Tokenizer::spelling_for_decoding(Id id) const {
  const auto changed = decoded_as_.find(id);
  return changed != decoded_as_.end() ? changed->second : token_text(id);
}

std::string Tokenizer::decode_as(const std::vector<Id>& ids, bool skips_special, bool keeps_bytes) const {
  const bool is_byte_level =
      model_.byte_level && decoders_.size() == 1 && decoders_[0].kind == DecoderStep::Kind::ByteLevel && decoded_as_.empty();
  std::string bytes;
  std::vector<std::string> tokens;
  for (const Id id : ids) {
    if (id < 0 || id >= vocab_size() || (skips_special && special_[id])) continue;
    if (is_byte_level)
      bytes += token_bytes(id);
    else
      tokens.push_back(spelling_for_decoding(id));
  }
  if (is_byte_level) return keeps_bytes ? bytes : repair_as_rust(bytes);
  if (!decoders_.empty()) return decode_tokens(decoders_, std::move(tokens), keeps_bytes);
  for (std::size_t i = 0; i < tokens.size(); ++i) bytes.append(i > 0 ? " " : "").append(tokens[i]);
  return bytes;
}

}  // namespace pgtrain::engine::tokenizers
