// The door to templates: parsing with errors that users see, rendering within limits, and where the answers are.
#include "engine/templates/chat_template.hpp"

#include <algorithm>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/utf8.hpp"
#include "engine/templates/evaluator.hpp"
#include "engine/templates/lexer.hpp"

namespace pgtrain::engine::templates {
namespace {

using core::Error;

constexpr std::size_t kLargestTemplate = std::size_t{1} << 20;
constexpr std::uint64_t kSteps = 20'000'000;
constexpr std::uint64_t kBytes = std::uint64_t{256} << 20;
// A conversation is rendered twice for each answer.
constexpr std::uint64_t kStepsForSpans = 2 * kSteps;

const char* kSubset =
    "Chat templates may use if, for, set, with, macro, generation, break and continue, the usual operators, and the filters, tests and methods that templates of the "
    "supported families use. Give a template in the configuration instead, or use prompt and completion columns without one.";

}  // namespace

struct ChatTemplate::Input {
  Variables variables;
  std::vector<Value> messages;
  std::uint64_t steps = kSteps;
  std::uint64_t bytes = kBytes;
  std::time_t now = 0;
};

ChatTemplate ChatTemplate::parse(std::string_view text, const std::string& name, Origin origin) {
  const char* code = origin == Origin::Model ? "model_invalid" : "config_invalid";
  const std::string where = "chat template " + name;
  if (text.size() > kLargestTemplate) throw Error(code, where + ": larger than " + std::to_string(kLargestTemplate) + " bytes", "", kSubset);
  if (const std::size_t at = core::first_invalid_utf8(text); at != std::string_view::npos) throw Error(code, where + ": byte " + std::to_string(at) + " is not valid UTF-8", "", "Save the template as UTF-8.");
  try {
    return ChatTemplate(name, std::make_shared<const Program>(parse_template(text)));
  } catch (const SyntaxFailure& failure) {
    const std::string line = where + ", line " + std::to_string(failure.line) + ": ";
    if (failure.is_outside_subset) throw Error(code, line + failure.message + " is not supported", "", kSubset);
    throw Error(code, line + failure.message, "", "jinja2 does not accept this template either.");
  }
}

ChatTemplate::Input ChatTemplate::read(std::string_view messages, const RenderOptions& options) const {
  Input input;
  const auto require = [&](const Value& value, Kind kind, const char* what, const char* code) {
    if (!value.is(kind)) throw Error(code, std::string(what) + " of chat template " + name_ + ": " + (kind == Kind::List ? "list" : "object") + " expected", "", "See the documentation of messages for the form.");
  };
  const Value list = from_json(messages, "messages");
  require(list, Kind::List, "messages", "data_invalid");
  input.messages = list.items();
  auto& variables = input.variables;
  if (options.bos_token) variables["bos_token"] = Value::text(*options.bos_token);
  if (options.eos_token) variables["eos_token"] = Value::text(*options.eos_token);
  if (!options.variables.empty()) {
    const Value given = from_json(options.variables, "variables");
    require(given, Kind::Mapping, "variables", "config_invalid");
    for (const auto& [key, value] : as_mapping(given).entries) {
      const std::string& name = key.bytes();
      if (name == "messages" || name == "tools" || name == "documents" || name == "add_generation_prompt") throw Error("config_invalid", "variables of chat template " + name_ + ": '" + name + "' is set by pgtrain", "", "Leave it out.");
      variables[name] = value;
    }
  }
  variables["documents"] = Value::none();
  variables["tools"] = Value::none();
  if (!options.tools.empty()) {
    variables["tools"] = from_json(options.tools, "tools");
    if (!variables["tools"].is(Kind::None)) require(variables["tools"], Kind::List, "tools", "data_invalid");
  }
  input.bytes += 64 * (messages.size() + options.tools.size() + options.variables.size());
  input.now = options.now;
  return input;
}

Text ChatTemplate::run(Input& input, const std::vector<Value>& messages, bool add_generation_prompt, std::vector<Range>* generated) const {
  input.variables["messages"] = Value::list(messages);
  input.variables["add_generation_prompt"] = Value::boolean(add_generation_prompt);
  Budget budget(input.steps, input.bytes, input.bytes / 4);
  Evaluator evaluator(*program_, input.variables, input.now, budget);
  try {
    Text text = evaluator.run();
    if (generated != nullptr) *generated = evaluator.generated();
    input.steps = budget.steps_left();
    return text;
  } catch (const Failure& failure) {
    throw Error("data_invalid", "chat template " + name_ + ", line " + std::to_string(evaluator.line()) + ": " + core::printable(failure.what(), 400),
                failure.outside_subset ? "The template needs what pgtrain does not render." : "",
                failure.outside_subset ? kSubset : "Change the messages to what this template takes, or use another template.");
  }
}

Rendered ChatTemplate::render(std::string_view messages, const RenderOptions& options) const {
  Input input = read(messages, options);
  Text text = run(input, input.messages, options.add_generation_prompt, nullptr);
  return {std::move(text.bytes), std::move(text.data)};
}

namespace {

// White space behind the mark that ends an answer is not asked of the model: it stops at the mark.
std::size_t end_of_answer(const std::string& text, Range answer, const RenderOptions& options) {
  std::size_t end = answer.end;
  while (end > answer.begin && std::string_view(" \t\r\n").find(text[end - 1]) != std::string_view::npos) --end;
  const std::string_view kept = std::string_view(text).substr(answer.begin, end - answer.begin);
  const auto ends_with = [&](const std::string& mark) { return !mark.empty() && kept.ends_with(mark); };
  const bool has_mark = (options.eos_token && ends_with(*options.eos_token)) || std::any_of(options.end_marks.begin(), options.end_marks.end(), ends_with);
  return has_mark ? end : answer.end;
}

bool is_assistant(const Value& message) {
  const Value* role = message.is(Kind::Mapping) ? as_mapping(message).find(Value::text("role")) : nullptr;
  return role != nullptr && role->is_text() && role->bytes() == "assistant";
}

bool is_given(const RenderOptions& options, std::size_t message) {
  return std::find(options.given_answers.begin(), options.given_answers.end(), message) != options.given_answers.end();
}

}  // namespace

// What the answer in that message adds to the conversation.
Range ChatTemplate::find_answer(Input& input, const std::string& whole, const RenderOptions& options, std::size_t message) const {
  const auto& messages = input.messages;
  const auto upto = [&](std::size_t count) { return std::vector<Value>(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count)); };
  const std::string before = run(input, upto(message), true, nullptr).bytes;
  const bool is_end = message + 1 == messages.size() && !options.add_generation_prompt;
  const std::string after = is_end ? whole : run(input, upto(message + 1), false, nullptr).bytes;
  if (!after.starts_with(before) || !whole.starts_with(after)) {
    throw Error("data_invalid", "chat template " + name_ + ": where the answer in message " + std::to_string(message + 1) + " of " + std::to_string(messages.size()) + " lies cannot be told",
                std::string("The template renders ") + (after.starts_with(before) ? "the conversation up to this answer otherwise when more messages follow." : "the messages before this answer otherwise once the answer follows."),
                "Make one sample of each answer, with the messages before it, and learn the last answer only; or use a template that marks answers with {% generation %}.");
  }
  Range answer{before.size(), after.size()};
  answer.end = end_of_answer(whole, answer, options);
  return answer;
}

