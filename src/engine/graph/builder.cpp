// Records operations with their shape rules, see graph.hpp. Shapes are checked here, once, so that no run can meet a bad one.
#include <string>
#include <utility>

#include "engine/core/error.hpp"
#include "engine/graph/graph.hpp"

namespace pgtrain::engine::graph {
namespace {

[[noreturn]] void refuse(const std::string& operation, const std::string& what) {
  throw core::Error("config_invalid", operation + ": " + what);
}

void require(bool holds, const char* operation, const char* what) {
  if (!holds) refuse(operation, what);
}

}  // namespace

std::int64_t Graph::parameter_count() const {
  return parameters.empty() ? 0 : parameters.back().offset + parameters.back().count;
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

Value Builder::parameter(const std::string& name, const std::vector<std::int64_t>& shape, bool decays) {
  require(shape.size() == 1 || shape.size() == 2, "parameter", "only vectors and matrices");
  std::int64_t count = 1;
  for (std::int64_t size : shape) {
    require(size > 0, "parameter", "an empty dimension");
    count *= size;
  }
  Parameter parameter{name, shape, decays, graph_.parameter_count(), count};
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
  require(info(ids).kind == ValueKind::Input, "embedding", "the ids must be an input");
  const Value out = activation(info(ids).count(), info(table).columns);
  graph_.nodes.push_back({.kind = OpKind::Embedding, .inputs = {table.id, ids.id}, .output = out.id});
  return out;
}

Value Builder::add(Value a, Value b) {
  require(info(a).rows == info(b).rows && info(a).columns == info(b).columns, "add", "the shapes differ");
  const Value out = activation(info(a).rows, info(a).columns);
  graph_.nodes.push_back({.kind = OpKind::Add, .inputs = {a.id, b.id}, .output = out.id});
  return out;
}

Value Builder::layer_norm(Value x, Value gain, Value bias, float epsilon) {
  require(info(gain).count() == info(x).columns && info(bias).count() == info(x).columns, "layer_norm", "gain or bias is not as wide as x");
  const std::int64_t rows = info(x).rows;
  const Value out = activation(rows, info(x).columns);
  const Value mean = statistic(1, rows), rstd = statistic(1, rows);
  graph_.nodes.push_back({.kind = OpKind::LayerNorm, .inputs = {x.id, gain.id, bias.id}, .output = out.id, .saved = {mean.id, rstd.id}, .epsilon = epsilon});
  return out;
}

Builder::SumAndNorm Builder::add_layer_norm(Value a, Value b, Value gain, Value bias, float epsilon) {
  require(info(a).rows == info(b).rows && info(a).columns == info(b).columns, "add_layer_norm", "the shapes differ");
  require(info(gain).count() == info(a).columns && info(bias).count() == info(a).columns, "add_layer_norm", "gain or bias is not as wide as x");
  const std::int64_t rows = info(a).rows, columns = info(a).columns;
  const Value sum = activation(rows, columns), norm = activation(rows, columns);
  const Value mean = statistic(1, rows), rstd = statistic(1, rows);
  graph_.nodes.push_back({.kind = OpKind::AddLayerNorm, .inputs = {a.id, b.id, gain.id, bias.id}, .output = norm.id, .second = sum.id, .saved = {mean.id, rstd.id}, .epsilon = epsilon});
  return {sum, norm};
}

Value Builder::linear(Value x, Value weight, Value bias, Activation activation_kind) {
  require(info(weight).kind == ValueKind::Parameter && info(bias).kind == ValueKind::Parameter, "linear", "weight and bias must be parameters");
  require(info(x).columns == info(weight).rows, "linear", "x is not as wide as the weight is high");
  require(info(bias).count() == info(weight).columns, "linear", "the bias is not as wide as the weight");
  const std::int64_t rows = info(x).rows, columns = info(weight).columns;
  const Value out = activation(rows, columns);
  const Value before = activation_kind == Activation::Gelu ? activation(rows, columns) : Value{};
  graph_.nodes.push_back({.kind = OpKind::Linear, .inputs = {x.id, weight.id, bias.id}, .output = out.id, .saved = {before.id, -1}, .activation = activation_kind});
  return out;
}

Value Builder::attention(Value qkv, Value segments, std::int64_t batch, std::int64_t length, std::int64_t heads) {
  const ValueInfo x = info(qkv);
  require(batch > 0 && length > 0 && heads > 0 && x.rows == batch * length, "attention", "rows are not batch times length");
  require(x.columns % (3 * heads) == 0, "attention", "the width is not three times a multiple of the heads");
  if (segments.id >= 0) require(info(segments).count() == x.rows, "attention", "one segment number a row is needed");
  const std::int64_t width = x.columns / 3;
  const Value out = activation(x.rows, width);
  const Value log_sum = statistic(batch * heads, length);
  graph_.nodes.push_back({.kind = OpKind::Attention, .inputs = {qkv.id, segments.id}, .output = out.id, .saved = {log_sum.id, -1}, .batch = batch, .length = length, .heads = heads});
  return out;
}

Value Builder::linear_cross_entropy(Value x, Value weight, Value targets) {
  require(info(weight).kind == ValueKind::Parameter, "linear_cross_entropy", "the weight must be a parameter");
  require(info(x).columns == info(weight).columns, "linear_cross_entropy", "x and the weight differ in width");
  require(info(targets).count() == info(x).rows, "linear_cross_entropy", "one target a row is needed");
  require(graph_.losses < 0, "linear_cross_entropy", "a graph has one loss");
  const Value losses = statistic(1, info(x).rows);
  graph_.nodes.push_back({.kind = OpKind::LinearCrossEntropy, .inputs = {x.id, weight.id, targets.id}, .output = losses.id});
  graph_.losses = losses.id;
  return losses;
}

Graph Builder::finish() && { return std::move(graph_); }

}  // namespace pgtrain::engine::graph
