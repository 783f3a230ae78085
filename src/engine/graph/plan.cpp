// Forward order, build-time backward and lifetimes, see plan.hpp; rebuild.cpp says what is computed again, placement.cpp where all of it lies.
//
// Gradients of a sum are the sum's gradient itself, so values may share one gradient buffer; it is written in place only
// when nobody else has yet to read it. What is computed again gets buffers of its own, so its first ones die in the forward.
#include "engine/graph/plan.hpp"

#include <algorithm>
#include <utility>

#include "engine/graph/rebuild.hpp"

namespace pgtrain::engine::graph {
namespace {

constexpr std::uint64_t kLogitsBytes = std::uint64_t{32} << 20;
constexpr std::int64_t kSmallestChunk = 128;

class Compiler {
 public:
  Compiler(const Graph& graph, Mode mode, Recompute recompute, Gradients gradients)
      : graph_(graph), recompute_(recompute), trains_(mode == Mode::Train), forgets_(recompute != Recompute::None && trains_), shares_gradients_(gradients == Gradients::Replaced && trains_) {}

  ExecutionPlan run() {
    if (forgets_) find_forgotten();
    lay_out();
    if (shares_gradients_) find_births();
    place(plan_);
    return std::move(plan_);
  }

 private:
  void lay_out() {
    plan_.value_buffer.assign(graph_.values.size(), -1);
    gradient_.assign(graph_.values.size(), -1);
    is_pending_.assign(graph_.values.size(), false);
    read_back_.assign(graph_.nodes.size(), {});
    find_needs();
    for (std::size_t id = 0; id < graph_.values.size(); ++id) {
      const ValueInfo& value = graph_.values[id];
      if (value.kind == ValueKind::Parameter) continue;
      plan_.value_buffer[id] = new_buffer(static_cast<std::uint64_t>(value.count()) * core::size_of(value.type));
      if (value.kind == ValueKind::Input) plan_.buffers.back().first = 0;
    }
    share_places(plan_.value_buffer);
    plan_.later_buffer = plan_.value_buffer;
    if (forgets_) {
      for (std::size_t value = 0; value < graph_.values.size(); ++value)
        if (rebuilding_.is_forgotten[value]) plan_.later_buffer[value] = like(static_cast<std::int32_t>(value));
      share_places(plan_.later_buffer);
    }
    for (std::size_t node = 0; node < graph_.nodes.size(); ++node) forward(static_cast<std::int32_t>(node), Again::No);
    is_later_ = true;
    if (trains_)
      for (running_ = graph_.nodes.size(); running_-- > 0;) {
        if (forgets_)
          for (const std::int32_t value : wanted_back_[running_]) bring_back(value);
        backward(static_cast<std::int32_t>(running_));
      }
    keep_to_the_end();
  }

  // --- what is computed again ----------------------------------------------------------------------------------------
  void find_forgotten() {
    Compiler whole(graph_, Mode::Train, Recompute::None, Gradients::Added);
    whole.lay_out();
    wanted_back_ = std::move(whole.read_back_);
    std::vector<bool> is_read_later(graph_.values.size());
    for (const std::vector<std::int32_t>& read : wanted_back_)
      for (const std::int32_t value : read) is_read_later[static_cast<std::size_t>(value)] = true;
    rebuilding_ = find_rebuilding(graph_, recompute_, is_read_later);
  }

  // Runs again what made a value, as late as it can be, and before it what made that one's sources.
  void bring_back(std::int32_t value) {
    if (!rebuilding_.is_forgotten[static_cast<std::size_t>(value)]) return;
    const std::int32_t maker = rebuilding_.makers[static_cast<std::size_t>(value)];
    Again& way = rebuilding_.ways[static_cast<std::size_t>(maker)];
    if (way == Again::No) return;  // it has
    const Again now = std::exchange(way, Again::No);
    for (const std::int32_t source : reads_of(graph_.nodes[static_cast<std::size_t>(maker)], now)) bring_back(source);
    forward(maker, now);
  }

