// config.json in the forms of transformers 4 and 5: what is read, what is refused and how it is named.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/error.hpp"
#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {
namespace {

ModelConfig read(const std::string& text) { return ModelConfig::from_json(text, "config.json"); }

std::string refusal(const std::string& text) {
  try {
    read(text);
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "model_invalid");
    EXPECT_NE(error.message.find("config.json"), std::string::npos) << error.message;
    return error.message;
  }
  return "";
}

std::string llama(const std::string& more, const std::string& type = "llama") {
  return R"({"model_type":")" + type +
         R"(","vocab_size":100,"hidden_size":64,"intermediate_size":96,"num_hidden_layers":4,"num_attention_heads":4,)"
         R"("num_key_value_heads":2,"max_position_embeddings":128,"some_unknown_key":{"a":[1]})" +
         (more.empty() ? "" : "," + more) + "}";
}
std::string gpt2(const std::string& more) {
  return R"({"model_type":"gpt2","vocab_size":100,"n_embd":64,"n_layer":2,"n_head":4,"n_positions":128)" +
         (more.empty() ? "" : "," + more) + "}";
}

TEST(ModelConfig, TakesTheDefaultsOfEachType) {
  const ModelConfig a = read(llama(""));
  EXPECT_EQ(a.head_width, 16);
  EXPECT_EQ(a.kv_heads, 2);
  EXPECT_EQ(a.norm_epsilon, 1e-6);
  EXPECT_FALSE(a.ties_head || a.qkv_bias || a.output_bias || a.mlp_bias || a.qk_norm);
  EXPECT_EQ(a.rope.kind, RopeKind::Default);
  EXPECT_EQ(a.rope.base, 10000);
  EXPECT_EQ(a.eos, std::vector<int>{2});
  EXPECT_EQ(a.window, 0);
  const ModelConfig b = read(llama("", "qwen2"));
  EXPECT_TRUE(b.qkv_bias);
  EXPECT_FALSE(b.output_bias || b.qk_norm);
  EXPECT_TRUE(b.eos.empty());
  const ModelConfig c = read(llama("", "qwen3"));
  EXPECT_TRUE(c.qk_norm);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_EQ(c.head_width, 128);
  const ModelConfig d = read(llama("", "mistral"));
  EXPECT_EQ(d.window, 4096);
  EXPECT_EQ(d.slides, std::vector<bool>(4, true));
  EXPECT_EQ(read(llama(R"("sliding_window":null)", "mistral")).window, 0);
  const ModelConfig e = read(gpt2(""));
  EXPECT_TRUE(e.ties_head && e.qkv_bias && e.output_bias && e.mlp_bias);
  EXPECT_EQ(e.inner_width, 256);
  EXPECT_EQ(e.norm_epsilon, 1e-5);
  EXPECT_EQ(read(gpt2(R"("n_inner":100)")).inner_width, 100);
  EXPECT_EQ(read(gpt2(R"("n_inner":null,"tie_word_embeddings":false)")).inner_width, 256);
}

TEST(ModelConfig, ReadsBothFormsOfTheRotation) {
  const ModelConfig old = read(llama(
      R"("rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})"));
  const ModelConfig current = read(llama(
      R"("rope_parameters":{"rope_theta":500000.0,"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})"));
  for (const ModelConfig& config : {old, current}) {
    EXPECT_EQ(config.rope.kind, RopeKind::Llama3);
    EXPECT_EQ(config.rope.base, 500000);
    EXPECT_EQ(config.rope.factor, 8);
    EXPECT_EQ(config.rope.original_context, 64);
  }
  const ModelConfig linear = read(llama(R"("rope_theta":20000,"rope_scaling":{"type":"linear","factor":2.5})"));
  EXPECT_EQ(linear.rope.kind, RopeKind::Linear);
  EXPECT_EQ(linear.rope.base, 20000);
  EXPECT_EQ(linear.rope.factor, 2.5);
  EXPECT_EQ(read(llama(R"("rope_parameters":{"rope_theta":7e5,"rope_type":"default"},"rope_scaling":null)")).rope.base, 7e5);
  EXPECT_EQ(
      refusal(llama(R"("rope_parameters":{"rope_theta":1e4,"rope_type":"linear","factor":2},"rope_scaling":{"type":"linear","factor":2})")),
      "");
  // Frequencies: linear divides all, llama3 leaves the fast ones and divides the slow ones.
  const auto plain = rope_frequencies({}, 16, 0), divided = rope_frequencies(linear.rope, 16, 0), scaled = rope_frequencies(old.rope, 16, 0);
  EXPECT_EQ(plain[0], 1);
  EXPECT_FLOAT_EQ(plain[4], 0.01f);
  EXPECT_FLOAT_EQ(divided[0], 0.4f);
  Rope unscaled = old.rope;
  unscaled.kind = RopeKind::Default;
  EXPECT_EQ(scaled[0], rope_frequencies(unscaled, 16, 0)[0]);
  EXPECT_FLOAT_EQ(scaled[7], rope_frequencies(unscaled, 16, 0)[7] / 8);
}

