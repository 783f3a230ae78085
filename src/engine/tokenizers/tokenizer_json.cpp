// tokenizer.json: the byte-level BPE subset, written so that the Hugging Face library encodes exactly as we do.
#include <stdexcept>
#include <unordered_set>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

using core::JsonValue;

// Byte-level files spell each byte as one printable character: itself where printable, else 256 and up.
const std::array<char32_t, 256>& byte_characters() {
  static const auto table = [] {
    std::array<char32_t, 256> out{};
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      out[byte] = is_printable ? static_cast<char32_t>(byte) : next++;
    }
    return out;
  }();
  return table;
}

std::string spell(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) core::append_utf8(out, byte_characters()[static_cast<unsigned char>(c)]);
  return out;
}

// False when a character stands for no byte.
bool unspell(std::string_view text, std::string& out) {
  static const auto reverse = [] {
    std::array<int, 512> table;
    table.fill(-1);
    for (int byte = 0; byte < 256; ++byte) table[byte_characters()[byte]] = byte;
    return table;
  }();
  out.clear();
  for (std::size_t at = 0; at < text.size();) {
    const core::CodePoint point = core::decode_utf8(text, at);
    if (point.bytes == 0 || point.value >= reverse.size() || reverse[point.value] < 0) return false;
    out += static_cast<char>(reverse[point.value]);
    at += point.bytes;
  }
  return true;
}

[[noreturn]] void refuse(const std::string& name, const std::string& field, const std::string& reason) {
  throw core::Error("model_invalid", name + ": " + field + ": " + reason, "",
                    "Supported is byte-level BPE with GPT-2's splitting: as made by tokenizer => byte or bpe, or by GPT-2 itself.");
}

bool is_absent(const JsonValue* value) { return value == nullptr || value->is_null(); }

void require_type(const JsonValue& parent, const char* field, const char* type, const std::string& name) {
  const JsonValue* value = parent.find(field);
  if (is_absent(value)) refuse(name, field, std::string("is missing, ") + type + " is needed");
  const std::string& found = value->at("type").as_string();
  if (found != type) refuse(name, field, "type " + core::printable(found) + " is not supported, only " + type);
}

void require_false(const JsonValue& object, const char* field, const std::string& name) {
  const JsonValue* value = object.find(field);
  if (!is_absent(value) && value->as_boolean()) refuse(name, field, "true is not supported");
}

void require_nothing(const JsonValue& object, const char* field, const std::string& name) {
  const JsonValue* value = object.find(field);
  if (is_absent(value)) return;
  if (value->kind() == JsonValue::Kind::String && value->as_string().empty()) return;
  refuse(name, field, "is not supported");
}

void check_pipeline(const JsonValue& root, const JsonValue& model, const std::string& name) {
  require_nothing(root, "normalizer", name);
  require_type(root, "pre_tokenizer", "ByteLevel", name);
  const JsonValue& splitter = root.at("pre_tokenizer");
  require_false(splitter, "add_prefix_space", name);
  if (const JsonValue* regex = splitter.find("use_regex"); !is_absent(regex) && !regex->as_boolean())
    refuse(name, "pre_tokenizer.use_regex", "false is not supported");
  if (!is_absent(root.find("post_processor"))) require_type(root, "post_processor", "ByteLevel", name);
  if (!is_absent(model.find("type")) && model.at("type").as_string() != "BPE")
    refuse(name, "model.type", core::printable(model.at("type").as_string()) + " is not supported, only BPE");
  require_false(model, "byte_fallback", name);
  require_false(model, "fuse_unk", name);
  require_false(model, "ignore_merges", name);
  for (const char* field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) require_nothing(model, field, name);
}

std::pair<std::string, std::string> read_merge(const JsonValue& merge, const std::string& name) {
  if (merge.kind() == JsonValue::Kind::Array) {
    if (merge.elements().size() != 2) refuse(name, "model.merges", "a merge has not two parts");
    return {merge.elements()[0].as_string(), merge.elements()[1].as_string()};
  }
  const std::string& text = merge.as_string();
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
    refuse(name, "model.merges", "\"" + core::printable(text) + "\" is not two tokens and a space");
  return {text.substr(0, space), text.substr(space + 1)};
}

using Ids = std::unordered_map<std::string, Tokenizer::Id>;

