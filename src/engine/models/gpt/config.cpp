// gpt configurations: counting, naming, initial weights, config.json.
#include "engine/models/gpt/config.hpp"

#include <cmath>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/philox.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr double kDeviation = 0.02;
constexpr std::uint32_t kWeightsStream = 3;  // data/streams.hpp, Stream::Weights

[[noreturn]] void refuse(const std::string& name, const std::string& field, const std::string& reason) {
  throw core::Error("model_invalid", name + ": " + field + ": " + reason, "",
                    "Supported are GPT-2 models as GPT2LMHeadModel saves them, without options that change the arithmetic.");
}

int read_extent(const core::JsonValue& root, const char* field, std::int64_t most, const std::string& name) {
  const std::int64_t value = root.at(field).as_integer();
  if (value < 1 || value > most) refuse(name, field, std::to_string(value) + " is not between 1 and " + std::to_string(most));
  return static_cast<int>(value);
}

void require_boolean(const core::JsonValue& root, const char* field, bool wanted, const std::string& name) {
  const core::JsonValue* value = root.find(field);
  if (value != nullptr && !value->is_null() && value->as_boolean() != wanted)
    refuse(name, field, std::string(wanted ? "false" : "true") + " is not supported");
}

}  // namespace

std::uint64_t GptConfig::parameters() const {
  std::uint64_t total = 0;
  for (const GptParameter& parameter : gpt_parameters(*this)) {
    std::uint64_t elements = 1;
    for (const std::int64_t extent : parameter.shape) elements *= static_cast<std::uint64_t>(extent);
    total += elements;
  }
  return total;
}

std::vector<GptParameter> gpt_parameters(const GptConfig& config) {
  const std::int64_t c = config.width;
  const auto block = [](int layer) { return "transformer.h." + std::to_string(layer) + "."; };
  // Matrices first: the optimiser then touches what decays and what does not in one call each.
  std::vector<GptParameter> out;
  out.push_back({"transformer.wte.weight", {config.vocab_size, c}, GptInit::Normal, true});
  out.push_back({"transformer.wpe.weight", {config.context, c}, GptInit::Normal, true});
  for (int layer = 0; layer < config.layers; ++layer) {
    out.push_back({block(layer) + "attn.c_attn.weight", {c, 3 * c}, GptInit::Normal, true});
    out.push_back({block(layer) + "attn.c_proj.weight", {c, c}, GptInit::ResidualNormal, true});
    out.push_back({block(layer) + "mlp.c_fc.weight", {c, 4 * c}, GptInit::Normal, true});
    out.push_back({block(layer) + "mlp.c_proj.weight", {4 * c, c}, GptInit::ResidualNormal, true});
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    out.push_back({block(layer) + "ln_1.weight", {c}, GptInit::One, false});
    out.push_back({block(layer) + "ln_1.bias", {c}, GptInit::Zero, false});
    out.push_back({block(layer) + "attn.c_attn.bias", {3 * c}, GptInit::Zero, false});
    out.push_back({block(layer) + "attn.c_proj.bias", {c}, GptInit::Zero, false});
    out.push_back({block(layer) + "ln_2.weight", {c}, GptInit::One, false});
    out.push_back({block(layer) + "ln_2.bias", {c}, GptInit::Zero, false});
    out.push_back({block(layer) + "mlp.c_fc.bias", {4 * c}, GptInit::Zero, false});
    out.push_back({block(layer) + "mlp.c_proj.bias", {c}, GptInit::Zero, false});
  }
  out.push_back({"transformer.ln_f.weight", {c}, GptInit::One, false});
  out.push_back({"transformer.ln_f.bias", {c}, GptInit::Zero, false});
  return out;
}

