// Opens the model and writes, see generation.hpp.
#include "engine/train/generation.hpp"

#include <algorithm>

#include "engine/core/error.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::size_t kMostAtOnce = 8;  // sequences; more would need their caches' memory and gain little on a CPU
constexpr std::int64_t kRowsAtOnce = 128;

}  // namespace

std::vector<GenerateResult> generate(const ModelFiles& files, const std::vector<std::string>& prompts, const GenerateOptions& options, backend::Backend& backend,
                                     const std::function<bool()>& stop, const PieceObserver& observer) {
  check_generate_options(options);
  if (prompts.empty()) return {};
  bool is_stopped = false;
  const auto stop_since_then = [&] { return is_stopped = is_stopped || (stop && stop()); };
  const OpenModel model = open_model(files, options.chat_template, options.precision, 1, 1, backend, stop_since_then);
  std::optional<templates::ChatTemplate> chat_template;
  if (options.is_chat && !model.chat_template.empty()) chat_template = templates::ChatTemplate::parse(model.chat_template, "the model's chat template");
  std::vector<std::vector<std::int32_t>> encoded;
  std::size_t longest = 0;
  for (const std::string& prompt : prompts) {
    encoded.push_back(encode_prompt(prompt, options, model.config, model.tokenizer, chat_template));
    longest = std::max(longest, encoded.back().size());
  }
  const auto sequences = static_cast<std::int64_t>(std::min(prompts.size(), kMostAtOnce));
  models::Decoder decoder(model.config, model.tuning, *model.store, {.sequences = sequences, .positions = static_cast<std::int64_t>(longest) + options.max_tokens, .rows = kRowsAtOnce});
  return write_texts(decoder, sequences, model.config, model.tokenizer, std::move(encoded), options, stop_since_then, observer);
}

}  // namespace pgtrain::engine::train
