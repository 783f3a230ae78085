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

// How a frozen weight is held: in the compute type, or in 4 bits (backend/nf4.hpp) and made numbers again before each product.
enum class Storage : std::uint8_t { Compute, Nf4 };

// A tensor of the model. What trains lies in the flat float buffers of a ParameterStore, what is frozen beside them in the compute
// type; `offset` (elements) counts within its own kind. Of what is held in 4 bits `offset` is bytes, nf4_layout.hpp says which.
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  bool decays = false;  // weight decay touches it
  std::int64_t offset = 0, count = 0;
  bool trains = true;
  // How a projection reads it: [in, out], [out, in], or it is no projection's matrix (a table, a head, a part of an adapter).
  enum class Role : std::uint8_t { Other, InOut, OutIn } role = Role::Other;
  Storage storage = Storage::Compute;
  std::vector<std::int64_t> part_rows{};  // Nf4: so many rows each are quantised by themselves, one after the other
};

// What a frozen weight gets beside it (LoRA, Hu et al. 2021): in columns [column, column + up's rows) of the output,
// + scale (x down^T) up^T with down [rank, in] and up [width, rank].
struct AdapterUse {
  std::int32_t down = -1, up = -1;
  std::int32_t low = -1;  // x down^T, kept for the backward
  std::int64_t column = 0;
  float scale = 1;
  std::int32_t magnitude = -1;  // DoRA: the trained length of each output's weights, [width]
};

enum class OpKind : std::uint8_t {
  Embedding, Add, AddLayerNorm, LayerNorm, AddRmsNorm, RmsNorm, HeadNorm, Rope, Linear, Attention, SwiGlu, Dropout, LinearCrossEntropy
};

struct Node {
  OpKind kind;
  std::vector<std::int32_t> inputs;  // value ids, in the operation's own order
  std::int32_t output = -1;
  std::int32_t second = -1;          // AddLayerNorm, AddRmsNorm: the sum; else -1
  std::int32_t saved[2] = {-1, -1};  // statistics or pre-activations kept for the backward
  float epsilon = 0;
  Activation activation = Activation::None;
  std::int64_t batch = 0, length = 0, heads = 0, kv_heads = 0, head_size = 0, window = 0;
  float rate = 0;                      // Dropout
  std::int64_t ordinal = 0;            // Dropout: its place among those of the graph
  bool is_transposed = false;          // Linear: the weight is stored [out, in]
  std::vector<AdapterUse> adapters{};  // Linear
  std::int32_t adapted = -1;           // what the adapters read: x, or x after dropout
  // With decomposed adapters: weight and adapters on what the latter read; by column, what it is scaled by, and the weight's length.
  std::int32_t mixed = -1, gain = -1, norm = -1;
  std::int32_t block = -1;  // what is forgotten and computed again together, see Recompute; -1: nothing of it
};

enum class ValueKind : std::uint8_t { Activation, Parameter, Input, Statistic, Constant };
struct ValueInfo {
  ValueKind kind;
  DType type;
  std::int64_t rows = 0, columns = 0;  // a vector has rows 1
  std::int32_t index = -1;             // into parameters, inputs or constants
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
  std::vector<std::vector<float>> constants;
  std::int64_t dropouts = 0;
  // When the graph ends in a cross-entropy, per row (float): its losses, the factors of their gradients, and its hits.
  std::int32_t losses = -1, row_weights = -1, hits = -1;
  std::int64_t parameter_count() const;  // elements that train
  std::int64_t frozen_count() const;     // that are frozen and held in the compute type
  std::uint64_t quantized_bytes() const; // of what is held in 4 bits
};

class Builder {
 public:
  explicit Builder(DType compute);

  Value parameter(const std::string& name, const std::vector<std::int64_t>& shape, bool decays);
  Value frozen(const std::string& name, const std::vector<std::int64_t>& shape);
  // A matrix for linear() and projection() alone. part_rows: the rows of what was stacked into it, which were tensors of their own.
  Value frozen(const std::string& name, const std::vector<std::int64_t>& shape, Storage storage, const std::vector<std::int64_t>& part_rows);
  Value input(const std::string& name, std::int64_t count);  // int32 [count], uploaded before each run

  // What is described from now on is block `number` of the model, until the next call; -1: of none. Blocks follow one another.
  void begin_block(std::int32_t number) { block_ = number; }

  Value constant(std::int64_t rows, std::int64_t columns, std::vector<float> values);

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
  // x / root mean square, times gain; as layer_norm and add_layer_norm otherwise.
  Value rms_norm(Value x, Value gain, float epsilon);
  SumAndNorm add_rms_norm(Value a, Value b, Value gain, float epsilon);
  // How a row of packed projections is cut: q, then k, then v, in heads of head_size.
  struct Heads {
    std::int64_t heads = 0, kv_heads = 0, head_size = 0;
    std::int64_t columns() const { return (heads + 2 * kv_heads) * head_size; }
  };
  // The root-mean-square norm of each head of q and of k by itself (Qwen3).
  Value head_norm(Value qkv, Value q_gain, Value k_gain, const Heads& heads, float epsilon);
  // q and k turned by their positions [rows]; table [context, head_size] has the cosines of half a head, then the sines.
  Value rope(Value qkv, Value positions, Value table, const Heads& heads);
  // silu(gate) up of a row that holds all gates, then all ups.
  Value swiglu(Value gate_up);
  // In training each element is zero with probability `rate`, and the others are 1 / (1 - rate) times as large.
  Value dropout(Value x, float rate);
  struct Adapter {
    Value down, up;
    std::int64_t column = 0;
    float scale = 1;
    Value magnitude{};  // [up's rows]: DoRA (Liu and others 2024), the weight must be frozen; of a projection all have one or none has
  };
  // x [rows, in] times weight [in, out] + bias [out], and adapters that read `adapted` (a handle of id -1: x).
  Value linear(Value x, Value weight, Value bias, Activation activation = Activation::None, Value adapted = {}, const std::vector<Adapter>& adapters = {});
  // The same with a weight stored [out, in] and perhaps no bias (a handle of id -1).
  Value projection(Value x, Value weight, Value bias, Value adapted = {}, const std::vector<Adapter>& adapters = {});
  // qkv [batch*length, heads.columns()], causal; segments int32 [batch*length] (a handle of id -1: none). A query sees the last
  // `window` keys up to its own, 0 = all.
  Value attention(Value qkv, Value segments, std::int64_t batch, std::int64_t length, const Heads& heads, std::int64_t window = 0);
  // Ends the graph: per-row losses of x [rows, width] times weight [vocabulary, width] transposed; targets int32, -1 = none.
  Value linear_cross_entropy(Value x, Value weight, Value targets);

  Graph finish() &&;

 private:
  void push(Node node);
  Value add_parameter(Parameter parameter);
  Value activation(std::int64_t rows, std::int64_t columns);
  Value statistic(std::int64_t rows, std::int64_t columns);
  const ValueInfo& info(Value value) const;
  void require_plain(Value parameter, const char* operation) const;
  void attach(Node& node, Value adapted, const std::vector<Adapter>& adapters);
  void require_heads(Value qkv, const Heads& heads, const char* operation) const;
  Graph graph_;
  std::int32_t block_ = -1;
};

}  // namespace pgtrain::engine::graph
