// Generation over the decoder: sequences take the next prompt as soon as their text has ended.
#include "engine/train/writer.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/data/records.hpp"
#include "engine/data/streams.hpp"
#include "engine/train/sampler.hpp"

namespace pgtrain::engine::train {
namespace {

using Id = std::int32_t;
constexpr std::size_t kLead = 8;  // tokens of the prompt that the first ones of the answer are decoded with: some join their neighbours

std::vector<bool> end_tokens(const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer) {
  std::vector<bool> out(static_cast<std::size_t>(tokenizer.vocab_size()), false);
  const auto add = [&](Id id) {
    if (id >= 0 && id < tokenizer.vocab_size()) out[static_cast<std::size_t>(id)] = true;
  };
  for (const int id : config.eos) add(id);
  add(tokenizer.special_ids().eos);
  if (const auto id = tokenizer.find_token(tokenizers::kEndOfText)) add(*id);
  return out;
}

// The text of one answer: what of its bytes is sure, and where it stops.
class AnswerText {
 public:
  AnswerText(const tokenizers::Tokenizer& tokenizer, const std::vector<Id>& prompt, const std::vector<std::string>& stops)
      : tokenizer_(&tokenizer), stops_(&stops), tokens_(prompt.end() - static_cast<std::ptrdiff_t>(std::min(prompt.size(), kLead)), prompt.end()),
        lead_(tokenizer.decode(tokens_).size()) {}

  // False: a stop string has come.
  bool add(Id token) {
    tokens_.push_back(token);
    const std::string whole = tokenizer_->decode(tokens_);
    const std::size_t before = bytes_.size();
    bytes_ = whole.size() > lead_ ? whole.substr(lead_) : std::string();
    std::size_t cut = std::string::npos;
    for (const std::string& stop : *stops_) cut = std::min(cut, bytes_.find(stop, std::max(sent_, before > stop.size() ? before - stop.size() : 0)));
    is_cut_ = cut != std::string::npos;
    if (is_cut_) bytes_.resize(cut);
    return !is_cut_;
  }

  // What can be told: whole characters that no stop string can begin in, or at the end everything.
  std::string take(bool is_end) {
    // What a stop string follows will not become whole any more.
    std::size_t sure = is_cut_ ? bytes_.size() : std::max(sent_, core::complete_utf8_prefix(bytes_));
    if (!is_end) sure = std::max(sent_, std::min(sure, core::complete_utf8_prefix(std::string_view(bytes_).substr(0, bytes_.size() - possible_stop()))));
    const std::string out = core::repair_utf8(std::string_view(bytes_).substr(sent_, sure - sent_));
    sent_ = sure;
    return out;
  }

 private:
  // The longest end of the text that a stop string begins with.
  std::size_t possible_stop() const {
    std::size_t longest = 0;
    for (const std::string& stop : *stops_)
      for (std::size_t length = std::min(stop.size() - 1, bytes_.size()); length > longest; --length)
        if (bytes_.compare(bytes_.size() - length, length, stop, 0, length) == 0) longest = length;
    return longest;
  }

  const tokenizers::Tokenizer* tokenizer_;
  const std::vector<std::string>* stops_;
  std::vector<Id> tokens_;
  std::size_t lead_;
  std::string bytes_;
  std::size_t sent_ = 0;
  bool is_cut_ = false;
};

class Writer {
 public:
  Writer(models::Decoder& decoder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer, std::vector<std::vector<Id>> prompts, const GenerateOptions& options,
         const PieceObserver& observer)
      : decoder_(decoder), tokenizer_(tokenizer), prompts_(std::move(prompts)), options_(options), observer_(observer), ends_(end_tokens(config, tokenizer)),
        row_(static_cast<std::size_t>(config.vocab_size)), results_(prompts_.size()) {
    const std::int64_t room = std::clamp<std::int64_t>(options.max_tokens, 1, std::max<std::int64_t>(1, decoder.positions() / 2));
    const auto most = static_cast<std::size_t>(decoder.positions() - std::min(room, decoder.positions() - 1));
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
      if (prompts_[i].size() > most) {
        results_[i].left_out = static_cast<int>(prompts_[i].size() - most);
        prompts_[i].erase(prompts_[i].begin(), prompts_[i].end() - static_cast<std::ptrdiff_t>(most));
      }
      results_[i].prompt_tokens = static_cast<int>(prompts_[i].size());
    }
  }

