// Runs the steps of a plan on a backend, see executor.hpp. One function an operation and direction; pointers are looked up
// in the plan, all shapes come from the graph.
#include "engine/graph/executor.hpp"

#include <algorithm>
#include <cmath>

#include "engine/core/error.hpp"
#include "engine/graph/plan.hpp"

namespace pgtrain::engine::graph {

namespace {

// The largest of the products that a node makes, in what it takes of the backend's memory; as the functions below call them.
std::uint64_t matmul_bytes(const Graph& graph, const Node& node, Mode mode, const backend::Backend& backend) {
  if (node.kind != OpKind::Linear && node.kind != OpKind::LinearCrossEntropy) return 0;
  const ValueInfo &x = graph.values[static_cast<std::size_t>(node.inputs[0])], &w = graph.values[static_cast<std::size_t>(node.inputs[1])];
  const bool is_loss = node.kind == OpKind::LinearCrossEntropy;
  const std::int64_t rows = is_loss ? std::min(x.rows, logits_rows(graph, node)) : x.rows, in = x.columns, out = is_loss ? w.rows : w.columns;
  const std::int64_t pitch = is_loss ? logits_pitch(graph, node) : out;
  const backend::DType type = graph.compute;
  std::uint64_t most = backend.matmul_workspace_bytes({.m = rows, .n = out, .k = in, .transpose_b = is_loss, .c_pitch = pitch, .in = type, .out = type});
  if (mode != Mode::Train) return most;
  const std::int64_t weight_rows = is_loss ? out : in, weight_columns = is_loss ? in : out;
  most = std::max(most, backend.matmul_workspace_bytes({.m = weight_rows, .n = weight_columns, .k = rows, .transpose_a = true, .a_pitch = is_loss ? pitch : 0, .in = type, .out = DType::F32}));
  return std::max(most, backend.matmul_workspace_bytes({.m = rows, .n = in, .k = out, .transpose_b = !is_loss, .a_pitch = is_loss ? pitch : 0, .in = type, .out = type}));
}

}  // namespace

MemoryUse plan_memory(const Graph& graph, Mode mode, const backend::Backend& backend) {
  const auto count = static_cast<std::uint64_t>(graph.parameter_count());
  MemoryUse use;
  use.weight_bytes = count * 4 + (graph.compute == DType::Bf16 ? count * 2 : 0);
  if (mode == Mode::Train) {
    use.gradient_bytes = count * 4;
    use.optimizer_bytes = count * 8;
  }
  use.activation_bytes = compile(graph, mode).arena_bytes;
  std::uint64_t attention = 0, matmul = 0;
  for (const Node& node : graph.nodes) {
    matmul = std::max(matmul, matmul_bytes(graph, node, mode, backend));
    if (node.kind == OpKind::Attention)
      attention = std::max(attention, backend.attention_workspace_bytes(node.length, graph.values[static_cast<std::size_t>(node.output)].columns / node.heads));
  }
  use.workspace_bytes = backend.workspace_bytes() + attention + matmul;
  return use;
}

struct Executor::Plan {
  Plan(const Graph& graph_in, ParameterStore& store_in, Mode mode_in)
      : graph(graph_in), store(store_in), backend(store_in.backend()), mode(mode_in), plan(compile(graph_in, mode_in)) {
    arena = static_cast<char*>(backend.allocate(std::max<std::uint64_t>(plan.arena_bytes, 1)));
    try {
      total = static_cast<float*>(backend.allocate(sizeof(float)));
    } catch (...) {
      backend.release(arena);
      throw;
    }
  }
  ~Plan() {
    backend.release(arena);
    backend.release(total);
  }

  const ValueInfo& info(std::int32_t value) const { return graph.values[static_cast<std::size_t>(value)]; }
  const Parameter& parameter(std::int32_t value) const { return graph.parameters[static_cast<std::size_t>(info(value).index)]; }
  void* at(std::int32_t buffer) const { return arena + plan.buffers[static_cast<std::size_t>(buffer)].offset; }
  void* value(std::int32_t id) const { return at(plan.value_buffer[static_cast<std::size_t>(id)]); }
  float* floats(std::int32_t id) const { return static_cast<float*>(value(id)); }
  const std::int32_t* ids(std::int32_t id) const { return id < 0 ? nullptr : static_cast<const std::int32_t*>(value(id)); }
  const void* weight(std::int32_t id) const { return store.compute_pointer(parameter(id)); }
  float* gradient(std::int32_t id) const { return store.gradients() + parameter(id).offset; }

  void forward(const Step& step);
  void backward(const Step& step);
  void linear_forward(const Node& node);
  void linear_backward(const Node& node, const Step& step);
  void layer_norm_forward(const Node& node);
  void layer_norm_backward(const Node& node, const Step& step);
  void attention_forward(const Node& node);
  void attention_backward(const Node& node, const Step& step);
  void cross_entropy(const Node& node, const Step& step);