TEST(ModelConfig, ReadsStretchedRotations) {
  for (const char* form : {"rope_scaling", "rope_parameters"}) {
    const auto described = [&](const std::string& fields) { return read(llama("\"" + std::string(form) + "\":{" + fields + "}")); };
    const ModelConfig dynamic = described(R"("type":"dynamic","factor":2.5)");
    EXPECT_EQ(dynamic.rope.kind, RopeKind::Dynamic);
    EXPECT_EQ(dynamic.rope.original_context, 128);
    EXPECT_EQ(dynamic.context, 320);
    EXPECT_EQ(rope_frequencies(dynamic.rope, 16, 128), rope_frequencies({}, 16, 0));
    EXPECT_NE(rope_frequencies(dynamic.rope, 16, 129), rope_frequencies({}, 16, 0));

    const Rope yarn = described(R"("rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32)").rope;
    EXPECT_EQ(yarn.kind, RopeKind::Yarn);
    EXPECT_EQ(yarn.original_context, 32);
    EXPECT_EQ(yarn.attention_factor, yarn_attention_factor(4));
    EXPECT_TRUE(yarn.fast_turns == 32 && yarn.slow_turns == 1 && yarn.rounds_turns);
    const Rope all = described(
        R"("rope_type":"yarn","factor":4,"original_max_position_embeddings":32,"beta_fast":20,"beta_slow":2,"truncate":false,"attention_factor":0.9,"mscale":3,"mscale_all_dim":1)").rope;
    EXPECT_TRUE(all.fast_turns == 20 && all.slow_turns == 2 && !all.rounds_turns && all.attention_factor == 0.9);
    // What is 0 or null counts as not said; without a factor it is what max_position_embeddings is to the original.
    const Rope open = described(R"("rope_type":"yarn","factor":null,"original_max_position_embeddings":32,"beta_fast":0,"attention_factor":null,"mscale":2,"mscale_all_dim":0.5)").rope;
    EXPECT_TRUE(open.factor == 4 && open.fast_turns == 32);
    EXPECT_EQ(open.attention_factor, yarn_attention_factor(4, 2) / yarn_attention_factor(4, 0.5));
    EXPECT_EQ(described(R"("rope_type":"yarn","factor":4,"mscale":2)").rope.original_context, 128);
    EXPECT_EQ(described(R"("rope_type":"yarn","factor":4,"mscale":2)").rope.attention_factor, yarn_attention_factor(4));
  }
}

TEST(ModelConfig, SaysWhichDropoutItDoesNotApply) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(read(gpt2("")).dropped, Names({"attn_pdrop 0.1", "embd_pdrop 0.1", "resid_pdrop 0.1"})) << "what transformers takes where nothing is said";
  EXPECT_EQ(read(gpt2(R"("attn_pdrop":0.0,"embd_pdrop":0,"resid_pdrop":0.25)")).dropped, Names({"resid_pdrop 0.25"}));
  EXPECT_EQ(read(read(gpt2("")).to_json()).dropped, Names()) << "a model of ours was trained without";
  EXPECT_EQ(read(llama("")).dropped, Names());
  EXPECT_EQ(read(llama(R"("attention_dropout":0.2)")).dropped, Names({"attention_dropout 0.2"}));
  EXPECT_NE(refusal(gpt2(R"("resid_pdrop":1)")).find("resid_pdrop"), std::string::npos);
}

