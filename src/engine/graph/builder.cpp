// Records operations with their shape rules, see graph.hpp. Shapes are checked here, once, so that no run can meet a bad one.
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "engine/core/error.hpp"
#include "engine/graph/graph.hpp"
#include "engine/graph/nf4_layout.hpp"

namespace pgtrain::engine::graph {
namespace {

[[noreturn]] void refuse(const std::string& operation, const std::string& what) {
  throw core::Error("config_invalid", operation + ": " + what);
}

void require(bool holds, const char* operation, const char* what) {
  if (!holds) refuse(operation, what);
}

}  // namespace

namespace {

std::int64_t end_of(const std::vector<Parameter>& parameters, bool trains) {
  for (std::size_t i = parameters.size(); i-- > 0;)
    if (parameters[i].trains == trains && parameters[i].storage == Storage::Compute) return parameters[i].offset + parameters[i].count;
  return 0;
}

}  // namespace

std::int64_t Graph::parameter_count() const { return end_of(parameters, true); }
std::int64_t Graph::frozen_count() const { return end_of(parameters, false); }

std::uint64_t Graph::quantized_bytes() const {
  for (std::size_t i = parameters.size(); i-- > 0;)
    if (parameters[i].storage == Storage::Nf4) return nf4_end(parameters[i]);
  return 0;
}

Builder::Builder(DType compute) { graph_.compute = compute; }

const ValueInfo& Builder::info(Value value) const {
  if (value.id < 0 || static_cast<std::size_t>(value.id) >= graph_.values.size())
    refuse("graph", "a value that does not belong to this graph");
  return graph_.values[static_cast<std::size_t>(value.id)];
}

Value Builder::activation(std::int64_t rows, std::int64_t columns) {
  graph_.values.push_back({ValueKind::Activation, graph_.compute, rows, columns, -1});
  return {static_cast<std::int32_t>(graph_.values.size() - 1)};
}

Value Builder::statistic(std::int64_t rows, std::int64_t columns) {
  graph_.values.push_back({ValueKind::Statistic, DType::F32, rows, columns, -1});
  return {static_cast<std::int32_t>(graph_.values.size() - 1)};
}

void Builder::push(Node node) {
  node.block = block_;
  graph_.nodes.push_back(std::move(node));
}

Value Builder::parameter(const std::string& name, const std::vector<std::int64_t>& shape, bool decays) {
  return add_parameter({name, shape, decays});
}

Value Builder::frozen(const std::string& name, const std::vector<std::int64_t>& shape) {
  return add_parameter({.name = name, .shape = shape, .trains = false});
}

Value Builder::frozen(const std::string& name, const std::vector<std::int64_t>& shape, Storage storage, const std::vector<std::int64_t>& part_rows) {
  if (storage == Storage::Compute) return frozen(name, shape);
  require(shape.size() == 2, "frozen", "only matrices are held in 4 bits");
  require(!part_rows.empty() && std::accumulate(part_rows.begin(), part_rows.end(), std::int64_t{0}) == shape[0] && *std::min_element(part_rows.begin(), part_rows.end()) > 0, "frozen",
          "the parts are not the rows of the matrix");
  return add_parameter({.name = name, .shape = shape, .trains = false, .storage = storage, .part_rows = part_rows});
}

// Of the operations only products know how to read 4 bits.
void Builder::require_plain(Value parameter, const char* operation) const {
  const ValueInfo& about = info(parameter);
  require(about.kind != ValueKind::Parameter || graph_.parameters[static_cast<std::size_t>(about.index)].storage == Storage::Compute, operation, "a weight in 4 bits can only be projected with");
}

Value Builder::add_parameter(Parameter parameter) {
  const std::vector<std::int64_t> shape = parameter.shape;
  require(shape.size() == 1 || shape.size() == 2, "parameter", "only vectors and matrices");
  std::int64_t count = 1;
  for (std::int64_t size : shape) {
    require(size > 0, "parameter", "an empty dimension");
    count *= size;
  }
  // Frozen weights begin where a device's loads are aligned.
  constexpr std::int64_t kFrozenAlignment = 64;
  if (parameter.storage == Storage::Nf4) parameter.offset = static_cast<std::int64_t>(std::max(graph_.quantized_bytes(), kNf4First));
  else if (parameter.trains) parameter.offset = graph_.parameter_count();
  else parameter.offset = (graph_.frozen_count() + kFrozenAlignment - 1) / kFrozenAlignment * kFrozenAlignment;
  parameter.count = count;
  graph_.parameters.push_back(std::move(parameter));
  const std::int64_t rows = shape.size() == 2 ? shape[0] : 1;
  graph_.values.push_back({ValueKind::Parameter, graph_.compute, rows, shape.back(), static_cast<std::int32_t>(graph_.parameters.size() - 1)});
  return {static_cast<std::int32_t>(graph_.values.size() - 1)};
}

Value Builder::input(const std::string& name, std::int64_t count) {
  require(count > 0, "input", "it is empty");
  graph_.values.push_back({ValueKind::Input, DType::I32, 1, count, static_cast<std::int32_t>(graph_.inputs.size())});
  const Value value{static_cast<std::int32_t>(graph_.values.size() - 1)};
  graph_.inputs.push_back({name, value.id});
  return value;
}

Value Builder::embedding(Value table, Value ids) {
  require(info(table).kind == ValueKind::Parameter, "embedding", "the table must be a parameter");
  require_plain(table, "embedding");
  require(info(ids).kind == ValueKind::Input, "embedding", "the ids must be an input");
  const Value out = activation(info(ids).count(), info(table).columns);
  push({.kind = OpKind::Embedding, .inputs = {table.id, ids.id}, .output = out.id});
  return out;
}

Value Builder::add(Value a, Value b) {
  require(info(a).rows == info(b).rows && info(a).columns == info(b).columns, "add", "the shapes differ");
  const Value out = activation(info(a).rows, info(a).columns);
  push({.kind = OpKind::Add, .inputs = {a.id, b.id}, .output = out.id});
  return out;
}

Value Builder::layer_norm(Value x, Value gain, Value bias, float epsilon) {
  require(info(gain).count() == info(x).columns && info(bias).count() == info(x).columns, "layer_norm", "gain or bias is not as wide as x");
  const std::int64_t rows = info(x).rows;
  const Value out = activation(rows, info(x).columns);
  const Value mean = statistic(1, rows), rstd = statistic(1, rows);
  push({.kind = OpKind::LayerNorm, .inputs = {x.id, gain.id, bias.id}, .output = out.id, .saved = {mean.id, rstd.id}, .epsilon = epsilon});
  return out;
}

Builder::SumAndNorm Builder::add_layer_norm(Value a, Value b, Value gain, Value bias, float epsilon) {
  require(info(a).rows == info(b).rows && info(a).columns == info(b).columns, "add_layer_norm", "the shapes differ");
  require(info(gain).count() == info(a).columns && info(bias).count() == info(a).columns, "add_layer_norm", "gain or bias is not as wide as x");
  const std::int64_t rows = info(a).rows, columns = info(a).columns;
  const Value sum = activation(rows, columns), norm = activation(rows, columns);
  const Value mean = statistic(1, rows), rstd = statistic(1, rows);
  push({.kind = OpKind::AddLayerNorm, .inputs = {a.id, b.id, gain.id, bias.id}, .output = norm.id, .second = sum.id, .saved = {mean.id, rstd.id}, .epsilon = epsilon});
  return {sum, norm};
}

Value Builder::linear(Value x, Value weight, Value bias, Activation activation_kind, Value adapted, const std::vector<Adapter>& adapters) {
  require(info(weight).kind == ValueKind::Parameter && info(bias).kind == ValueKind::Parameter, "linear", "weight and bias must be parameters");
  require(info(x).columns == info(weight).rows, "linear", "x is not as wide as the weight is high");
  require(info(bias).count() == info(weight).columns, "linear", "the bias is not as wide as the weight");
  require(graph_.parameters[static_cast<std::size_t>(info(weight).index)].part_rows.size() <= 1, "linear", "a weight [in, out] in 4 bits is no stack of parts");
  const std::int64_t rows = info(x).rows, columns = info(weight).columns;
  const Value out = activation(rows, columns);
  graph_.parameters[static_cast<std::size_t>(info(weight).index)].role = Parameter::Role::InOut;
  const Value before = activation_kind == Activation::Gelu ? activation(rows, columns) : Value{};
  Node node{.kind = OpKind::Linear, .inputs = {x.id, weight.id, bias.id}, .output = out.id, .saved = {before.id, -1}, .activation = activation_kind};
  attach(node, adapted, adapters);
  push(std::move(node));
  return out;
}

Value Builder::projection(Value x, Value weight, Value bias, Value adapted, const std::vector<Adapter>& adapters) {
  require(info(weight).kind == ValueKind::Parameter, "projection", "the weight must be a parameter");
  require(info(x).columns == info(weight).columns, "projection", "x is not as wide as the weight");
  if (bias.id >= 0) require(info(bias).kind == ValueKind::Parameter && info(bias).count() == info(weight).rows, "projection", "the bias is no parameter as wide as the output");
  const std::int64_t rows = info(x).rows, columns = info(weight).rows;
  graph_.parameters[static_cast<std::size_t>(info(weight).index)].role = Parameter::Role::OutIn;
  const Value out = activation(rows, columns);
  Node node{.kind = OpKind::Linear, .inputs = {x.id, weight.id, bias.id}, .output = out.id, .is_transposed = true};
  attach(node, adapted, adapters);
  push(std::move(node));
  return out;
}

void Builder::attach(Node& node, Value adapted, const std::vector<Adapter>& adapters) {
  if (adapters.empty()) return;
  const ValueInfo x = info({node.inputs[0]});
  const std::int64_t columns = info({node.output}).columns;
  node.adapted = adapted.id >= 0 ? adapted.id : node.inputs[0];
  require(info({node.adapted}).rows == x.rows && info({node.adapted}).columns == x.columns, "adapter", "what it reads is not of the shape of x");
  for (const Adapter& adapter : adapters) {
    const ValueInfo down = info(adapter.down), up = info(adapter.up);
    require(down.kind == ValueKind::Parameter && up.kind == ValueKind::Parameter, "adapter", "its parts must be parameters");
    require(down.columns == x.columns && up.columns == down.rows, "adapter", "its parts do not fit together or to x");
    require(adapter.column >= 0 && adapter.column + up.rows <= columns, "adapter", "it reaches beyond the output");
    node.adapters.push_back({adapter.down.id, adapter.up.id, activation(x.rows, down.rows).id, adapter.column, adapter.scale, adapter.magnitude.id});
    require((adapter.magnitude.id >= 0) == (adapters[0].magnitude.id >= 0), "adapter", "of a projection's adapters only some are decomposed");
    if (adapter.magnitude.id >= 0)
      require(info(adapter.magnitude).kind == ValueKind::Parameter && info(adapter.magnitude).count() == up.rows, "adapter", "the magnitudes are no parameter as long as its output is wide");
  }
  if (adapters[0].magnitude.id < 0) return;
  require(!graph_.parameters[static_cast<std::size_t>(info({node.inputs[1]}).index)].trains, "adapter", "a weight that trains cannot be decomposed");
  node.mixed = activation(x.rows, columns).id;
  node.gain = statistic(1, columns).id;
  node.norm = statistic(1, columns).id;
}

Value Builder::constant(std::int64_t rows, std::int64_t columns, std::vector<float> values) {
  require(rows > 0 && columns > 0 && static_cast<std::int64_t>(values.size()) == rows * columns, "constant", "it has not rows times columns values");
  graph_.values.push_back({ValueKind::Constant, DType::F32, rows, columns, static_cast<std::int32_t>(graph_.constants.size())});
  graph_.constants.push_back(std::move(values));
  return {static_cast<std::int32_t>(graph_.values.size() - 1)};
}

Value Builder::rms_norm(Value x, Value gain, float epsilon) {
  require(info(gain).count() == info(x).columns, "rms_norm", "the gain is not as wide as x");
  const std::int64_t rows = info(x).rows;
  const Value out = activation(rows, info(x).columns), rstd = statistic(1, rows);
  push({.kind = OpKind::RmsNorm, .inputs = {x.id, gain.id}, .output = out.id, .saved = {rstd.id, -1}, .epsilon = epsilon});
  return out;
}

Builder::SumAndNorm Builder::add_rms_norm(Value a, Value b, Value gain, float epsilon) {
  require(info(a).rows == info(b).rows && info(a).columns == info(b).columns, "add_rms_norm", "the shapes differ");
  require(info(gain).count() == info(a).columns, "add_rms_norm", "the gain is not as wide as x");
  const std::int64_t rows = info(a).rows, columns = info(a).columns;
  const Value sum = activation(rows, columns), norm = activation(rows, columns), rstd = statistic(1, rows);
  push({.kind = OpKind::AddRmsNorm, .inputs = {a.id, b.id, gain.id}, .output = norm.id, .second = sum.id, .saved = {rstd.id, -1}, .epsilon = epsilon});
  return {sum, norm};
}

Value Builder::head_norm(Value qkv, Value q_gain, Value k_gain, const Heads& heads, float epsilon) {
  require_heads(qkv, heads, "head_norm");
  require(info(q_gain).count() == heads.head_size && info(k_gain).count() == heads.head_size, "head_norm", "a gain is not as wide as a head");
  const std::int64_t rows = info(qkv).rows;
  const Value out = activation(rows, heads.columns()), q_rstd = statistic(rows, heads.heads), k_rstd = statistic(rows, heads.kv_heads);
  push({.kind = OpKind::HeadNorm, .inputs = {qkv.id, q_gain.id, k_gain.id}, .output = out.id, .saved = {q_rstd.id, k_rstd.id}, .epsilon = epsilon,
                          .heads = heads.heads, .kv_heads = heads.kv_heads, .head_size = heads.head_size});
  return out;
}

Value Builder::rope(Value qkv, Value positions, Value table, const Heads& heads) {
  require_heads(qkv, heads, "rope");
  require(heads.head_size % 2 == 0, "rope", "a head of odd width has no halves");
  require(info(positions).count() == info(qkv).rows, "rope", "one position a row is needed");
  require(info(table).kind == ValueKind::Constant && info(table).columns == heads.head_size, "rope", "the table is no constant as wide as a head");
  const Value out = activation(info(qkv).rows, heads.columns());
  push({.kind = OpKind::Rope, .inputs = {qkv.id, positions.id, table.id}, .output = out.id, .heads = heads.heads, .kv_heads = heads.kv_heads, .head_size = heads.head_size});
  return out;
}

Value Builder::swiglu(Value gate_up) {
  require(info(gate_up).columns % 2 == 0, "swiglu", "gates and ups are not equally many");
  const Value out = activation(info(gate_up).rows, info(gate_up).columns / 2);
  push({.kind = OpKind::SwiGlu, .inputs = {gate_up.id}, .output = out.id});
  return out;
}

Value Builder::dropout(Value x, float rate) {
  require(rate >= 0 && rate < 1, "dropout", "the rate is not in [0, 1)");
  const Value out = activation(info(x).rows, info(x).columns);
  push({.kind = OpKind::Dropout, .inputs = {x.id}, .output = out.id, .rate = rate, .ordinal = graph_.dropouts++});
  return out;
}

void Builder::require_heads(Value qkv, const Heads& heads, const char* operation) const {
  require(heads.heads > 0 && heads.kv_heads > 0 && heads.head_size > 0 && heads.heads % heads.kv_heads == 0, operation, "the heads are not a multiple of the key heads");
  require(info(qkv).columns == heads.columns(), operation, "the width is not that of the heads");
}

Value Builder::attention(Value qkv, Value segments, std::int64_t batch, std::int64_t length, const Heads& heads, std::int64_t window) {
  const ValueInfo x = info(qkv);
  require_heads(qkv, heads, "attention");
  require(batch > 0 && length > 0 && window >= 0 && x.rows == batch * length, "attention", "rows are not batch times length");
  if (segments.id >= 0) require(info(segments).count() == x.rows, "attention", "one segment number a row is needed");
  const Value out = activation(x.rows, heads.heads * heads.head_size);
  const Value log_sum = statistic(batch * heads.heads, length);
  push({.kind = OpKind::Attention, .inputs = {qkv.id, segments.id}, .output = out.id, .saved = {log_sum.id, -1}, .batch = batch, .length = length,
                          .heads = heads.heads, .kv_heads = heads.kv_heads, .head_size = heads.head_size, .window = window});
  return out;
}

Value Builder::linear_cross_entropy(Value x, Value weight, Value targets) {
  require(info(weight).kind == ValueKind::Parameter, "linear_cross_entropy", "the weight must be a parameter");
  require_plain(weight, "linear_cross_entropy");
  require(info(x).columns == info(weight).columns, "linear_cross_entropy", "x and the weight differ in width");
  require(info(targets).count() == info(x).rows, "linear_cross_entropy", "one target a row is needed");
  require(graph_.losses < 0, "linear_cross_entropy", "a graph has one loss");
  const std::int64_t rows = info(x).rows;
  const Value losses = statistic(1, rows), row_weights = statistic(1, rows), hits = statistic(1, rows);
  push({.kind = OpKind::LinearCrossEntropy, .inputs = {x.id, weight.id, targets.id}, .output = losses.id, .saved = {row_weights.id, hits.id}});
  graph_.losses = losses.id, graph_.row_weights = row_weights.id, graph_.hits = hits.id;
  return losses;
}

Graph Builder::finish() && { return std::move(graph_); }

}  // namespace pgtrain::engine::graph