  std::vector<GenerateResult> run(std::int64_t sequences, const std::function<bool()>& stop) {
    for (int sequence = 0; sequence < sequences; ++sequence) begin_next(sequence);
    while (!active_.empty()) {
      if (stop && stop()) return stopped();
      std::vector<models::Decoder::Piece> pieces;
      for (const Active& one : active_) pieces.push_back({one.sequence, one.next});
      decoder_.accept(pieces, &logits_);
      std::vector<int> free;
      for (std::size_t i = 0; i < active_.size(); ++i)
        if (!advance(active_[i], logits_.data() + i * row_)) free.push_back(active_[i].sequence), active_[i].has_ended = true;
      std::erase_if(active_, [](const Active& one) { return one.has_ended; });
      for (const int sequence : free) begin_next(sequence);
    }
    return std::move(results_);
  }

 private:
  struct Active {
    int sequence;
    std::size_t prompt;
    std::vector<Id> next;  // what the model has not seen yet
    AnswerText text;
    std::vector<bool> is_seen;  // by token, with a repetition penalty
    bool has_ended = false;
  };

  void begin_next(int sequence) {
    if (begun_ == prompts_.size()) return;
    decoder_.restart(sequence);
    const std::vector<Id>& prompt = prompts_[begun_];
    active_.push_back({sequence, begun_, prompt, AnswerText(tokenizer_, prompt, options_.stop), {}});
    ++begun_;
    if (options_.repetition_penalty == 1) return;
    active_.back().is_seen.assign(static_cast<std::size_t>(tokenizer_.vocab_size()), false);
    for (const Id id : prompt) see(active_.back(), id);
  }
  void see(Active& one, Id id) const {
    if (static_cast<std::size_t>(id) < one.is_seen.size()) one.is_seen[static_cast<std::size_t>(id)] = true;
  }

  // False when the answer has ended.
  bool advance(Active& one, float* logits) {
    GenerateResult& result = results_[one.prompt];
    // A model may have rows for tokens that its tokenizer does not know; they are never written.
    const auto count = static_cast<std::size_t>(tokenizer_.vocab_size());
    if (!std::all_of(logits, logits + count, [](float logit) { return std::isfinite(logit); }))
      throw core::Error("model_invalid", "the model's answer is not a number", "after " + std::to_string(decoder_.position(one.sequence)) + " tokens",
                        "Its weights are damaged or have diverged in training; use another model.");
    if (!one.is_seen.empty()) penalize_repetition(logits, one.is_seen, options_.repetition_penalty);
    const SamplerOptions sampler{options_.temperature, options_.top_k, options_.top_p, options_.min_p};
    const double uniform = data::draw_uniform(options_.seed, data::Stream::Sample, one.prompt, static_cast<std::uint64_t>(result.tokens));
    const Id token = choose_token(logits, count, sampler, uniform);
    if (ends_[static_cast<std::size_t>(token)]) return end(one, "end_of_text");
    ++result.tokens;
    see(one, token);
    if (!one.text.add(token)) return end(one, "stop");
    if (decoder_.is_full(one.sequence)) return end(one, "context_full");
    if (result.tokens == options_.max_tokens) return end(one, "max_tokens");
    one.next = {token};
    tell(one, one.text.take(false), false);
    return true;
  }
  bool end(Active& one, const char* reason) {
    results_[one.prompt].end_reason = reason;
    tell(one, one.text.take(true), true);
    return false;
  }
  void tell(const Active& one, const std::string& piece, bool is_last) {
    results_[one.prompt].text += piece;
    if (observer_ && (is_last || !piece.empty())) observer_(one.prompt, piece, results_[one.prompt]);
  }
  std::vector<GenerateResult> stopped() {
    for (Active& one : active_) end(one, "stopped");
    for (; begun_ < results_.size(); ++begun_) results_[begun_].end_reason = "stopped";
    return std::move(results_);
  }

