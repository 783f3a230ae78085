// Projections: the product, low-rank adapters beside it, and adapters that change a weight's direction alone (DoRA), see execution.hpp.
//
// A decomposed weight's output is gain (W x + scale up down x) + bias with gain = magnitude / |W + scale up down| by row. The length is
// a constant to the gradient, as its authors and PEFT have it. What adapters read may have been dropped from: then the part of W
// that is not scaled reads x all the same, W x + (gain - 1) W x' + gain scale up down x', again as PEFT has it.
#include <algorithm>
#include <utility>

#include "engine/graph/execution.hpp"

namespace pgtrain::engine::graph {

// Columns of a projection that have an adapter, or that have none.
struct ColumnRange {
  std::int64_t column = 0, width = 0;
  const AdapterUse* adapter = nullptr;
};

namespace {

std::vector<ColumnRange> ranges_of(const Graph& graph, const Node& node) {
  std::vector<const AdapterUse*> uses;
  for (const AdapterUse& use : node.adapters) uses.push_back(&use);
  std::sort(uses.begin(), uses.end(), [](const AdapterUse* a, const AdapterUse* b) { return a->column < b->column; });
  std::vector<ColumnRange> ranges;
  std::int64_t column = 0;
  for (const AdapterUse* use : uses) {
    const std::int64_t width = graph.values[static_cast<std::size_t>(use->up)].rows;
    if (use->column > column) ranges.push_back({column, use->column - column, nullptr});
    ranges.push_back({use->column, width, use});
    column = use->column + width;
  }
  const std::int64_t columns = graph.values[static_cast<std::size_t>(node.output)].columns;
  if (columns > column) ranges.push_back({column, columns - column, nullptr});
  return ranges;
}

bool is_out_first(const Node& node, const Step& step) { return node.is_transposed || step.weight >= 0; }

}  // namespace

void Executor::Plan::project(const Node& node, const Step& step, const void* matrix, const void* from, void* to, const void* bias, bool has_gelu) {
  const ValueInfo &x = info(node.inputs[0]), &y = info(node.output);
  backend.matmul({.m = x.rows, .n = y.columns, .k = x.columns, .transpose_b = is_out_first(node, step), .a = from, .b = matrix, .c = to, .in = graph.compute,
                  .out = graph.compute, .bias = bias, .gelu = has_gelu, .gelu_input = has_gelu && mode == Mode::Train ? value(node.saved[0]) : nullptr});
}

void Executor::Plan::project_back(const Node& node, const Step& step, const void* matrix, const void* dout, std::int32_t dx, bool accumulates) {
  const ValueInfo &x = info(node.inputs[0]), &y = info(node.output);
  backend.matmul({.m = x.rows, .n = x.columns, .k = y.columns, .transpose_b = !is_out_first(node, step), .a = dout, .b = matrix, .c = at(dx), .in = graph.compute,
                  .out = graph.compute, .beta = accumulates ? 1.0f : 0.0f});
}

void Executor::Plan::linear_forward(const Node& node, const Step& step) {
  if (step.again == Again::Part) return backend.gelu_forward(graph.compute, value(node.output), value(node.saved[0]), info(node.output).count());
  // With adapters the activation follows their sum, without it is a part of the product.
  const bool has_gelu = node.activation == Activation::Gelu, is_apart = has_gelu && !node.adapters.empty();
  void* sum = value(is_apart ? node.saved[0] : node.output);
  const void* matrix = matrix_of(node, step);
  if (node.mixed >= 0 && uses_adapters) {
    decomposed_forward(node, step, matrix, sum);
  } else {
    project(node, step, matrix, value(node.inputs[0]), sum, weight(node.inputs[2]), has_gelu && !is_apart);
    adapters_forward(node, sum);
  }
  if (is_apart) backend.gelu_forward(graph.compute, value(node.output), sum, info(node.output).count());
}

void Executor::Plan::linear_backward(const Node& node, const Step& step) {
  const ValueInfo &x = info(node.inputs[0]), &w = info(node.inputs[1]), &y = info(node.output);
  const void* dout = at(step.dout);
  if (node.activation == Activation::Gelu) {
    backend.gelu_backward(graph.compute, at(step.scratch), dout, value(node.saved[0]), y.count());
    dout = at(step.scratch);
  }
  if (float* dbias = gradient(node.inputs[2])) backend.column_sum(graph.compute, dbias, dout, x.rows, y.columns);
  if (float* dweight = gradient(node.inputs[1])) {
    const void *left = value(node.inputs[0]), *right = dout;
    if (node.is_transposed) std::swap(left, right);
    backend.matmul({.m = w.rows, .n = w.columns, .k = x.rows, .transpose_a = true, .a = left, .b = right, .c = dweight, .in = graph.compute, .out = DType::F32, .beta = 1.0f});
  }
  if (node.mixed >= 0) return decomposed_backward(node, step, dout);
  if (step.dx >= 0) project_back(node, step, matrix_of(node, step), dout, step.dx, step.dx_accumulates);
  adapters_backward(node, step, dout);
}

void Executor::Plan::adapters_forward(const Node& node, void* sum) {
  if (!uses_adapters) return;
  for (const AdapterUse& adapter : node.adapters) {
    const ValueInfo &x = info(node.adapted), &y = info(node.output), &down = info(adapter.down), &up = info(adapter.up);
    backend.matmul({.m = x.rows, .n = down.rows, .k = x.columns, .transpose_b = true, .a = value(node.adapted), .b = weight(adapter.down), .c = value(adapter.low),
                    .in = graph.compute, .out = graph.compute});
    backend.matmul({.m = x.rows, .n = up.rows, .k = up.columns, .transpose_b = true, .a = value(adapter.low), .b = weight(adapter.up),
                    .c = columns_from(sum, adapter.column), .c_pitch = y.columns, .in = graph.compute, .out = graph.compute, .alpha = adapter.scale, .beta = 1.0f});
  }
}

void Executor::Plan::adapters_backward(const Node& node, const Step& step, const void* dout) {
  const std::int32_t dx = node.adapted == node.inputs[0] ? step.dx : step.dadapted;
  bool adds = node.adapted == node.inputs[0] || step.dadapted_accumulates;
  for (const AdapterUse& adapter : node.adapters) {
    const ValueInfo &x = info(node.adapted), &y = info(node.output), &down = info(adapter.down), &up = info(adapter.up);
    const void* dpart = columns_from(const_cast<void*>(dout), adapter.column);
    void* dlow = at(step.dlow);
    if (float* dup = gradient(adapter.up))
      backend.matmul({.m = up.rows, .n = up.columns, .k = x.rows, .transpose_a = true, .a = dpart, .b = value(adapter.low), .c = dup, .a_pitch = y.columns,
                      .in = graph.compute, .out = DType::F32, .alpha = adapter.scale, .beta = 1.0f});
    backend.matmul({.m = x.rows, .n = down.rows, .k = up.rows, .a = dpart, .b = weight(adapter.up), .c = dlow, .a_pitch = y.columns, .in = graph.compute,
                    .out = graph.compute, .alpha = adapter.scale});
    if (float* ddown = gradient(adapter.down))
      backend.matmul({.m = down.rows, .n = down.columns, .k = x.rows, .transpose_a = true, .a = dlow, .b = value(node.adapted), .c = ddown, .in = graph.compute,
                      .out = DType::F32, .beta = 1.0f});
    if (dx < 0) continue;
    backend.matmul({.m = x.rows, .n = x.columns, .k = down.rows, .a = dlow, .b = weight(adapter.down), .c = at(dx), .in = graph.compute, .out = graph.compute,
                    .beta = adds ? 1.0f : 0.0f});
    adds = true;
  }
}

// The gains of this moment's weights, which adapters_forward's parts change at every step.
void Executor::Plan::update_gains(const Node& node, const Step& step, const void* matrix) {
  const ValueInfo &x = info(node.inputs[0]), &y = info(node.output);
  const bool is_rows = is_out_first(node, step);
  const std::int64_t pitch = is_rows ? x.columns : y.columns;
  for (const AdapterUse& adapter : node.adapters) {
    const std::int64_t rank = info(adapter.down).rows, width = info(adapter.up).rows;
    const void* part = columns_from(const_cast<void*>(matrix), is_rows ? adapter.column * x.columns : adapter.column);
    auto* gram = static_cast<float*>(at(step.scratch));
    float *overlap = gram + gram_floats(rank), *lengths = overlap + width * rank;
    backend.matmul({.m = rank, .n = rank, .k = x.columns, .transpose_b = true, .a = weight(adapter.down), .b = weight(adapter.down), .c = gram, .in = graph.compute, .out = DType::F32});
    backend.matmul({.m = width, .n = rank, .k = x.columns, .transpose_a = !is_rows, .transpose_b = true, .a = part, .b = weight(adapter.down), .c = overlap, .a_pitch = pitch,
                    .in = graph.compute, .out = DType::F32});
    backend.decomposed_gain({.type = graph.compute, .gain = floats(node.gain) + adapter.column, .norm = floats(node.norm) + adapter.column,
                             .magnitude = store.floats(parameter(adapter.magnitude), lengths), .weight = part, .up = weight(adapter.up), .overlap = overlap, .gram = gram,
                             .out = width, .in = x.columns, .rank = rank, .pitch = pitch, .scale = adapter.scale, .is_in_out = !is_rows});
  }
}

void Executor::Plan::scale_columns(const Node& node, const ColumnRange& range, void* y, const void* x, const float* gain, float factor, const void* bias, bool accumulates) {
  const ValueInfo& whole = info(node.output);
  backend.scale_columns({.type = graph.compute, .y = columns_from(y, range.column), .x = columns_from(const_cast<void*>(x), range.column),
                         .gain = gain == nullptr ? nullptr : gain + range.column, .bias = bias == nullptr ? nullptr : columns_from(const_cast<void*>(bias), range.column),
                         .rows = whole.rows, .width = range.width, .pitch = whole.columns, .factor = factor, .accumulate = accumulates});
}

void Executor::Plan::decomposed_forward(const Node& node, const Step& step, const void* matrix, void* sum) {
  update_gains(node, step, matrix);
  const bool reads_x = node.adapted == node.inputs[0];
  const void* bias = weight(node.inputs[2]);
  void* mixed = value(node.mixed);
  project(node, step, matrix, value(node.adapted), mixed, nullptr, false);
  if (!reads_x) {
    project(node, step, matrix, value(node.inputs[0]), sum, bias, false);
    for (const ColumnRange& range : ranges_of(graph, node))
      if (range.adapter != nullptr) scale_columns(node, range, sum, mixed, nullptr, -1.0f, nullptr, true);
  }
  adapters_forward(node, mixed);
  for (const ColumnRange& range : ranges_of(graph, node))
    if (range.adapter != nullptr || reads_x)
      scale_columns(node, range, sum, mixed, range.adapter == nullptr ? nullptr : floats(node.gain), 1.0f, reads_x ? bias : nullptr, !reads_x);
}

void Executor::Plan::decomposed_backward(const Node& node, const Step& step, const void* dout) {
  const ValueInfo& y = info(node.output);
  const bool reads_x = node.adapted == node.inputs[0];
  void* dmixed = at(step.dmixed);
  for (const ColumnRange& range : ranges_of(graph, node)) {
    scale_columns(node, range, dmixed, dout, range.adapter == nullptr ? nullptr : floats(node.gain), 1.0f, nullptr, false);
    if (range.adapter == nullptr) continue;
    if (float* dmagnitude = gradient(range.adapter->magnitude))
      backend.column_dot({.type = graph.compute, .out = dmagnitude, .a = columns_from(const_cast<void*>(dout), range.column), .b = columns_from(value(node.mixed), range.column),
                          .divisor = floats(node.norm) + range.column, .rows = y.rows, .width = range.width, .pitch = y.columns});
  }
  const void* matrix = step.dx >= 0 || step.dadapted >= 0 ? matrix_of(node, step) : nullptr;
  if (step.dx >= 0) project_back(node, step, matrix, reads_x ? dmixed : dout, step.dx, step.dx_accumulates);
  adapters_backward(node, step, dmixed);
  if (step.dadapted < 0) return;
  // W was read by what is scaled less what is not.
  for (const ColumnRange& range : ranges_of(graph, node))
    scale_columns(node, range, dmixed, dout, nullptr, range.adapter != nullptr ? -1.0f : 0.0f, nullptr, range.adapter != nullptr);
  project_back(node, step, matrix, dmixed, step.dadapted, true);
}

}  // namespace pgtrain::engine::graph