void initialize_gpt_parameter(const GptConfig& config, const GptParameter& parameter, std::size_t index, std::uint64_t seed, float* out) {
  std::uint64_t count = 1;
  for (const std::int64_t extent : parameter.shape) count *= static_cast<std::uint64_t>(extent);
  if (parameter.init == GptInit::Zero || parameter.init == GptInit::One) {
    for (std::uint64_t i = 0; i < count; ++i) out[i] = parameter.init == GptInit::One ? 1.0f : 0.0f;
    return;
  }
  const double deviation = parameter.init == GptInit::Normal ? kDeviation : kDeviation / std::sqrt(2.0 * config.layers);
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  // Two normal numbers from each draw (Box and Muller), with 53-bit uniforms that are never 0.
  for (std::uint64_t i = 0; i < count; i += 2) {
    const auto words = core::philox(key, {static_cast<std::uint32_t>(i / 2), static_cast<std::uint32_t>(i / 2 >> 32), static_cast<std::uint32_t>(index), kWeightsStream});
    const double radius_draw = (static_cast<double>((std::uint64_t{words[1]} << 32 | words[0]) >> 11) + 0.5) * 0x1p-53;
    const double angle_draw = static_cast<double>((std::uint64_t{words[3]} << 32 | words[2]) >> 11) * 0x1p-53;
    const double radius = std::sqrt(-2.0 * std::log(radius_draw)) * deviation, angle = 2.0 * M_PI * angle_draw;
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

std::string GptConfig::to_json(const std::string& stored_precision) const {
  const auto number = [](std::int64_t value) { return std::to_string(value); };
  return "{\n"
         "  \"activation_function\": \"gelu_new\",\n  \"architectures\": [\"GPT2LMHeadModel\"],\n"
         "  \"attn_pdrop\": 0.0,\n  \"bos_token_id\": " + number(end_of_text) +
         ",\n  \"embd_pdrop\": 0.0,\n  \"eos_token_id\": " + number(end_of_text) +
         ",\n  \"initializer_range\": 0.02,\n  \"layer_norm_epsilon\": 1e-05,\n  \"model_type\": \"gpt2\",\n  \"n_ctx\": " + number(context) +
         ",\n  \"n_embd\": " + number(width) + ",\n  \"n_head\": " + number(heads) + ",\n  \"n_inner\": null,\n  \"n_layer\": " + number(layers) +
         ",\n  \"n_positions\": " + number(context) +
         ",\n  \"reorder_and_upcast_attn\": false,\n  \"resid_pdrop\": 0.0,\n  \"scale_attn_by_inverse_layer_idx\": false,\n"
         "  \"scale_attn_weights\": true,\n  \"tie_word_embeddings\": true,\n  \"torch_dtype\": \"" +
         (stored_precision == "bf16" ? "bfloat16" : "float32") + "\",\n  \"use_cache\": true,\n  \"vocab_size\": " + number(vocab_size) + "\n}\n";
}

GptConfig GptConfig::from_json(std::string_view text, const std::string& name) {
  const core::JsonValue root = core::JsonValue::parse(text, name);
  const std::string& type = root.at("model_type").as_string();
  if (type != "gpt2") refuse(name, "model_type", core::printable(type) + " is not supported, only gpt2");
  GptConfig config;
  config.layers = read_extent(root, "n_layer", 1024, name);
  config.width = read_extent(root, "n_embd", 65536, name);
  config.heads = read_extent(root, "n_head", 1024, name);
  config.context = read_extent(root, "n_positions", 1 << 20, name);
  config.vocab_size = read_extent(root, "vocab_size", 1 << 22, name);
  if (config.width % config.heads != 0) refuse(name, "n_head", "does not divide n_embd");
  if (const auto* inner = root.find("n_inner"); inner != nullptr && !inner->is_null() && inner->as_integer() != 4LL * config.width)
    refuse(name, "n_inner", "only 4 * n_embd is supported");
  if (const auto* activation = root.find("activation_function"); activation != nullptr && activation->as_string() != "gelu_new")
    refuse(name, "activation_function", core::printable(activation->as_string()) + " is not supported, only gelu_new");
  if (const auto* epsilon = root.find("layer_norm_epsilon"); epsilon != nullptr) {
    config.layer_norm_epsilon = epsilon->as_number();
    if (!(config.layer_norm_epsilon > 0 && config.layer_norm_epsilon < 1)) refuse(name, "layer_norm_epsilon", "is not between 0 and 1");
  }
  require_boolean(root, "scale_attn_weights", true, name);
  require_boolean(root, "scale_attn_by_inverse_layer_idx", false, name);
  require_boolean(root, "tie_word_embeddings", true, name);
  if (const auto* end = root.find("eos_token_id"); end != nullptr && !end->is_null()) {
    const std::int64_t id = end->as_integer();
    if (id < 0 || id >= config.vocab_size) refuse(name, "eos_token_id", std::to_string(id) + " is not in the vocabulary");
    config.end_of_text = static_cast<int>(id);
  }
  return config;
}

}  // namespace pgtrain::engine::models
