// Reads tokenizer.json. The vocabulary and the merges are pulled (a tree of half a million values would cost most of a
// second), the small rest is read as a tree. Each part of the pipeline is known by its exact type and fields.
#include <unordered_map>
#include <unordered_set>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/tokenizers/byte_characters.hpp"
#include "engine/tokenizers/tokenizer_builder.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

using core::JsonReader;
using core::JsonValue;

constexpr std::size_t kMostSteps = 16;
const std::string kSpaceMark = "\xE2\x96\x81";  // ▁

bool is_absent(const JsonValue* value) { return value == nullptr || value->is_null(); }

std::string quoted(std::string_view text) { return "\"" + core::printable(text, 400) + "\""; }

bool boolean_of(const JsonValue& object, const char* field, bool otherwise) {
  const JsonValue* value = object.find(field);
  return is_absent(value) ? otherwise : value->as_boolean();
}

// What stands in the file, before anything is checked against anything else.
struct Document {
  std::unordered_map<std::string, JsonValue> root, model;  // without vocab and merges
  std::vector<std::pair<std::string, TokenId>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  bool has_vocabulary = false, has_merges = false;

  const JsonValue* find(const char* field) const {
    const auto found = root.find(field);
    return found == root.end() || found->second.is_null() ? nullptr : &found->second;
  }
  const JsonValue* find_model(const char* field) const {
    const auto found = model.find(field);
    return found == model.end() || found->second.is_null() ? nullptr : &found->second;
  }
};

class DocumentReader {
 public:
  DocumentReader(std::string_view text, const std::string& name) : text_(text), name_(name), reader_(text, name) {}

  Document read() {
    std::string field;
    reader_.begin_object();
    while (reader_.next_member(field)) {
      if (field == "model")
        read_model();
      else
        keep(document_.root, field);
    }
    reader_.expect_end();
    if (!document_.has_vocabulary) refuse(name_, "model", "vocab is missing");
    return std::move(document_);
  }

 private:
  void keep(std::unordered_map<std::string, JsonValue>& where, const std::string& field) {
    const std::size_t begin = reader_.position();
    reader_.skip();
    if (!where.emplace(field, JsonValue::parse(text_.substr(begin, reader_.position() - begin), name_ + ": " + core::printable(field, 40)))
             .second)
      reader_.fail("field " + quoted(field) + " appears twice");
  }

  void read_model() {
    if (reader_.peek() != JsonReader::Kind::Object) refuse(name_, "model", "is not an object");
    if (document_.has_vocabulary) reader_.fail("field \"model\" appears twice");
    std::string field;
    reader_.begin_object();
    while (reader_.next_member(field)) {
      if (field == "vocab" && reader_.peek() == JsonReader::Kind::Object)
        read_vocabulary();
      else if (field == "merges" && reader_.peek() == JsonReader::Kind::Array)
        read_merges();
      else
        keep(document_.model, field);
    }
    const JsonValue* type = document_.find_model("type");
    if (type != nullptr && type->as_string() != "BPE")
      refuse(name_, "model.type", core::printable(type->as_string()) + " is not supported, only BPE");
    if (!document_.has_vocabulary || !document_.has_merges) refuse(name_, "model", "vocab and merges are needed");
  }

  void read_vocabulary() {
    if (document_.has_vocabulary) reader_.fail("field \"vocab\" appears twice");
    document_.has_vocabulary = true;
    std::string token;
    reader_.begin_object();
    while (reader_.next_member(token)) {
      const std::uint64_t id = reader_.read_unsigned();
      if (id > INT32_MAX) refuse(name_, "model.vocab", "token " + quoted(token) + " has id " + std::to_string(id));
      document_.vocabulary.emplace_back(token, static_cast<TokenId>(id));
    }
  }

