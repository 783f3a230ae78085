// Memory plans, and all operations of a graph but its projections, see executor.hpp and execution.hpp.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/core/error.hpp"
#include "engine/graph/execution.hpp"

namespace pgtrain::engine::graph {

namespace {

// The largest of the products that a node makes, in what it takes of the backend's memory; as the functions below call them.
std::uint64_t matmul_bytes(const Graph& graph, const Node& node, Mode mode, const backend::Backend& backend) {
  if (node.kind != OpKind::Linear && node.kind != OpKind::LinearCrossEntropy) return 0;
  const auto about = [&](std::int32_t value) -> const ValueInfo& { return graph.values[static_cast<std::size_t>(value)]; };
  const ValueInfo &x = about(node.inputs[0]), &w = about(node.inputs[1]);
  const bool is_loss = node.kind == OpKind::LinearCrossEntropy, trains = mode == Mode::Train;
  const bool is_out_first = is_loss || node.is_transposed || graph.parameters[static_cast<std::size_t>(w.index)].storage == Storage::Nf4;
  const std::int64_t rows = is_loss ? std::min(x.rows, logits_rows(graph, node)) : x.rows, in = x.columns, out = is_loss || node.is_transposed ? w.rows : w.columns;
  const std::int64_t pitch = is_loss ? logits_pitch(graph, node) : out;
  const backend::DType type = graph.compute;
  std::uint64_t most = 0;
  const auto consider = [&](const backend::Matmul& product) { most = std::max(most, backend.matmul_workspace_bytes(product)); };
  consider({.m = rows, .n = out, .k = in, .transpose_b = is_out_first, .c_pitch = pitch, .in = type, .out = type});
  if (trains) {
    const std::int64_t weight_rows = is_out_first ? out : in, weight_columns = is_out_first ? in : out;
    consider({.m = weight_rows, .n = weight_columns, .k = rows, .transpose_a = true, .a_pitch = is_loss ? pitch : 0, .in = type, .out = DType::F32});
    consider({.m = rows, .n = in, .k = out, .transpose_b = !is_out_first, .a_pitch = is_loss ? pitch : 0, .in = type, .out = type});
  }
  for (const AdapterUse& adapter : node.adapters) {
    const std::int64_t rank = about(adapter.down).rows, width = about(adapter.up).rows;
    consider({.m = rows, .n = rank, .k = in, .transpose_b = true, .in = type, .out = type});
    consider({.m = rows, .n = width, .k = rank, .transpose_b = true, .c_pitch = out, .in = type, .out = type, .beta = 1.0f});
    if (adapter.magnitude >= 0) {
      consider({.m = width, .n = rank, .k = in, .transpose_a = !is_out_first, .transpose_b = true, .a_pitch = is_out_first ? in : out, .in = type, .out = DType::F32});
      consider({.m = rank, .n = rank, .k = in, .transpose_b = true, .in = type, .out = DType::F32});
    }
    if (!trains) continue;
    consider({.m = rows, .n = rank, .k = width, .a_pitch = out, .in = type, .out = type});
    consider({.m = width, .n = rank, .k = rows, .transpose_a = true, .a_pitch = out, .in = type, .out = DType::F32, .beta = 1.0f});
    consider({.m = rank, .n = in, .k = rows, .transpose_a = true, .in = type, .out = DType::F32, .beta = 1.0f});
    consider({.m = rows, .n = in, .k = rank, .in = type, .out = type, .beta = 1.0f});
  }
  return most;
}

}  // namespace

MemoryUse plan_memory(const Graph& graph, Mode mode, const backend::Backend& backend, const OptimizerMemory& optimizer, Recompute recompute, Gradients gradients) {
  const auto count = static_cast<std::uint64_t>(graph.parameter_count());
  MemoryUse use;
  use.weight_bytes = count * 4 + static_cast<std::uint64_t>(graph.frozen_count()) * core::size_of(graph.compute) +
                     graph.quantized_bytes();
  if (mode == Mode::Train) {
    use.gradient_bytes = count * 4;
    use.optimizer_bytes = optimizer.bytes;
  }
  const ExecutionPlan plan = compile(graph, mode, recompute, gradients);
  use.activation_bytes = plan.arena_bytes - (plan.births.empty() ? 0 : use.gradient_bytes);
  std::uint64_t attention = 0, matmul = optimizer.matmul_bytes;
  for (const Node& node : graph.nodes) {
    matmul = std::max(matmul, matmul_bytes(graph, node, mode, backend));
    if (node.kind != OpKind::Attention) continue;
    const backend::AttentionShape shape{.type = graph.compute, .batch = node.batch, .length = node.length, .heads = node.heads, .head_size = node.head_size,
                                        .kv_heads = node.kv_heads, .window = node.window, .has_segments = node.inputs[1] >= 0};
    backend.choose_attention(shape);
    attention = std::max(attention, backend.attention_workspace_bytes(shape));
  }
  use.workspace_bytes = backend.workspace_bytes() + attention + matmul;
  return use;
}

// Again in part: of the sum that is there.
void Executor::Plan::layer_norm_forward(const Node& node, Again again) {
  const bool is_sum = node.kind == OpKind::AddLayerNorm, adds = is_sum && again != Again::Part;
  const std::int32_t gain = node.inputs[is_sum ? 2 : 1], bias = node.inputs[is_sum ? 3 : 2];
  backend.layer_norm_forward({.type = graph.compute, .y = value(node.output), .mean = floats(node.saved[0]), .rstd = floats(node.saved[1]),
                              .x = value(again == Again::Part ? node.second : node.inputs[0]), .gain = weight(gain), .bias = weight(bias), .residual = adds ? value(node.inputs[1]) : nullptr,
                              .sum = adds ? value(node.second) : nullptr, .rows = info(node.output).rows, .width = info(node.output).columns, .epsilon = node.epsilon});
}

void Executor::Plan::layer_norm_backward(const Node& node, const Step& step) {
  const bool adds = node.kind == OpKind::AddLayerNorm;
  const std::int32_t gain = node.inputs[adds ? 2 : 1], bias = node.inputs[adds ? 3 : 2], x = adds ? node.second : node.inputs[0];
  backend.layer_norm_backward({.type = graph.compute, .dx = at(step.dx), .accumulate_dx = step.dx_accumulates, .dgain = gradient(gain), .dbias = gradient(bias),
                               .dy = at(step.dout), .x = value(x), .gain = weight(gain), .mean = floats(node.saved[0]), .rstd = floats(node.saved[1]),
                               .rows = info(x).rows, .width = info(x).columns});
}

void Executor::Plan::rms_norm_forward(const Node& node, Again again) {
  const bool is_sum = node.kind == OpKind::AddRmsNorm, adds = is_sum && again != Again::Part;
  backend.rms_norm_forward({.type = graph.compute, .y = value(node.output), .rstd = floats(node.saved[0]),
                            .x = value(again == Again::Part ? node.second : node.inputs[0]), .gain = weight(node.inputs[is_sum ? 2 : 1]),
                            .residual = adds ? value(node.inputs[1]) : nullptr, .sum = adds ? value(node.second) : nullptr, .rows = info(node.output).rows,
                            .width = info(node.output).columns, .epsilon = node.epsilon});
}

void Executor::Plan::rms_norm_backward(const Node& node, const Step& step) {
  const bool adds = node.kind == OpKind::AddRmsNorm;
  const std::int32_t gain = node.inputs[adds ? 2 : 1], x = adds ? node.second : node.inputs[0];
  backend.rms_norm_backward({.type = graph.compute, .dx = at(step.dx), .accumulate_dx = step.dx_accumulates, .dgain = gradient(gain), .dy = at(step.dout), .x = value(x),
                             .gain = weight(gain), .rstd = floats(node.saved[0]), .rows = info(x).rows, .width = info(x).columns});
}

void Executor::Plan::head_norm_forward(const Node& node) {
  const ValueInfo& x = info(node.inputs[0]);
  backend.copy(value(node.output), value(node.inputs[0]), static_cast<std::size_t>(x.count()) * core::size_of(graph.compute));
  const auto run = [&](std::int64_t column, std::int64_t groups, std::int32_t gain, std::int32_t rstd) {
    backend.rms_norm_forward({.type = graph.compute, .y = columns_from(value(node.output), column), .rstd = floats(rstd), .x = columns_from(value(node.inputs[0]), column),
                              .gain = weight(gain), .rows = x.rows, .width = node.head_size, .groups = groups, .pitch = x.columns, .epsilon = node.epsilon});
  };
  run(0, node.heads, node.inputs[1], node.saved[0]);
  run(node.heads * node.head_size, node.kv_heads, node.inputs[2], node.saved[1]);
}

void Executor::Plan::head_norm_backward(const Node& node, const Step& step) {
  const ValueInfo& x = info(node.inputs[0]);
  if (step.dx != step.dout) backend.copy(at(step.dx), at(step.dout), static_cast<std::size_t>(x.count()) * core::size_of(graph.compute));
  const auto run = [&](std::int64_t column, std::int64_t groups, std::int32_t gain, std::int32_t rstd) {
    void* place = columns_from(at(step.dx), column);
    backend.rms_norm_backward({.type = graph.compute, .dx = place, .dgain = gradient(gain), .dy = place, .x = columns_from(value(node.inputs[0]), column), .gain = weight(gain),
                               .rstd = floats(rstd), .rows = x.rows, .width = node.head_size, .groups = groups, .pitch = x.columns});
  };
  run(0, node.heads, node.inputs[1], node.saved[0]);
  run(node.heads * node.head_size, node.kv_heads, node.inputs[2], node.saved[1]);
}

void Executor::Plan::rope(const Node& node, void* y, const void* x, bool inverse) {
  const ValueInfo &rows = info(node.output), &table = info(node.inputs[2]);
  backend.rope({.type = graph.compute, .y = y, .x = x, .positions = ids(node.inputs[1]), .table = floats(node.inputs[2]), .rows = rows.rows, .heads = node.heads + node.kv_heads,
                .columns = rows.columns, .head_size = node.head_size, .context = table.rows, .inverse = inverse});
}

// Evaluation drops nothing.
void Executor::Plan::dropout(const Node& node, void* y, const void* x, bool accumulates) {
  backend.dropout({.type = graph.compute, .y = y, .x = x, .count = info(node.output).count(), .rate = drops ? node.rate : 0.0f, .stream = static_cast<std::uint64_t>(node.ordinal),
                   .accumulate = accumulates, .run = &apart->numbers});
}

void Executor::Plan::attention_forward(const Node& node) {
  backend.attention_forward({.type = graph.compute, .qkv = value(node.inputs[0]), .out = value(node.output), .log_sum = floats(node.saved[0]), .segments = ids(node.inputs[1]),
                             .batch = node.batch, .length = node.length, .heads = node.heads, .head_size = node.head_size,
                             .scale = 1.0f / std::sqrt(static_cast<float>(node.head_size)), .kv_heads = node.kv_heads, .window = node.window});
}

void Executor::Plan::attention_backward(const Node& node, const Step& step) {
  backend.attention_backward({.type = graph.compute, .qkv = value(node.inputs[0]), .out = value(node.output), .dout = at(step.dout), .log_sum = floats(node.saved[0]),
                              .delta = static_cast<float*>(at(step.scratch)), .segments = ids(node.inputs[1]), .dqkv = at(step.dx), .batch = node.batch, .length = node.length,
                              .heads = node.heads, .head_size = node.head_size, .scale = 1.0f / std::sqrt(static_cast<float>(node.head_size)), .kv_heads = node.kv_heads,
                              .window = node.window});
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
                           .hits = floats(node.saved[1]) + begin, .weights = weighs_rows() ? floats(node.saved[0]) + begin : nullptr,
                           .targets = ids(node.inputs[2]) + begin, .rows = rows, .vocabulary = w.rows, .gradient = wants_gradients, .run = &apart->numbers});
    if (!wants_gradients) continue;
    if (float* dweight = gradient(node.inputs[1]))
      backend.matmul({.m = w.rows, .n = x.columns, .k = rows, .transpose_a = true, .a = logits, .b = x_rows, .c = dweight, .a_pitch = pitch, .in = graph.compute,
                      .out = DType::F32, .beta = 1.0f});
    if (step.dx >= 0)
      backend.matmul({.m = rows, .n = x.columns, .k = w.rows, .a = logits, .b = weight(node.inputs[1]),
                    .c = static_cast<char*>(at(step.dx)) + static_cast<std::size_t>(begin) * row_bytes, .a_pitch = pitch, .in = graph.compute, .out = graph.compute});
  }
}