TEST(ModelConfig, ReadsWindowsAndTokens) {
  const ModelConfig a = read(llama(
      R"("use_sliding_window":true,"sliding_window":32,"max_window_layers":2,"eos_token_id":[5,6,5,900],"bos_token_id":null,"pad_token_id":-1)",
      "qwen2"));
  EXPECT_EQ(a.window, 32);
  EXPECT_EQ(a.slides, (std::vector<bool>{false, false, true, true}));
  EXPECT_EQ(a.eos, (std::vector<int>{5, 6}));
  EXPECT_FALSE(a.bos.has_value() || a.pad.has_value());
  EXPECT_EQ(read(llama(R"("use_sliding_window":false,"sliding_window":32,"max_window_layers":0)", "qwen2")).window, 0);
  const ModelConfig b = read(llama(
      R"("use_sliding_window":true,"sliding_window":32,"layer_types":["sliding_attention","full_attention","full_attention","full_attention"])",
      "qwen3"));
  EXPECT_EQ(b.slides, (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(read(llama(R"("dtype":"bfloat16")")).stored_type, "bfloat16");
  EXPECT_EQ(read(llama(R"("torch_dtype":"float16")")).stored_type, "float16");
}

TEST(ModelConfig, RefusesByFieldValueAndWhatIsSupported) {
  const struct {
    std::string text;
    std::vector<const char*> named;
  } cases[] = {
      {R"({"model_type":"mamba","vocab_size":1})", {"model_type", "mamba", "gpt2, llama, mistral, qwen2, qwen3"}},
      {R"({"vocab_size":1})", {"model_type"}},
      {"[1]", {""}},
      {llama(R"("architectures":["LlamaForSequenceClassification"])"),
       {"architectures", "LlamaForSequenceClassification", "LlamaForCausalLM"}},
      {llama(R"("quantization_config":{"quant_method":"gptq","bits":4})"), {"quantization_config", "gptq"}},
      {llama(R"("hidden_act":"gelu")"), {"hidden_act", "gelu", "silu"}},
      {llama(R"("rope_scaling":{"type":"longrope","factor":4})"), {"rope_scaling.rope_type", "longrope", "default, linear, dynamic, yarn, llama3"}},
      {llama(R"("rope_scaling":{"type":"none"})"), {"rope_scaling.rope_type", "none is not supported"}},
      {llama(R"("rope_scaling":{"rope_type":"dynamic"})"), {"rope_scaling.factor", "missing"}},
      {llama(R"("rope_scaling":{"rope_type":"dynamic","factor":0.5})"), {"rope_scaling.factor", "below 1"}},
      {llama(R"("head_dim":2,"rope_scaling":{"rope_type":"dynamic","factor":2})"), {"heads of 2 elements"}},
      {llama(R"("rope_scaling":{"rope_type":"yarn"})"), {"original_max_position_embeddings", "missing"}},
      {llama(R"("rope_scaling":{"rope_type":"yarn","factor":4,"attention_factor":-1})"), {"attention_factor", "above 0"}},
      {llama(R"("rope_scaling":{"rope_type":"yarn","factor":4,"beta_fast":-1})"), {"beta_fast", "above 0"}},
      {llama(R"("rope_scaling":{"rope_type":"yarn","factor":4,"mscale":-1})"), {"mscale", "above 0"}},
      {llama(R"("rope_theta":1,"rope_scaling":{"rope_type":"yarn","factor":4})"), {"base above 1"}},
      {llama(R"("rope_parameters":{"full_attention":{"rope_type":"default"}})"), {"rope_parameters", "kind of layer"}},
      {llama(R"("rope_scaling":{"type":"linear"})"), {"rope_scaling.factor", "missing"}},
      {llama(R"("rope_scaling":{"type":"linear","factor":-2})"), {"rope_scaling.factor"}},
      {llama(
           R"("rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":64})"),
       {"high_freq_factor"}},
      {llama(R"("rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4})"),
       {"original_max_position_embeddings", "missing"}},
      {llama(R"("rope_scaling":{"type":"linear","factor":2},"rope_parameters":{"rope_type":"default","rope_theta":1e4})"),
       {"rope_scaling", "rope_parameters"}},
      {llama(R"("partial_rotary_factor":0.5)"), {"partial_rotary_factor"}},
      {llama(R"("rope_theta":0)"), {"rope_theta"}},
      {llama(R"("rms_norm_eps":-1)"), {"rms_norm_eps"}},
      {llama(R"("head_dim":15)"), {"15"}},
      {llama(R"("layer_types":["full_attention"])", "qwen3"), {"layer_types", "1 layers"}},
      {llama(R"("layer_types":["full_attention","chunked_attention","full_attention","full_attention"])", "qwen3"),
       {"chunked_attention", "full_attention, sliding_attention"}},
      {llama(R"("layer_types":["sliding_attention","full_attention","full_attention","full_attention"])", "qwen3"), {"sliding_window"}},
      {R"({"model_type":"llama","vocab_size":100,"hidden_size":65536000,"intermediate_size":1,"num_hidden_layers":1,"num_attention_heads":1,"max_position_embeddings":1})",
       {"hidden_size", "65536"}},
      {R"({"model_type":"llama","vocab_size":100,"hidden_size":64,"intermediate_size":1,"num_hidden_layers":1,"num_attention_heads":3,"max_position_embeddings":1})",
       {"num_attention_heads", "3 heads"}},
      {R"({"model_type":"llama","vocab_size":100,"hidden_size":64,"num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":1})",
       {"intermediate_size", "missing"}},
      {R"({"model_type":"qwen2","vocab_size":100,"hidden_size":64,"intermediate_size":9,"num_hidden_layers":1,"num_attention_heads":4,"max_position_embeddings":1})",
       {"num_key_value_heads", "missing"}},
      {R"({"model_type":"llama","vocab_size":100,"hidden_size":64,"intermediate_size":9,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":3,"max_position_embeddings":1})",
       {"3 key/value heads"}},
      {gpt2(R"("activation_function":"relu")"), {"activation_function", "relu", "gelu_new"}},
      {gpt2(R"("scale_attn_weights":false)"), {"scale_attn_weights"}},
      {gpt2(R"("scale_attn_by_inverse_layer_idx":true)"), {"scale_attn_by_inverse_layer_idx"}},
      {gpt2(R"("add_cross_attention":true)"), {"add_cross_attention"}},
      {R"({"model_type":"gpt2","vocab_size":100,"n_embd":63,"n_layer":2,"n_head":4,"n_positions":128})", {"4 heads"}},
  };
  for (const auto& test : cases) {
    const std::string message = refusal(test.text);
    EXPECT_NE(message, "") << test.text;
    for (const char* part : test.named) EXPECT_NE(message.find(part), std::string::npos) << part << "\n-> " << message;
  }
}

