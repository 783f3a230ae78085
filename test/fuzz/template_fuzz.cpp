// libFuzzer target of chat templates: whatever the template and the messages, a text with sound marks, or core::Error.
//
// The input is the template, a NUL, and the messages; without a NUL the messages are a fixed conversation.
// `make fuzz` runs it; seeds are in test/fuzz/seeds/template.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/templates/chat_template.hpp"

namespace {

using namespace pgtrain::engine;

void check_ranges(const std::vector<templates::Range>& ranges, const std::string& text) {
  std::size_t at = 0;
  for (const templates::Range& range : ranges) {
    if (range.begin < at || range.end < range.begin || range.end > text.size()) __builtin_trap();
    at = range.end;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t cut = input.find('\0');
  const std::string_view messages = cut == std::string_view::npos ? std::string_view(R"([{"role":"system","content":"S"},{"role":"user","content":" q\u00e9 "},{"role":"assistant","content":"a","tool_calls":[{"id":"x","function":{"name":"f","arguments":{"n":1.5}}}]}])") : input.substr(cut + 1);
  templates::RenderOptions options;
  options.bos_token = "<s>", options.eos_token = "<end>";
  options.tools = R"([{"type":"function","function":{"name":"f","parameters":{"a":[1,null,true]}}}])";
  try {
    const auto parsed = templates::ChatTemplate::parse(input.substr(0, cut), "fuzz");
    const auto rendered = parsed.render(messages, options);
    if (core::first_invalid_utf8(rendered.text) != std::string::npos) __builtin_trap();
    check_ranges(rendered.data, rendered.text);
    const auto conversation = parsed.render_with_spans(messages, options);
    if (conversation.text != rendered.text || conversation.data != rendered.data) __builtin_trap();
    check_ranges(conversation.answers, conversation.text);
  } catch (const core::Error& error) {
    if (error.code != "model_invalid" && error.code != "data_invalid") __builtin_trap();
    if (error.message.empty() || core::first_invalid_utf8(error.message) != std::string::npos) __builtin_trap();
  }
  return 0;
}
