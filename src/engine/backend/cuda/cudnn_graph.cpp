// The calls behind cudnn_graph.hpp. Descriptors live as long as their graph, which outlives its plan's last run.
#include "engine/backend/cuda/cudnn_graph.hpp"

#include <cstring>

namespace pgtrain::engine::backend::gpu::cudnn {
namespace {
constexpr int64_t kAlignment = 16;
constexpr int kMostNotes = 32;
// A descriptor for as long as a call.
class Passing {
  public:
    Passing(const Library &library, DescriptorKind kind) : library_(library) { require(library, "cudnnBackendCreateDescriptor", library.create_descriptor(kind, &made)); }
    ~Passing() { library_.destroy_descriptor(made); }
    Passing(const Passing &) = delete;
    Passing &operator=(const Passing &) = delete;
    Descriptor made = nullptr;

  private:
    const Library &library_;
};
}  // namespace

void require(const Library &library, const char *call, Status status) {
    if (status == 0) return;
    char words[512] = "";
    library.last_error(words, sizeof words);
    for (char *c = words; *c; c++)
        if (*c == '\n') *c = ' ';
    throw Failure(std::string(call) + ": status " + std::to_string(status) + (words[0] ? ": " : "") + words);
}
Four dense(const Four &sizes) { return {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1}; }

Graph::~Graph() {
    for (auto d = made_.rbegin(); d != made_.rend(); ++d) library_.destroy_descriptor(*d);
}
Descriptor Graph::make(DescriptorKind kind) {
    Descriptor made = nullptr;
    require(library_, "cudnnBackendCreateDescriptor", library_.create_descriptor(kind, &made));
    made_.push_back(made);
    return made;
}
void Graph::set(Descriptor d, Attribute attribute, AttributeType type, int64_t count, const void *values) {
    const Status status = library_.set(d, attribute, type, count, values);
    if (status != 0) require(library_, ("cudnnBackendSetAttribute " + std::to_string(attribute)).c_str(), status);
}
void Graph::finalize(Descriptor d) { require(library_, "cudnnBackendFinalize", library_.finalize(d)); }

Tensor Graph::tensor(int64_t id, const Four &sizes, const Four &steps, DataType type, bool is_virtual, bool is_by_value) {
    const Descriptor d = make(kTensor);
    set(d, kTensorType, kOfDataType, type);
    set(d, kTensorSizes, kOfInt64, 4, sizes.data());
    set(d, kTensorSteps, kOfInt64, 4, steps.data());
    set(d, kTensorId, kOfInt64, id);
    set(d, kTensorAlignment, kOfInt64, kAlignment);
    set(d, kTensorIsVirtual, kOfBoolean, is_virtual);
    set(d, kTensorIsByValue, kOfBoolean, is_by_value);
    finalize(d);
    return {d, sizes};
}
Tensor Graph::given(int64_t id, const Four &sizes, const Four &steps, DataType type) { return tensor(id, sizes, steps, type, false, false); }
Tensor Graph::scalar(int64_t id) { return tensor(id, {1, 1, 1, 1}, {1, 1, 1, 1}, kFloat, false, true); }
Tensor Graph::between(const Four &sizes, DataType type, const std::optional<Four> &steps) {
    return tensor(next_id_++, sizes, steps ? *steps : dense(sizes), type, true, false);
}

void Graph::pointwise(Pointwise mode, const Tensor &x, const Tensor *b, const Tensor *t, const Tensor &y, DataType precision, int64_t axis) {
    const Descriptor how = make(kPointwise);
    set(how, kPointwiseMode, kOfPointwiseMode, mode);
    set(how, kPointwisePrecision, kOfDataType, precision);
    if (axis >= 0) set(how, kPointwiseAxis, kOfInt64, axis);
    finalize(how);
    const Descriptor d = make(kPointwiseOperation);
    set(d, kPointwiseOperationDescriptor, kOfDescriptor, how);
    set(d, kPointwiseOperationX, kOfDescriptor, x.descriptor);
    if (b) set(d, kPointwiseOperationB, kOfDescriptor, b->descriptor);
    if (t) set(d, kPointwiseOperationT, kOfDescriptor, t->descriptor);
    set(d, kPointwiseOperationY, kOfDescriptor, y.descriptor);
    finalize(d);
    operations_.push_back(d);
}
void Graph::pointwise(Pointwise mode, const Tensor &x, const Tensor *b, const Tensor &y) { pointwise(mode, x, b, nullptr, y, kFloat, -1); }
Tensor Graph::pointwise(Pointwise mode, const Tensor &x, const Tensor *b) {
    const Tensor y = between(x.sizes);
    pointwise(mode, x, b, y);
    return y;
}
Tensor Graph::index(const Tensor &x, int64_t axis) {
    const Tensor y = between(x.sizes, kInt32);
    pointwise(Pointwise::Index, x, nullptr, nullptr, y, kInt32, axis);
    return y;
}
Tensor Graph::is_at_least(const Tensor &x, const Tensor &b) {
    const Tensor y = between(x.sizes, kBoolean);
    pointwise(Pointwise::IsAtLeast, x, &b, nullptr, y, kBoolean, -1);
    return y;
}
Tensor Graph::select(const Tensor &holds, const Tensor &x, const Tensor &otherwise) {
    const Tensor y = between(x.sizes);
    pointwise(Pointwise::Select, x, &otherwise, &holds, y, kFloat, -1);
    return y;
}
void Graph::reduce(Reduce how, const Tensor &x, const Tensor &y) {
    const Descriptor kind = make(kReduction);
    set(kind, kReductionOperator, kOfReductionOperator, how);
    set(kind, kReductionPrecision, kOfDataType, kFloat);
    finalize(kind);
    const Descriptor d = make(kReductionOperation);
    set(d, kReductionOperationDescriptor, kOfDescriptor, kind);
    set(d, kReductionOperationX, kOfDescriptor, x.descriptor);
    set(d, kReductionOperationY, kOfDescriptor, y.descriptor);
    finalize(d);
    operations_.push_back(d);
}
void Graph::multiply(const Tensor &a, const Tensor &b, const Tensor &c) {
    const Descriptor how = make(kMatmul);
    set(how, kMatmulPrecision, kOfDataType, kFloat);
    finalize(how);
    const Descriptor d = make(kMatmulOperation);
    set(d, kMatmulOperationDescriptor, kOfDescriptor, how);
    set(d, kMatmulOperationA, kOfDescriptor, a.descriptor);
    set(d, kMatmulOperationB, kOfDescriptor, b.descriptor);
    set(d, kMatmulOperationC, kOfDescriptor, c.descriptor);
    finalize(d);
    operations_.push_back(d);
}
Tensor Graph::reshape(const Tensor &x, const Four &sizes, const Four &steps, DataType type) {
    const Tensor y = between(sizes, type, steps);
    const Descriptor d = make(kReshapeOperation);
    set(d, kReshapeOperationX, kOfDescriptor, x.descriptor);
    set(d, kReshapeOperationY, kOfDescriptor, y.descriptor);
    finalize(d);
    operations_.push_back(d);
    return y;
}

bool Graph::is_deterministic(Descriptor config) {
    const Passing engine(library_, kEngine);
    Descriptor d = engine.made;
    int64_t count = 0;
    require(library_, "cudnnBackendGetAttribute", library_.get(config, kConfigEngine, kOfDescriptor, 1, &count, &d));
    std::array<int, kMostNotes> notes{};
    require(library_, "cudnnBackendGetAttribute", library_.get(d, kEngineNumericalNotes, kOfNumericalNote, kMostNotes, &count, notes.data()));
    for (int64_t i = 0; i < count && i < kMostNotes; i++)
        if (notes[size_t(i)] == kNotDeterministic) return false;
    return true;
}
bool Graph::adopt(Descriptor config, const Wanted &wanted) {
    if (wanted.is_deterministic && !is_deterministic(config)) return false;
    const Descriptor d = make(kExecutionPlan);
    set(d, kPlanConfig, kOfDescriptor, config);
    if (library_.finalize(d) != 0) return false;  // heuristics propose what then cannot be had
    int64_t count = 0, bytes = 0;
    require(library_, "cudnnBackendGetAttribute", library_.get(d, kPlanWorkspace, kOfInt64, 1, &count, &bytes));
    if (bytes > wanted.most_workspace) return false;
    plan_ = d;
    workspace_bytes_ = bytes;
    return true;
}
bool Graph::plan(const Wanted &wanted) {
    const Descriptor graph = make(kOperationGraph);
    if (wanted.handle) set(graph, kGraphHandle, kOfHandle, wanted.handle);
    set(graph, kGraphOperations, kOfDescriptor, int64_t(operations_.size()), operations_.data());
    finalize(graph);
    Descriptor device = nullptr;
    if (wanted.device_json) {
        device = make(kDeviceProperties);
        set(device, kDeviceJson, kOfChar, int64_t(std::strlen(wanted.device_json)), wanted.device_json);
        finalize(device);
    }
    for (const Heuristics mode : {Heuristics::A, Heuristics::Fallback}) {
        const Descriptor heuristics = make(kEngineHeuristics);
        set(heuristics, kHeuristicsGraph, kOfDescriptor, graph);
        set(heuristics, kHeuristicsMode, kOfHeuristicsMode, mode);
        if (device) set(heuristics, kHeuristicsDevice, kOfDescriptor, device);
        if (library_.finalize(heuristics) != 0) continue;
        int64_t count = 0;
        require(library_, "cudnnBackendGetAttribute", library_.get(heuristics, kHeuristicsResults, kOfDescriptor, 0, &count, nullptr));
        std::vector<Descriptor> configs;
        for (int64_t i = 0; i < count; i++) configs.push_back(make(kEngineConfig));
        if (count > 0) require(library_, "cudnnBackendGetAttribute", library_.get(heuristics, kHeuristicsResults, kOfDescriptor, count, &count, configs.data()));
        for (int64_t i = 0; i < count; i++)
            if (adopt(configs[size_t(i)], wanted)) return true;
    }
    return false;
}

void Graph::run(Handle handle, const std::vector<Binding> &bindings, void *workspace) {
    const Passing pack(library_, kVariantPack);
    std::vector<int64_t> ids;
    std::vector<const void *> pointers;
    for (const Binding &b : bindings) ids.push_back(b.id), pointers.push_back(b.pointer);
    set(pack.made, kPackIds, kOfInt64, int64_t(ids.size()), ids.data());
    set(pack.made, kPackPointers, kOfPointer, int64_t(pointers.size()), pointers.data());
    set(pack.made, kPackWorkspace, kOfPointer, workspace);
    finalize(pack.made);
    require(library_, "cudnnBackendExecute", library_.execute(handle, plan_, pack.made));
}
}  // namespace pgtrain::engine::backend::gpu::cudnn
