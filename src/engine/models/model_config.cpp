// Model configurations: consistency, tensors, writing. Reading is in config_json.cpp and gguf_model.cpp.
#include "engine/models/model_config.hpp"

#include <cmath>
#include <cstdio>

#include "engine/core/error.hpp"

namespace pgtrain::engine::models {
namespace {

using Shape = std::vector<std::uint64_t>;

void add(std::vector<ParameterShape>& out, const std::string& module, Shape weight, bool has_bias, std::uint64_t bias_width) {
  out.push_back({module + ".weight", std::move(weight)});
  if (has_bias) out.push_back({module + ".bias", {bias_width}});
}

std::vector<ParameterShape> llama_shapes(const ModelConfig& config) {
  const auto width = static_cast<std::uint64_t>(config.width), inner = static_cast<std::uint64_t>(config.inner_width);
  const auto head = static_cast<std::uint64_t>(config.head_width), q = static_cast<std::uint64_t>(config.heads) * head,
             kv = static_cast<std::uint64_t>(config.kv_heads) * head;
  const auto vocab = static_cast<std::uint64_t>(config.vocab_size);
  std::vector<ParameterShape> out = {{"model.embed_tokens.weight", {vocab, width}}};
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string block = "model.layers." + std::to_string(layer) + ".", attention = block + "self_attn.";
    out.push_back({block + "input_layernorm.weight", {width}});
    add(out, attention + "q_proj", {q, width}, config.qkv_bias, q);
    add(out, attention + "k_proj", {kv, width}, config.qkv_bias, kv);
    add(out, attention + "v_proj", {kv, width}, config.qkv_bias, kv);
    if (config.qk_norm) {
      out.push_back({attention + "q_norm.weight", {head}});
      out.push_back({attention + "k_norm.weight", {head}});
    }
    add(out, attention + "o_proj", {width, q}, config.output_bias, width);
    out.push_back({block + "post_attention_layernorm.weight", {width}});
    add(out, block + "mlp.gate_proj", {inner, width}, config.mlp_bias, inner);
    add(out, block + "mlp.up_proj", {inner, width}, config.mlp_bias, inner);
    add(out, block + "mlp.down_proj", {width, inner}, config.mlp_bias, width);
  }
  out.push_back({"model.norm.weight", {width}});
  if (!config.ties_head) out.push_back({"lm_head.weight", {vocab, width}});
  return out;
}

std::vector<ParameterShape> gpt2_shapes(const ModelConfig& config) {
  const auto width = static_cast<std::uint64_t>(config.width), inner = static_cast<std::uint64_t>(config.inner_width),
             vocab = static_cast<std::uint64_t>(config.vocab_size);
  std::vector<ParameterShape> out = {{"transformer.wte.weight", {vocab, width}},
                                     {"transformer.wpe.weight", {static_cast<std::uint64_t>(config.context), width}}};
  for (int layer = 0; layer < config.layers; ++layer) {
    const std::string block = "transformer.h." + std::to_string(layer) + ".";
    add(out, block + "ln_1", {width}, true, width);
    add(out, block + "attn.c_attn", {width, 3 * width}, true, 3 * width);
    add(out, block + "attn.c_proj", {width, width}, true, width);
    add(out, block + "ln_2", {width}, true, width);
    add(out, block + "mlp.c_fc", {width, inner}, true, inner);
    add(out, block + "mlp.c_proj", {inner, width}, true, width);
  }
  add(out, "transformer.ln_f", {width}, true, width);
  if (!config.ties_head) out.push_back({"lm_head.weight", {vocab, width}});
  return out;
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  // The shortest form that reads back the same; a configuration is read by people too.
  for (int digits = 1; digits < 17; ++digits) {
    char shorter[40];
    std::snprintf(shorter, sizeof shorter, "%.*g", digits, value);
    if (std::strtod(shorter, nullptr) == value)
      return std::string(shorter).find_first_of(".e") == std::string::npos ? std::string(shorter) + ".0" : shorter;
  }
  return text;
}

class JsonLines {
 public:
  void put(const char* key, const std::string& value) {
    out_ += (out_.empty() ? "{\n" : ",\n") + ("  \"" + std::string(key) + "\": ") + value;
  }
  void put(const char* key, int value) { put(key, std::to_string(value)); }
  void put(const char* key, bool value) { put(key, std::string(value ? "true" : "false")); }
  void put_text(const char* key, const std::string& value) { put(key, "\"" + value + "\""); }
  std::string finish() const { return out_ + "\n}\n"; }

