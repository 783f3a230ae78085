// The static graph: a model is described once through Builder, which records operations and shapes; compile() derives the
// backward, the lifetimes and one arena with fixed offsets, so that the bytes are known before anything is allocated.
//
// Called by models (to describe), by train (to plan and run, through executor.hpp) and by tests. A Value is a handle into
// its Builder. Errors in shapes are core::Error config_invalid naming the operation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/core/dtype.hpp"

namespace pgtrain::engine::graph {

using core::DType;

struct Value {
  std::int32_t id = -1;
};
enum class Activation { None, Gelu };

// A trained tensor; it lies in the flat buffers of a ParameterStore at `offset` (elements).
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  bool decays = false;  // weight decay touches it
  std::int64_t offset = 0, count = 0;
};

enum class OpKind : std::uint8_t { Embedding, Add, AddLayerNorm, LayerNorm, Linear, Attention, LinearCrossEntropy };

struct Node {
  OpKind kind;
  std::vector<std::int32_t> inputs;  // value ids, in the operation's own order
  std::int32_t output = -1;
  std::int32_t second = -1;          // AddLayerNorm: the sum; else -1
  std::int32_t saved[2] = {-1, -1};  // statistics or pre-activations kept for the backward
  float epsilon = 0, scale = 0;
  Activation activation = Activation::None;
  std::int64_t batch = 0, length = 0, heads = 0;
};

enum class ValueKind : std::uint8_t { Activation, Parameter, Input, Statistic };
struct ValueInfo {
  ValueKind kind;
  DType type;
  std::int64_t rows = 0, columns = 0;  // a vector has rows 1
  std::int32_t index = -1;             // into parameters or inputs
  std::int64_t count() const { return rows * columns; }
};
struct Input {
  std::string name;
  std::int32_t value;
};

struct Graph {
  DType compute = DType::F32;
  std::vector<ValueInfo> values;
  std::vector<Node> nodes;
  std::vector<Parameter> parameters;
  std::vector<Input> inputs;
  std::int32_t losses = -1;  // per-row losses (float), when the graph ends in a cross-entropy
  std::int64_t parameter_count() const;
};

class Builder {
 public:
  explicit Builder(DType compute);

  Value parameter(const std::string& name, const std::vector<std::int64_t>& shape, bool decays);
  Value input(const std::string& name, std::int64_t count);  // int32 [count], uploaded before each run

  // [count, width] from table [vocabulary, width] and ids [count].
  Value embedding(Value table, Value ids);
  Value add(Value a, Value b);
  // Row-wise over [rows, width].
  Value layer_norm(Value x, Value gain, Value bias, float epsilon);
  // sum = a + b, and its norm, in one pass.
  struct SumAndNorm {
    Value sum, norm;
  };
  SumAndNorm add_layer_norm(Value a, Value b, Value gain, Value bias, float epsilon);
  // x [rows, in] times weight [in, out] + bias [out].
  Value linear(Value x, Value weight, Value bias, Activation activation = Activation::None);
  // qkv [batch*length, 3*heads*head_size], causal; segments int32 [batch*length] (a handle of id -1: none).
  Value attention(Value qkv, Value segments, std::int64_t batch, std::int64_t length, std::int64_t heads);
  // Ends the graph: per-row losses of x [rows, width] times weight [vocabulary, width] transposed; targets int32, -1 = none.
  Value linear_cross_entropy(Value x, Value weight, Value targets);

  Graph finish() &&;

 private:
  Value activation(std::int64_t rows, std::int64_t columns);
  Value statistic(std::int64_t rows, std::int64_t columns);
  const ValueInfo& info(Value value) const;
  Graph graph_;
};

}  // namespace pgtrain::engine::graph
