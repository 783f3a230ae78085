// GGUF metadata and names.
#include "engine/models/gguf_model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::engine::models {
namespace {

struct NameRow {
  const char *here, *there;
};
constexpr NameRow kLlamaGlobals[] = {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr NameRow kLlamaBlock[] = {{"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
                                   {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
                                   {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
                                   {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
                                   {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
                                   {"mlp.down_proj", "ffn_down"}};
constexpr NameRow kGpt2Globals[] = {
    {"transformer.wte", "token_embd"}, {"transformer.wpe", "position_embd"}, {"transformer.ln_f", "output_norm"}, {"lm_head", "output"}};
constexpr NameRow kGpt2Block[] = {{"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
                                  {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"}};

template <std::size_t n>
std::string look_up(const NameRow (&rows)[n], const std::string& module) {
  for (const NameRow& row : rows)
    if (module == row.here) return row.there;
  throw std::logic_error("module " + module + " has no name in GGUF");
}

// A float32 of the file as the decimal number that it was made from.
double decimal_of(double stored) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", stored);
  const double decimal = std::strtod(text, nullptr);
  return static_cast<float>(decimal) == static_cast<float>(stored) ? decimal : stored;
}

// The file has by what yarn's own factor is multiplied.
float stored_attention_factor(const Rope& rope) { return static_cast<float>(rope.attention_factor / yarn_attention_factor(rope.factor)); }
double attention_factor_of(double factor, double stored) { return decimal_of(static_cast<float>(yarn_attention_factor(factor) * stored)); }

class MetadataReader {
 public:
  explicit MetadataReader(const io::GgufFile& file) : file_(file), header_(file.header()) {}

  ModelConfig read() {
    read_architecture();
    refuse_what_is_more();
    read_sizes();
    if (config_.family == Family::Gpt2)
      read_gpt2();
    else
      read_llama();
    read_tokens();
    config_.check(header_.name());
    return std::move(config_);
  }

 private:
  [[noreturn]] void refuse(const std::string& field, const std::string& reason, const std::string& hint = "") const {
    throw core::Error(
        "model_invalid", header_.name() + ": " + field + ": " + reason, "",
        hint.empty() ? "Options that change the arithmetic are refused unless they are supported; choose a model without this one." : hint);
  }
  std::string key(const char* field) const { return architecture_ + "." + field; }
  bool has(const std::string& tensor) const { return header_.find_tensor(tensor) != nullptr; }

  int extent(const char* field, std::uint64_t most) const {
    const auto value = header_.find_unsigned(key(field));
    if (!value.has_value()) refuse(key(field), "is missing", "The file holds no complete model of this architecture.");
    if (*value < 1 || *value > most) refuse(key(field), std::to_string(*value) + " is not between 1 and " + std::to_string(most));
    return static_cast<int>(*value);
  }
  int extent(const char* field, std::uint64_t most, int otherwise) const {
    return header_.find(key(field)) == nullptr ? otherwise : extent(field, most);
  }

  // Some files have one number for each layer; they must be the same.
  int heads(const char* field, std::optional<int> otherwise) const {
    const io::GgufValue* value = header_.find(key(field));
    if (value == nullptr && otherwise.has_value()) return *otherwise;
    if (value == nullptr || value->kind != io::GgufKind::Array) return extent(field, 1024);
    const auto numbers = header_.find_integers(key(field));
    if (numbers.empty() || std::any_of(numbers.begin(), numbers.end(), [&](std::int64_t n) { return n != numbers[0]; }))
      refuse(key(field), "different numbers in different layers are not supported");
    if (numbers[0] < 1 || numbers[0] > 1024) refuse(key(field), std::to_string(numbers[0]) + " is not between 1 and 1024");
    return static_cast<int>(numbers[0]);
  }
  double positive(const char* field, double otherwise) const {
    const double value = header_.find_number(key(field)).value_or(otherwise);
    if (!(value > 0 && std::isfinite(value))) refuse(key(field), "is not a number above 0");
    return value;
  }
  double decimal(const char* field, double otherwise) const { return decimal_of(positive(field, otherwise)); }

  void read_architecture() {
    const auto value = header_.find_text("general.architecture");
    if (!value.has_value()) refuse("general.architecture", "is missing", "The file holds no model.");
    architecture_ = *value;
    const char* const known[] = {"gpt2", "llama", "qwen2", "qwen3"};
    if (std::find(std::begin(known), std::end(known), architecture_) == std::end(known))
      refuse("general.architecture",
             core::printable(architecture_) + " is not supported, supported: gpt2, llama (mistral among them), qwen2, qwen3",
             "Choose a model of one of these architectures.");
    config_.model_type = architecture_;
    config_.family = architecture_ == "gpt2" ? Family::Gpt2 : Family::Llama;
  }

  void refuse_what_is_more() const {
    if (header_.find_unsigned("split.count").value_or(1) > 1)
      refuse("split.count", "the model is split into several files, which is not read",
             "Join them with llama.cpp's llama-gguf-split --merge.");
    if (const auto type = header_.find_text("general.type"); type.has_value() && *type != "model")
      refuse("general.type", core::printable(*type) + " is not supported, supported: model", "Give the file of the base model.");
    if (header_.find_unsigned(key("expert_count")).value_or(0) > 0) refuse(key("expert_count"), "mixtures of experts are not supported");
  }

  void read_sizes() {
    config_.layers = extent("block_count", 1024);
    config_.width = extent("embedding_length", 65536);
    config_.inner_width = extent("feed_forward_length", 1 << 20);
    config_.context = extent("context_length", 1 << 27);
    config_.heads = heads("attention.head_count", std::nullopt);
    config_.kv_heads = heads("attention.head_count_kv", config_.heads);
    const io::GgufTensor* embedding = header_.find_tensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2)
      refuse("tensor \"token_embd.weight\"", "is missing or no matrix", "The file holds no complete model.");
    const std::uint64_t rows = embedding->shape[0];
    if (rows > (1 << 22))
      refuse("tensor \"token_embd.weight\"", "has " + std::to_string(rows) + " tokens, " + std::to_string(1 << 22) + " are allowed");
    if (const auto said = header_.find_unsigned(key("vocab_size")); said.has_value() && *said != rows)
      refuse(key("vocab_size"), std::to_string(*said) + ", but token_embd.weight has " + std::to_string(rows) + " rows",
             "The file contradicts itself; get it again from where it was made.");
    config_.vocab_size = static_cast<int>(rows);
    config_.slides.assign(static_cast<std::size_t>(config_.layers), false);
    config_.ties_head = !has("output.weight") || is_copy_of_embedding(*embedding);
  }

  // gpt2's converter once wrote the tied matrix twice.
  bool is_copy_of_embedding(const io::GgufTensor& embedding) const {
    const io::GgufTensor& output = *header_.find_tensor("output.weight");
    return config_.family == Family::Gpt2 && output.type == embedding.type && output.shape == embedding.shape &&
           file_.data(output) == file_.data(embedding);
  }

  void read_gpt2() {
    config_.head_width = config_.width / config_.heads;
    config_.norm_epsilon = decimal("attention.layer_norm_epsilon", 1e-5);
    config_.qkv_bias = config_.output_bias = config_.mlp_bias = true;
    config_.rope.kind = RopeKind::None;
  }

  void read_llama() {
    const int key_width = extent("attention.key_length", 65536, std::max(1, config_.width / config_.heads));
    if (extent("attention.value_length", 65536, key_width) != key_width)
      refuse(key("attention.value_length"), "differs from attention.key_length, which is not supported");
    config_.head_width = key_width;
    if (const int rotated = extent("rope.dimension_count", 65536, key_width); rotated != key_width)
      refuse(key("rope.dimension_count"),
             std::to_string(rotated) + " of " + std::to_string(key_width) + " elements rotated is not supported, all must be");
    config_.norm_epsilon = decimal("attention.layer_norm_rms_epsilon", 1e-6);
    config_.qkv_bias = has("blk.0.attn_q.bias"), config_.output_bias = has("blk.0.attn_output.bias"),
    config_.mlp_bias = has("blk.0.ffn_up.bias");
    config_.qk_norm = has("blk.0.attn_q_norm.weight");
    read_rope();
    if (header_.find_unsigned(key("attention.sliding_window")).value_or(0) == 0) return;
    const int window = extent("attention.sliding_window", 1 << 27);
    if (architecture_ != "llama") refuse(key("attention.sliding_window"), "is supported for llama (mistral) only");
    // llama.cpp passes over it, so a file with a longer context means a model that sees everything.
    if (window < config_.context) return;
    config_.window = window;
    config_.model_type = "mistral";
    config_.slides.assign(config_.slides.size(), true);
  }

  void read_rope() {
    Rope& rope = config_.rope;
    rope.base = decimal("rope.freq_base", 10000);
    const std::string kind(header_.find_text(key("rope.scaling.type")).value_or("none"));
    if (kind != "none" && kind != "linear" && kind != "yarn")
      refuse(key("rope.scaling.type"), core::printable(kind) + " is not supported, supported: none, linear, yarn, and llama3's " + kRopeFactors);
    const double factor = kind == "none" ? decimal("rope.scale_linear", 1) : decimal("rope.scaling.factor", 1);
    if (factor != 1) rope.kind = RopeKind::Linear, rope.factor = factor;
    if (kind == "yarn")
      read_yarn();
    else
      require_number("rope.scaling.attn_factor", 1);
    const io::GgufTensor* tensor = header_.find_tensor(kRopeFactors);
    if (tensor == nullptr) return;
    const std::string label = std::string("tensor \"") + kRopeFactors + "\"";
    if (factor != 1 || tensor->type != io::BlockType::F32 || tensor->elements() != static_cast<std::uint64_t>(config_.head_width / 2))
      refuse(label, "does not fit the rest of the file");
    std::vector<float> factors(tensor->elements());
    file_.read_f32(*tensor, 0, factors.size(), factors.data());
    fit_llama3(factors, label);
  }

  void read_yarn() {
    Rope& rope = config_.rope;
    if (rope.factor < 1) refuse(key("rope.scaling.factor"), "is below 1");
    rope.kind = RopeKind::Yarn;
    rope.original_context = extent("rope.scaling.original_context_length", 1 << 27, config_.context);
    rope.attention_factor = yarn_attention_factor(rope.factor);
    if (const double stored = positive("rope.scaling.attn_factor", 1); stored != 1) rope.attention_factor = attention_factor_of(rope.factor, stored);
    // llama.cpp passes over these for the architectures here; a file that has others was not meant as it computes it.
    require_number("rope.scaling.yarn_beta_fast", 32);
    require_number("rope.scaling.yarn_beta_slow", 1);
    require_number("rope.scaling.yarn_ext_factor", 1);
    require_number("rope.scaling.yarn_attn_factor", rope.attention_factor);
    require_number("rope.scaling.yarn_log_multiplier", 0);
  }
  void require_number(const char* field, double wanted) const {
    const double value = header_.find_number(key(field)).value_or(wanted);
    if (std::fabs(value - wanted) <= 1e-5) return;
    char text[96];
    std::snprintf(text, sizeof text, "%.6g is not supported, supported: %.6g", value, wanted);
    refuse(key(field), text);
  }

  // The file has the outcome of llama3's scaling, not its numbers. All such models were made with 1 and 4 for the ends; the
  // factor is the largest divisor, and the original context is one of a few.
  void fit_llama3(const std::vector<float>& factors, const std::string& label) {
    if (std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1; })) return;
    Rope wanted = config_.rope;
    wanted.kind = RopeKind::Llama3, wanted.factor = *std::max_element(factors.begin(), factors.end());
    for (int context = 1 << 4; wanted.factor > 1 && context <= 1 << 17; context *= 2) {
      wanted.original_context = context;
      const std::vector<float> made = rope_factors(wanted, config_.head_width);
      const bool is_same =
          std::equal(made.begin(), made.end(), factors.begin(), [](float a, float b) { return std::fabs(a - b) <= 1e-4f * b; });
      if (is_same) {
        config_.rope = wanted;
        return;
      }
    }
    refuse(label, "is not the scaling of Llama 3.1 and later (low 1, high 4), others are not supported");
  }

  void read_tokens() {
    const auto token = [&](const char* field) -> std::optional<int> {
      const auto id = header_.find_unsigned(std::string("tokenizer.ggml.") + field);
      if (!id.has_value() || *id >= static_cast<std::uint64_t>(config_.vocab_size)) return std::nullopt;
      return static_cast<int>(*id);
    };
    config_.bos = token("bos_token_id");
    config_.pad = token("padding_token_id");
    for (const char* field : {"eos_token_id", "eot_token_id", "eom_token_id"})
      if (const auto id = token(field); id.has_value() && std::find(config_.eos.begin(), config_.eos.end(), *id) == config_.eos.end())
        config_.eos.push_back(*id);
  }

  const io::GgufFile& file_;
  const io::GgufHeader& header_;
  std::string architecture_;
  ModelConfig config_;
};

}  // namespace

ModelConfig config_from_gguf(const io::GgufFile& file) { return MetadataReader(file).read(); }

std::string gguf_obstacle(const ModelConfig& config) {
  if (config.window > 0 && config.model_type != "mistral") return "the sliding window of a " + config.model_type + " model has no place in a GGUF file";
  if (config.rope.kind == RopeKind::Yarn && (config.rope.fast_turns != 32 || config.rope.slow_turns != 1 || !config.rope.rounds_turns))
    return "llama.cpp computes yarn with beta_fast 32, beta_slow 1 and truncate alone, this model has others";
  return "";
}

ModelConfig gguf_config(ModelConfig config) {
  const auto rounded = [](double value) { return decimal_of(static_cast<float>(value)); };
  Rope& rope = config.rope;
  if (config.window > 0) config.context = std::min(config.window, config.context);
  if (rope.kind == RopeKind::Dynamic) config.context = std::min(config.context, rope.original_context), rope.kind = RopeKind::Default, rope.factor = 1;
  config.norm_epsilon = rounded(config.norm_epsilon), rope.base = rounded(rope.base), rope.factor = rounded(rope.factor);
  if (rope.kind != RopeKind::Yarn) return config;
  const float stored = stored_attention_factor(rope);
  rope.attention_factor = stored == 1 ? yarn_attention_factor(rope.factor) : attention_factor_of(rope.factor, stored);
  return config;
}

void write_gguf_metadata(io::GgufWriter& writer, const ModelConfig& config, const std::string& model_name) {
  const std::string architecture = config.model_type == "mistral" ? "llama" : config.model_type;
  if (const std::string obstacle = gguf_obstacle(config); !obstacle.empty())
    throw core::Error("model_invalid", obstacle, "", "Export this model as safetensors.");
  const auto set = [&](const char* field, int value) { writer.set_u32(architecture + "." + field, static_cast<std::uint32_t>(value)); };
  const auto set_number = [&](const char* field, double value) { writer.set_f32(architecture + "." + field, static_cast<float>(value)); };
  writer.set_text("general.architecture", architecture);
  writer.set_text("general.type", "model");
  writer.set_text("general.name", model_name);
  writer.set_u32("general.quantization_version", 2);
  set("block_count", config.layers), set("context_length", gguf_config(config).context), set("embedding_length", config.width),
      set("feed_forward_length", config.inner_width);
  set("attention.head_count", config.heads);
  if (config.family == Family::Gpt2) {
    set_number("attention.layer_norm_epsilon", config.norm_epsilon);
    return;
  }
  set("attention.head_count_kv", config.kv_heads), set("attention.key_length", config.head_width),
      set("attention.value_length", config.head_width);
  set("rope.dimension_count", config.head_width), set("vocab_size", config.vocab_size);
  set_number("attention.layer_norm_rms_epsilon", config.norm_epsilon), set_number("rope.freq_base", config.rope.base);
  if (config.rope.kind == RopeKind::Linear) {
    writer.set_text(architecture + ".rope.scaling.type", "linear");
    set_number("rope.scaling.factor", config.rope.factor);
  }
  if (config.rope.kind == RopeKind::Yarn) {
    writer.set_text(architecture + ".rope.scaling.type", "yarn");
    set_number("rope.scaling.factor", config.rope.factor), set("rope.scaling.original_context_length", config.rope.original_context);
    if (const float stored = stored_attention_factor(config.rope); stored != 1) set_number("rope.scaling.attn_factor", stored);
  }
  if (config.window > 0) set("attention.sliding_window", config.window);
}

GgufPlace gguf_place(const ModelConfig& config, const ParameterShape& parameter) {
  const bool is_gpt2 = config.family == Family::Gpt2;
  const std::size_t dot = parameter.name.rfind('.');
  const std::string module = parameter.name.substr(0, dot), kind = parameter.name.substr(dot);
  const std::string blocks = is_gpt2 ? "transformer.h." : "model.layers.";
  GgufPlace out;
  out.shape = parameter.shape;
  if (module.rfind(blocks, 0) != 0) {
    out.name = (is_gpt2 ? look_up(kGpt2Globals, module) : look_up(kLlamaGlobals, module)) + kind;
    return out;
  }
  const std::size_t end = module.find('.', blocks.size());
  const std::string inner = module.substr(end + 1);
  out.name = "blk." + module.substr(blocks.size(), end - blocks.size()) + "." +
             (is_gpt2 ? look_up(kGpt2Block, inner) : look_up(kLlamaBlock, inner)) + kind;
  if (is_gpt2 && parameter.shape.size() == 2) {
    out.layout = GgufLayout::Transposed;
    std::swap(out.shape[0], out.shape[1]);
  }
  const bool is_llama = config.model_type == "llama" || config.model_type == "mistral";
  if (is_llama && (inner == "self_attn.q_proj" || inner == "self_attn.k_proj")) out.layout = GgufLayout::Pairs;
  return out;
}

std::uint64_t parameter_row(GgufLayout layout, std::uint64_t row, std::uint64_t head_width) {
  if (layout != GgufLayout::Pairs) return row;
  const std::uint64_t head = row / head_width, within = row % head_width;
  return head * head_width + within % 2 * (head_width / 2) + within / 2;
}

void to_gguf_layout(const GgufPlace& place, int head_width, const float* values, float* out) {
  const std::uint64_t rows = place.shape[0], columns = place.shape.size() == 2 ? place.shape[1] : 1;
  for (std::uint64_t row = 0; row < rows; ++row) {
    const std::uint64_t from = parameter_row(place.layout, row, static_cast<std::uint64_t>(head_width));
    if (place.layout == GgufLayout::Transposed)
      for (std::uint64_t column = 0; column < columns; ++column) out[row * columns + column] = values[column * rows + row];
    else
      std::copy_n(values + from * columns, columns, out + row * columns);
  }
}

std::vector<float> rope_factors(const Rope& rope, int head_width) {
  Rope plain = rope;
  plain.kind = RopeKind::Default;
  std::vector<float> out = rope_frequencies(plain, head_width, 0);
  const std::vector<float> scaled = rope_frequencies(rope, head_width, 0);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] /= scaled[i];
  return out;
}

}  // namespace pgtrain::engine::models
