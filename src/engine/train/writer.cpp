// Generation over the decoder.
#include "engine/train/writer.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/data/streams.hpp"
#include "engine/train/sampler.hpp"

namespace pgtrain::engine::train {

GenerateResult write_text(models::GptDecoder& decoder, const models::ModelConfig& config, const tokenizers::Tokenizer& tokenizer,
                          const GenerateOptions& options, const std::function<bool()>& stop) {
  GenerateResult result;
  std::vector<std::int32_t> prompt = {tokenizer.end_of_text()};
  tokenizer.encode(options.prompt, prompt);
  const std::size_t room = static_cast<std::size_t>(std::clamp(options.max_tokens, 1, std::max(1, config.context / 2)));
  const std::size_t most = static_cast<std::size_t>(config.context) - std::min(room, static_cast<std::size_t>(config.context) - 1);
  if (prompt.size() > most) prompt.erase(prompt.begin(), prompt.end() - static_cast<std::ptrdiff_t>(most));

  decoder.restart();
  std::vector<float> logits;
  std::vector<std::int32_t> written;
  result.end_reason = "stopped";
  const auto text = [&] {
    std::string bytes = tokenizer.decode(written);
    bytes.resize(core::complete_utf8_prefix(bytes));
    return core::repair_utf8(bytes);
  };
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (stop && stop()) return result;
    decoder.accept(prompt[i], i + 1 == prompt.size() ? &logits : nullptr);
  }
  const SamplerOptions sampler{options.temperature, options.top_k, options.top_p};
  while (true) {
    if (static_cast<int>(written.size()) >= options.max_tokens) {
      result.end_reason = "max_tokens";
      break;
    }
    // A model may have rows for tokens that its tokenizer does not know; they are never written.
    logits.resize(static_cast<std::size_t>(tokenizer.vocab_size()));
    if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); }))
      throw core::Error("model_invalid", "the model's answer is not a number", "after " + std::to_string(decoder.position()) + " tokens",
                        "Its weights are damaged or have diverged in training; use another model.");
    const std::int32_t token = choose_token(logits, sampler, data::draw_uniform(options.seed, data::Stream::Sample, 0, written.size()));
    if (token == tokenizer.end_of_text()) {
      result.end_reason = "end_of_text";
      break;
    }
    written.push_back(token);
    if (decoder.is_full()) {
      result.end_reason = "context_full";
      break;
    }
    if (static_cast<int>(written.size()) == options.max_tokens) continue;
    if (stop && stop()) break;
    decoder.accept(token, &logits);
  }
  result.tokens = static_cast<int>(written.size());
  result.text = text();
  return result;
}

}  // namespace pgtrain::engine::train
