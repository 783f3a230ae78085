// config.json of transformers 4 and 5. What a field means when it is absent is what transformers takes for that model_type.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {
namespace {

using core::JsonValue;

constexpr int kMostLayers = 1024, kMostHeads = 1024, kMostWidth = 65536, kMostInner = 1 << 20, kMostContext = 1 << 27,
              kMostVocabulary = 1 << 22;

class ConfigReader {
 public:
  ConfigReader(std::string_view text, const std::string& name) : root_(JsonValue::parse(text, name)), name_(name) {}

  ModelConfig read() {
    read_model_type();
    refuse_quantized();
    config_.vocab_size = extent("vocab_size", kMostVocabulary);
    config_.initializer_range = positive("initializer_range", 0.02);
    if (config_.family == Family::Gpt2)
      read_gpt2();
    else
      read_llama();
    read_tokens();
    read_stored_type();
    config_.check(name_);
    return std::move(config_);
  }

 private:
  [[noreturn]] void refuse(const std::string& field, const std::string& reason, const std::string& hint = "") const {
    throw core::Error(
        "model_invalid", name_ + ": " + field + ": " + reason, "",
        hint.empty() ? "Options that change the arithmetic are refused unless they are supported; choose a model without this one." : hint);
  }
  [[noreturn]] void refuse_value(const std::string& field, const std::string& value, const std::string& supported) const {
    refuse(field, core::printable(value) + " is not supported, supported: " + supported);
  }

