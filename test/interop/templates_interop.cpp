// Renders the cases that check_templates.py sends: one JSON object a line in, one a line out.
#include <iostream>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/templates/chat_template.hpp"

namespace {

using namespace pgtrain::engine;

std::string ranges(const std::vector<templates::Range>& list) {
  std::string out = "[";
  for (const templates::Range& range : list) out += (out.size() > 1 ? ",[" : "[") + std::to_string(range.begin) + "," + std::to_string(range.end) + "]";
  return out + "]";
}

std::string render(const std::string& line) {
  const auto task = core::JsonValue::parse(line, "case");
  templates::RenderOptions options;
  options.add_generation_prompt = task.at("add_generation_prompt").as_boolean();
  if (const auto* token = task.find("bos_token")) options.bos_token = token->as_string();
  if (const auto* token = task.find("eos_token")) options.eos_token = token->as_string();
  if (const auto* tools = task.find("tools")) options.tools = tools->as_string();
  if (const auto* variables = task.find("variables")) options.variables = variables->as_string();
  options.now = task.at("now").as_integer();
  const std::string& spans = task.at("spans").as_string();
  const auto parsed = templates::ChatTemplate::parse(task.at("template").as_string(), "case");
  const std::string& messages = task.at("messages").as_string();
  if (spans.empty()) {
    const auto out = parsed.render(messages, options);
    return "{\"text\":" + core::json_quote(out.text) + ",\"data\":" + ranges(out.data) + "}";
  }
  const auto out = parsed.render_with_spans(messages, options, spans == "last" ? templates::Answers::Last : templates::Answers::All);
  return "{\"text\":" + core::json_quote(out.text) + ",\"data\":" + ranges(out.data) + ",\"answers\":" + ranges(out.answers) + "}";
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << render(line) << '\n';
    } catch (const core::Error& error) {
      const bool is_outside = error.detail.starts_with("The template needs") || error.message.ends_with("is not supported");
      std::cout << "{\"code\":" << core::json_quote(error.code) << ",\"error\":" << core::json_quote(error.message) << ",\"outside\":" << (is_outside ? "true" : "false") << "}\n";
    }
    std::cout.flush();
  }
  return 0;
}
