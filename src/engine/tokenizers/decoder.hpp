// From the spelling of tokens to text: the decoders of tokenizer.json, step by step as the `tokenizers` package does.
//
// Called by Tokenizer::decode. Steps that are not listed here are refused when the file is read.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::engine::tokenizers {

struct DecoderStep {
  enum class Kind { ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace };
  Kind kind;
  std::string pattern, content;     // Replace; Strip and Metaspace use content: one character
  std::size_t start = 0, stop = 0;  // of Strip: how many at most
  bool drops_first = false;         // of Metaspace: the first token's marks stand for nothing
};

// keeps_bytes: bytes that are no UTF-8 stay as they are, where the package puts U+FFFD.
std::string decode_tokens(const std::vector<DecoderStep>& steps, std::vector<std::string> tokens, bool keeps_bytes);

// U+FFFD for each longest start of a sequence that is not completed, as Rust's from_utf8_lossy.
std::string repair_as_rust(std::string_view bytes);

}  // namespace pgtrain::engine::tokenizers