  const JsonValue* find(const char* field) const {
    const JsonValue* value = root_.find(field);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  bool is_type(const char* type) const { return config_.model_type == type; }

  int extent_of(const JsonValue& value, const char* field, int most) const {
    const std::int64_t number = value.as_integer();
    if (number < 1 || number > most) refuse(field, std::to_string(number) + " is not between 1 and " + std::to_string(most));
    return static_cast<int>(number);
  }
  int extent(const char* field, int most) const {
    const JsonValue* value = find(field);
    if (value == nullptr) refuse(field, "is missing", "The file is no complete configuration of a " + config_.model_type + " model.");
    return extent_of(*value, field, most);
  }
  int extent(const char* field, int most, int otherwise) const {
    const JsonValue* value = find(field);
    return value == nullptr ? otherwise : extent_of(*value, field, most);
  }
  double positive_of(const JsonValue& value, const std::string& field) const {
    const double number = value.as_number();
    if (!(number > 0 && std::isfinite(number))) refuse(field, "is not a number above 0");
    return number;
  }
  double positive(const char* field, double otherwise) const {
    const JsonValue* value = find(field);
    return value == nullptr ? otherwise : positive_of(*value, field);
  }
  bool boolean(const char* field, bool otherwise) const {
    const JsonValue* value = find(field);
    return value == nullptr ? otherwise : value->as_boolean();
  }
  void require(const char* field, bool wanted) const {
    if (boolean(field, wanted) != wanted) refuse_value(field, wanted ? "false" : "true", wanted ? "true" : "false");
  }
  void require_one_of(const char* field, std::initializer_list<const char*> supported) const {
    const JsonValue* value = find(field);
    if (value == nullptr) return;
    std::string list;
    for (const char* name : supported) {
      if (value->as_string() == name) return;
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    refuse_value(field, value->as_string(), list);
  }

  void read_model_type() {
    config_.model_type = root_.at("model_type").as_string();
    bool is_known = false;
    for (const SupportedModel& model : supported_models()) is_known = is_known || config_.model_type == model.model_type;
    if (!is_known)
      refuse("model_type", core::printable(config_.model_type) + " is not supported, supported: " + supported_model_types(),
             "Choose a model of one of these types.");
    config_.family = is_type("gpt2") ? Family::Gpt2 : Family::Llama;
    const JsonValue* classes = find("architectures");
    if (classes == nullptr || classes->elements().empty()) return;
    const std::string stem = is_type("gpt2") ? "GPT2" : static_cast<char>(config_.model_type[0] - 'a' + 'A') + config_.model_type.substr(1);
    const std::string whole = stem + (is_type("gpt2") ? "LMHeadModel" : "ForCausalLM"), bare = stem + "Model";
    const std::string& first = classes->elements()[0].as_string();
    if (first != whole && first != bare) refuse_value("architectures", first, whole + ", " + bare);
  }

  void refuse_quantized() const {
    const JsonValue* quantization = find("quantization_config");
    if (quantization == nullptr) return;
    const JsonValue* method = quantization->find("quant_method");
    const std::string name = method != nullptr && method->kind() == JsonValue::Kind::String ? method->as_string() : "unnamed";
    refuse("quantization_config", "the weights are packed by " + core::printable(name) + ", which is not read",
           "Take the model's version without quantisation (F32, F16 or BF16), or a GGUF file; QLoRA quantises it again by itself.");
  }

  void read_gpt2() {
    config_.width = extent("n_embd", kMostWidth);
    config_.layers = extent("n_layer", kMostLayers);
    config_.heads = config_.kv_heads = extent("n_head", kMostHeads);
    config_.context =
        find("n_positions") == nullptr && find("n_ctx") != nullptr ? extent("n_ctx", kMostContext) : extent("n_positions", kMostContext);
    config_.inner_width = extent("n_inner", kMostInner, 4 * config_.width);
    config_.head_width = config_.width / config_.heads;
    config_.norm_epsilon = positive("layer_norm_epsilon", 1e-5);
    config_.ties_head = boolean("tie_word_embeddings", true);
    config_.qkv_bias = config_.output_bias = config_.mlp_bias = true;
    config_.rope.kind = RopeKind::None;
    config_.slides.assign(static_cast<std::size_t>(config_.layers), false);
    for (const char* field : {"attn_pdrop", "embd_pdrop", "resid_pdrop"}) read_dropout(field, 0.1);
    // Two names of one function: the tanh form.
    require_one_of("activation_function", {"gelu_new", "gelu_pytorch_tanh"});
    require("scale_attn_weights", true);
    require("scale_attn_by_inverse_layer_idx", false);
    require("add_cross_attention", false);
  }

  void read_llama() {
    config_.width = extent("hidden_size", kMostWidth);
    config_.inner_width = extent("intermediate_size", kMostInner);
    config_.layers = extent("num_hidden_layers", kMostLayers);
    config_.heads = extent("num_attention_heads", kMostHeads);
    // transformers has other defaults for mistral and qwen; files without this field are from before these models.
    config_.kv_heads =
        is_type("llama") ? extent("num_key_value_heads", kMostHeads, config_.heads) : extent("num_key_value_heads", kMostHeads);
    config_.context = extent("max_position_embeddings", kMostContext);
    read_head_width();
    config_.norm_epsilon = positive("rms_norm_eps", 1e-6);
    config_.ties_head = boolean("tie_word_embeddings", false);
    config_.qk_norm = is_type("qwen3");
    const bool attention_bias = (is_type("llama") || is_type("qwen3")) && boolean("attention_bias", false);
    config_.qkv_bias = is_type("qwen2") || attention_bias;
    config_.output_bias = attention_bias;
    config_.mlp_bias = is_type("llama") && boolean("mlp_bias", false);
    require_one_of("hidden_act", {"silu", "swish"});
    read_dropout("attention_dropout", 0);
    read_rope();
    read_window();
  }

  void read_dropout(const char* field, double otherwise) {
    const double rate = find(field) == nullptr ? otherwise : find(field)->as_number();
    if (!(rate >= 0 && rate < 1)) refuse(field, "is not at least 0 and below 1");
    char text[64];
    std::snprintf(text, sizeof text, "%s %g", field, rate);
    if (rate > 0) config_.dropped.emplace_back(text);
  }

  void read_head_width() {
    if (is_type("qwen3")) {
      config_.head_width = extent("head_dim", kMostWidth, 128);
      return;
    }
    if (find("head_dim") == nullptr && config_.width % config_.heads != 0)
      refuse("num_attention_heads",
             std::to_string(config_.heads) + " heads do not divide the hidden_size " + std::to_string(config_.width));
    config_.head_width = extent("head_dim", kMostWidth, std::max(1, config_.width / config_.heads));
  }

  // transformers 5 writes rope_parameters, 4 rope_theta and rope_scaling; some files have both, which must then agree.
  void read_rope() {
    const JsonValue *current = find("rope_parameters"), *older = find("rope_scaling");
    if (const JsonValue* part = find("partial_rotary_factor"); part != nullptr && part->as_number() != 1)
      refuse_value("partial_rotary_factor", "a part", "1");
    Rope plain;
    plain.base = positive("rope_theta", 10000);
    config_.rope = current != nullptr ? rope_of(*current, "rope_parameters", plain)
                   : older != nullptr ? rope_of(*older, "rope_scaling", plain)
                                      : plain;
    if (current != nullptr && older != nullptr) {
      const Rope a = config_.rope, b = rope_of(*older, "rope_scaling", a);
      if (rope_frequencies(a, 64, kMostContext) != rope_frequencies(b, 64, kMostContext) || a.attention_factor != b.attention_factor)
        refuse("rope_scaling", "says something else than rope_parameters", "Remove the one that is wrong.");
    }
    // A dynamic rotation stretches what max_position_embeddings says.
    if (config_.rope.kind == RopeKind::Dynamic)
      config_.context = static_cast<int>(std::min<double>(kMostContext, std::floor(config_.context * config_.rope.factor)));
  }

  Rope rope_of(const JsonValue& value, const std::string& field, Rope rope) const {
    value.members();  // refuses what is not an object
    const RopeFields fields{*this, value, field};
    if (fields.find("full_attention") != nullptr || fields.find("sliding_attention") != nullptr)
      refuse(field, "a rotation for each kind of layer is not supported");
    rope.base = fields.positive("rope_theta", rope.base);
    if (fields.positive("partial_rotary_factor", 1) != 1) refuse_value(field + ".partial_rotary_factor", "a part", "1");
    const JsonValue* type = fields.find("rope_type") != nullptr ? fields.find("rope_type") : fields.find("type");
    const std::string kind = type == nullptr ? "default" : type->as_string();
    rope.kind = RopeKind::Default, rope.factor = rope.attention_factor = 1;
    if (kind == "default") return rope;
    std::string known;
    for (const RopeKind one : {RopeKind::Linear, RopeKind::Dynamic, RopeKind::Yarn, RopeKind::Llama3}) {
      if (kind == rope_kind_name(one)) rope.kind = one;
      known += std::string(", ") + rope_kind_name(one);
    }
    if (rope.kind == RopeKind::Default) refuse_value(field + ".rope_type", kind, "default" + known);
    if (rope.kind == RopeKind::Yarn && fields.find("factor") == nullptr)
      rope.factor = static_cast<double>(config_.context) / fields.extent("original_max_position_embeddings");
    else
      rope.factor = fields.positive("factor");
    if (rope.factor < 1) refuse(field + ".factor", "is below 1");
    if (rope.kind == RopeKind::Dynamic) rope.original_context = config_.context;
    if (rope.kind == RopeKind::Yarn) read_yarn(fields, rope);
    if (rope.kind != RopeKind::Llama3) return rope;
    rope.low_frequency_factor = fields.positive("low_freq_factor"), rope.high_frequency_factor = fields.positive("high_freq_factor");
    if (!(rope.low_frequency_factor < rope.high_frequency_factor)) refuse(field + ".high_freq_factor", "is not above low_freq_factor");
    rope.original_context = fields.extent("original_max_position_embeddings");
    return rope;
  }

  // The fields of one description of a rotation.
  struct RopeFields {
    const ConfigReader& reader;
    const JsonValue& value;
    const std::string& name;

    const JsonValue* find(const char* key) const {
      const JsonValue* found = value.find(key);
      return found == nullptr || found->is_null() ? nullptr : found;
    }
    const JsonValue& at(const char* key) const {
      if (find(key) == nullptr) reader.refuse(name + "." + key, "is missing");
      return *find(key);
    }
    double positive(const char* key) const { return reader.positive_of(at(key), name + "." + key); }
    double positive(const char* key, double otherwise) const { return find(key) == nullptr ? otherwise : positive(key); }
    // transformers takes 0 for "not said" where it asks for a truth value.
    double positive_or_zero(const char* key, double otherwise) const {
      return find(key) == nullptr || find(key)->as_number() == 0 ? otherwise : positive(key);
    }
    int extent(const char* key) const { return reader.extent_of(at(key), key, kMostContext); }
  };

  void read_yarn(const RopeFields& fields, Rope& rope) const {
    const char* const original = "original_max_position_embeddings";
    rope.original_context = fields.find(original) == nullptr ? config_.context : fields.extent(original);
    rope.fast_turns = fields.positive_or_zero("beta_fast", 32), rope.slow_turns = fields.positive_or_zero("beta_slow", 1);
    rope.rounds_turns = fields.find("truncate") == nullptr || fields.find("truncate")->as_boolean();
    const double own = fields.positive_or_zero("mscale", 0), of_all = fields.positive_or_zero("mscale_all_dim", 0);
    const double inferred = own > 0 && of_all > 0 ? yarn_attention_factor(rope.factor, own) / yarn_attention_factor(rope.factor, of_all)
                                                  : yarn_attention_factor(rope.factor);
    rope.attention_factor = fields.positive("attention_factor", inferred);
  }

  void read_window() {
    config_.slides.assign(static_cast<std::size_t>(config_.layers), false);
    if (is_type("llama")) return;
    if (is_type("mistral")) {
      // Absent means 4096, null means none: so transformers has it.
      config_.window = root_.find("sliding_window") == nullptr ? 4096 : extent("sliding_window", kMostContext, 0);
      config_.slides.assign(config_.slides.size(), config_.window > 0);
      return;
    }
    const int window = boolean("use_sliding_window", false)
                           ? (root_.find("sliding_window") == nullptr ? 4096 : extent("sliding_window", kMostContext, 0))
                           : 0;
    const JsonValue* types = find("layer_types");
    const JsonValue* first = find("max_window_layers");
    const std::int64_t first_layer = first == nullptr ? 28 : first->as_integer();
    if (types != nullptr && types->elements().size() != config_.slides.size())
      refuse("layer_types",
             "names " + std::to_string(types->elements().size()) + " layers, num_hidden_layers " + std::to_string(config_.layers));
    for (std::size_t layer = 0; layer < config_.slides.size(); ++layer) {
      const bool slides = types == nullptr ? static_cast<std::int64_t>(layer) >= first_layer && window > 0
                                           : is_sliding(types->elements()[layer].as_string());
      if (slides && window == 0) refuse("layer_types", "has sliding layers, but there is no sliding_window");
      config_.slides[layer] = slides;
      if (slides) config_.window = window;
    }
  }

  bool is_sliding(const std::string& type) const {
    if (type != "full_attention" && type != "sliding_attention") refuse_value("layer_types", type, "full_attention, sliding_attention");
    return type == "sliding_attention";
  }

  // Ids outside of the vocabulary (-1 as "none" is common) never occur and are left out.
  std::optional<int> token_of(const JsonValue& value) const {
    const std::int64_t id = value.as_integer();
    if (id < 0 || id >= config_.vocab_size) return std::nullopt;
    return static_cast<int>(id);
  }

  void read_tokens() {
    const bool is_old = is_type("llama") || is_type("mistral");
    const auto id = [&](const char* field, std::optional<int> otherwise) {
      return root_.find(field) == nullptr ? otherwise : find(field) == nullptr ? std::nullopt : token_of(*find(field));
    };
    const int last = std::min(50256, config_.vocab_size - 1);
    config_.bos = id("bos_token_id", is_old ? std::optional<int>(1) : is_type("gpt2") ? std::optional<int>(last) : std::nullopt);
    config_.pad = id("pad_token_id", std::nullopt);
    const JsonValue* eos = find("eos_token_id");
    if (eos == nullptr) {
      if (root_.find("eos_token_id") == nullptr && is_old) config_.eos = {2};
      if (root_.find("eos_token_id") == nullptr && is_type("gpt2")) config_.eos = {last};
      return;
    }
    const auto add = [&](const JsonValue& value) {
      const std::optional<int> token = token_of(value);
      if (token.has_value() && std::find(config_.eos.begin(), config_.eos.end(), *token) == config_.eos.end())
        config_.eos.push_back(*token);
    };
    if (eos->kind() != JsonValue::Kind::Array) return add(*eos);
    if (eos->elements().size() > 256) refuse("eos_token_id", "has more than 256 tokens");
    for (const JsonValue& value : eos->elements()) add(value);
  }

  void read_stored_type() {
    const JsonValue* type = find("dtype") != nullptr ? find("dtype") : find("torch_dtype");
    if (type == nullptr || type->kind() != JsonValue::Kind::String) return;
    for (const char* known : {"float32", "float16", "bfloat16"})
      if (type->as_string() == known) config_.stored_type = known;
  }

  const JsonValue root_;
  const std::string& name_;
  ModelConfig config_;
};

}  // namespace

ModelConfig ModelConfig::from_json(std::string_view text, const std::string& name) { return ConfigReader(text, name).read(); }

}  // namespace pgtrain::engine::models