  std::int32_t new_buffer(std::uint64_t bytes) {
    plan_.buffers.push_back({aligned(bytes)});
    return static_cast<std::int32_t>(plan_.buffers.size() - 1);
  }
  // What is turned by position is turned where it lies, when nobody else reads it as it was.
  void share_places(std::vector<std::int32_t>& buffers) {
    readers_.assign(graph_.values.size(), 0);
    for (const Node& node : graph_.nodes) {
      for (std::int32_t value : node.inputs)
        if (value >= 0) ++readers_[static_cast<std::size_t>(value)];
      if (node.adapted >= 0) ++readers_[static_cast<std::size_t>(node.adapted)];
    }
    for (const Node& node : graph_.nodes)
      if (node.kind == OpKind::Rope && is_read_once(node.inputs[0])) buffers[static_cast<std::size_t>(node.output)] = buffers[static_cast<std::size_t>(node.inputs[0])];
  }
  bool is_read_once(std::int32_t value) const { return readers_[static_cast<std::size_t>(value)] == 1; }
  std::int32_t like(std::int32_t value) {
    const ValueInfo& info = graph_.values[static_cast<std::size_t>(value)];
    return new_buffer(static_cast<std::uint64_t>(info.count()) * core::size_of(info.type));
  }
  std::int64_t count_of(std::int32_t value) const { return graph_.values[static_cast<std::size_t>(value)].count(); }

  std::int32_t weight_room(const Node& node) {
    const ValueInfo& weight = graph_.values[static_cast<std::size_t>(node.inputs[1])];
    if (graph_.parameters[static_cast<std::size_t>(weight.index)].storage == Storage::Compute) return -1;
    return like(node.inputs[1]);
  }

  // For the products of a decomposed adapter with itself and with the weight, and its lengths as floats; one adapter at a time.
  std::int32_t gains_room(const Node& node) {
    std::int64_t floats = 0;
    for (const AdapterUse& adapter : node.adapters)
      if (adapter.magnitude >= 0) {
        const std::int64_t rank = graph_.values[static_cast<std::size_t>(adapter.down)].rows, width = graph_.values[static_cast<std::size_t>(adapter.up)].rows;
        floats = std::max(floats, gram_floats(rank) + width * rank + (graph_.compute == DType::Bf16 ? width : 0));
      }
    return floats == 0 ? -1 : new_buffer(static_cast<std::uint64_t>(floats) * sizeof(float));
  }

  // A value needs a gradient when something that trains lies behind it.
  bool needs(std::int32_t value) const { return value >= 0 && needs_[static_cast<std::size_t>(value)]; }
  bool trains(std::int32_t value) const { return needs(value) && graph_.values[static_cast<std::size_t>(value)].kind == ValueKind::Parameter; }
  void find_needs() {
    needs_.assign(graph_.values.size(), false);
    for (std::size_t id = 0; id < graph_.values.size(); ++id)
      if (const ValueInfo& value = graph_.values[id]; value.kind == ValueKind::Parameter)
        needs_[id] = graph_.parameters[static_cast<std::size_t>(value.index)].trains;
    for (const Node& node : graph_.nodes) {
      bool is_needed = needs(node.adapted);
      for (std::int32_t value : node.inputs) is_needed = is_needed || needs(value);
      for (const AdapterUse& adapter : node.adapters) is_needed = is_needed || needs(adapter.down) || needs(adapter.up) || needs(adapter.magnitude);
      needs_[static_cast<std::size_t>(node.output)] = is_needed;
      if (node.second >= 0) needs_[static_cast<std::size_t>(node.second)] = is_needed;
    }
  }

  void touch(std::int32_t buffer) {
    if (buffer < 0) return;
    Buffer& b = plan_.buffers[static_cast<std::size_t>(buffer)];
    const auto now = static_cast<std::int32_t>(plan_.steps.size());
    b.first = std::min(b.first, now);
    b.last = std::max(b.last, now);
  }
  void touch_value(std::int32_t value) {
    if (value < 0) return;
    if (is_later_) read_back_[running_].push_back(value);
    touch(buffer_of(value));
  }
  std::int32_t buffer_of(std::int32_t value) const { return (is_later_ ? plan_.later_buffer : plan_.value_buffer)[static_cast<std::size_t>(value)]; }
  void emit(const Step& step) {
    for (std::int32_t buffer : {step.dout, step.dsum, step.dx, step.scratch, step.out, step.a, step.b, step.dadapted, step.dlow, step.dmixed, step.weight}) touch(buffer);
    plan_.steps.push_back(step);
  }

