// libFuzzer target of config.json: whatever the bytes, a configuration that means the same when it is written and read again, or
// core::Error.
//
// `make fuzz` runs it, starting from test/fuzz/seeds/config_json, which replay.cpp gives it in the ordinary suite.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/models/model_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pgtrain::engine;
  models::ModelConfig config;
  try {
    config = models::ModelConfig::from_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const core::Error& error) {
    if (error.code != "model_invalid") __builtin_trap();
    return 0;
  }
  if (models::parameter_shapes(config).empty() ||
      models::rope_frequencies(config.rope, config.head_width, config.context).size() != static_cast<std::size_t>(config.head_width / 2))
    __builtin_trap();
  // What was accepted is written in a form that is accepted, to the last byte the same.
  const std::string text = config.to_json();
  if (models::ModelConfig::from_json(text, "written").to_json() != text) __builtin_trap();
  return 0;
}
