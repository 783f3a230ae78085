// libFuzzer target of the safetensors reader: whatever the bytes, a header that keeps its promises or core::Error.
//
// `make fuzz` runs it, starting from test/fuzz/seeds/safetensors, which replay.cpp gives it in the ordinary suite.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pgtrain::engine;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    const io::SafetensorsHeader header = io::SafetensorsHeader::parse(file, "fuzz");
    std::uint64_t covered = 0;
    for (const io::StoredTensor& tensor : header.tensors) {
      if (tensor.begin != covered || tensor.end < tensor.begin) __builtin_trap();
      covered = tensor.end;
    }
    if (header.data_begin + covered != size) __builtin_trap();
  } catch (const core::Error& error) {
    if (error.code != "model_invalid" || error.hint.empty()) __builtin_trap();
  }
  return 0;
}