 private:
  std::string out_;
};

void put_tokens(JsonLines& out, const ModelConfig& config) {
  const auto id = [](const std::optional<int>& token) { return token.has_value() ? std::to_string(*token) : std::string("null"); };
  std::string eos;
  for (const int token : config.eos) eos += (eos.empty() ? "" : ", ") + std::to_string(token);
  out.put("bos_token_id", id(config.bos));
  out.put("eos_token_id", config.eos.empty() ? "null" : config.eos.size() == 1 ? eos : "[" + eos + "]");
  out.put("pad_token_id", id(config.pad));
}

void put_rope(JsonLines& out, const Rope& rope) {
  out.put("rope_theta", number(rope.base));
  std::string scaling;
  const auto put = [&](const char* key, const std::string& value) {
    scaling += (scaling.empty() ? "{" : ", ") + ("\"" + std::string(key) + "\": ") + value;
  };
  // transformers before 4.43 knows linear and dynamic by their older key alone, and the others not at all; later ones know both keys.
  const bool is_old = rope.kind == RopeKind::Linear || rope.kind == RopeKind::Dynamic;
  if (rope.kind != RopeKind::Default) {
    put(is_old ? "type" : "rope_type", "\"" + std::string(rope_kind_name(rope.kind)) + "\"");
    put("factor", number(rope.factor));
  }
  if (rope.kind == RopeKind::Llama3) {
    put("low_freq_factor", number(rope.low_frequency_factor));
    put("high_freq_factor", number(rope.high_frequency_factor));
  }
  if (rope.kind == RopeKind::Llama3 || rope.kind == RopeKind::Yarn) put("original_max_position_embeddings", std::to_string(rope.original_context));
  if (rope.kind == RopeKind::Yarn) {
    if (rope.fast_turns != 32) put("beta_fast", number(rope.fast_turns));
    if (rope.slow_turns != 1) put("beta_slow", number(rope.slow_turns));
    if (!rope.rounds_turns) put("truncate", "false");
    // The outcome of mscale and mscale_all_dim too: every version that knows yarn knows this key.
    if (rope.attention_factor != yarn_attention_factor(rope.factor)) put("attention_factor", number(rope.attention_factor));
  }
  out.put("rope_scaling", scaling.empty() ? "null" : scaling + "}");
}

void put_window(JsonLines& out, const ModelConfig& config) {
  if (config.model_type == "mistral") out.put("sliding_window", config.window > 0 ? std::to_string(config.window) : std::string("null"));
  if (config.model_type != "qwen2" && config.model_type != "qwen3") return;
  std::string types;
  int first = config.layers;
  for (int layer = config.layers; layer-- > 0;) {
    types.insert(0, std::string("\"") + (config.slides[layer] ? "sliding" : "full") + "_attention\"" + (types.empty() ? "" : ", "));
    if (config.slides[layer]) first = layer;
  }
  out.put("use_sliding_window", config.window > 0);
  out.put("sliding_window", config.window > 0 ? std::to_string(config.window) : std::string("null"));
  out.put("max_window_layers", first);
  out.put("layer_types", "[" + types + "]");
}

}  // namespace

void ModelConfig::check(const std::string& name) const {
  const auto refuse = [&](const std::string& reason) {
    throw core::Error("model_invalid", name + ": " + reason, "",
                      "The configuration contradicts itself; get the model again from where it was made.");
  };
  const auto text = [](int value) { return std::to_string(value); };
  if (heads % kv_heads != 0) refuse(text(kv_heads) + " key/value heads do not divide " + text(heads) + " heads");
  if (family == Family::Gpt2 && head_width * heads != width) refuse(text(heads) + " heads do not divide the width " + text(width));
  if (family == Family::Llama && head_width % 2 != 0) refuse("heads of " + text(head_width) + " elements cannot be rotated in pairs");
  if (rope.kind == RopeKind::Dynamic && head_width < 4) refuse("a dynamic rotation of heads of 2 elements has no base");
  if (rope.kind == RopeKind::Yarn && !(rope.base > 1)) refuse("yarn's rotation needs a base above 1");
  // A GGUF file can have biases that the model's class in transformers has no place for.
  if (family == Family::Llama && model_type != "qwen2" && qkv_bias != output_bias)
    refuse("biases of q, k and v without one of the output, or the other way round, are not supported in a " + model_type + " model");
  if (model_type == "qwen2" && (!qkv_bias || output_bias)) refuse("a qwen2 model has biases of q, k and v and none of the output");
  if ((model_type == "mistral" && qkv_bias) || (family == Family::Llama && model_type != "llama" && mlp_bias))
    refuse("biases that no " + model_type + " model has");
  if (family == Family::Llama && qk_norm != (model_type == "qwen3"))
    refuse("norms of q and k are supported, and needed, in qwen3 models only");
  if (static_cast<std::int64_t>(head_width) * heads > (1 << 20))
    refuse(text(heads) + " heads of " + text(head_width) + " elements are too wide");
}