  void read_merges() {
    if (document_.has_merges) reader_.fail("field \"merges\" appears twice");
    document_.has_merges = true;
    reader_.begin_array();
    while (reader_.next_element()) {
      if (reader_.peek() == JsonReader::Kind::Array) {
        std::vector<std::string> parts;
        reader_.begin_array();
        while (reader_.next_element()) parts.push_back(reader_.read_string());
        if (parts.size() != 2) refuse(name_, "model.merges", "a merge has not two parts");
        document_.merges.emplace_back(std::move(parts[0]), std::move(parts[1]));
        continue;
      }
      const std::string text = reader_.read_string();
      if (text.compare(0, 8, "#version") == 0) continue;
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        refuse(name_, "model.merges", quoted(text) + " is not two tokens and a space");
      document_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }

  std::string_view text_;
  const std::string& name_;
  JsonReader reader_;
  Document document_;
};

// The steps of `value`: of a Sequence its members', else the one.
template <typename Read>
void for_each_step(const JsonValue& value, const char* list, const std::string& field, const std::string& name, std::size_t& budget,
                   Read&& read) {
  if (budget-- == 0) refuse(name, field, "has more than " + std::to_string(kMostSteps) + " steps");
  const std::string& type = value.at("type").as_string();
  if (type != "Sequence") return read(value, type);
  for (const JsonValue& step : value.at(list).elements()) for_each_step(step, list, field, name, budget, read);
}

std::string literal_pattern(const JsonValue& step, const std::string& field, const std::string& name) {
  const JsonValue& pattern = step.at("pattern");
  const JsonValue* text = pattern.find("String");
  if (text == nullptr) refuse(name, field, "a Replace by a pattern other than a plain String is not supported");
  if (text->as_string().empty()) refuse(name, field, "a Replace of nothing");
  return text->as_string();
}

class Pipeline {
 public:
  Pipeline(const Document& document, TokenizerBuilder& builder, const std::string& name)
      : document_(document), builder_(builder), name_(name) {}

  void read() {
    read_steps("normalizer", "normalizers", [this](const JsonValue& step, const std::string& type) { add_normalizer(step, type); });
    read_steps("pre_tokenizer", "pretokenizers", [this](const JsonValue& step, const std::string& type) { add_pre_tokenizer(step, type); });
    read_steps("decoder", "decoders", [this](const JsonValue& step, const std::string& type) { add_decoder(step, type); });
    using Kind = PreTokenizerStep::Kind;
    const auto& steps = builder_.pre_tokenizers();
    for (const PreTokenizerStep& step : steps) {
      if (step.kind == Kind::ByteLevel && &step != &steps.back())
        refuse(name_, "pre_tokenizer", "ByteLevel is supported as the last step only");
      if (step.kind == Kind::Metaspace && step.prepend == PreTokenizerStep::Prepend::First && !builder_.normalizers().empty())
        refuse(name_, "pre_tokenizer", "Metaspace with prepend_scheme \"first\" is supported without a normalizer only");
    }
    builder_.model().byte_level = !steps.empty() && steps.back().kind == Kind::ByteLevel;
  }

  // After the tokens are known.
  void read_template() {
    read_steps("post_processor", "processors", [this](const JsonValue& step, const std::string& type) {
      if (type == "ByteLevel") return;  // moves offsets only
      if (type != "TemplateProcessing")
        refuse(name_, "post_processor", "type " + core::printable(type) + " is not supported, only TemplateProcessing and ByteLevel");
      if (!builder_.before().empty() || !builder_.after().empty()) refuse(name_, "post_processor", "more than one TemplateProcessing");
      add_template(step);
    });
  }

 private:
  template <typename Read>
  void read_steps(const char* field, const char* list, Read&& read) {
    const JsonValue* value = document_.find(field);
    std::size_t budget = kMostSteps;
    if (value != nullptr) for_each_step(*value, list, field, name_, budget, read);
  }

  void add_normalizer(const JsonValue& step, const std::string& type) {
    using Kind = NormalizerStep::Kind;
    NormalizerStep made{Kind::Nfc, "", ""};
    if (type == "NFD")
      made.kind = Kind::Nfd;
    else if (type == "Prepend")
      made.kind = Kind::Prepend, made.content = step.at("prepend").as_string();
    else if (type == "Replace")
      made.kind = Kind::Replace, made.pattern = literal_pattern(step, "normalizer", name_), made.content = step.at("content").as_string();
    else if (type == "Strip")
      made.kind = Kind::Strip, made.strip_left = step.at("strip_left").as_boolean(), made.strip_right = step.at("strip_right").as_boolean();
    else if (type != "NFC")
      refuse(name_, "normalizer",
             "type " + core::printable(type) + " is not supported, only NFC, NFD, Prepend, Replace, Strip and Sequence");
    builder_.normalizers().push_back(made);
  }

  void add_pre_tokenizer(const JsonValue& step, const std::string& type) {
    using Kind = PreTokenizerStep::Kind;
    PreTokenizerStep made{.kind = Kind::Digits, .replacement = ""};
    if (type == "Digits") {
      made.individual_digits = step.at("individual_digits").as_boolean();
    } else if (type == "ByteLevel") {
      made.kind = Kind::ByteLevel;
      made.adds_prefix_space = step.at("add_prefix_space").as_boolean();
      made.uses_pattern = boolean_of(step, "use_regex", true);
    } else if (type == "Split") {
      made.kind = Kind::Split;
      made.pattern = split_pattern(step);
    } else if (type == "Metaspace") {
      made.kind = Kind::Metaspace;
      made.replacement = one_character(step.at("replacement"));
      made.splits = boolean_of(step, "split", true);
      made.prepend = prepend_scheme(step);
    } else {
      refuse(name_, "pre_tokenizer",
             "type " + core::printable(type) + " is not supported, only ByteLevel, Split, Digits, Metaspace and Sequence");
    }
    builder_.pre_tokenizers().push_back(made);
  }