// Of what is there for a part of the steps only.
void Executor::Plan::find_lives() {
  const auto end = static_cast<std::int32_t>(plan.steps.size());
  begins.assign(plan.steps.size(), {}), ends.assign(plan.steps.size(), {});
  for (std::size_t index = 0; index < plan.buffers.size(); ++index) {
    const Buffer& buffer = plan.buffers[index];
    if (buffer.last < 0 || buffer.last >= end) continue;
    begins[static_cast<std::size_t>(buffer.first)].push_back(static_cast<std::int32_t>(index));
    ends[static_cast<std::size_t>(buffer.last)].push_back(static_cast<std::int32_t>(index));
  }
}

// The first of its kind is called, so that libraries choose and allocate what they need; the second is recorded where the device can.
void Executor::Plan::perform() {
  const backend::RunNumbers numbers{dropout_seed, dropout_draw * static_cast<std::uint64_t>(graph.dropouts), loss_scale};
  if (numbers != uploaded) backend.upload(&apart->numbers, &numbers, sizeof numbers);
  uploaded = numbers;
  Kept& alike = kept[{wants_gradients, drops, weighs_rows(), uses_adapters, store.gradients(), store.quantized()}];
  if (alike.has_run && !alike.is_tried) alike.recording = backend.record([this] { run_steps(); });
  alike.is_tried = std::exchange(alike.has_run, true);
  if (alike.recording != nullptr) {
    if (alike.recording->replay()) return;
    alike = Kept{};  // recorded anew the next time
    alike.has_run = true;
  }
  run_steps();
}

