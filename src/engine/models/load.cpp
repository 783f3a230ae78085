// From checkpoint or chance to device, see load.hpp.
#include "engine/models/load.hpp"

#include <cmath>
#include <unordered_map>
#include <utility>

#include "engine/core/philox.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr std::uint32_t kWeightsStream = 3;  // data/streams.hpp, Stream::Weights

std::unordered_map<std::string, const graph::Parameter*> by_name(const std::vector<graph::Parameter>& parameters) {
  std::unordered_map<std::string, const graph::Parameter*> out;
  for (const graph::Parameter& parameter : parameters) out.emplace(parameter.name, &parameter);
  return out;
}

std::array<std::uint32_t, 4> words_of(std::uint64_t seed, std::uint64_t draw, std::uint32_t stream) {
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  return core::philox(key, {static_cast<std::uint32_t>(draw), static_cast<std::uint32_t>(draw >> 32), stream, kWeightsStream});
}
// In [0, 1), of 53 bits.
double uniform(std::uint32_t low, std::uint32_t high, double offset) { return (static_cast<double>((std::uint64_t{high} << 32 | low) >> 11) + offset) * 0x1p-53; }

// Uniform in (-bound, bound); each adapter has its own counters.
void draw_uniform(std::uint64_t seed, std::uint32_t adapter, double bound, std::uint64_t count, float* out) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto words = words_of(seed, i, adapter);
    out[i] = static_cast<float>((2 * uniform(words[0], words[1], 0.5) - 1) * bound);
  }
}

// Of each output of a module: the length of its weights.
void row_lengths(const std::vector<float>& weight, std::int64_t pitch, const AdapterSpec& spec, float* out) {
  for (std::int64_t o = 0; o < spec.out; ++o) {
    double square = 0;
    for (std::int64_t i = 0; i < spec.in; ++i) {
      const auto value = static_cast<double>(weight[static_cast<std::size_t>(spec.is_in_out ? i * pitch + spec.column + o : (spec.column + o) * pitch + i)]);
      square += value * value;
    }
    out[o] = static_cast<float>(std::sqrt(square));
  }
}

}  // namespace

void load_weights(const CheckpointSource& source, const Tuning& tuning, std::uint64_t seed, graph::ParameterStore& store, const std::function<void()>& poll) {
  const auto trained = by_name(store.parameters()), frozen = by_name(store.frozen());
  std::vector<float> one;
  for (const ModelWeight& weight : model_weights(source.config())) {
    if (poll) poll();
    const bool trains = frozen.find(weight.name) == frozen.end();
    const graph::Parameter& parameter = *(trains ? trained : frozen).at(weight.name);
    one.resize(static_cast<std::size_t>(parameter.count));
    float* to = one.data();
    for (const TensorPart& part : weight.parts) {
      const std::size_t index = source.index_of(part.name);
      source.read_f32(index, to);
      to += source.tensors()[index].elements;
    }
    if (trains)
      store.upload_weight(parameter, one.data());
    else
      store.upload_frozen(parameter, one.data());
  }
  if (tuning.adapters) {
    std::uint32_t number = 0;
    std::pair<std::string, std::vector<float>> last;  // neighbours share their matrix
    for (const AdapterSpec& spec : adapter_specs(source.config(), *tuning.adapters)) {
      if (poll) poll();
      if (tuning.adapters->is_weight_decomposed) {
        const graph::Parameter &matrix = *frozen.at(spec.weight), &magnitude = *trained.at(spec.module + ".lora_magnitude_vector");
        if (last.first != spec.weight) last = {spec.weight, store.frozen_values(matrix)};
        one.assign(static_cast<std::size_t>(magnitude.count), 0.0f);
        row_lengths(last.second, matrix.shape[1], spec, one.data());
        store.upload_weight(magnitude, one.data());
      }
      const graph::Parameter &down = *trained.at(spec.module + ".lora_A.weight"), &up = *trained.at(spec.module + ".lora_B.weight");
      one.resize(static_cast<std::size_t>(down.count));
      draw_uniform(seed, number++, 1.0 / std::sqrt(static_cast<double>(spec.in)), static_cast<std::uint64_t>(down.count), one.data());
      store.upload_weight(down, one.data());
      one.assign(static_cast<std::size_t>(up.count), 0.0f);
      store.upload_weight(up, one.data());
    }
  }
}

void draw_weight(const ModelConfig& config, const ModelWeight& weight, std::size_t index, std::uint64_t seed, float* out) {
  const auto count = static_cast<std::uint64_t>(weight.count());
  if (weight.init == WeightInit::Zero || weight.init == WeightInit::One) {
    std::fill(out, out + count, weight.init == WeightInit::One ? 1.0f : 0.0f);
    return;
  }
  const double deviation = weight.init == WeightInit::Normal ? config.initializer_range : config.initializer_range / std::sqrt(2.0 * config.layers);
  // Two normal numbers from each draw (Box and Muller), the first uniform never 0.
  for (std::uint64_t i = 0; i < count; i += 2) {
    const auto words = words_of(seed, i / 2, static_cast<std::uint32_t>(index));
    const double radius = std::sqrt(-2.0 * std::log(uniform(words[0], words[1], 0.5))) * deviation, angle = 2.0 * M_PI * uniform(words[2], words[3], 0);
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < count) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

void draw_weights(const ModelConfig& config, std::uint64_t seed, graph::ParameterStore& store, const std::function<void()>& poll) {
  const auto trained = by_name(store.parameters());
  std::vector<float> one;
  const std::vector<ModelWeight> weights = model_weights(config);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (poll) poll();
    one.resize(static_cast<std::size_t>(weights[i].count()));
    draw_weight(config, weights[i], i, seed, one.data());
    store.upload_weight(*trained.at(weights[i].name), one.data());
  }
}

}  // namespace pgtrain::engine::models