  Pattern split_pattern(const JsonValue& step) {
    const JsonValue* text = step.at("pattern").find("Regex");
    const std::optional<Pattern> known = text == nullptr ? std::nullopt : pattern_of(text->as_string());
    if (!known)
      refuse(name_, "pre_tokenizer.pattern",
             (text == nullptr ? "a plain String" : quoted(text->as_string())) +
                 " is not supported: known are the patterns of GPT-2, Llama 3, Qwen 2, Qwen 3.5 and Mistral's Tekken, letter for letter");
    // The known patterns match every character, so that keeping only the matches and isolating them is one thing.
    const std::string& behavior = step.at("behavior").as_string();
    const bool inverts = boolean_of(step, "invert", false);
    if (!(behavior == "Isolated" && !inverts) && !(behavior == "Removed" && inverts))
      refuse(name_, "pre_tokenizer.behavior",
             core::printable(behavior) + (inverts ? " inverted" : "") + " is not supported, only Isolated, and Removed inverted");
    return *known;
  }

  PreTokenizerStep::Prepend prepend_scheme(const JsonValue& step) {
    using Prepend = PreTokenizerStep::Prepend;
    const JsonValue* scheme = step.find("prepend_scheme");
    const std::string& text = is_absent(scheme) ? kAlways : scheme->as_string();
    if (!boolean_of(step, "add_prefix_space", true) && text != "never")
      refuse(name_, "Metaspace", "add_prefix_space false and prepend_scheme " + quoted(text) + " contradict");
    if (text == "always") return Prepend::Always;
    if (text == "first") return Prepend::First;
    if (text != "never") refuse(name_, "Metaspace.prepend_scheme", quoted(text) + " is not one of always, first, never");
    return Prepend::Never;
  }

  std::string one_character(const JsonValue& value) {
    const std::string& text = value.as_string();
    if (text.empty() || core::decode_utf8(text, 0).bytes != static_cast<int>(text.size()))
      refuse(name_, value.path(), quoted(text) + " is not one character");
    return text;
  }

  void add_decoder(const JsonValue& step, const std::string& type) {
    using Kind = DecoderStep::Kind;
    DecoderStep made{Kind::ByteLevel, "", ""};
    const auto count = [&](const char* field) {
      const std::int64_t value = step.at(field).as_integer();
      if (value < 0) refuse(name_, "decoder", std::string(field) + " is negative");
      return static_cast<std::size_t>(value);
    };
    if (type == "Replace")
      made.kind = Kind::Replace, made.pattern = literal_pattern(step, "decoder", name_), made.content = step.at("content").as_string();
    else if (type == "ByteFallback")
      made.kind = Kind::ByteFallback;
    else if (type == "Fuse")
      made.kind = Kind::Fuse;
    else if (type == "Strip")
      made.kind = Kind::Strip, made.content = one_character(step.at("content")), made.start = count("start"), made.stop = count("stop");
    else if (type == "Metaspace")
      made.kind = Kind::Metaspace, made.content = one_character(step.at("replacement")),
      made.drops_first = prepend_scheme(step) != PreTokenizerStep::Prepend::Never;
    else if (type != "ByteLevel")
      refuse(name_, "decoder",
             "type " + core::printable(type) +
                 " is not supported, only ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence");
    builder_.decoders().push_back(made);
  }

  void add_template(const JsonValue& step) {
    bool is_after = false;
    for (const JsonValue& piece : step.at("single").elements()) {
      if (const JsonValue* sequence = piece.find("Sequence")) {
        if (is_after || sequence->at("id").as_string() != "A") refuse(name_, "post_processor.single", "holds the text more than once");
        is_after = true;
        continue;
      }
      const JsonValue& special = step.at("special_tokens").at(piece.at("SpecialToken").at("id").as_string());
      const auto& ids = special.at("ids").elements();
      const auto& names = special.at("tokens").elements();
      if (ids.size() != names.size()) refuse(name_, "post_processor.special_tokens", "ids and tokens differ in number");
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const std::int64_t id = ids[i].as_integer();
        if (id < 0 || id > INT32_MAX) refuse(name_, "post_processor.special_tokens", "id " + std::to_string(id));
        (is_after ? builder_.after() : builder_.before()).emplace_back(names[i].as_string(), static_cast<TokenId>(id));
      }
    }
    if (!is_after) refuse(name_, "post_processor.single", "does not hold the text");
  }

  inline static const std::string kAlways = "always";
  const Document& document_;
  TokenizerBuilder& builder_;
  const std::string& name_;
};

