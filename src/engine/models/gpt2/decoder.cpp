// The decoder: the blocks of graph.cpp, written out for a single row, over one allocation.
#include "engine/models/gpt2/decoder.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"
#include "engine/models/weights.hpp"

namespace pgtrain::engine::models {

// Where each buffer lies in the one allocation; also used to count it before there is one.
struct GptDecoder::Layout {
  std::uint64_t bytes = 0;
  std::vector<std::uint64_t> keys, values;
  std::uint64_t stream, other, normed, wide, branch, mean, rstd, logits, ids;

  Layout(const ModelConfig& config, core::DType type, std::int64_t positions) {
    const std::uint64_t element = core::size_of(type), width = static_cast<std::uint64_t>(config.width);
    const std::uint64_t cache = static_cast<std::uint64_t>(positions) * width * element;
    for (int layer = 0; layer < config.layers; ++layer) {
      keys.push_back(take(cache));
      values.push_back(take(cache));
    }
    stream = take(width * element);
    other = take(width * element);
    normed = take(width * element);
    wide = take(std::max(3 * width, static_cast<std::uint64_t>(config.inner_width)) * element);
    branch = take(width * element);
    mean = take(sizeof(float));
    rstd = take(sizeof(float));
    logits = take(static_cast<std::uint64_t>(config.vocab_size) * sizeof(float));
    ids = take(2 * sizeof(std::int32_t) + 256);
  }
  std::uint64_t take(std::uint64_t size) {
    const std::uint64_t at = bytes;
    bytes += (size + 255) / 256 * 256;
    return at;
  }
};

std::uint64_t GptDecoder::planned_bytes(const ModelConfig& config, graph::DType compute) { return Layout(config, compute, config.context).bytes; }

GptDecoder::GptDecoder(const ModelConfig& config, graph::ParameterStore& store, std::int64_t positions)
    : config_(config), positions_(positions > 0 ? std::min<std::int64_t>(positions, config.context) : config.context), store_(store), backend_(store.backend()), type_(store.compute()) {
  const Layout layout(config, type_, positions_);
  for (const graph::Parameter& parameter : store_.parameters()) weights_.emplace(parameter.name, store_.compute_pointer(parameter));
  memory_ = static_cast<char*>(backend_.allocate(layout.bytes));
  for (int layer = 0; layer < config.layers; ++layer) {
    keys_.push_back(memory_ + layout.keys[layer]);
    values_.push_back(memory_ + layout.values[layer]);
  }
  stream_ = memory_ + layout.stream, other_ = memory_ + layout.other, normed_ = memory_ + layout.normed;
  wide_ = memory_ + layout.wide, branch_ = memory_ + layout.branch;
  mean_ = reinterpret_cast<float*>(memory_ + layout.mean), rstd_ = reinterpret_cast<float*>(memory_ + layout.rstd);
  logits_ = reinterpret_cast<float*>(memory_ + layout.logits);
  ids_ = reinterpret_cast<std::int32_t*>(memory_ + layout.ids);
}

GptDecoder::~GptDecoder() { backend_.release(memory_); }

const void* GptDecoder::weight(const std::string& name) const {
  return weights_.at("transformer." + name);
}

void GptDecoder::linear(const void* x, const std::string& name, std::int64_t in, std::int64_t out, void* y, bool gelu) {
  backend::Matmul product;
  product.m = 1, product.n = out, product.k = in;
  product.a = x, product.b = weight(name + ".weight"), product.c = y;
  product.in = product.out = type_;
  product.bias = weight(name + ".bias");
  product.gelu = gelu;
  backend_.matmul(product);
}

void GptDecoder::norm(const void* x, const void* residual, void* sum, const std::string& name, void* y) {
  backend::LayerNormForward call;
  call.type = type_;
  call.y = y, call.x = x, call.residual = residual, call.sum = sum;
  call.mean = mean_, call.rstd = rstd_;
  call.gain = weight(name + ".weight"), call.bias = weight(name + ".bias");
  call.rows = 1, call.width = config_.width;
  call.epsilon = static_cast<float>(config_.norm_epsilon);
  backend_.layer_norm_forward(call);
}

void GptDecoder::accept(std::int32_t token, std::vector<float>* logits) {
  if (position_ >= positions_) throw core::Error("config_invalid", "the context of " + std::to_string(positions_) + " tokens is full", "", "Ask for fewer tokens.");
  if (token < 0 || token >= config_.vocab_size)
    throw core::Error("model_invalid", "token " + std::to_string(token) + " is not in the vocabulary of " + std::to_string(config_.vocab_size), "",
                      "The tokenizer does not belong to this model.");
  const std::int64_t width = config_.width;
  const std::int32_t ids[2] = {token, position_};
  backend_.upload(ids_, &ids[0], sizeof ids[0]);
  std::int32_t* const position_id = ids_ + 64;  // a line of its own: some devices want aligned operands
  backend_.upload(position_id, &ids[1], sizeof ids[1]);
  backend_.embedding_forward({type_, stream_, weight("wte.weight"), ids_, 1, width, config_.vocab_size});
  backend_.embedding_forward({type_, other_, weight("wpe.weight"), position_id, 1, width, config_.context});
  backend_.add(type_, stream_, stream_, other_, width);
  norm(stream_, nullptr, nullptr, "h.0.ln_1", normed_);
  for (int layer = 0; layer < config_.layers; ++layer) {
    const std::string block = "h." + std::to_string(layer) + ".";
    linear(normed_, block + "attn.c_attn", width, 3 * width, wide_, false);
    backend::AttentionDecode attention;
    attention.type = type_;
    attention.qkv = wide_, attention.out = branch_;
    attention.keys = keys_[layer], attention.values = values_[layer];
    attention.positions = position_id, attention.context = positions_, attention.heads = config_.heads, attention.head_size = config_.head_width;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_width));
    backend_.attention_decode(attention);
    linear(branch_, block + "attn.c_proj", width, width, other_, false);
    norm(stream_, other_, stream_, block + "ln_2", normed_);
    linear(normed_, block + "mlp.c_fc", width, config_.inner_width, wide_, true);
    linear(wide_, block + "mlp.c_proj", config_.inner_width, width, other_, false);
    norm(stream_, other_, stream_, layer + 1 < config_.layers ? "h." + std::to_string(layer + 1) + ".ln_1" : "ln_f", normed_);
  }
  ++position_;
  if (logits == nullptr) return;
  backend::Matmul head;
  head.m = 1, head.n = config_.vocab_size, head.k = width;
  head.transpose_b = true;
  head.a = normed_, head.b = weights_.at(head_weight(config_)), head.c = logits_;
  head.in = type_, head.out = core::DType::F32;
  backend_.matmul(head);
  logits->resize(static_cast<std::size_t>(config_.vocab_size));
  backend_.download(logits->data(), logits_, logits->size() * sizeof(float));
}

}  // namespace pgtrain::engine::models
