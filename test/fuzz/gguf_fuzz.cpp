// libFuzzer target of the GGUF reader: whatever the bytes, a header whose promises can be kept, or core::Error.
//
// `make fuzz` runs it, starting from test/fuzz/seeds/gguf. The ordinary suite replays these seeds (replay.cpp).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/error.hpp"
#include "engine/io/gguf.hpp"

namespace {

using namespace pgtrain::engine;

// Each way of reading each field: an answer or a refusal, and nothing outside of the file (the sanitizer watches).
std::size_t read_metadata(const io::GgufHeader& header) {
  std::size_t sum = 0;
  for (const auto& field : header.metadata()) {
    const std::string_view key = field.first;
    const auto attempt = [&](auto read) {
      try {
        sum += read();
      } catch (const core::Error& error) {
        if (error.code != "model_invalid" || error.hint.empty()) __builtin_trap();
      }
    };
    attempt([&] { return static_cast<std::size_t>(header.find_unsigned(key).value_or(0)); });
    attempt([&] { return header.find_number(key).value_or(0) > 0 ? 1 : 0; });
    attempt([&] { return header.find_boolean(key).value_or(false) ? 1 : 0; });
    attempt([&] { return header.find_text(key).value_or("").size(); });
    attempt([&] {
      std::size_t size = 0;
      for (const std::string_view text : header.find_texts(key)) size += text.empty() ? 0 : static_cast<unsigned char>(text.back());
      return size;
    });
    attempt([&] { return header.find_integers(key).size(); });
    attempt([&] { return header.find_numbers(key).size(); });
  }
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    const io::GgufHeader header = io::GgufHeader::parse(file, "fuzz");
    volatile std::size_t sum = read_metadata(header);
    (void)sum;
    std::uint64_t covered = 0;
    for (const io::GgufTensor& tensor : header.tensors()) {
      const io::BlockFormat& format = io::block_format(tensor.type);
      if (tensor.begin < covered || tensor.elements() / format.elements * format.bytes != tensor.end - tensor.begin) __builtin_trap();
      if (header.data_begin() + tensor.end > size || header.find_tensor(tensor.name) != &tensor) __builtin_trap();
      covered = tensor.end;
      std::vector<float> values(tensor.elements());
      io::dequantize(tensor.type, file.data() + header.data_begin() + tensor.begin, values.size(), values.data());
    }
  } catch (const core::Error& error) {
    if (error.code != "model_invalid" || error.hint.empty()) __builtin_trap();
  }
  return 0;
}