ModelConfig fresh_gpt2(int layers, int width, int heads, int context, int vocab_size, int end_of_text) {
  ModelConfig config;
  config.family = Family::Gpt2, config.model_type = "gpt2";
  config.layers = layers, config.width = width, config.heads = config.kv_heads = heads, config.context = context, config.vocab_size = vocab_size;
  config.head_width = width / heads, config.inner_width = 4 * width;
  config.norm_epsilon = 1e-5;
  config.ties_head = config.qkv_bias = config.output_bias = config.mlp_bias = true;
  config.rope.kind = RopeKind::None;
  config.slides.assign(static_cast<std::size_t>(layers), false);
  config.bos = end_of_text, config.eos = {end_of_text};
  return config;
}

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  return config.family == Family::Llama ? llama_shapes(config) : gpt2_shapes(config);
}

std::string ModelConfig::to_json() const {
  JsonLines out;
  const bool is_gpt2 = family == Family::Gpt2;
  const std::string type_class =
      is_gpt2 ? "GPT2LMHeadModel" : static_cast<char>(model_type[0] - 'a' + 'A') + model_type.substr(1) + "ForCausalLM";
  out.put("architectures", "[\"" + type_class + "\"]");
  out.put_text("model_type", model_type);
  out.put("vocab_size", vocab_size);
  if (is_gpt2) {
    out.put("n_embd", width), out.put("n_layer", layers), out.put("n_head", heads), out.put("n_positions", context),
        out.put("n_inner", inner_width);
    out.put_text("activation_function", "gelu_new");
    // Nothing was dropped here in training; absent would mean a tenth.
    for (const char* rate : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) out.put(rate, std::string("0.0"));
    out.put("layer_norm_epsilon", number(norm_epsilon));
  } else {
    out.put("hidden_size", width), out.put("intermediate_size", inner_width), out.put("num_hidden_layers", layers),
        out.put("num_attention_heads", heads);
    out.put("num_key_value_heads", kv_heads), out.put("head_dim", head_width),
        out.put("max_position_embeddings", rope.kind == RopeKind::Dynamic ? rope.original_context : context);
    out.put_text("hidden_act", "silu");
    out.put("rms_norm_eps", number(norm_epsilon));
    if (model_type == "llama" || model_type == "qwen3") out.put("attention_bias", qkv_bias);
    if (model_type == "llama") out.put("mlp_bias", mlp_bias);
    put_rope(out, rope);
    put_window(out, *this);
  }
  out.put("initializer_range", number(initializer_range));
  out.put("tie_word_embeddings", ties_head);
  put_tokens(out, *this);
  if (!stored_type.empty()) out.put_text("torch_dtype", stored_type);
  return out.finish();
}

const std::vector<SupportedModel>& supported_models() {
  static const std::vector<SupportedModel> models = {{"gpt2", "GPT-2 and distilgpt2", "tied or own head; activation gelu_new"},
                                                     {"llama", "Llama 2, Llama 3, 3.1, 3.2, SmolLM, SmolLM2, TinyLlama",
                                                      "rotation default, linear, dynamic, yarn or llama3, as in all below; biases of attention and mlp"},
                                                     {"mistral", "Mistral 7B and others of its shape", "sliding window"},
                                                     {"qwen2", "Qwen2, Qwen2.5", "biases of q, k and v; sliding window per layer"},
                                                     {"qwen3", "Qwen3 (dense)", "norms of q and k; sliding window per layer"}};
  return models;
}

std::string supported_model_types() {
  std::string out;
  for (const SupportedModel& model : supported_models()) out += (out.empty() ? "" : ", ") + std::string(model.model_type);
  return out;
}

}  // namespace pgtrain::engine::models