// Gradients that share their memory begin with zeros, as late as they can.
void Executor::Plan::run_steps() {
  const auto forget = [&](const std::vector<std::int32_t>& buffers) {
    for (const std::int32_t buffer : buffers) backend.forget(at(buffer), plan.buffers[static_cast<std::size_t>(buffer)].bytes);
  };
  auto birth = plan.births.begin();
  for (std::size_t index = 0; index <= plan.steps.size(); ++index) {
    const bool is_step = index < plan.steps.size() && (wants_gradients || (plan.steps[index].kind == Step::Kind::Forward && plan.steps[index].again == Again::No));
    if (is_step) forget(begins[index]);
    for (; wants_gradients && birth != plan.births.end() && birth->step == static_cast<std::int32_t>(index); ++birth)
      backend.zero(store.gradients() + birth->first, static_cast<std::size_t>(birth->count) * sizeof(float));
    if (!is_step) continue;
    run(plan.steps[index]);
    forget(ends[index]);
  }
}

void Executor::Plan::run(const Step& step) {
  is_later = step.kind != Step::Kind::Forward || step.again != Again::No;
  if (step.kind == Step::Kind::Forward) forward(step);
  else if (step.kind == Step::Kind::Backward) backward(step);
  else backend.add(graph.compute, at(step.out), at(step.a), at(step.b), step.count);
}

