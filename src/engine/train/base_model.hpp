// The model that a run starts from, as its files lie in a folder: what a Hugging Face folder holds, or one GGUF file.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/models/checkpoint_source.hpp"
#include "engine/templates/chat_template.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::train {

// Errors: model_invalid, io_error.
std::unique_ptr<models::CheckpointSource> open_base(const std::string& folder);

// The template that `given` names or, where that is empty, the model's own; nothing where it has none.
std::optional<templates::ChatTemplate> open_chat_template(const models::CheckpointSource& source, const std::string& given);

// What the files are, as a JSON object: architecture (the configuration as this version writes it), model_type, parameters,
// context_length, vocab_size, stored_types, has_chat_template, warnings. Everything is read but the weights themselves, which are
// checked by name, shape and type. Errors: model_invalid, io_error.
std::string describe_base(const std::string& folder);

}  // namespace pgtrain::engine::train
