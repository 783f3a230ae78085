// The tokenizer that belongs to a checkpoint: its tokenizer.json, or the vocabulary in a GGUF file.
#pragma once

#include "engine/models/checkpoint_source.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::train {

// model_invalid when there is none, or it has more tokens than the model.
tokenizers::Tokenizer open_tokenizer(const models::CheckpointSource& source);

}  // namespace pgtrain::engine::train