// Ids of the vocabulary and of the added tokens together must be 0 to n-1; `special` is what the added tokens are.
Ids read_ids(const JsonValue& root, const JsonValue& model, const std::string& name, std::unordered_set<std::string>& special) {
  Ids ids;
  const auto& vocabulary = model.at("vocab").members();
  const std::size_t most = vocabulary.size() + (is_absent(root.find("added_tokens")) ? 0 : root.at("added_tokens").elements().size());
  const auto read_id = [&](const JsonValue& value, const std::string& token) {
    const std::int64_t id = value.as_integer();
    if (id < 0 || id >= static_cast<std::int64_t>(most))
      refuse(name, "model.vocab", "token \"" + core::printable(token) + "\" has id " + std::to_string(id) + ", ids must run from 0 without gaps");
    return static_cast<Tokenizer::Id>(id);
  };
  for (const auto& [token, value] : vocabulary) ids.emplace(token, read_id(value, token));
  if (!is_absent(root.find("added_tokens"))) {
    for (const JsonValue& added : root.at("added_tokens").elements()) {
      const std::string& content = added.at("content").as_string();
      const Tokenizer::Id id = read_id(added.at("id"), content);
      const auto [known, is_new] = ids.emplace(content, id);
      if (!is_new && known->second != id) refuse(name, "added_tokens", "\"" + core::printable(content) + "\" has two ids");
      special.insert(content);
    }
  }
  return ids;
}

}  // namespace

std::string Tokenizer::to_json() const {
  const std::string end = core::json_quote(kEndOfText);
  std::string out =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n    {\"id\": " + std::to_string(end_of_text_) +
      ", \"content\": " + end +
      ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}\n  ],\n"
      "  \"normalizer\": null,\n"
      "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n"
      "  \"post_processor\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, \"use_regex\": true},\n"
      "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
      "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  for (Id id = 0; id < vocab_size(); ++id)
    out += (id > 0 ? ",\n      " : "\n      ") + (special_[id] ? core::json_quote(tokens_[id]) : core::json_quote(spell(tokens_[id]))) + ": " + std::to_string(id);
  out += "\n    },\n    \"merges\": [";
  for (std::size_t i = 0; i < merge_list_.size(); ++i)
    out += (i > 0 ? ",\n      " : "\n      ") + core::json_quote(spell(tokens_[merge_list_[i].left]) + " " + spell(tokens_[merge_list_[i].right]));
  out += merge_list_.empty() ? "]\n  }\n}\n" : "\n    ]\n  }\n}\n";
  return out;
}

void Tokenizer::take_tokens(const std::unordered_map<std::string, Id>& ids, const std::unordered_set<std::string>& special, const std::string& name) {
  tokens_.resize(ids.size());
  special_.assign(ids.size(), false);
  std::vector<bool> is_used(ids.size(), false);
  byte_ids_.fill(-1);
  for (const auto& [token, id] : ids) {
    if (id >= static_cast<Id>(ids.size()) || is_used[id])
      refuse(name, "model.vocab", "id " + std::to_string(id) + " is used twice or leaves a gap");
    is_used[id] = true;
    if (special.count(token) != 0) {
      special_[id] = true;
      tokens_[id] = token;
      if (token == kEndOfText) end_of_text_ = id;
      continue;
    }
    if (!unspell(token, tokens_[id]) || tokens_[id].empty())
      refuse(name, "model.vocab", "token \"" + core::printable(token) + "\" is not spelled in byte-level characters");
    if (tokens_[id].size() == 1) byte_ids_[static_cast<unsigned char>(tokens_[id][0])] = id;
  }
  if (end_of_text_ < 0) refuse(name, "added_tokens", "<|endoftext|> is missing");
  for (int byte = 0; byte < 256; ++byte)
    if (byte_ids_[byte] < 0) refuse(name, "model.vocab", "byte " + std::to_string(byte) + " has no token");
}

void Tokenizer::take_merges(const JsonValue& merges, const std::unordered_map<std::string, Id>& ids, const std::string& name) {
  for (const JsonValue& merge : merges.elements()) {
    const auto [left, right] = read_merge(merge, name);
    const auto a = ids.find(left), b = ids.find(right), whole = ids.find(left + right);
    if (a == ids.end() || b == ids.end() || whole == ids.end() || special_[a->second] || special_[b->second] || special_[whole->second])
      refuse(name, "model.merges", "\"" + core::printable(left + " " + right) + "\" uses a token that the vocabulary lacks");
    if (!merges_.emplace(key(a->second, b->second), Merged{static_cast<std::int32_t>(merge_list_.size()), whole->second}).second)
      refuse(name, "model.merges", "\"" + core::printable(left + " " + right) + "\" appears twice");
    merge_list_.push_back({a->second, b->second});
  }
}

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name) {
  const JsonValue root = JsonValue::parse(text, name);
  const JsonValue& model = root.at("model");
  check_pipeline(root, model, name);
  std::unordered_set<std::string> special;
  const Ids ids = read_ids(root, model, name, special);
  Tokenizer made;
  made.take_tokens(ids, special, name);
  made.take_merges(model.at("merges"), ids, name);
  return made;
}

}  // namespace pgtrain::engine::tokenizers
