// Reading records. The JSON is only cut into its fields here; messages go to the chat template as they are.
#include "engine/data/records.hpp"

#include <algorithm>
#include <array>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::engine::data {
namespace {

using core::Error;
using core::JsonReader;
using templates::Range;
using Id = tokenizers::Tokenizer::Id;
using Part = tokenizers::Tokenizer::TextPart;

const char* kForms =
    "A record has text, or prompt and completion, or messages, or (for preferences) chosen and rejected with or without a prompt.";

[[noreturn]] void refuse(const std::string& reason, const std::string& hint = kForms, const std::string& detail = "") {
  throw Error("data_invalid", reason, detail, hint);
}

// The elements of a list of messages, as they are written.
std::vector<std::string_view> elements_of(std::string_view list, const char* name) {
  std::vector<std::string_view> out;
  JsonReader reader(list, name);
  reader.begin_array();
  while (reader.next_element()) {
    if (reader.peek() != JsonReader::Kind::Object) reader.fail("a message is an object with role and content");
    const std::size_t begin = reader.position();
    reader.skip();
    out.push_back(list.substr(begin, reader.position() - begin));
  }
  return out;
}

std::string join(const std::vector<std::string_view>& elements, std::size_t from, std::size_t to) {
  std::string out;
  for (std::size_t i = from; i < to; ++i) out.append(i > from ? "," : "").append(elements[i]);
  return out;
}

struct MessageFacts {
  bool is_answer = false, is_given = false;  // of the assistant; with weight 0, as OpenAI's format says that it is not learned
};

// `place` stands in messages, from 0.
MessageFacts facts_of(std::string_view message, std::size_t place) {
  JsonReader reader(message, "message");
  reader.begin_object();
  MessageFacts facts;
  bool has_weight = false;
  for (std::string key; reader.next_member(key);) {
    if (key == "role" && reader.peek() == JsonReader::Kind::String) {
      facts.is_answer = reader.read_string() == "assistant";
    } else if (key == "weight" && reader.peek() != JsonReader::Kind::Null) {
      const double weight = reader.peek() == JsonReader::Kind::Number ? reader.read_number() : -1;
      if (weight != 0 && weight != 1)
        refuse("message " + std::to_string(place + 1) + ": weight is neither 0 nor 1", "Give 0 to an answer that is not to be learned, or leave weight out.");
      has_weight = true;
      facts.is_given = weight == 0;
    } else {
      reader.skip();
    }
  }
  if (has_weight && !facts.is_answer)
    refuse("message " + std::to_string(place + 1) + ": has a weight and is no answer", "Only messages of role assistant have a weight; leave it out of the others.");
  return facts;
}

// The places of messages whose answers are learned, or of those whose answers are not.
std::vector<std::size_t> answers_among(std::string_view list, bool are_given) {
  std::vector<std::size_t> out;
  std::size_t place = 0;
  for (const std::string_view message : elements_of(list, "messages")) {
    const MessageFacts facts = facts_of(message, place);
    if (facts.is_answer && facts.is_given == are_given) out.push_back(place);
    ++place;
  }
  return out;
}

// What is left of a text without these ranges, which are sorted.
std::vector<Range> without(std::size_t size, const std::vector<Range>& ranges) {
  std::vector<Range> out;
  std::size_t at = 0;
  for (const Range& range : ranges) {
    if (at < range.begin) out.push_back({at, range.begin});
    at = std::max(at, range.end);
  }
  if (at < size) out.push_back({at, size});
  return out;
}

}  // namespace

LossOn parse_loss_on(const std::string& text) {
  if (text == "answers") return LossOn::Answers;
  if (text == "all") return LossOn::All;
  throw Error("config_invalid", "loss_on: \"" + core::printable(text) + "\" is not known", "", "Use answers or all.");
}

// The fields that mean something, each as its bytes in the record; null counts as absent.
struct RecordReader::Fields {
  enum Name { Text, Prompt, Completion, Messages, Chosen, Rejected, Tools, Variables, Count };
  static constexpr std::array<const char*, Count> kNames = {"text", "prompt", "completion", "messages", "chosen", "rejected", "tools", "chat_template_kwargs"};
  std::array<std::string_view, Count> raw = {};

