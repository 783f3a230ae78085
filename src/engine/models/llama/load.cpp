// From checkpoint to device, see load.hpp.
#include "engine/models/llama/load.hpp"

#include <cmath>
#include <unordered_map>

#include "engine/core/philox.hpp"
#include "engine/models/llama/graph.hpp"

namespace pgtrain::engine::models {
namespace {

std::unordered_map<std::string, const graph::Parameter*> by_name(const std::vector<graph::Parameter>& parameters) {
  std::unordered_map<std::string, const graph::Parameter*> out;
  for (const graph::Parameter& parameter : parameters) out.emplace(parameter.name, &parameter);
  return out;
}

// Uniform in (-bound, bound); each adapter has its own counters.
void draw_uniform(std::uint64_t seed, std::uint32_t adapter, double bound, std::uint64_t count, float* out) {
  constexpr std::uint32_t kWeightsStream = 3;  // data/streams.hpp, Stream::Weights
  const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto words = core::philox(key, {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), adapter, kWeightsStream});
    const double draw = (static_cast<double>((std::uint64_t{words[1]} << 32 | words[0]) >> 11) + 0.5) * 0x1p-53;
    out[i] = static_cast<float>((2 * draw - 1) * bound);
  }
}

}  // namespace

void load_llama(const CheckpointSource& source, const std::optional<AdapterOptions>& adapters, std::uint64_t seed, graph::ParameterStore& store,
                const std::function<void()>& poll) {
  const auto trained = by_name(store.parameters()), frozen = by_name(store.frozen());
  std::vector<float> flat(static_cast<std::size_t>(store.count()), 0.0f), one;
  for (const LlamaWeight& weight : llama_weights(source.config())) {
    if (poll) poll();
    const bool trains = frozen.find(weight.name) == frozen.end();
    const graph::Parameter& parameter = *(trains ? trained : frozen).at(weight.name);
    if (!trains) one.resize(static_cast<std::size_t>(parameter.count));
    float* to = trains ? flat.data() + parameter.offset : one.data();
    for (const TensorPart& part : weight.parts) {
      const std::size_t index = source.index_of(part.name);
      source.read_f32(index, to);
      to += source.tensors()[index].elements;
    }
    if (!trains) store.upload_frozen(parameter, one.data());
  }
  if (adapters) {
    std::uint32_t number = 0;
    for (const AdapterSpec& spec : llama_adapters(source.config(), *adapters)) {
      const graph::Parameter& down = *trained.at(spec.module + ".lora_A.weight");
      draw_uniform(seed, number++, 1.0 / std::sqrt(static_cast<double>(spec.in)), static_cast<std::uint64_t>(down.count), flat.data() + down.offset);
    }
  }
  store.upload_weights(flat.data());
}

}  // namespace pgtrain::engine::models
