// Where the buffers of a plan lie in its arena, see plan.hpp: those that are never needed together share places.
#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/graph/plan.hpp"

namespace pgtrain::engine::graph {
namespace {

// Each at the lowest offset that is free during its whole life.
void place_in(ExecutionPlan& plan, const std::vector<std::size_t>& order) {
  std::vector<std::size_t> placed;
  plan.arena_bytes = 0;
  for (std::size_t index = 0; index < plan.buffers.size(); ++index)
    if (const Buffer& buffer = plan.buffers[index]; buffer.is_placed) {
      placed.push_back(index);
      plan.arena_bytes = std::max(plan.arena_bytes, aligned(buffer.offset + buffer.bytes));
    }
  for (std::size_t index : order) {
    Buffer& buffer = plan.buffers[index];
    if (buffer.last < 0 || buffer.is_placed) continue;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> taken;
    for (std::size_t other : placed) {
      const Buffer& o = plan.buffers[other];
      if (o.first <= buffer.last && buffer.first <= o.last) taken.emplace_back(o.offset, o.offset + o.bytes);
    }
    std::sort(taken.begin(), taken.end());
    std::uint64_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + buffer.bytes <= begin) break;
      offset = std::max(offset, aligned(end));
    }
    buffer.offset = offset;
    placed.push_back(index);
    plan.arena_bytes = std::max(plan.arena_bytes, offset + buffer.bytes);
  }
}

template <class Key>
std::vector<std::size_t> order_by(const std::vector<Buffer>& buffers, Key&& key) {
  std::vector<std::size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(buffers[a]) > key(buffers[b]); });
  return order;
}

}  // namespace

// The best of two ways: the largest buffers find their places first, or those that are needed the longest.
void place(ExecutionPlan& plan) {
  place_in(plan, order_by(plan.buffers, [](const Buffer& b) { return b.bytes; }));
  std::vector<Buffer> largest_first = plan.buffers;
  const std::uint64_t bytes = plan.arena_bytes;
  place_in(plan, order_by(plan.buffers, [](const Buffer& b) { return std::pair(b.last, b.bytes); }));
  if (plan.arena_bytes < bytes) return;
  plan.buffers = std::move(largest_first);
  plan.arena_bytes = bytes;
}

}  // namespace pgtrain::engine::graph
