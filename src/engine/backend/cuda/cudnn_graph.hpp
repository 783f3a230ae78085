// A graph of operations described to cuDNN, and the plan that it makes of one. Every call that fails is a Failure with cuDNN's own
// words; nothing here decides what to do about it.
#pragma once
#include <array>
#include <optional>
#include <stdexcept>
#include <vector>

#include "engine/backend/cuda/cudnn.hpp"

namespace pgtrain::engine::backend::gpu::cudnn {
struct Failure : std::runtime_error {
    using runtime_error::runtime_error;
};
void require(const Library &library, const char *call, Status status);

using Four = std::array<int64_t, 4>;
Four dense(const Four &sizes);  // elements between neighbours of a tensor without gaps

struct Tensor {
    Descriptor descriptor = nullptr;
    Four sizes{};
};

// What a plan may be, and for which device: the handle's, or one that is only described (in tests).
struct Wanted {
    Handle handle = nullptr;
    const char *device_json = nullptr;
    bool is_deterministic = false;
    int64_t most_workspace = 0;
};
struct Binding {
    int64_t id;
    const void *pointer;  // to device memory, or to the value itself of a scalar
};

// Described once and in order, then planned once, then run any number of times.
class Graph {
  public:
    explicit Graph(const Library &library) : library_(library) {}
    ~Graph();
    Graph(const Graph &) = delete;
    Graph &operator=(const Graph &) = delete;

    Tensor given(int64_t id, const Four &sizes, const Four &steps, DataType type);  // in device memory, bound at each run
    Tensor scalar(int64_t id);                                                       // a float by value, bound at each run
    Tensor between(const Four &sizes, DataType type = kFloat, const std::optional<Four> &steps = {});
    void pointwise(Pointwise mode, const Tensor &x, const Tensor *b, const Tensor &y);
    // As above into a float tensor of x's sizes.
    Tensor pointwise(Pointwise mode, const Tensor &x, const Tensor *b = nullptr);
    Tensor index(const Tensor &x, int64_t axis);                     // int32: the place along the axis
    Tensor is_at_least(const Tensor &x, const Tensor &b);            // boolean
    Tensor select(const Tensor &holds, const Tensor &x, const Tensor &otherwise);
    void reduce(Reduce how, const Tensor &x, const Tensor &y);
    void multiply(const Tensor &a, const Tensor &b, const Tensor &c);
    Tensor reshape(const Tensor &x, const Four &sizes, const Four &steps, DataType type);

    // False where cuDNN has nothing that keeps to what is wanted.
    bool plan(const Wanted &wanted);
    int64_t workspace_bytes() const { return workspace_bytes_; }
    void run(Handle handle, const std::vector<Binding> &bindings, void *workspace);

  private:
    Descriptor make(DescriptorKind kind);
    template <class T> void set(Descriptor d, Attribute attribute, AttributeType type, const T &value) { set(d, attribute, type, 1, &value); }
    void set(Descriptor d, Attribute attribute, AttributeType type, int64_t count, const void *values);
    void finalize(Descriptor d);
    Tensor tensor(int64_t id, const Four &sizes, const Four &steps, DataType type, bool is_virtual, bool is_by_value);
    void pointwise(Pointwise mode, const Tensor &x, const Tensor *b, const Tensor *t, const Tensor &y, DataType precision, int64_t axis);
    bool adopt(Descriptor config, const Wanted &wanted);
    bool is_deterministic(Descriptor config);

    const Library &library_;
    std::vector<Descriptor> made_, operations_;
    int64_t next_id_ = 1000;  // of what lies between; above the given ones
    Descriptor plan_ = nullptr;
    int64_t workspace_bytes_ = 0;
};
}  // namespace pgtrain::engine::backend::gpu::cudnn