double Executor::Plan::sum(std::int32_t id) {
  backend.sum(&apart->total, floats(id), info(id).count(), false);
  float host = 0;
  backend.download(&host, &apart->total, sizeof host);
  return host;
}

void Executor::Plan::download(std::int32_t id, std::vector<float>& host) {
  host.resize(static_cast<std::size_t>(info(id).count()));
  backend.download(host.data(), floats(id), host.size() * sizeof(float));
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
      return layer_norm_forward(node, step.again);
    case OpKind::RmsNorm:
    case OpKind::AddRmsNorm:
      return rms_norm_forward(node, step.again);
    case OpKind::HeadNorm:
      return head_norm_forward(node);
    case OpKind::Rope:
      return rope(node, value(node.output), value(node.inputs[0]), false);
    case OpKind::SwiGlu:
      return backend.swiglu_forward({.type = graph.compute, .y = value(node.output), .gate_up = value(node.inputs[0]), .rows = info(node.output).rows, .width = info(node.output).columns});
    case OpKind::Dropout:
      return dropout(node, value(node.output), value(node.inputs[0]), false);
    case OpKind::Linear:
      return linear_forward(node, step);
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
      if (gradient(node.inputs[0]) == nullptr) return;
      return backend.embedding_backward({.type = graph.compute, .dtable = gradient(node.inputs[0]), .dout = at(step.dout), .ids = ids(node.inputs[1]),
                                         .rows = info(node.output).rows, .width = info(node.output).columns, .vocabulary = info(node.inputs[0]).rows});
    case OpKind::LayerNorm:
    case OpKind::AddLayerNorm:
      return layer_norm_backward(node, step);
    case OpKind::RmsNorm:
    case OpKind::AddRmsNorm:
      return rms_norm_backward(node, step);
    case OpKind::HeadNorm:
      return head_norm_backward(node, step);
    case OpKind::Rope:
      return rope(node, at(step.dx), at(step.dout), true);
    case OpKind::SwiGlu:
      return backend.swiglu_backward({.type = graph.compute, .dgate_up = at(step.dx), .dy = at(step.dout), .gate_up = value(node.inputs[0]), .rows = info(node.output).rows,
                                      .width = info(node.output).columns});
    case OpKind::Dropout:
      return dropout(node, at(step.dx), at(step.dout), step.dx_accumulates);
    case OpKind::Linear:
      return linear_backward(node, step);
    case OpKind::Attention:
      return attention_backward(node, step);
    case OpKind::Add:
    case OpKind::LinearCrossEntropy:
      return;  // the plan has no such step: a sum's gradient is shared, the loss makes its own in the forward
  }
}