std::vector<Range> ChatTemplate::find_answers(Input& input, const std::string& whole, const RenderOptions& options, Answers which) const {
  std::vector<Range> answers;
  for (std::size_t i = input.messages.size(); i-- > 0;) {
    if (!is_assistant(input.messages[i])) continue;
    if (!is_given(options, i))
      if (const Range answer = find_answer(input, whole, options, i); answer.begin < answer.end) answers.push_back(answer);
    if (which == Answers::Last) break;
  }
  std::reverse(answers.begin(), answers.end());
  return answers;
}

Conversation ChatTemplate::render_with_spans(std::string_view messages, const RenderOptions& options, Answers which) const {
  Input input = read(messages, options);
  input.steps = kStepsForSpans;
  Conversation out;
  std::vector<Range> generated;
  Text text = run(input, input.messages, options.add_generation_prompt, &generated);
  out.text = std::move(text.bytes), out.data = std::move(text.data);
  if (program_->has_generation) {
    out.answers = std::move(generated);
    if (which == Answers::Last && out.answers.size() > 1) out.answers.erase(out.answers.begin(), out.answers.end() - 1);
    for (const std::size_t message : options.given_answers) {
      if (message >= input.messages.size() || !is_assistant(input.messages[message])) continue;
      const Range given = find_answer(input, out.text, options, message);
      std::erase_if(out.answers, [&](const Range& answer) { return answer.begin < given.end && given.begin < answer.end; });
    }
  } else {
    out.answers = find_answers(input, out.text, options, which);
  }
  return out;
}

}  // namespace pgtrain::engine::templates
