// A record of a dataset as tokens: what the model reads, and which of it the model learns.
//
// A record is a JSON object in one of these forms; other fields are left alone.
//   text                   the whole, with what the tokenizer puts around a text (BOS), then the end of sequence: all learned
//   prompt, completion     both texts (BOS prompt completion EOS: the completion and EOS are learned) or both messages
//   messages               a conversation by the chat template: the answers of the assistant are learned
//   [prompt,] chosen, rejected   a preference: two sequences, each as prompt and completion
// With messages, tools (a list) and chat_template_kwargs (an object) are handed to the template. An answer of "weight": 0 is given, not
// learned. LossOn::All learns every other token. Special tokens written in a record's own texts are letters, never tokens. What cannot be used is refused with the
// sample, the field and the reason: data_invalid. Not safe for two threads at once.
#pragma once

#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/data/token_store.hpp"
#include "engine/templates/chat_template.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace pgtrain::engine::data {

enum class LossOn { Answers, All };
LossOn parse_loss_on(const std::string& text);

struct RecordOptions {
  LossOn loss_on = LossOn::Answers;
  std::time_t now = 0;  // for templates that print the date; frozen with the run
  std::string template_problem = {};  // why there is no chat template though the model has one
};

enum class RecordKind { Text, Completion, Conversation, Preference };

struct Record {
  RecordKind kind = RecordKind::Text;
  Sequence sequence;  // of a preference the chosen one
  Sequence rejected;  // of a preference only
};

// How a tokenizer's special tokens are named to a template.
templates::RenderOptions render_options(const tokenizers::Tokenizer& tokenizer, std::time_t now);

// A word without end costs about 40 bytes of memory for each of its own.
inline constexpr std::size_t kLongestRecord = std::size_t{32} << 20;

class RecordReader {
 public:
  // The tokenizer must outlive the reader.
  RecordReader(const tokenizers::Tokenizer& tokenizer, std::optional<templates::ChatTemplate> chat_template, const RecordOptions& options);

  // sample: its place in the dataset from 0, for messages.
  void read(std::string_view json, std::size_t sample, Record& out) const;

 private:
  struct Fields;

  void read_form(const Fields& fields, Record& out) const;
  void encode_text(const std::string& text, Sequence& out) const;
  void encode_completion(const std::string& prompt, const std::string& completion, bool learns_all, Sequence& out) const;
  // Messages as JSON lists without their brackets. An empty `given`: every answer of the assistant is learned, else those behind it.
  void encode_messages(const std::string& given, const std::string& answer, bool learns_all, const Fields& fields, Sequence& out) const;
  std::vector<templates::Range> find_answers(const std::string& given, const std::string& answer, const templates::RenderOptions& options,
                                             templates::Conversation& out) const;
  void encode_pair(const Fields& fields, Record& out) const;
  void finish(Sequence& out) const;

  const tokenizers::Tokenizer& tokenizer_;
  std::optional<templates::ChatTemplate> template_;
  RecordOptions options_;
  templates::RenderOptions render_;
  tokenizers::Tokenizer::Id end_;
};

}  // namespace pgtrain::engine::data