Executor::Executor(const Graph& graph, ParameterStore& store, Mode mode, Recompute recompute, Gradients gradients)
    : plan_(std::make_unique<Plan>(graph, store, mode, recompute, gradients)) {}
Executor::~Executor() = default;

std::uint64_t Executor::arena_bytes() const { return plan_->plan.arena_bytes; }

void Executor::set_input(const std::string& name, const std::int32_t* host) {
  for (const Input& input : plan_->graph.inputs)
    if (input.name == name)
      return plan_->backend.upload(plan_->value(input.value), host, static_cast<std::size_t>(plan_->info(input.value).count()) * sizeof(std::int32_t));
  throw core::Error("config_invalid", "the graph has no input named \"" + name + "\"");
}

void Executor::set_dropout(std::uint64_t seed, std::uint64_t draw) {
  plan_->dropout_seed = seed;
  plan_->dropout_draw = draw;
}

void Executor::set_row_weights(const float* host) {
  plan_->has_row_weights = host != nullptr;
  if (host != nullptr) plan_->backend.upload(plan_->floats(plan_->graph.row_weights), host, static_cast<std::size_t>(plan_->info(plan_->graph.row_weights).count()) * sizeof(float));
}

void Executor::use_adapters(bool are_used) { plan_->uses_adapters = are_used; }

void Executor::forward(bool drops) {
  if (drops && plan_->mode != Mode::Train) throw core::Error("config_invalid", "this graph was compiled for evaluation, which drops nothing");
  plan_->wants_gradients = false;
  plan_->drops = drops;
  plan_->perform();
}

void Executor::forward_backward(float loss_scale) {
  if (plan_->mode != Mode::Train) throw core::Error("config_invalid", "this graph was compiled for evaluation and has no backward");
  if (!plan_->uses_adapters) throw core::Error("config_invalid", "gradients of a run without adapters were asked for");
  plan_->wants_gradients = true;
  plan_->drops = true;
  plan_->loss_scale = loss_scale;
  plan_->perform();
}

double Executor::loss_sum() { return plan_->sum(plan_->graph.losses); }
double Executor::hit_sum() { return plan_->sum(plan_->graph.hits); }
void Executor::download_losses(std::vector<float>& host) { plan_->download(plan_->graph.losses, host); }
void Executor::download_hits(std::vector<float>& host) { plan_->download(plan_->graph.hits, host); }

}  // namespace pgtrain::engine::graph
