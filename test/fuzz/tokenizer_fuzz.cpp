// libFuzzer target of the tokenizer.json reader: whatever the bytes, a tokenizer that decodes what it encodes, or core::Error.
//
// Run as safetensors_fuzz.cpp says, with src/engine/tokenizers/*.cpp and src/engine/core/*.cpp.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/tokenizers/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pgtrain::engine;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  // Any bytes can be encoded, with merges that the corpus did not choose.
  static const auto pairs = tokenizers::Tokenizer::from_merges({{'a', 'b'}, {257, 'c'}, {' ', 't'}, {0xC3, 0xA9}});
  std::vector<tokenizers::Tokenizer::Id> ids;
  pairs.encode(text, ids);
  if (pairs.decode(ids) != text) __builtin_trap();
  try {
    const auto read = tokenizers::Tokenizer::from_json(text, "fuzz");
    ids.clear();
    read.encode(text, ids);
    if (read.decode(ids) != text) __builtin_trap();
  } catch (const core::Error& error) {
    if (error.code != "model_invalid") __builtin_trap();
  }
  return 0;
}