  explicit Fields(std::string_view record) {
    JsonReader reader(record, "record");
    if (reader.peek() != JsonReader::Kind::Object) refuse("the record is no JSON object");
    reader.begin_object();
    for (std::string key; reader.next_member(key);) {
      const bool is_null = reader.peek() == JsonReader::Kind::Null;
      const std::size_t begin = reader.position();
      reader.skip();
      const auto found = std::find(kNames.begin(), kNames.end(), key);
      if (found == kNames.end() || is_null) continue;
      std::string_view& field = raw[static_cast<std::size_t>(found - kNames.begin())];
      if (!field.empty()) refuse("field \"" + key + "\" appears twice", "Give each field once.");
      field = record.substr(begin, reader.position() - begin);
    }
    reader.expect_end();
  }

  bool has(Name name) const { return !raw[name].empty(); }
  bool is_list(Name name) const { return has(name) && raw[name][0] == '['; }
  std::string text(Name name) const {
    JsonReader reader(raw[name], kNames[name]);
    if (reader.peek() != JsonReader::Kind::String) reader.fail("text expected");
    return reader.read_string();
  }
  std::vector<std::string_view> messages(Name name) const {
    const auto out = elements_of(raw[name], kNames[name]);
    if (out.empty()) refuse(std::string(kNames[name]) + ": no messages", "Remove empty conversations from the dataset.");
    return out;
  }
};

templates::RenderOptions render_options(const tokenizers::Tokenizer& tokenizer, std::time_t now) {
  templates::RenderOptions options;
  const auto& ids = tokenizer.special_ids();
  if (ids.bos >= 0) options.bos_token = tokenizer.token_text(ids.bos);
  if (ids.eos >= 0) options.eos_token = tokenizer.token_text(ids.eos);
  options.now = now;
  for (Id id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.is_special(id)) options.end_marks.push_back(tokenizer.token_text(id));
  return options;
}

RecordReader::RecordReader(const tokenizers::Tokenizer& tokenizer, std::optional<templates::ChatTemplate> chat_template, const RecordOptions& options)
    : tokenizer_(tokenizer), template_(std::move(chat_template)), options_(options), render_(render_options(tokenizer, options.now)),
      end_(tokenizer.special_ids().eos >= 0 ? tokenizer.special_ids().eos : tokenizer.end_of_text()) {}

void RecordReader::read(std::string_view json, std::size_t sample, Record& out) const {
  try {
    if (json.size() > kLongestRecord)
      refuse("the record has " + std::to_string(json.size()) + " bytes, at most " + std::to_string(kLongestRecord) + " are read", "Cut it into several samples.",
             "A sample is held in memory whole, several times over, while it becomes tokens; samples together may be as long as the disk allows.");
    read_form(Fields(json), out);
  } catch (const Error& error) {
    throw Error("data_invalid", "sample " + std::to_string(sample + 1) + ": " + error.message, error.detail, error.hint);
  }
}

void RecordReader::read_form(const Fields& fields, Record& out) const {
  using F = Fields;
  const bool is_text = fields.has(F::Text), is_conversation = fields.has(F::Messages), is_completion = fields.has(F::Completion);
  const bool is_pair = fields.has(F::Chosen) || fields.has(F::Rejected);
  const int forms = is_text + is_conversation + is_completion + is_pair;
  if (forms != 1) refuse(forms == 0 ? (fields.has(F::Prompt) ? "a prompt without a completion" : "the record has none of the fields that are trained on")
                                    : "the record has the fields of more than one form");
  if (fields.has(F::Prompt) && (is_text || is_conversation)) refuse("a prompt beside " + std::string(is_text ? "text" : "messages"));
  const bool learns_all = options_.loss_on == LossOn::All;
  out.rejected.tokens.clear();
  if (is_text) {
    out.kind = RecordKind::Text;
    encode_text(fields.text(F::Text), out.sequence);
  } else if (is_conversation) {
    out.kind = RecordKind::Conversation;
    const auto messages = fields.messages(F::Messages);
    encode_messages("", join(messages, 0, messages.size()), learns_all, fields, out.sequence);
  } else if (is_completion) {
    out.kind = RecordKind::Completion;
    if (!fields.has(F::Prompt)) refuse("a completion without a prompt");
    if (fields.is_list(F::Prompt) != fields.is_list(F::Completion)) refuse("of prompt and completion one is text and the other messages");
    if (fields.is_list(F::Prompt)) {
      const auto prompt = fields.messages(F::Prompt), completion = fields.messages(F::Completion);
      encode_messages(join(prompt, 0, prompt.size()), join(completion, 0, completion.size()), learns_all, fields, out.sequence);
    } else {
      encode_completion(fields.text(F::Prompt), fields.text(F::Completion), learns_all, out.sequence);
    }
  } else {
    out.kind = RecordKind::Preference;
    encode_pair(fields, out);
  }
}