  void forward(std::int32_t index, Again again) {
    const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
    Step step{.kind = Step::Kind::Forward, .again = again, .node = index};
    touch_value(node.output);
    touch_value(node.second);
    for (std::int32_t value : node.saved) touch_value(value);
    if (again == Again::Part) return emit(step);
    for (std::int32_t value : node.inputs) touch_value(value);
    touch_value(node.adapted);
    for (const AdapterUse& adapter : node.adapters) touch_value(adapter.low);
    if (node.kind == OpKind::Linear) {
      step.weight = weight_room(node);
      step.scratch = gains_room(node);
    }
    for (std::int32_t value : {node.mixed, node.gain, node.norm}) touch_value(value);
    if (node.kind == OpKind::LinearCrossEntropy) {
      step.scratch = new_buffer(static_cast<std::uint64_t>(logits_rows(graph_, node) * logits_pitch(graph_, node)) * core::size_of(graph_.compute));
      if (trains_ && needs(node.inputs[0])) {
        step.dx = like(node.inputs[0]);
        set_gradient(node.inputs[0], step.dx);
      }
    }
    emit(step);
  }

  // --- gradients -------------------------------------------------------------------------------------------------
  std::int32_t& gradient(std::int32_t value) { return gradient_[static_cast<std::size_t>(value)]; }

  void set_gradient(std::int32_t value, std::int32_t buffer) {
    gradient(value) = buffer;
    is_pending_[static_cast<std::size_t>(value)] = true;
  }
  // Whether nobody but `value` has yet to read its gradient's buffer.
  bool is_alone(std::int32_t value) {
    for (std::size_t other = 0; other < gradient_.size(); ++other)
      if (static_cast<std::int32_t>(other) != value && is_pending_[other] && gradient_[other] == gradient(value)) return false;
    return true;
  }

  // Where an operation puts what it adds to a value's gradient: fresh memory, or (accumulating) what is there.
  struct Target {
    std::int32_t buffer = -1;
    bool accumulates = false;
    std::int32_t join = -1;  // an older gradient that has to be added afterwards
  };
  // `read` is the gradient that the operation reads meanwhile: it may be the value's own, and is then not written to.
  Target target_for(std::int32_t value, bool can_accumulate, std::int32_t read) {
    if (gradient(value) < 0) return {like(value), false, -1};
    if (can_accumulate && gradient(value) != read && is_alone(value)) return {gradient(value), true, -1};
    return {like(value), false, gradient(value)};
  }
  void settle(std::int32_t value, const Target& target) {
    if (target.join >= 0)
      emit({.kind = Step::Kind::AddGradients, .out = target.buffer, .a = target.buffer, .b = target.join, .count = count_of(value)});
    set_gradient(value, target.buffer);
  }
  // The gradient in `buffer` belongs to `value` as well.
  void share(std::int32_t value, std::int32_t buffer) {
    if (!needs(value)) return;
    if (gradient(value) < 0) return set_gradient(value, buffer);
    const std::int32_t old = gradient(value);
    const std::int32_t out = is_alone(value) ? old : like(value);
    emit({.kind = Step::Kind::AddGradients, .out = out, .a = old, .b = buffer, .count = count_of(value)});
    set_gradient(value, out);
  }

  void backward(std::int32_t index) {
    const Node& node = graph_.nodes[static_cast<std::size_t>(index)];
    if (node.kind == OpKind::LinearCrossEntropy) return;  // its forward step makes the gradients as well
    const std::int32_t dout = gradient(node.output);
    if (dout < 0 && (node.second < 0 || gradient(node.second) < 0)) return;  // nothing depends on it
    const bool alone = dout >= 0 && is_alone(node.output);
    is_pending_[static_cast<std::size_t>(node.output)] = false;
    Step step{.kind = Step::Kind::Backward, .node = index, .dout = dout};
    switch (node.kind) {
      case OpKind::Embedding:
        emit(step);
        break;
      case OpKind::Add:
        share(node.inputs[0], dout);
        share(node.inputs[1], dout);
        break;
      case OpKind::LayerNorm:
      case OpKind::RmsNorm:
      case OpKind::HeadNorm:
        norm(node, step, node.inputs[0], alone);
        break;
      case OpKind::AddLayerNorm:
      case OpKind::AddRmsNorm:
        add_norm(node, step, alone);
        break;
      case OpKind::Rope:
        in_place(node, step, alone, false);
        break;
      case OpKind::Dropout:
        in_place(node, step, alone, true);
        break;
      case OpKind::SwiGlu:
        swiglu(node, step);
        break;
      case OpKind::Linear:
        linear(node, step, alone);
        break;
      case OpKind::Attention:
        attention(node, step);
        break;
      case OpKind::LinearCrossEntropy:
        break;
    }
  }

