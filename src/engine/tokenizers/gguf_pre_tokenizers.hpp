// What the values of tokenizer.ggml.pre stand for. Called by what reads and writes the vocabulary of GGUF files.
#pragma once

#include "engine/tokenizers/pretokenizer.hpp"

namespace pgtrain::engine::tokenizers {

struct GgufPreTokenizer {
  const char* name;
  Pattern pattern;
  bool splits_digits, composes, ignores_merges, adds_bos;
};

// Of several names for one thing the first is written.
inline constexpr GgufPreTokenizer kGgufPreTokenizers[] = {
    {"gpt-2", Pattern::Gpt2, false, false, false, false},
    {"phi-2", Pattern::Gpt2, false, false, false, false},
    {"llama-bpe", Pattern::Llama3, false, false, true, true},
    {"llama3", Pattern::Llama3, false, false, true, true},
    {"llama-v3", Pattern::Llama3, false, false, true, true},
    {"qwen2", Pattern::Qwen2, false, true, false, false},
    {"deepseek-r1-qwen", Pattern::Qwen2, false, true, false, false},
    {"qwen35", Pattern::Qwen35, false, true, false, false},
    {"smollm", Pattern::Gpt2, true, false, false, false},
    {"starcoder", Pattern::Gpt2, true, false, false, false},
    {"refact", Pattern::Gpt2, true, false, false, false},
    {"codeshell", Pattern::Gpt2, true, false, false, false},
    {"tekken", Pattern::Tekken, false, false, true, true},
};

}  // namespace pgtrain::engine::tokenizers
