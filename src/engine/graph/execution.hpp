// An executor's own state, and one function an operation and direction; pointers are looked up in the plan, all shapes come from the
// graph. Internal to src/engine/graph: executor.cpp and run_linear.cpp are its code.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/graph/plan.hpp"

namespace pgtrain::engine::graph {

struct ColumnRange;

struct Executor::Plan {
  Plan(const Graph& graph_in, ParameterStore& store_in, Mode mode_in, Recompute recompute, Gradients gradients)
      : graph(graph_in), store(store_in), backend(store_in.backend()), mode(mode_in), plan(compile(graph_in, mode_in, recompute, gradients)) {
    arena = static_cast<char*>(backend.allocate(std::max<std::uint64_t>(plan.arena_bytes, 1)));
    try {
      apart = static_cast<Apart*>(backend.allocate(sizeof(Apart)));
    } catch (...) {
      backend.release(arena);
      throw;
    }
    for (std::size_t id = 0; id < graph.values.size(); ++id)
      if (const ValueInfo& constant = graph.values[id]; constant.kind == ValueKind::Constant)
        backend.upload(value(static_cast<std::int32_t>(id)), graph.constants[static_cast<std::size_t>(constant.index)].data(), static_cast<std::size_t>(constant.count()) * sizeof(float));
    if (!plan.births.empty()) store.lend_gradients(reinterpret_cast<float*>(arena));
    find_lives();
  }
  ~Plan() {
    if (!plan.births.empty()) store.lend_gradients(nullptr);
    backend.release(arena);
    backend.release(apart);
  }

  const ValueInfo& info(std::int32_t value) const { return graph.values[static_cast<std::size_t>(value)]; }
  const Parameter& parameter(std::int32_t value) const { return graph.parameters[static_cast<std::size_t>(info(value).index)]; }
  void* at(std::int32_t buffer) const { return arena + plan.buffers[static_cast<std::size_t>(buffer)].offset; }
  void* value(std::int32_t id) const { return at((is_later ? plan.later_buffer : plan.value_buffer)[static_cast<std::size_t>(id)]); }
  float* floats(std::int32_t id) const { return static_cast<float*>(value(id)); }
  const std::int32_t* ids(std::int32_t id) const { return id < 0 ? nullptr : static_cast<const std::int32_t*>(value(id)); }
  const void* weight(std::int32_t id) const { return id < 0 ? nullptr : store.compute_pointer(parameter(id)); }
  // The matrix of a projection; one in 4 bits is made numbers first, and is then [out, in] whatever it was.
  const void* matrix_of(const Node& node, const Step& step) const {
    if (step.weight < 0) return weight(node.inputs[1]);
    store.dequantize(parameter(node.inputs[1]), at(step.weight));
    return at(step.weight);
  }
  // Null where nothing trains.
  float* gradient(std::int32_t id) const { return id < 0 || !parameter(id).trains ? nullptr : store.gradients() + parameter(id).offset; }

  void* columns_from(void* rows, std::int64_t column) const { return static_cast<char*>(rows) + static_cast<std::size_t>(column) * core::size_of(graph.compute); }

  // Runs that are alike but for their numbers, and for what lies where they read.
  struct Likeness {
    bool wants_gradients, drops, weighs_rows, uses_adapters;
    const float* gradients;
    std::uint64_t quantized;  // the scales of 4 bits that calls were given
    auto operator<=>(const Likeness&) const = default;
  };
  struct Kept {
    bool has_run = false, is_tried = false;
    std::unique_ptr<backend::Recording> recording;
  };

  bool weighs_rows() const { return has_row_weights && wants_gradients; }
  void find_lives();
  void perform();
  void run_steps();
  void run(const Step& step);
  void forward(const Step& step);
  void backward(const Step& step);
  void linear_forward(const Node& node, const Step& step);
  void linear_backward(const Node& node, const Step& step);
  void project(const Node& node, const Step& step, const void* matrix, const void* from, void* to, const void* bias, bool has_gelu);
  void project_back(const Node& node, const Step& step, const void* matrix, const void* dout, std::int32_t dx, bool accumulates);
  void adapters_forward(const Node& node, void* sum);
  void adapters_backward(const Node& node, const Step& step, const void* dout);
  void decomposed_forward(const Node& node, const Step& step, const void* matrix, void* sum);
  void decomposed_backward(const Node& node, const Step& step, const void* dout);
  void update_gains(const Node& node, const Step& step, const void* matrix);
  void scale_columns(const Node& node, const ColumnRange& range, void* y, const void* x, const float* gain, float factor, const void* bias, bool accumulates);
  void layer_norm_forward(const Node& node, Again again);
  void layer_norm_backward(const Node& node, const Step& step);
  void rms_norm_forward(const Node& node, Again again);
  void rms_norm_backward(const Node& node, const Step& step);
  void head_norm_forward(const Node& node);
  void head_norm_backward(const Node& node, const Step& step);
  void rope(const Node& node, void* y, const void* x, bool inverse);
  void dropout(const Node& node, void* y, const void* x, bool accumulates);
  void attention_forward(const Node& node);
  void attention_backward(const Node& node, const Step& step);
  void cross_entropy(const Node& node, const Step& step);
  double sum(std::int32_t id);
  void download(std::int32_t id, std::vector<float>& host);

  Graph graph;
  ParameterStore& store;
  backend::Backend& backend;
  Mode mode;
  ExecutionPlan plan;
  char* arena = nullptr;
  // On the device, of no step.
  struct Apart {
    backend::RunNumbers numbers;
    float total;
  };
  Apart* apart = nullptr;
  std::optional<backend::RunNumbers> uploaded;
  std::vector<std::vector<std::int32_t>> begins, ends;  // by step: the buffers whose life it begins or ends
  std::map<Likeness, Kept> kept;
  bool is_later = false;  // the running step comes after the forward
  bool wants_gradients = false, drops = false, has_row_weights = false, uses_adapters = true;
  std::uint64_t dropout_seed = 0, dropout_draw = 0;
  float loss_scale = 1.0f;
};

}  // namespace pgtrain::engine::graph