  void norm(const Node& node, Step step, std::int32_t x, bool alone) {
    // When only its gain and bias train, what falls out for x is written all the same, and left.
    const Target target = gradient(x) < 0 && alone ? Target{step.dout, false, -1} : target_for(x, node.kind != OpKind::HeadNorm, step.dout);
    touch_value(x);
    for (std::int32_t value : node.saved) touch_value(value);
    step.dx = target.buffer;
    step.dx_accumulates = target.accumulates;
    emit(step);
    if (needs(x)) settle(x, target);
  }

  void add_norm(const Node& node, Step step, bool alone) {
    if (step.dout >= 0) norm(node, step, node.second, alone);
    const std::int32_t whole = gradient(node.second);
    if (whole < 0) return;
    is_pending_[static_cast<std::size_t>(node.second)] = false;
    share(node.inputs[0], whole);
    share(node.inputs[1], whole);
  }

  // Its backward may write where it reads, and needs nothing that the forward has seen but constants and inputs.
  void in_place(const Node& node, Step step, bool alone, bool can_accumulate) {
    const std::int32_t x = node.inputs[0];
    if (!needs(x)) return;
    const Target target = gradient(x) < 0 && alone ? Target{step.dout, false, -1} : target_for(x, can_accumulate, step.dout);
    for (std::size_t i = 1; i < node.inputs.size(); ++i) touch_value(node.inputs[i]);
    step.dx = target.buffer;
    step.dx_accumulates = target.accumulates;
    emit(step);
    settle(x, target);
  }

  // The gradient takes the place of what it is made from.
  void swiglu(const Node& node, Step step) {
    const std::int32_t x = node.inputs[0];
    if (!needs(x)) return;
    const Target target = gradient(x) < 0 && is_read_once(x) ? Target{buffer_of(x), false, -1} : target_for(x, false, step.dout);
    touch_value(x);
    step.dx = target.buffer;
    emit(step);
    settle(x, target);
  }

  void linear(const Node& node, Step step, bool alone) {
    const std::int32_t x = node.inputs[0];
    if (node.activation == Activation::Gelu) {
      const bool is_read_later = needs(x) && gradient(x) == step.dout;
      step.scratch = alone && !is_read_later ? step.dout : like(node.output);
      touch_value(node.saved[0]);
    }
    // x is read for the gradients of what trains only.
    if (trains(node.inputs[1])) touch_value(x);
    std::int64_t widest = 0;
    for (const AdapterUse& adapter : node.adapters) {
      touch_value(node.adapted);
      touch_value(adapter.low);
      widest = std::max(widest, count_of(adapter.low));
    }
    if (node.mixed >= 0) {
      for (std::int32_t value : {node.mixed, node.gain, node.norm}) touch_value(value);
      step.dmixed = like(node.output);
    }
    if (needs(x) || needs(node.adapted)) step.weight = weight_room(node);
    if (widest > 0) step.dlow = new_buffer(static_cast<std::uint64_t>(widest) * core::size_of(graph_.compute));
    Target target, adapted;
    if (needs(x)) {
      target = target_for(x, true, step.dout);
      step.dx = target.buffer;
      step.dx_accumulates = target.accumulates;
    }
    if (node.adapted != x && needs(node.adapted)) {
      adapted = target_for(node.adapted, true, step.dout);
      step.dadapted = adapted.buffer;
      step.dadapted_accumulates = adapted.accumulates;
    }
    emit(step);
    if (step.dx >= 0) settle(x, target);
    if (step.dadapted >= 0) settle(node.adapted, adapted);
  }

  void attention(const Node& node, Step step) {
    const Target target = target_for(node.inputs[0], false, step.dout);
    for (std::int32_t value : {node.inputs[0], node.inputs[1], node.output, node.saved[0]}) touch_value(value);
    step.scratch = new_buffer(static_cast<std::uint64_t>(node.batch * node.heads * node.length) * sizeof(float));
    step.dx = target.buffer;
    emit(step);
    settle(node.inputs[0], target);
  }

