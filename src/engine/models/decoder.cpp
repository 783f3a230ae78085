// The decoder: the blocks of the families' graphs written out for a few rows, over one allocation.
#include "engine/models/decoder.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"

namespace pgtrain::engine::models {
namespace {

DecoderSize whole(DecoderSize size, const ModelConfig& config) {
  size.positions = size.positions > 0 ? std::min<std::int64_t>(size.positions, config.context) : config.context;
  size.rows = std::max(std::min(size.rows, size.sequences * size.positions), size.sequences);
  return size;
}

bool is_gpt2(const ModelConfig& config) { return config.family == Family::Gpt2; }
bool is_decomposed(const Tuning& tuning) { return tuning.adapters && tuning.adapters->is_weight_decomposed; }
std::string module_of(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

}  // namespace

// Where each buffer lies in the one allocation; also used to count it before there is one.
struct Decoder::Layout {
  std::uint64_t bytes = 0;
  std::vector<std::uint64_t> keys, values;
  std::uint64_t stream, other, normed, wide, hidden, low, last, matrix, statistics, more_statistics, logits, table, ids, positions, slots;
  // Of decomposed weights: each module's gains, and what they are made with.
  std::vector<std::pair<std::string, std::uint64_t>> gains;
  std::uint64_t norm = 0, overlap = 0, gram = 0, lengths = 0;

