// Writes tokenizer.json so that the Hugging Face library encodes as we do; what was read from a file is given back as it was.
#include "engine/core/json.hpp"
#include "engine/tokenizers/byte_characters.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

using core::json_quote;

std::string boolean(bool value) { return value ? "true" : "false"; }

std::string text_of(const NormalizerStep& step) {
  using Kind = NormalizerStep::Kind;
  switch (step.kind) {
    case Kind::Nfc:
      return "{\"type\": \"NFC\"}";
    case Kind::Nfd:
      return "{\"type\": \"NFD\"}";
    case Kind::Prepend:
      return "{\"type\": \"Prepend\", \"prepend\": " + json_quote(step.content) + "}";
    case Kind::Replace:
      return "{\"type\": \"Replace\", \"pattern\": {\"String\": " + json_quote(step.pattern) +
             "}, \"content\": " + json_quote(step.content) + "}";
    case Kind::Strip:
      break;
  }
  return "{\"type\": \"Strip\", \"strip_left\": " + boolean(step.strip_left) + ", \"strip_right\": " + boolean(step.strip_right) + "}";
}

std::string text_of(const PreTokenizerStep& step) {
  using Kind = PreTokenizerStep::Kind;
  static constexpr const char* kSchemes[] = {"first", "always", "never"};
  switch (step.kind) {
    case Kind::Split:
      return "{\"type\": \"Split\", \"pattern\": {\"Regex\": " + json_quote(text_of(step.pattern)) +
             "}, \"behavior\": \"Isolated\", \"invert\": false}";
    case Kind::Digits:
      return "{\"type\": \"Digits\", \"individual_digits\": " + boolean(step.individual_digits) + "}";
    case Kind::Metaspace:
      return "{\"type\": \"Metaspace\", \"replacement\": " + json_quote(step.replacement) + ", \"prepend_scheme\": \"" +
             kSchemes[static_cast<int>(step.prepend)] + "\", \"split\": " + boolean(step.splits) + "}";
    case Kind::ByteLevel:
      break;
  }
  return "{\"type\": \"ByteLevel\", \"add_prefix_space\": " + boolean(step.adds_prefix_space) +
         ", \"trim_offsets\": true, \"use_regex\": " + boolean(step.uses_pattern) + "}";
}

std::string text_of(const DecoderStep& step) {
  using Kind = DecoderStep::Kind;
  switch (step.kind) {
    case Kind::Replace:
      return "{\"type\": \"Replace\", \"pattern\": {\"String\": " + json_quote(step.pattern) +
             "}, \"content\": " + json_quote(step.content) + "}";
    case Kind::ByteFallback:
      return "{\"type\": \"ByteFallback\"}";
    case Kind::Fuse:
      return "{\"type\": \"Fuse\"}";
    case Kind::Strip:
      return "{\"type\": \"Strip\", \"content\": " + json_quote(step.content) + ", \"start\": " + std::to_string(step.start) +
             ", \"stop\": " + std::to_string(step.stop) + "}";
    case Kind::Metaspace:
      return "{\"type\": \"Metaspace\", \"replacement\": " + json_quote(step.content) + ", \"prepend_scheme\": \"" +
             (step.drops_first ? "always" : "never") + "\", \"split\": true}";
    case Kind::ByteLevel:
      break;
  }
  return "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}";
}

template <typename Step>
std::string pipeline_text(const std::vector<Step>& steps, const char* list) {
  if (steps.empty()) return "null";
  if (steps.size() == 1) return text_of(steps[0]);
  std::string out = std::string("{\"type\": \"Sequence\", \"") + list + "\": [";
  for (std::size_t i = 0; i < steps.size(); ++i) out += (i > 0 ? ", " : "") + text_of(steps[i]);
  return out + "]}";
}

}  // namespace

class TokenizerWriter {
 public:
  explicit TokenizerWriter(const Tokenizer& tokenizer) : tokenizer_(tokenizer), model_(tokenizer.model_) {}