  // --- placement -------------------------------------------------------------------------------------------------
  void keep_to_the_end() {
    const auto end = static_cast<std::int32_t>(plan_.steps.size());
    for (std::size_t id = 0; id < graph_.values.size(); ++id)
      if (const auto value = static_cast<std::int32_t>(id); graph_.values[id].kind == ValueKind::Input || graph_.values[id].kind == ValueKind::Constant ||
                                                            value == graph_.losses || value == graph_.row_weights || value == graph_.hits) {
        Buffer& buffer = plan_.buffers[static_cast<std::size_t>(plan_.value_buffer[id])];
        buffer.first = std::min(buffer.first, 0);
        buffer.last = end;
      }
  }

  // A gradient lives from the first step that may write to it; one that no step writes to is made after them all.
  void find_births() {
    const auto end = static_cast<std::int32_t>(plan_.steps.size());
    std::vector<std::int32_t> birth(graph_.parameters.size(), end);
    for (std::int32_t index = end; index-- > 0;) {
      const Step& step = plan_.steps[static_cast<std::size_t>(index)];
      if (step.node < 0) continue;
      const Node& node = graph_.nodes[static_cast<std::size_t>(step.node)];
      if (step.kind == Step::Kind::Forward && node.kind != OpKind::LinearCrossEntropy) continue;
      const auto note = [&](std::int32_t value) {
        if (trains(value)) birth[static_cast<std::size_t>(graph_.values[static_cast<std::size_t>(value)].index)] = index;
      };
      for (const std::int32_t value : node.inputs) note(value);
      for (const AdapterUse& adapter : node.adapters) note(adapter.down), note(adapter.up), note(adapter.magnitude);
    }
    for (std::size_t i = 0; i < birth.size(); ++i) {
      const Parameter& parameter = graph_.parameters[i];
      if (!parameter.trains) continue;
      plan_.births.push_back({birth[i], parameter.offset, parameter.count});
      const auto count = static_cast<std::uint64_t>(parameter.count), offset = static_cast<std::uint64_t>(parameter.offset);
      plan_.buffers.push_back({count * sizeof(float), birth[i], end, offset * sizeof(float), true});
    }
    std::sort(plan_.births.begin(), plan_.births.end(), [](const Birth& a, const Birth& b) { return a.step != b.step ? a.step < b.step : a.first < b.first; });
    std::vector<Birth> joined;
    for (const Birth& b : plan_.births) {
      if (!joined.empty() && joined.back().step == b.step && joined.back().first + joined.back().count == b.first) joined.back().count += b.count;
      else joined.push_back(b);
    }
    plan_.births = std::move(joined);
  }

  const Graph& graph_;
  const Recompute recompute_;
  const bool trains_, forgets_, shares_gradients_;
  bool is_later_ = false;
  ExecutionPlan plan_;
  std::vector<std::int32_t> gradient_;  // buffer by value id
  std::vector<bool> is_pending_;        // its producer has yet to read its gradient
  std::vector<bool> needs_;             // by value id
  std::vector<int> readers_;            // how many nodes read it
  // By node: the values that its backward reads; here, and of a graph that forgets nothing.
  std::vector<std::vector<std::int32_t>> read_back_, wanted_back_;
  std::size_t running_ = 0;             // the node whose backward is laid out
  Rebuilding rebuilding_;
};

}  // namespace

std::int64_t logits_pitch(const Graph& graph, const Node& node) {
  const std::int64_t vocabulary = graph.values[static_cast<std::size_t>(node.inputs[1])].rows;
  return (vocabulary + 15) / 16 * 16;  // keeps rows aligned for tensor cores and vectors
}

std::int64_t logits_rows(const Graph& graph, const Node& node) {
  const std::int64_t rows = graph.values[static_cast<std::size_t>(node.inputs[0])].rows;
  const auto row_bytes = static_cast<std::uint64_t>(logits_pitch(graph, node)) * core::size_of(graph.compute);
  const auto fitting = static_cast<std::int64_t>(kLogitsBytes / row_bytes);
  return std::min(rows, std::max(kSmallestChunk, fitting));
}

ExecutionPlan compile(const Graph& graph, Mode mode, Recompute recompute, Gradients gradients) { return Compiler(graph, mode, recompute, gradients).run(); }

}  // namespace pgtrain::engine::graph