  Graph graph;
  ParameterStore& store;
  backend::Backend& backend;
  Mode mode;
  ExecutionPlan plan;
  char* arena = nullptr;
  float* total = nullptr;
  bool wants_gradients = false;
  float loss_scale = 1.0f;
};

void Executor::Plan::linear_forward(const Node& node) {
  const ValueInfo &x = info(node.inputs[0]), &w = info(node.inputs[1]);
  const bool gelu = node.activation == Activation::Gelu;
  backend.matmul({.m = x.rows, .n = w.columns, .k = w.rows, .a = value(node.inputs[0]), .b = weight(node.inputs[1]), .c = value(node.output),
                  .in = graph.compute, .out = graph.compute, .bias = weight(node.inputs[2]), .gelu = gelu,
                  .gelu_input = gelu && mode == Mode::Train ? value(node.saved[0]) : nullptr});
}

void Executor::Plan::linear_backward(const Node& node, const Step& step) {
  const ValueInfo &x = info(node.inputs[0]), &w = info(node.inputs[1]);
  const void* dout = at(step.dout);
  if (node.activation == Activation::Gelu) {
    backend.gelu_backward(graph.compute, at(step.scratch), dout, value(node.saved[0]), info(node.output).count());
    dout = at(step.scratch);
  }
  backend.column_sum(graph.compute, gradient(node.inputs[2]), dout, x.rows, w.columns);
  backend.matmul({.m = w.rows, .n = w.columns, .k = x.rows, .transpose_a = true, .a = value(node.inputs[0]), .b = dout, .c = gradient(node.inputs[1]),
                  .in = graph.compute, .out = DType::F32, .beta = 1.0f});
  if (step.dx >= 0)
    backend.matmul({.m = x.rows, .n = w.rows, .k = w.columns, .transpose_b = true, .a = dout, .b = weight(node.inputs[1]), .c = at(step.dx),
                    .in = graph.compute, .out = graph.compute, .beta = step.dx_accumulates ? 1.0f : 0.0f});
}

void Executor::Plan::layer_norm_forward(const Node& node) {
  const bool adds = node.kind == OpKind::AddLayerNorm;
  const std::int32_t gain = node.inputs[adds ? 2 : 1], bias = node.inputs[adds ? 3 : 2];
  backend.layer_norm_forward({.type = graph.compute, .y = value(node.output), .mean = floats(node.saved[0]), .rstd = floats(node.saved[1]),
                              .x = value(node.inputs[0]), .gain = weight(gain), .bias = weight(bias), .residual = adds ? value(node.inputs[1]) : nullptr,
                              .sum = adds ? value(node.second) : nullptr, .rows = info(node.output).rows, .width = info(node.output).columns, .epsilon = node.epsilon});
}

void Executor::Plan::layer_norm_backward(const Node& node, const Step& step) {
  const bool adds = node.kind == OpKind::AddLayerNorm;
  const std::int32_t gain = node.inputs[adds ? 2 : 1], bias = node.inputs[adds ? 3 : 2], x = adds ? node.second : node.inputs[0];
  backend.layer_norm_backward({.type = graph.compute, .dx = at(step.dx), .accumulate_dx = step.dx_accumulates, .dgain = gradient(gain), .dbias = gradient(bias),
                               .dy = at(step.dout), .x = value(x), .gain = weight(gain), .mean = floats(node.saved[0]), .rstd = floats(node.saved[1]),
                               .rows = info(x).rows, .width = info(x).columns});
}

void Executor::Plan::attention_forward(const Node& node) {
  const std::int64_t head_size = info(node.output).columns / node.heads;
  backend.attention_forward({.type = graph.compute, .qkv = value(node.inputs[0]), .out = value(node.output), .log_sum = floats(node.saved[0]),
                             .segments = ids(node.inputs[1]), .batch = node.batch, .length = node.length, .heads = node.heads, .head_size = head_size,
                             .scale = 1.0f / std::sqrt(static_cast<float>(head_size))});
}

void Executor::Plan::attention_backward(const Node& node, const Step& step) {
  const std::int64_t head_size = info(node.output).columns / node.heads;
  backend.attention_backward({.type = graph.compute, .qkv = value(node.inputs[0]), .out = value(node.output), .dout = at(step.dout), .log_sum = floats(node.saved[0]),
                              .delta = static_cast<float*>(at(step.scratch)), .segments = ids(node.inputs[1]), .dqkv = at(step.dx), .batch = node.batch,
                              .length = node.length, .heads = node.heads, .head_size = head_size, .scale = 1.0f / std::sqrt(static_cast<float>(head_size))});
}

// The head and the loss over chunks of rows, so that only a part of the logits ever exists.
void Executor::Plan::cross_entropy(const Node& node, const Step& step) {
  const ValueInfo &x = info(node.inputs[0]), &w = info(node.inputs[1]);
  const std::int64_t chunk = logits_rows(graph, node), pitch = logits_pitch(graph, node);
  const auto row_bytes = static_cast<std::size_t>(x.columns) * core::size_of(graph.compute);
  void* logits = at(step.scratch);
  for (std::int64_t begin = 0; begin < x.rows; begin += chunk) {
    const std::int64_t rows = std::min(chunk, x.rows - begin);
    const char* x_rows = static_cast<const char*>(value(node.inputs[0])) + static_cast<std::size_t>(begin) * row_bytes;
    backend.matmul({.m = rows, .n = w.rows, .k = x.columns, .transpose_b = true, .a = x_rows, .b = weight(node.inputs[1]), .c = logits,
                    .c_pitch = pitch, .in = graph.compute, .out = graph.compute});
    backend.cross_entropy({.type = graph.compute, .logits = logits, .pitch = pitch, .losses = floats(node.output) + begin,
                           .targets = ids(node.inputs[2]) + begin, .rows = rows, .vocabulary = w.rows, .scale = loss_scale, .gradient = wants_gradients});
    if (!wants_gradients) continue;
    backend.matmul({.m = w.rows, .n = x.columns, .k = rows, .transpose_a = true, .a = logits, .b = x_rows, .c = gradient(node.inputs[1]), .a_pitch = pitch,
                    .in = graph.compute, .out = DType::F32, .beta = 1.0f});
    backend.matmul({.m = rows, .n = x.columns, .k = w.rows, .a = logits, .b = weight(node.inputs[1]),
                    .c = static_cast<char*>(at(step.dx)) + static_cast<std::size_t>(begin) * row_bytes, .a_pitch = pitch, .in = graph.compute, .out = graph.compute});
  }
}

void Executor::Plan::forward(const Step& step) {
  const Node& node = graph.nodes[static_cast<std::size_t>(step.node)];
  switch (node.kind) {
    case OpKind::Embedding:
      return backend.embedding_forward({.type = graph.compute, .out = value(node.output), .table = weight(node.inputs[0]), .ids = ids(node.inputs[1]),
                                        .rows = info(node.output).rows, .width = info(node.output).columns, .vocabulary = info(node.inputs[0]).rows});
    case OpKind::Add:
      return backend.add(graph.compute, value(node.output), value(node.inputs[0]), value(node.inputs[1]), info(node.output).count());
    case OpKind::LayerNorm:
    case OpKind::AddLayerNorm:
      return layer_norm_forward(node);
    case OpKind::Linear:
      return linear_forward(node);
    case OpKind::Attention:
      return attention_forward(node);
    case OpKind::LinearCrossEntropy:
      return cross_entropy(node, step);
  }
}

void Executor::Plan::backward(const Step& step) {
  const Node& node = graph.nodes[static_cast<std::size_t>(step.node)];
  switch (node.kind) {
    case OpKind::Embedding:
      return backend.embedding_backward({.type = graph.compute, .dtable = gradient(node.inputs[0]), .dout = at(step.dout), .ids = ids(node.inputs[1]),
                                         .rows = info(node.output).rows, .width = info(node.output).columns, .vocabulary = info(node.inputs[0]).rows});
    case OpKind::LayerNorm:
    case OpKind::AddLayerNorm:
      return layer_norm_backward(node, step);
    case OpKind::Linear:
      return linear_backward(node, step);
    case OpKind::Attention:
      return attention_backward(node, step);
    case OpKind::Add:
    case OpKind::LinearCrossEntropy:
      return;  // the plan has no such step: a sum's gradient is shared, the loss makes its own in the forward
  }
}

Executor::Executor(const Graph& graph, ParameterStore& store, Mode mode) : plan_(std::make_unique<Plan>(graph, store, mode)) {}
Executor::~Executor() = default;

std::uint64_t Executor::arena_bytes() const { return plan_->plan.arena_bytes; }

void Executor::set_input(const std::string& name, const std::int32_t* host) {
  for (const Input& input : plan_->graph.inputs)
    if (input.name == name)
      return plan_->backend.upload(plan_->value(input.value), host, static_cast<std::size_t>(plan_->info(input.value).count()) * sizeof(std::int32_t));
  throw core::Error("config_invalid", "the graph has no input named \"" + name + "\"");
}

void Executor::forward() {
  plan_->wants_gradients = false;
  for (const Step& step : plan_->plan.steps)
    if (step.kind == Step::Kind::Forward) plan_->forward(step);
}

void Executor::forward_backward(float loss_scale) {
  if (plan_->mode != Mode::Train) throw core::Error("config_invalid", "this graph was compiled for evaluation and has no backward");
  plan_->wants_gradients = true;
  plan_->loss_scale = loss_scale;
  for (const Step& step : plan_->plan.steps) {
    if (step.kind == Step::Kind::Forward)
      plan_->forward(step);
    else if (step.kind == Step::Kind::Backward)
      plan_->backward(step);
    else
      plan_->backend.add(plan_->graph.compute, plan_->at(step.out), plan_->at(step.a), plan_->at(step.b), step.count);
  }
}

double Executor::loss_sum() {
  plan_->backend.sum(plan_->total, plan_->floats(plan_->graph.losses), plan_->info(plan_->graph.losses).count(), false);
  float host = 0;
  plan_->backend.download(&host, plan_->total, sizeof host);
  return host;
}

}  // namespace pgtrain::engine::graph
