// Opens tokenizers of checkpoints, see model_tokenizer.hpp.
#include "engine/train/model_tokenizer.hpp"

#include "engine/core/error.hpp"

namespace pgtrain::engine::train {
namespace {

tokenizers::GgufVocabulary vocabulary_of(const io::GgufHeader& file) {
  tokenizers::GgufVocabulary out;
  const auto text = [&](const char* key) { return std::string(file.find_text(key).value_or("")); };
  const auto number = [&](const char* key) -> std::optional<std::int64_t> {
    if (const auto value = file.find_unsigned(key)) return static_cast<std::int64_t>(*value);
    return std::nullopt;
  };
  out.model = text("tokenizer.ggml.model"), out.pre = text("tokenizer.ggml.pre");
  for (const std::string_view token : file.find_texts("tokenizer.ggml.tokens")) out.tokens.emplace_back(token);
  for (const std::string_view merge : file.find_texts("tokenizer.ggml.merges")) out.merges.emplace_back(merge);
  for (const std::int64_t type : file.find_integers("tokenizer.ggml.token_type")) out.token_types.push_back(static_cast<std::int32_t>(type));
  out.scores = file.find_numbers("tokenizer.ggml.scores");
  out.bos = number("tokenizer.ggml.bos_token_id"), out.eos = number("tokenizer.ggml.eos_token_id");
  out.pad = number("tokenizer.ggml.padding_token_id"), out.unknown = number("tokenizer.ggml.unknown_token_id");
  out.adds_bos = file.find_boolean("tokenizer.ggml.add_bos_token"), out.adds_eos = file.find_boolean("tokenizer.ggml.add_eos_token");
  out.adds_space_prefix = file.find_boolean("tokenizer.ggml.add_space_prefix");
  return out;
}

tokenizers::Tokenizer read(const models::CheckpointSource& source) {
  if (source.gguf() != nullptr) return tokenizers::Tokenizer::from_gguf(vocabulary_of(*source.gguf()), source.gguf()->name());
  const std::string json = source.tokenizer_json();
  if (json.empty())
    throw core::Error("model_invalid", "the model has no tokenizer.json", "", "Put the tokenizer.json of the model beside its weights; other forms of tokenizers are not read.");
  tokenizers::Tokenizer tokenizer = tokenizers::Tokenizer::from_json(json, "tokenizer.json");
  if (const std::string config = source.tokenizer_config_json(); !config.empty()) tokenizer.take_config(config, "tokenizer_config.json");
  return tokenizer;
}

}  // namespace

tokenizers::Tokenizer open_tokenizer(const models::CheckpointSource& source) {
  tokenizers::Tokenizer tokenizer = read(source);
  if (tokenizer.vocab_size() > source.config().vocab_size)
    throw core::Error("model_invalid", "the tokenizer has " + std::to_string(tokenizer.vocab_size()) + " tokens, the model " + std::to_string(source.config().vocab_size),
                      "", "Give the tokenizer that the model was trained with.");
  return tokenizer;
}

}  // namespace pgtrain::engine::train