  Layout(const ModelConfig& config, const Tuning& tuning, core::DType type, const DecoderSize& size) {
    const std::uint64_t element = core::size_of(type);
    const auto rows_of = [&](std::int64_t width) { return take(static_cast<std::uint64_t>(size.rows * width) * element); };
    const std::int64_t q = std::int64_t{config.heads} * config.head_width, kv = std::int64_t{config.kv_heads} * config.head_width;
    for (int layer = 0; layer < config.layers; ++layer) {
      keys.push_back(take(static_cast<std::uint64_t>(size.sequences * size.positions * kv) * element));
      values.push_back(take(static_cast<std::uint64_t>(size.sequences * size.positions * kv) * element));
    }
    stream = rows_of(config.width), other = rows_of(config.width), normed = rows_of(config.width);
    wide = rows_of(std::max<std::int64_t>(q + 2 * kv, config.inner_width * (is_gpt2(config) ? 1 : 2)));
    hidden = rows_of(std::max<std::int64_t>(q, config.inner_width));
    std::int64_t highest = 0;
    if (tuning.adapters)
      for (const AdapterSpec& spec : adapter_specs(config, *tuning.adapters)) highest = std::max(highest, spec.rank);
    low = rows_of(highest);
    last = take(static_cast<std::uint64_t>(size.sequences * config.width) * element);
    std::int64_t largest = 0;
    for (const ModelWeight& weight : model_weights(config))
      if (tuning.is_quantized && weight.is_linear) largest = std::max(largest, weight.count());
    matrix = take(static_cast<std::uint64_t>(largest) * element);
    statistics = take(static_cast<std::uint64_t>(size.rows * config.heads) * sizeof(float));
    more_statistics = take(static_cast<std::uint64_t>(size.rows * config.heads) * sizeof(float));
    logits = take(static_cast<std::uint64_t>(size.sequences * config.vocab_size) * sizeof(float));
    table = take(is_gpt2(config) ? 0 : static_cast<std::uint64_t>(size.positions * config.head_width) * sizeof(float));
    ids = take(static_cast<std::uint64_t>(size.rows) * sizeof(std::int32_t));
    positions = take(static_cast<std::uint64_t>(size.rows) * sizeof(std::int32_t));
    slots = take(static_cast<std::uint64_t>(size.rows) * sizeof(std::int32_t));
    if (is_decomposed(tuning)) place_gains(config, tuning, highest);
  }
  void place_gains(const ModelConfig& config, const Tuning& tuning, std::int64_t highest) {
    const auto floats = [&](std::int64_t count) { return take(static_cast<std::uint64_t>(count) * sizeof(float)); };
    std::unordered_map<std::string, std::int64_t> widths;
    for (const ModelWeight& weight : model_weights(config)) widths.emplace(weight.name, weight.is_in_out ? weight.shape.back() : weight.shape[0]);
    std::int64_t widest = 0;
    for (const AdapterSpec& spec : adapter_specs(config, *tuning.adapters)) {
      widest = std::max(widest, spec.out);
      if (gains.empty() || gains.back().first != module_of(spec.weight)) gains.emplace_back(module_of(spec.weight), floats(widths.at(spec.weight)));
    }
    norm = floats(widest), overlap = floats(widest * highest), gram = floats(highest * highest), lengths = floats(widest);
  }
  std::uint64_t take(std::uint64_t size) {
    const std::uint64_t at = bytes;
    bytes += (size + 255) / 256 * 256;
    return at;
  }
};

std::uint64_t Decoder::planned_bytes(const ModelConfig& config, const Tuning& tuning, graph::DType compute, const DecoderSize& size) {
  return Layout(config, tuning, compute, whole(size, config)).bytes;
}

Decoder::Decoder(const ModelConfig& config, const Tuning& tuning, graph::ParameterStore& store, const DecoderSize& size)
    : config_(config), size_(whole(size, config)), store_(store), backend_(store.backend()), type_(store.compute()), used_(static_cast<std::size_t>(size.sequences), 0) {
  find_weights(tuning);
  const Layout layout(config_, tuning, type_, size_);
  memory_ = static_cast<char*>(backend_.allocate(layout.bytes));
  const auto at = [&](std::uint64_t offset) { return static_cast<void*>(memory_ + offset); };
  for (std::size_t layer = 0; layer < layout.keys.size(); ++layer) keys_.push_back(at(layout.keys[layer])), values_.push_back(at(layout.values[layer]));
  stream_ = at(layout.stream), other_ = at(layout.other), normed_ = at(layout.normed), wide_ = at(layout.wide), hidden_ = at(layout.hidden);
  low_ = at(layout.low), last_ = at(layout.last), matrix_ = at(layout.matrix);
  statistics_ = static_cast<float*>(at(layout.statistics)), more_statistics_ = static_cast<float*>(at(layout.more_statistics));
  logits_ = static_cast<float*>(at(layout.logits)), table_ = static_cast<float*>(at(layout.table));
  ids_ = static_cast<std::int32_t*>(at(layout.ids)), positions_ = static_cast<std::int32_t*>(at(layout.positions)), slots_ = static_cast<std::int32_t*>(at(layout.slots));
  find_gains(memory_, layout);
  if (is_gpt2(config_)) return;
  const std::vector<float> table = rope_table(config_, size_.positions);
  backend_.upload(table_, table.data(), table.size() * sizeof(float));
}

Decoder::~Decoder() { backend_.release(memory_); }

void Decoder::find_weights(const Tuning& tuning) {
  std::unordered_map<std::string, const graph::Parameter*> quantized;
  for (const auto* parameters : {&store_.parameters(), &store_.frozen()})
    for (const graph::Parameter& parameter : *parameters) {
      if (parameter.storage == graph::Storage::Compute)
        weights_.emplace(parameter.name, store_.compute_pointer(parameter));
      else
        quantized.emplace(parameter.name, &parameter);
    }
  for (const ModelWeight& weight : model_weights(config_)) {
    if (!weight.is_linear) continue;
    const std::string module = module_of(weight.name);
    Linear& linear = linears_[module];
    linear.in = weight.shape[weight.is_in_out ? 0 : 1], linear.out = weight.shape[weight.is_in_out ? 1 : 0], linear.is_in_out = weight.is_in_out;
    // In 4 bits every matrix lies as [out, in].
    if (const auto found = quantized.find(weight.name); found != quantized.end())
      linear.quantized = found->second, linear.is_in_out = false;
    else
      linear.weight = weights_.at(weight.name);
    if (const auto bias = weights_.find(module + ".bias"); bias != weights_.end()) linear.bias = bias->second;
  }
  if (!tuning.adapters) return;
  std::unordered_map<std::string, const graph::Parameter*> magnitudes;
  for (const graph::Parameter& parameter : store_.parameters())
    if (parameter.name.ends_with(".lora_magnitude_vector")) magnitudes.emplace(parameter.name, &parameter);
  for (const AdapterSpec& spec : adapter_specs(config_, *tuning.adapters)) {
    const auto magnitude = magnitudes.find(spec.module + ".lora_magnitude_vector");
    linears_.at(module_of(spec.weight))
        .uses.push_back({weights_.at(spec.module + ".lora_A.weight"), weights_.at(spec.module + ".lora_B.weight"), magnitude == magnitudes.end() ? nullptr : magnitude->second,
                         spec.out, spec.column, spec.rank, static_cast<float>(spec.scale)});
  }
}

// The gains of decomposed weights stay as they are while the decoder lives.
void Decoder::find_gains(char* memory, const Layout& layout) {
  auto *norm = reinterpret_cast<float*>(memory + layout.norm), *overlap = reinterpret_cast<float*>(memory + layout.overlap), *gram = reinterpret_cast<float*>(memory + layout.gram);
  auto* lengths = reinterpret_cast<float*>(memory + layout.lengths);
  for (const auto& [module, place] : layout.gains) {
    Linear& layer = linears_.at(module);
    layer.gain = reinterpret_cast<float*>(memory + place);
    const std::vector<float> ones(static_cast<std::size_t>(layer.out), 1.0f);
    backend_.upload(layer.gain, ones.data(), ones.size() * sizeof(float));
    const std::int64_t pitch = layer.is_in_out ? layer.out : layer.in;
    const void* matrix = matrix_of(layer);
    for (const Use& use : layer.uses) {
      const std::int64_t first = layer.is_in_out ? use.column : use.column * layer.in;
      const void* part = static_cast<const char*>(matrix) + static_cast<std::size_t>(first) * core::size_of(type_);
      backend_.matmul({.m = use.rank, .n = use.rank, .k = layer.in, .transpose_b = true, .a = use.down, .b = use.down, .c = gram, .in = type_, .out = core::DType::F32});
      backend_.matmul({.m = use.out, .n = use.rank, .k = layer.in, .transpose_a = layer.is_in_out, .transpose_b = true, .a = part, .b = use.down, .c = overlap, .a_pitch = pitch,
                       .in = type_, .out = core::DType::F32});
      backend_.decomposed_gain({.type = type_, .gain = layer.gain + use.column, .norm = norm, .magnitude = store_.floats(*use.magnitude, lengths), .weight = part, .up = use.up, .overlap = overlap,
                                .gram = gram, .out = use.out, .in = layer.in, .rank = use.rank, .pitch = pitch, .scale = use.scale, .is_in_out = layer.is_in_out});
    }
  }
}

const void* Decoder::matrix_of(const Linear& layer) {
  if (layer.quantized == nullptr) return layer.weight;
  store_.dequantize(*layer.quantized, matrix_);
  return matrix_;
}

void Decoder::linear(const void* x, const std::string& name, std::int64_t rows, void* y, bool has_gelu) {
  const Linear& layer = linears_.at(name);
  // With adapters the activation follows their sum.
  const bool is_apart = has_gelu && !layer.uses.empty();
  backend_.matmul({.m = rows, .n = layer.out, .k = layer.in, .transpose_b = !layer.is_in_out, .a = x, .b = matrix_of(layer), .c = y, .in = type_, .out = type_,
                   .bias = layer.gain == nullptr ? layer.bias : nullptr,
                   .gelu = has_gelu && !is_apart});
  for (const Use& use : layer.uses) {
    backend_.matmul({.m = rows, .n = use.rank, .k = layer.in, .transpose_b = true, .a = x, .b = use.down, .c = low_, .in = type_, .out = type_});
    backend_.matmul({.m = rows, .n = use.out, .k = use.rank, .transpose_b = true, .a = low_, .b = use.up,
                     .c = static_cast<char*>(y) + static_cast<std::size_t>(use.column) * core::size_of(type_), .c_pitch = layer.out, .in = type_, .out = type_, .alpha = use.scale,
                     .beta = 1.0f});
  }
  if (layer.gain != nullptr) backend_.scale_columns({.type = type_, .y = y, .x = y, .gain = layer.gain, .bias = layer.bias, .rows = rows, .width = layer.out});
  if (is_apart) backend_.gelu_forward(type_, y, y, rows * layer.out);
}

// normed = norm(stream), or first stream += other.
void Decoder::norm(const std::string& name, std::int64_t rows, bool adds) {
  const void* residual = adds ? other_ : nullptr;
  void* sum = adds ? stream_ : nullptr;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  if (is_gpt2(config_))
    return backend_.layer_norm_forward({.type = type_, .y = normed_, .mean = more_statistics_, .rstd = statistics_, .x = stream_, .gain = weight(name + ".weight"),
                                        .bias = weight(name + ".bias"), .residual = residual, .sum = sum, .rows = rows, .width = config_.width, .epsilon = epsilon});
  backend_.rms_norm_forward({.type = type_, .y = normed_, .rstd = statistics_, .x = stream_, .gain = weight(name + ".weight"), .residual = residual, .sum = sum, .rows = rows,
                             .width = config_.width, .epsilon = epsilon});
}

void Decoder::embed(const Row* rows, std::int64_t count) {
  std::vector<std::int32_t> ids, positions, slots;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(rows[i].token), positions.push_back(rows[i].position), slots.push_back(rows[i].slot);
  const std::size_t bytes = ids.size() * sizeof(std::int32_t);
  backend_.upload(ids_, ids.data(), bytes);
  backend_.upload(positions_, positions.data(), bytes);
  backend_.upload(slots_, slots.data(), bytes);
  const char* table = is_gpt2(config_) ? "transformer.wte.weight" : "model.embed_tokens.weight";
  backend_.embedding_forward({type_, stream_, weight(table), ids_, count, config_.width, config_.vocab_size});
  if (!is_gpt2(config_)) return;
  backend_.embedding_forward({type_, other_, weight("transformer.wpe.weight"), positions_, count, config_.width, config_.context});
  backend_.add(type_, stream_, stream_, other_, count * config_.width);
}

// From the projections in wide to hidden.
void Decoder::attention(int layer, const std::string& block, std::int64_t rows) {
  const std::int64_t heads = config_.heads, kv_heads = config_.kv_heads, size = config_.head_width, columns = (heads + 2 * kv_heads) * size;
  if (config_.qk_norm) {
    const auto norm_heads = [&](const char* name, std::int64_t first, std::int64_t groups) {
      void* place = static_cast<char*>(wide_) + static_cast<std::size_t>(first * size) * core::size_of(type_);
      backend_.rms_norm_forward({.type = type_, .y = place, .rstd = statistics_, .x = place, .gain = weight(block + name), .rows = rows, .width = size, .groups = groups, .pitch = columns,
                                 .epsilon = static_cast<float>(config_.norm_epsilon)});
    };
    norm_heads("q_norm.weight", 0, heads);
    norm_heads("k_norm.weight", heads, kv_heads);
  }
  if (!is_gpt2(config_))
    backend_.rope({.type = type_, .y = wide_, .x = wide_, .positions = positions_, .table = table_, .rows = rows, .heads = heads + kv_heads, .columns = columns, .head_size = size,
                   .context = size_.positions});
  const auto index = static_cast<std::size_t>(layer);
  backend_.attention_decode({.type = type_, .qkv = wide_, .keys = keys_[index], .values = values_[index], .out = hidden_, .positions = positions_, .slots = slots_, .sequences = rows,
                             .context = size_.positions, .heads = heads, .head_size = size, .scale = 1.0f / std::sqrt(static_cast<float>(size)), .kv_heads = kv_heads,
                             .window = config_.window_of(layer)});
}

void Decoder::pass(const Row* rows, std::int64_t count) {
  embed(rows, count);
  const bool is_old = is_gpt2(config_);
  const auto block = [&](int layer) { return (is_old ? "transformer.h." : "model.layers.") + std::to_string(layer) + "."; };
  norm(block(0) + (is_old ? "ln_1" : "input_layernorm"), count, false);
  for (int layer = 0; layer < config_.layers; ++layer) {
    const std::string here = block(layer), attended = here + (is_old ? "attn." : "self_attn."), mlp = here + "mlp.";
    linear(normed_, attended + (is_old ? "c_attn" : "qkv_proj"), count, wide_);
    attention(layer, attended, count);
    linear(hidden_, attended + (is_old ? "c_proj" : "o_proj"), count, other_);
    norm(here + (is_old ? "ln_2" : "post_attention_layernorm"), count, true);
    if (is_old) {
      linear(normed_, mlp + "c_fc", count, hidden_, true);
      linear(hidden_, mlp + "c_proj", count, other_);
    } else {
      linear(normed_, mlp + "gate_up_proj", count, wide_);
      backend_.swiglu_forward({.type = type_, .y = hidden_, .gate_up = wide_, .rows = count, .width = config_.inner_width});
      linear(hidden_, mlp + "down_proj", count, other_);
    }
    if (layer + 1 < config_.layers)
      norm(block(layer + 1) + (is_old ? "ln_1" : "input_layernorm"), count, true);
    else
      norm(is_old ? "transformer.ln_f" : "model.norm", count, true);
  }
}

void Decoder::head(const std::vector<Last>& last, std::vector<float>& logits) {
  if (last.empty()) return;
  const std::size_t row_bytes = static_cast<std::size_t>(config_.width) * core::size_of(type_), vocabulary = static_cast<std::size_t>(config_.vocab_size);
  for (std::size_t i = 0; i < last.size(); ++i)
    backend_.copy(static_cast<char*>(last_) + i * row_bytes, static_cast<const char*>(normed_) + last[i].row * row_bytes, row_bytes);
  backend_.matmul({.m = static_cast<std::int64_t>(last.size()), .n = config_.vocab_size, .k = config_.width, .transpose_b = true, .a = last_, .b = weight(head_weight(config_)),
                   .c = logits_, .in = type_, .out = core::DType::F32});
  for (std::size_t i = 0; i < last.size(); ++i) backend_.download(logits.data() + last[i].piece * vocabulary, logits_ + i * vocabulary, vocabulary * sizeof(float));
}

void Decoder::check(const std::vector<Piece>& pieces) const {
  std::vector<bool> is_named(used_.size(), false);
  for (const Piece& piece : pieces) {
    const auto sequence = static_cast<std::size_t>(piece.sequence);
    if (sequence >= used_.size() || is_named[sequence] || piece.tokens.empty()) throw core::Error("config_invalid", "a decoder's sequence is named twice, is empty or does not exist");
    is_named[sequence] = true;
    if (used_[sequence] + static_cast<std::int64_t>(piece.tokens.size()) > size_.positions)
      throw core::Error("config_invalid", "the context of " + std::to_string(size_.positions) + " tokens is full", "", "Ask for fewer tokens.");
    for (const std::int32_t token : piece.tokens)
      if (token < 0 || token >= config_.vocab_size)
        throw core::Error("model_invalid", "token " + std::to_string(token) + " is not in the vocabulary of " + std::to_string(config_.vocab_size), "",
                          "The tokenizer does not belong to this model.");
  }
}

void Decoder::accept(const std::vector<Piece>& pieces, std::vector<float>* logits) {
  check(pieces);
  if (logits != nullptr) logits->resize(pieces.size() * static_cast<std::size_t>(config_.vocab_size));
  std::vector<Row> rows;
  std::vector<Last> last;
  const auto flush = [&] {
    if (rows.empty()) return;
    pass(rows.data(), static_cast<std::int64_t>(rows.size()));
    if (logits != nullptr) head(last, *logits);
    rows.clear(), last.clear();
  };
  for (std::size_t piece = 0; piece < pieces.size(); ++piece) {
    std::int64_t& used = used_[static_cast<std::size_t>(pieces[piece].sequence)];
    for (const std::int32_t token : pieces[piece].tokens) {
      if (static_cast<std::int64_t>(rows.size()) == size_.rows) flush();
      rows.push_back({token, static_cast<std::int32_t>(used++), pieces[piece].sequence});
    }
    last.push_back({rows.size() - 1, piece});
  }
  flush();
}

}  // namespace pgtrain::engine::models