using Ids = std::unordered_map<std::string_view, TokenId>;

Ids add_tokens(const Document& document, TokenizerBuilder& builder, const std::string& name) {
  std::vector<const std::string*> by_id(document.vocabulary.size(), nullptr);
  Ids ids;
  ids.reserve(document.vocabulary.size());
  for (const auto& [token, id] : document.vocabulary) {
    if (static_cast<std::size_t>(id) >= by_id.size())
      refuse(name, "model.vocab", "token " + quoted(token) + " has id " + std::to_string(id) + ", ids must run from 0 without gaps");
    if (by_id[id] != nullptr) refuse(name, "model.vocab", "id " + std::to_string(id) + " is used twice");
    by_id[id] = &token;
    if (!ids.emplace(token, id).second) refuse(name, "model.vocab", "token " + quoted(token) + " appears twice");
  }
  builder.model().reserve(by_id.size(), document.merges.size());
  for (const std::string* token : by_id) builder.add_token(*token);
  return ids;
}

void add_merges(const Document& document, const Ids& ids, TokenizerBuilder& builder, const std::string& name) {
  std::int32_t rank = 0;
  for (const auto& [left, right] : document.merges) {
    const auto a = ids.find(left), b = ids.find(right);
    const std::string whole = left + right;
    const auto made = ids.find(whole);
    if (a == ids.end() || b == ids.end() || made == ids.end())
      refuse(name, "model.merges", quoted(left + " " + right) + " uses a token that the vocabulary lacks");
    builder.model().add_merge(a->second, b->second, rank++, made->second);
  }
}

void read_model_fields(const Document& document, const Ids& ids, BpeModel& model, const std::string& name) {
  const auto flag = [&](const char* field) {
    const JsonValue* value = document.find_model(field);
    return value != nullptr && value->as_boolean();
  };
  for (const char* field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonValue* value = document.find_model(field);
    if (value == nullptr || (value->kind() == JsonValue::Kind::String && value->as_string().empty())) continue;
    if (value->kind() == JsonValue::Kind::Number && value->as_number() == 0) continue;
    refuse(name, std::string("model.") + field, "is not supported");
  }
  model.byte_fallback = flag("byte_fallback");
  model.fuse_unknown = flag("fuse_unk");
  model.ignore_merges = flag("ignore_merges");
  if (model.byte_fallback && model.byte_level) refuse(name, "model.byte_fallback", "together with ByteLevel is not supported");
  if (const JsonValue* unknown = document.find_model("unk_token")) {
    const auto found = ids.find(unknown->as_string());
    if (found == ids.end()) refuse(name, "model.unk_token", quoted(unknown->as_string()) + " is not in the vocabulary");
    model.unknown = found->second;
  }
}

void add_added_tokens(const Document& document, const Ids& ids, TokenizerBuilder& builder, const std::string& name) {
  const JsonValue* list = document.find("added_tokens");
  if (list == nullptr) return;
  for (const JsonValue& value : list->elements()) {
    AddedToken token;
    token.content = value.at("content").as_string();
    const std::int64_t id = value.at("id").as_integer();
    const auto known = ids.find(token.content);
    if (id < 0 || id > INT32_MAX || (known == ids.end() && id < static_cast<std::int64_t>(ids.size())))
      refuse(name, "added_tokens", quoted(token.content) + " has id " + std::to_string(id) + ", which is another token's");
    token.id = static_cast<TokenId>(id);
    if (known != ids.end() && known->second != token.id) refuse(name, "added_tokens", quoted(token.content) + " has two ids");
    token.single_word = boolean_of(value, "single_word", false);
    token.lstrip = boolean_of(value, "lstrip", false);
    token.rstrip = boolean_of(value, "rstrip", false);
    token.special = boolean_of(value, "special", false);
    token.normalized = boolean_of(value, "normalized", !token.special);
    builder.add_added(std::move(token));
  }
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& name) {
  const Document document = DocumentReader(text, name).read();
  TokenizerBuilder builder(name);
  Pipeline pipeline(document, builder, name);
  pipeline.read();
  const Ids ids = add_tokens(document, builder, name);
  add_merges(document, ids, builder, name);
  read_model_fields(document, ids, builder.model(), name);
  builder.model().finish();
  add_added_tokens(document, ids, builder, name);
  pipeline.read_template();
  builder.keep_source(text);
  Tokenizer made = builder.finish();
  for (const auto* list : {&made.before_, &made.after_})
    for (const auto& [token, id] : *list)
      if (id >= made.vocab_size())
        refuse(name, "post_processor.special_tokens", quoted(token) + " has id " + std::to_string(id) + ", which no token has");
  return made;
}

}  // namespace pgtrain::engine::tokenizers
