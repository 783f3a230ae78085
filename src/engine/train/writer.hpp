// Writes text with a model, token by token. Used for the samples of a run and by generate().
#pragma once

#include <functional>

#include "engine/models/gpt2/decoder.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

// The prompt is put behind an end mark, as a document begins in training; of a prompt that leaves less than half of the
// context (or less than max_tokens), only the end is used. stop is asked once per token.
GenerateResult write_text(models::GptDecoder& decoder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                          const GenerateOptions& options, const std::function<bool()>& stop);

}  // namespace pgtrain::engine::train
