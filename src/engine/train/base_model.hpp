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

// What conversations are written with: `given` or, where that is empty, `own`; nothing where there is none. A template of the model that
// cannot be used is no reason to refuse texts: `problem` then says what is wrong with it. A given one is refused: config_invalid.
struct FoundTemplate {
  std::optional<templates::ChatTemplate> parsed;
  std::string problem;
};
FoundTemplate find_chat_template(const std::string& own, const std::string& given);

// What the files are, or an adapter in its folder over them, as a JSON object: architecture (the configuration as this version writes it), model_type, parameters,
// context_length, vocab_size, stored_types, has_chat_template, chat_template_problem (empty for none), warnings, and of an adapter
// base_name (what it calls its base model; empty for nothing). Everything is read but the weights of a whole model, which are
// checked by name, shape and type; those of an adapter must be finite too. Errors: model_invalid, io_error.
std::string describe_base(const std::string& folder, const std::string& adapter_folder = {});

}  // namespace pgtrain::engine::train