  std::string write() const {
    std::string out =
        "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n" + added_tokens() + "\n  ],\n";
    out += "  \"normalizer\": " + pipeline_text(tokenizer_.normalizers_, "normalizers") + ",\n";
    out += "  \"pre_tokenizer\": " + pipeline_text(tokenizer_.pre_tokenizers_, "pretokenizers") + ",\n";
    out += "  \"post_processor\": " + post_processor() + ",\n";
    out += "  \"decoder\": " + pipeline_text(tokenizer_.decoders_, "decoders") + ",\n";
    out += "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": " +
           (model_.unknown < 0 ? "null" : json_quote(tokenizer_.token_text(model_.unknown))) +
           ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": " +
           boolean(model_.fuse_unknown) + ",\n    \"byte_fallback\": " + boolean(model_.byte_fallback) +
           ",\n    \"ignore_merges\": " + boolean(model_.ignore_merges) + ",\n    \"vocab\": {";
    for (TokenId id = 0; id < model_.size(); ++id)
      out.append(id > 0 ? ",\n      " : "\n      ").append(json_quote(tokenizer_.token_text(id))).append(": ").append(std::to_string(id));
    out += "\n    },\n    \"merges\": [";
    for (std::size_t i = 0; i < model_.merges().size(); ++i) {
      const BpeModel::Merge& merge = model_.merges()[i];
      out.append(i > 0 ? ",\n      " : "\n      ")
          .append(merge_text(tokenizer_.token_text(merge.left), tokenizer_.token_text(merge.right)));
    }
    return out + (model_.merges().empty() ? "]\n  }\n}\n" : "\n    ]\n  }\n}\n");
  }

 private:
  // The older form, which every version of the library reads, wherever it can be told where the left part ends.
  std::string merge_text(const std::string& left, const std::string& right) const {
    if (model_.byte_level) return json_quote(left + " " + right);
    return "[" + json_quote(left) + ", " + json_quote(right) + "]";
  }

  std::string added_tokens() const {
    std::string out;
    for (const AddedToken& token : tokenizer_.added_)
      out += (out.empty() ? "    {\"id\": " : ",\n    {\"id\": ") + std::to_string(token.id) +
             ", \"content\": " + json_quote(token.content) + ", \"single_word\": " + boolean(token.single_word) +
             ", \"lstrip\": " + boolean(token.lstrip) + ", \"rstrip\": " + boolean(token.rstrip) +
             ", \"normalized\": " + boolean(token.normalized) + ", \"special\": " + boolean(token.special) + "}";
    return out;
  }

  std::string post_processor() const {
    const std::string bytes = "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": false, \"use_regex\": true}";
    if (tokenizer_.before_.empty() && tokenizer_.after_.empty()) return model_.byte_level ? bytes : "null";
    const std::string processing = "{\"type\": \"TemplateProcessing\", \"single\": [" + template_text({"A"}) + "], \"pair\": [" +
                                   template_text({"A", "B"}) + "], \"special_tokens\": {" + template_tokens() + "}}";
    return model_.byte_level ? "{\"type\": \"Sequence\", \"processors\": [" + bytes + ", " + processing + "]}" : processing;
  }

  std::string template_text(const std::vector<std::string>& sequences) const {
    std::string out;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::string type = ", \"type_id\": " + std::to_string(i) + "}}";
      const auto special = [&](const std::string& name) { return "{\"SpecialToken\": {\"id\": " + json_quote(name) + type; };
      for (const auto& [name, id] : tokenizer_.before_) out += (out.empty() ? "" : ", ") + special(name);
      out += (out.empty() ? "" : ", ") + ("{\"Sequence\": {\"id\": \"" + sequences[i] + "\"" + type);
      for (const auto& [name, id] : tokenizer_.after_) out += ", " + special(name);
    }
    return out;
  }

  std::string template_tokens() const {
    std::string out;
    for (const auto* list : {&tokenizer_.before_, &tokenizer_.after_})
      for (const auto& [name, id] : *list) {
        const std::string quoted = json_quote(name);
        if (out.find(quoted + ": {") != std::string::npos) continue;
        out += (out.empty() ? "" : ", ") + quoted + ": {\"id\": " + quoted + ", \"ids\": [" + std::to_string(id) + "], \"tokens\": [" +
               quoted + "]}";
      }
    return out;
  }

  const Tokenizer& tokenizer_;
  const BpeModel& model_;
};

std::string Tokenizer::to_json() const { return source_.empty() ? TokenizerWriter(*this).write() : source_; }

}  // namespace pgtrain::engine::tokenizers