// What is written is read back to the same model.
TEST(ModelConfig, WritesWhatItReads) {
  const std::string forms[] = {
      llama(
          R"("rope_theta":5e5,"attention_bias":true,"mlp_bias":true,"tie_word_embeddings":true,"eos_token_id":[3,4],"torch_dtype":"bfloat16")"),
      llama(
          R"("rope_scaling":{"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})"),
      llama(R"("rope_scaling":{"rope_type":"dynamic","factor":2.5})"),
      llama(R"("rope_scaling":{"rope_type":"yarn","factor":4.0})"),
      llama(R"("rope_scaling":{"rope_type":"yarn","factor":4,"beta_fast":9,"beta_slow":2,"truncate":false,"mscale":2,"mscale_all_dim":0.7})"),
      llama(R"("sliding_window":77,"rms_norm_eps":1e-05)", "mistral"),
      llama(R"("sliding_window":null,"rope_scaling":{"type":"linear","factor":3})", "mistral"),
      llama(R"("use_sliding_window":true,"sliding_window":32,"max_window_layers":2)", "qwen2"),
      llama(R"("head_dim":32,"attention_bias":true)", "qwen3"),
      gpt2(R"("n_inner":100,"tie_word_embeddings":false)"),
      gpt2("")};
  for (const std::string& form : forms) {
    const ModelConfig a = read(form), b = read(a.to_json());
    EXPECT_EQ(a.to_json(), b.to_json());
    EXPECT_EQ(a.model_type, b.model_type);
    EXPECT_EQ(a.head_width, b.head_width);
    EXPECT_EQ(a.norm_epsilon, b.norm_epsilon);
    EXPECT_EQ(a.ties_head, b.ties_head);
    EXPECT_EQ(a.output_bias, b.output_bias);
    EXPECT_EQ(a.window, b.window);
    EXPECT_EQ(a.slides, b.slides);
    EXPECT_EQ(a.eos, b.eos);
    EXPECT_EQ(a.stored_type, b.stored_type);
    EXPECT_EQ(rope_frequencies(a.rope, 16, 1 << 20), rope_frequencies(b.rope, 16, 1 << 20));
    EXPECT_EQ(a.rope.attention_factor, b.rope.attention_factor);
    EXPECT_EQ(a.context, b.context);
    const auto shapes_a = parameter_shapes(a), shapes_b = parameter_shapes(b);
    ASSERT_EQ(shapes_a.size(), shapes_b.size());
    for (std::size_t i = 0; i < shapes_a.size(); ++i)
      EXPECT_TRUE(shapes_a[i].name == shapes_b[i].name && shapes_a[i].shape == shapes_b[i].shape);
  }
}

TEST(ModelConfig, ListsWhatIsSupported) {
  EXPECT_EQ(supported_model_types(), "gpt2, llama, mistral, qwen2, qwen3");
  for (const SupportedModel& model : supported_models()) EXPECT_GT(std::string(model.models).size(), 0u);
}

}  // namespace
}  // namespace pgtrain::engine::models
