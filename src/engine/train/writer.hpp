// Writes texts with a model: many prompts at once, pieces of text as they come. Used for the samples of a run and by generate().
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/models/decoder.hpp"
#include "engine/templates/chat_template.hpp"
#include "engine/tokenizers/tokenizer.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

// config_invalid names the option that means nothing.
void check_generate_options(const GenerateOptions& options);

// A prompt as tokens. A text gets what the tokenizer puts before a text; where that is nothing, GPT-2 models get an end mark, behind
// which the documents of their training began, and others begin with the text itself. With options.is_chat the prompt is a JSON list
// of messages, rendered by the template up to where the answer begins. Special tokens that a prompt spells are letters.
std::vector<std::int32_t> encode_prompt(const std::string& prompt, const GenerateOptions& options, const models::ModelConfig& config,
                                        const tokenizers::Tokenizer& tokenizer, const std::optional<templates::ChatTemplate>& chat_template);

// text: what is new, whole characters; no part of a stop string is in it. so_far: the answer up to there, its end_reason empty but for
// the last piece of each prompt, which may have no text.
using PieceObserver = std::function<void(std::size_t prompt, const std::string& text, const GenerateResult& so_far)>;

// One answer for each prompt, in their order. Of a prompt that leaves less than half of the decoder's positions (or less than
// max_tokens), only the end is used. stop is asked once per step. A prompt's draws depend on the seed and its place alone.
std::vector<GenerateResult> write_texts(models::Decoder& decoder, std::int64_t sequences, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                                        std::vector<std::vector<std::int32_t>> prompts, const GenerateOptions& options, const std::function<bool()>& stop,
                                        const PieceObserver& observer = {});

// One prompt on the decoder's first sequence.
GenerateResult write_text(models::Decoder& decoder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer, const std::string& prompt,
                          const GenerateOptions& options, const std::function<bool()>& stop);

}  // namespace pgtrain::engine::train
