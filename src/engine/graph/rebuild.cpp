// Chooses what is forgotten, see rebuild.hpp.
//
// A value that one pass over kept memory makes anew (a norm, a gate, a gelu, a dropout) is forgotten at every level. Blocks forgets
// besides what does not leave its block, products and attention too.
#include "engine/graph/rebuild.hpp"

#include <algorithm>

namespace pgtrain::engine::graph {
namespace {

std::size_t at(std::int32_t id) { return static_cast<std::size_t>(id); }

class Finder {
 public:
  Finder(const Graph& graph, Recompute recompute, const std::vector<bool>& is_read_later) : graph_(graph), is_read_later_(is_read_later) {
    found_.ways.assign(graph.nodes.size(), Again::No);
    found_.makers.assign(graph.values.size(), -1);
    found_.is_forgotten.assign(graph.values.size(), false);
    for (std::size_t index = 0; index < graph.nodes.size(); ++index)
      for (const std::int32_t value : made_by(graph.nodes[index])) found_.makers[at(value)] = static_cast<std::int32_t>(index);
    find_homes(recompute);
    find_passes();
  }

  Rebuilding run() {
    std::vector<bool> is_wanted(graph_.values.size());
    for (std::size_t value = 0; value < is_wanted.size(); ++value) is_wanted[value] = is_read_later_[value] && can_forget(value);
    for (std::size_t index = graph_.nodes.size(); index-- > 0;) {
      const Node& node = graph_.nodes[index];
      std::vector<std::int32_t> forgotten = made_by(node);
      std::erase_if(forgotten, [&](std::int32_t value) { return home_[at(value)] < 0; });
      if (std::any_of(forgotten.begin(), forgotten.end(), [&](std::int32_t value) { return is_wanted[at(value)]; })) {
        found_.ways[index] = Again::Whole;
      } else if (is_wanted[at(node.output)]) {
        found_.ways[index] = passes_[index];
        forgotten = {node.output};
      } else {
        continue;
      }
      for (const std::int32_t value : forgotten) found_.is_forgotten[at(value)] = true;
      for (const std::int32_t value : reads_of(node, found_.ways[index])) is_wanted[at(value)] = is_wanted[at(value)] || can_forget(at(value));
    }
    return std::move(found_);
  }

 private:
  // Values that a node makes besides statistics, which are kept.
  std::vector<std::int32_t> made_by(const Node& node) const {
    std::vector<std::int32_t> made{node.output, node.second, node.saved[0], node.saved[1], node.mixed};
    for (const AdapterUse& adapter : node.adapters) made.push_back(adapter.low);
    std::erase_if(made, [&](std::int32_t value) { return value < 0 || graph_.values[at(value)].kind != ValueKind::Activation; });
    return made;
  }

  // The block that a value is made in and does not leave.
  void find_homes(Recompute recompute) {
    home_.assign(graph_.values.size(), -1);
    if (recompute != Recompute::Blocks) return;
    for (const Node& node : graph_.nodes)
      for (const std::int32_t value : made_by(node)) home_[at(value)] = node.block;
    for (const Node& node : graph_.nodes)
      for (const std::int32_t value : reads_of(node, Again::Whole))
        if (home_[at(value)] != node.block) home_[at(value)] = -1;
  }

  // How one pass over memory makes a node's output.
  Again pass_of(const Node& node) const {
    switch (node.kind) {
      case OpKind::LayerNorm:
      case OpKind::RmsNorm:
      case OpKind::HeadNorm:
      case OpKind::SwiGlu:
      case OpKind::Dropout:
        return Again::Whole;
      case OpKind::AddLayerNorm:
      case OpKind::AddRmsNorm:
        return Again::Part;
      case OpKind::Linear:
        return node.activation == Activation::Gelu ? Again::Part : Again::No;
      case OpKind::Rope: {
        // Turned where it lies what was projected is gone; only what was normed between is made from something that stays.
        const std::int32_t maker = found_.makers[at(node.inputs[0])];
        return maker >= 0 && graph_.nodes[at(maker)].kind == OpKind::HeadNorm ? Again::Whole : Again::No;
      }
      case OpKind::Embedding:
      case OpKind::Add:
      case OpKind::Attention:
      case OpKind::LinearCrossEntropy:
        return Again::No;
    }
    return Again::No;
  }

  // Only where nothing has to be kept for it that would not be there anyway.
  void find_passes() {
    passes_.assign(graph_.nodes.size(), Again::No);
    comes_back_.assign(graph_.values.size(), false);
    for (std::size_t index = 0; index < graph_.nodes.size(); ++index) {
      const Node& node = graph_.nodes[index];
      const Again way = pass_of(node);
      if (way == Again::No || home_[at(node.output)] >= 0) continue;
      const std::vector<std::int32_t> reads = reads_of(node, way);
      const auto is_there = [&](std::int32_t value) {
        return graph_.values[at(value)].kind != ValueKind::Activation || comes_back_[at(value)] || (is_read_later_[at(value)] && home_[at(value)] < 0);
      };
      if (!std::all_of(reads.begin(), reads.end(), is_there)) continue;
      passes_[index] = way;
      comes_back_[at(node.output)] = true;
    }
  }

  bool can_forget(std::size_t value) const { return home_[value] >= 0 || comes_back_[value]; }

  const Graph& graph_;
  const std::vector<bool>& is_read_later_;
  std::vector<std::int32_t> home_;  // by value, -1: none
  std::vector<Again> passes_;       // by node
  std::vector<bool> comes_back_;    // by value: by a pass
  Rebuilding found_;
};

}  // namespace

std::vector<std::int32_t> reads_of(const Node& node, Again way) {
  if (way == Again::Part) return {node.second >= 0 ? node.second : node.saved[0]};
  std::vector<std::int32_t> reads = node.inputs;
  reads.push_back(node.adapted);
  std::erase_if(reads, [](std::int32_t value) { return value < 0; });
  return reads;
}

Rebuilding find_rebuilding(const Graph& graph, Recompute recompute, const std::vector<bool>& is_read_later) { return Finder(graph, recompute, is_read_later).run(); }

}  // namespace pgtrain::engine::graph