void RecordReader::encode_text(const std::string& text, Sequence& out) const {
  if (text.empty()) refuse("text is empty", "Remove empty samples from the dataset; there is nothing to learn from them.");
  out.tokens.clear();
  tokenizer_.begin_text(out.tokens);
  tokenizer_.encode(text, out.tokens);
  out.learned.assign(out.tokens.size(), true);
  finish(out);
}

// The prompt's tokens are those that it has alone, since that is what the trained model is asked with. Where the two texts
// together begin with these tokens, the rest is the completion; where a token would reach over the border, the completion is
// encoded alone, unless that changes the text (tokenizers that put a space before a text).
void RecordReader::encode_completion(const std::string& prompt, const std::string& completion, bool learns_all, Sequence& out) const {
  std::vector<Id> asked, joined, answered;
  std::vector<bool> touched;
  tokenizer_.encode(prompt, asked);
  tokenizer_.encode_parts({{prompt, false, false}, {completion, false, true}}, false, joined, &touched);
  out.tokens.clear();
  tokenizer_.begin_text(out.tokens);
  out.learned.assign(out.tokens.size(), false);
  const auto take = [&](const std::vector<Id>& ids, const auto& learned) {
    out.tokens.insert(out.tokens.end(), ids.begin(), ids.end());
    for (std::size_t i = 0; i < ids.size(); ++i) out.learned.push_back(learned(i));
  };
  if (asked.size() <= joined.size() && std::equal(asked.begin(), asked.end(), joined.begin())) {
    take(joined, [&](std::size_t i) { return i >= asked.size(); });
  } else {
    tokenizer_.encode(completion, answered);
    std::vector<Id> apart = asked;
    apart.insert(apart.end(), answered.begin(), answered.end());
    if (tokenizer_.decode(apart) == tokenizer_.decode(joined)) take(apart, [&](std::size_t i) { return i >= asked.size(); });
    else take(joined, [&](std::size_t i) { return static_cast<bool>(touched[i]); });
  }
  if (learns_all) out.learned.assign(out.learned.size(), true);
  finish(out);
}

// Puts the end of sequence behind what does not have it.
void RecordReader::finish(Sequence& out) const {
  if (out.tokens.empty() || out.tokens.back() != end_) {
    out.tokens.push_back(end_);
    out.learned.push_back(true);
  } else {
    out.learned.back() = true;
  }
  if (out.tokens.size() < 2) refuse("nothing of the text is left once it is tokenized", "Remove samples without letters from the dataset.");
}

std::vector<Range> RecordReader::find_answers(const std::string& given, const std::string& answer, const templates::RenderOptions& options,
                                              templates::Conversation& out) const {
  const std::string messages = "[" + given + (given.empty() ? "" : ",") + answer + "]";
  if (given.empty()) {
    out = template_->render_with_spans(messages, options);
    if (out.answers.empty())
      refuse("messages: there is no answer of the assistant to learn", "Each conversation needs a message of role assistant with content whose weight is not 0, or learn everything with loss_on => all.");
    return out.answers;
  }
  const std::string list = "[" + answer + "]";
  const auto answers = elements_of(list, "messages");
  if (answers.size() == 1 && facts_of(answers[0], 0).is_answer) {
    // Only the conversation before it matters, so templates that drop earlier reasoning are no trouble.
    out = template_->render_with_spans(messages, options, templates::Answers::Last);
  } else {
    out = template_->render_with_spans(messages, options);
    const std::string before = template_->render("[" + given + "]", options).text;
    if (!out.text.starts_with(before))
      refuse("chat template " + template_->name() + ": renders the prompt otherwise once the answer follows", "Make one sample of each answer, with the messages before it as the prompt.");
    std::erase_if(out.answers, [&](const Range& range) { return range.begin < before.size(); });
  }
  if (out.answers.empty())
    refuse("there is no answer of the assistant behind the prompt", "The completion is one message of role assistant with content whose weight is not 0, or several with one among them.");
  return out.answers;
}

