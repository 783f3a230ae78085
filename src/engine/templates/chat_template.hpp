// Chat templates of models: the Jinja of tokenizer_config.json, rendered as transformers' apply_chat_template renders it.
//
// parse() refuses whatever lies outside of the subset, naming the construct and its line, before a run is queued: model_invalid for
// a template that came with a model, config_invalid for one that the user gave. render() gives jinja2's text byte for byte or fails
// with data_invalid: the template refused the conversation, or a limit on steps, memory or depth was met. Nothing is guessed.
//
// What came from the conversation (messages, tools, variables) is marked by byte ranges. A tokenizer takes special tokens only where
// all their letters are the template's own; a user who writes <|im_end|> gets those letters. The text is one all the same: words are
// cut and merged across the ends of the ranges. Texts that operators and filters made keep their marks letter by letter.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/templates/value.hpp"

namespace pgtrain::engine::templates {

struct Program;

struct RenderOptions {
  bool add_generation_prompt = false;
  // The tokenizer's; what it lacks is undefined in the template.
  std::optional<std::string> bos_token = {}, eos_token = {};
  std::string tools = {};      // JSON list, empty for none
  std::string variables = {};  // JSON object of further variables such as enable_thinking, empty for none
  std::time_t now = 0;    // what strftime_now prints, in universal time; frozen with the run, so that a resumed one sees the same texts
  // An answer ends with one of these (eos_token besides): white space that the template adds behind it is not learned.
  std::vector<std::string> end_marks = {};
  // Messages, by their place from 0, whose answers are given and not learned.
  std::vector<std::size_t> given_answers = {};
};

struct Rendered {
  std::string text;
  std::vector<Range> data;  // bytes of the conversation, sorted
};

struct Conversation : Rendered {
  std::vector<Range> answers;  // bytes that a model learns, sorted
};

enum class Answers { All, Last };
enum class Origin { Model, Config };

class ChatTemplate {
 public:
  static ChatTemplate parse(std::string_view text, const std::string& name, Origin origin = Origin::Model);

  // messages: JSON list.
  Rendered render(std::string_view messages, const RenderOptions& options) const;

  // The conversation, and the answers in it: {% generation %} blocks where the template has them, else, for each message of the
  // assistant, what it adds to the conversation up to it with the generation prompt. Fails with data_invalid when the template
  // renders that beginning otherwise once more messages follow (Qwen3 drops earlier reasoning); Answers::Last asks for the last
  // answer alone, for which only the conversation before it counts. options.given_answers are left out, and not looked for.
  Conversation render_with_spans(std::string_view messages, const RenderOptions& options, Answers which = Answers::All) const;

  const std::string& name() const { return name_; }

 private:
  ChatTemplate(std::string name, std::shared_ptr<const Program> program) : name_(std::move(name)), program_(std::move(program)) {}

  struct Input;
  Input read(std::string_view messages, const RenderOptions& options) const;
  Text run(Input& input, const std::vector<Value>& messages, bool add_generation_prompt, std::vector<Range>* generated) const;
  Range find_answer(Input& input, const std::string& whole, const RenderOptions& options, std::size_t message) const;
  std::vector<Range> find_answers(Input& input, const std::string& whole, const RenderOptions& options, Answers which) const;

  std::string name_;
  std::shared_ptr<const Program> program_;
};

}  // namespace pgtrain::engine::templates