  models::Decoder& decoder_;
  const tokenizers::Tokenizer& tokenizer_;
  std::vector<std::vector<Id>> prompts_;
  const GenerateOptions& options_;
  const PieceObserver& observer_;
  const std::vector<bool> ends_;
  const std::size_t row_;
  std::vector<GenerateResult> results_;
  std::vector<Active> active_;
  std::vector<float> logits_;
  std::size_t begun_ = 0;
};

void encode_messages(const std::string& messages, const tokenizers::Tokenizer& tokenizer, const templates::ChatTemplate& chat_template, std::vector<Id>& out) {
  templates::RenderOptions options = data::render_options(tokenizer, std::time(nullptr));
  options.add_generation_prompt = true;
  const templates::Rendered rendered = chat_template.render(messages, options);
  std::vector<tokenizers::Tokenizer::TextPart> parts;
  std::size_t at = 0;
  const std::string_view text = rendered.text;
  for (const templates::Range& range : rendered.data) {
    parts.push_back({text.substr(at, range.begin - at), true});
    parts.push_back({text.substr(range.begin, range.end - range.begin), false});
    at = range.end;
  }
  parts.push_back({text.substr(at), true});
  tokenizer.encode_parts(parts, false, out);
}

}  // namespace

void check_generate_options(const GenerateOptions& options) {
  const auto refuse = [](const char* field, const char* allowed) { throw core::Error("config_invalid", std::string(field) + " is outside the range", "", allowed); };
  if (options.max_tokens < 1) refuse("max_tokens", "Give at least 1.");
  if (!(options.temperature >= 0 && options.temperature <= 100)) refuse("temperature", "Give a value from 0 to 100.");
  if (options.top_k < 0) refuse("top_k", "Give 0 (off) or more.");
  if (!(options.top_p > 0 && options.top_p <= 1)) refuse("top_p", "Give a value above 0, at most 1.");
  if (!(options.min_p >= 0 && options.min_p <= 1)) refuse("min_p", "Give a value from 0 (off) to 1.");
  if (!(options.repetition_penalty > 0 && options.repetition_penalty <= 100)) refuse("repetition_penalty", "Give a value above 0, at most 100; 1 is none.");
  for (const std::string& stop : options.stop)
    if (stop.empty() || core::first_invalid_utf8(stop) != std::string::npos) refuse("stop", "Give texts of at least one character, in valid UTF-8.");
}

std::vector<std::int32_t> encode_prompt(const std::string& prompt, const GenerateOptions& options, const models::ModelConfig& config,
                                        const tokenizers::Tokenizer& tokenizer, const std::optional<templates::ChatTemplate>& chat_template) {
  if (core::first_invalid_utf8(prompt) != std::string::npos) throw core::Error("config_invalid", "prompt is not valid UTF-8", "", "Give valid UTF-8.");
  std::vector<Id> out;
  if (options.is_chat) {
    if (!chat_template) throw core::Error("config_invalid", "the model has no chat template", "", "Give prompts as texts, or choose a model that was made for conversations.");
    encode_messages(prompt, tokenizer, *chat_template, out);
  } else {
    tokenizer.begin_text(out);
    if (out.empty() && config.family == models::Family::Gpt2) out.push_back(tokenizer.end_of_text());
    tokenizer.encode(prompt, out);
  }
  // The model has to see something before it can go on.
  if (out.empty()) out.push_back(config.bos ? *config.bos : tokenizer.end_of_text());
  return out;
}

std::vector<GenerateResult> write_texts(models::Decoder& decoder, std::int64_t sequences, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                                        std::vector<std::vector<std::int32_t>> prompts, const GenerateOptions& options, const std::function<bool()>& stop,
                                        const PieceObserver& observer) {
  return Writer(decoder, config, tokenizer, std::move(prompts), options, observer).run(sequences, stop);
}

GenerateResult write_text(models::Decoder& decoder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer, const std::string& prompt,
                          const GenerateOptions& options, const std::function<bool()>& stop) {
  return write_texts(decoder, 1, config, tokenizer, {encode_prompt(prompt, options, config, tokenizer, std::nullopt)}, options, stop)[0];
}

}  // namespace pgtrain::engine::train