void RecordReader::encode_messages(const std::string& given, const std::string& answer, bool learns_all, const Fields& fields, Sequence& out) const {
  using F = Fields;
  if (!template_)
    refuse("messages: the model has no chat template" + (options_.template_problem.empty() ? std::string() : " that can be used: " + options_.template_problem), "Give chat_template in the configuration, or records with prompt and completion texts.");
  templates::RenderOptions options = render_;
  if (fields.has(F::Tools)) options.tools = fields.raw[F::Tools][0] == '"' ? fields.text(F::Tools) : std::string(fields.raw[F::Tools]);
  if (fields.has(F::Variables)) options.variables = std::string(fields.raw[F::Variables]);

  const std::string messages = "[" + given + (given.empty() ? "" : ",") + answer + "]";
  options.given_answers = answers_among(messages, true);
  templates::Conversation conversation;
  std::vector<Range> answers;
  if (learns_all && options.given_answers.empty()) {
    static_cast<templates::Rendered&>(conversation) = template_->render(messages, options);
    answers = {{0, conversation.text.size()}};
  } else if (learns_all) {
    // The other way round, the template says where those lie that are not learned.
    options.given_answers = answers_among(messages, false);
    conversation = template_->render_with_spans(messages, options);
    answers = without(conversation.text.size(), conversation.answers);
  } else {
    answers = find_answers(given, answer, options, conversation);
  }

  // Cut where data or an answer begins or ends.
  std::vector<std::size_t> cuts = {0, conversation.text.size()};
  for (const auto* ranges : {&conversation.data, &answers})
    for (const Range& range : *ranges) cuts.insert(cuts.end(), {range.begin, range.end});
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<Part> parts;
  std::size_t data = 0, learned = 0;
  const auto lies_in = [](const std::vector<Range>& ranges, std::size_t& at, std::size_t begin) {
    while (at < ranges.size() && ranges[at].end <= begin) ++at;
    return at < ranges.size() && ranges[at].begin <= begin;
  };
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const std::string_view text = std::string_view(conversation.text).substr(cuts[i], cuts[i + 1] - cuts[i]);
    const bool is_data = lies_in(conversation.data, data, cuts[i]);
    parts.push_back({text, !is_data, lies_in(answers, learned, cuts[i])});
  }
  out.tokens.clear(), out.learned.clear();
  tokenizer_.encode_parts(parts, false, out.tokens, &out.learned);
  if (out.tokens.size() < 2 || std::find(out.learned.begin() + 1, out.learned.end(), true) == out.learned.end())
    refuse("messages: nothing to learn is left once they are tokenized", "Remove conversations without text from the dataset.");
}

void RecordReader::encode_pair(const Fields& fields, Record& out) const {
  using F = Fields;
  if (!fields.has(F::Chosen) || !fields.has(F::Rejected)) refuse("a preference needs chosen and rejected");
  const bool is_list = fields.is_list(F::Chosen);
  if (fields.is_list(F::Rejected) != is_list || (fields.has(F::Prompt) && fields.is_list(F::Prompt) != is_list))
    refuse("of prompt, chosen and rejected some are text and others messages", "Give all of them in one form.");
  if (!is_list) {
    const std::string prompt = fields.has(F::Prompt) ? fields.text(F::Prompt) : "";
    const std::string chosen = fields.text(F::Chosen), rejected = fields.text(F::Rejected);
    encode_completion(prompt, chosen, false, out.sequence);
    encode_completion(prompt, rejected, false, out.rejected);
    return;
  }
  const auto chosen = fields.messages(F::Chosen), rejected = fields.messages(F::Rejected);
  std::string given;
  std::size_t shared = 0;
  if (fields.has(F::Prompt)) {
    const auto prompt = fields.messages(F::Prompt);
    given = join(prompt, 0, prompt.size());
  } else {
    // Whole conversations: what both begin with is the prompt.
    while (shared + 1 < std::min(chosen.size(), rejected.size()) && chosen[shared] == rejected[shared]) ++shared;
    given = join(chosen, 0, shared);
  }
  encode_messages(given, join(chosen, shared, chosen.size()), false, fields, out.sequence);
  encode_messages(given, join(rejected, shared, rejected.size()), false, fields, out.rejected);
}

}  // namespace pgtrain::engine::data
