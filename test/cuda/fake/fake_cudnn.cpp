// A stand-in for cuDNN's graph interface in the emulated build: takes the graph that it is given and calculates it, operation after
// operation, as the documentation says what each means. So the graphs' mathematics, steps and bindings are tested here; what the real
// library accepts is cudnn_plans_test's subject. Tests can make it wrong on purpose.
#include "fake_cudnn.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "emulator.h"
#include "engine/backend/cuda/cudnn.hpp"

namespace fake_cudnn {
Flaw flaw = Flaw::None;
size_t version = 91900, extra_workspace = 0;
}  // namespace fake_cudnn

namespace {
using namespace pgtrain::engine::backend::gpu::cudnn;
using fake_cudnn::flaw;
using fake_cudnn::Flaw;
constexpr Status kBad = 2000, kNotSupported = 3000, kFailed = 5000;
constexpr int64_t kSmallWorkspace = 512;
size_t live = 0, run_count = 0;

struct Node {
    int kind;
    bool is_final = false;
    std::map<int, std::vector<unsigned char>> attributes;
    template <class T> std::vector<T> all(int attribute) const {
        const auto found = attributes.find(attribute);
        std::vector<T> values(found == attributes.end() ? 0 : found->second.size() / sizeof(T));
        if (!values.empty()) std::memcpy(values.data(), found->second.data(), values.size() * sizeof(T));
        return values;
    }
    template <class T> T one(int attribute, T otherwise = {}) const {
        const auto found = attributes.find(attribute);
        if (found != attributes.end() && found->second.size() >= sizeof otherwise) std::memcpy(&otherwise, found->second.data(), sizeof otherwise);
        return otherwise;
    }
    const Node *node(int attribute) const { return one<const Node *>(attribute, nullptr); }
};
struct Context {
    cudaStream_t stream = nullptr;
};
size_t bytes_of(int type) {
    switch (type) {
        case kOfInt64: case kOfHandle: case kOfPointer: case kOfDescriptor: return 8;
        case kOfBoolean: case kOfChar: return 1;
        default: return 4;
    }
}

// A tensor's memory: bound, or its own where it only lies between operations.
struct Place {
    unsigned char *bound = nullptr;
    DataType type = kFloat;
    std::vector<float> own;
};
struct Calculation {
    std::map<int64_t, void *> bound;
    std::map<int64_t, float> scalars;
    std::map<const Node *, std::shared_ptr<Place>> places;
    void *workspace = nullptr;

    static float rounded(float x, DataType type) { return type == kBf16 ? __bfloat162float(__float2bfloat16(x)) : x; }
    Place &place(const Node *t) {
        std::shared_ptr<Place> &p = places[t];
        if (!p) {
            p = std::make_shared<Place>();
            p->type = DataType(t->one<int>(kTensorType));
            if (t->one<bool>(kTensorIsVirtual)) {
                size_t last = 0;
                const auto sizes = t->all<int64_t>(kTensorSizes), steps = t->all<int64_t>(kTensorSteps);
                for (size_t i = 0; i < 4; i++) last += size_t((sizes[i] - 1) * steps[i]);
                p->own.resize(last + 1);
            } else {
                p->bound = static_cast<unsigned char *>(bound.at(t->one<int64_t>(kTensorId)));
            }
        }
        return *p;
    }
    struct View {
        const Node *node;
        std::array<int64_t, 4> sizes, steps;
        Place *place;
        float scalar;
        bool is_scalar;
    };
    View view(const Node *t) {
        View v{t, {}, {}, nullptr, 0, t->one<bool>(kTensorIsByValue)};
        const auto sizes = t->all<int64_t>(kTensorSizes), steps = t->all<int64_t>(kTensorSteps);
        std::copy(sizes.begin(), sizes.end(), v.sizes.begin()), std::copy(steps.begin(), steps.end(), v.steps.begin());
        if (v.is_scalar) v.scalar = scalars.at(t->one<int64_t>(kTensorId));
        else v.place = &place(t);
        return v;
    }
    static size_t bytes(DataType type) { return type == kBf16 ? 2 : 4; }
    // A size of 1 stands for any; fewer heads are shared by groups.
    static int64_t offset(const View &v, const std::array<int64_t, 4> &at, int64_t heads) {
        int64_t sum = 0;
        for (size_t i = 0; i < 4; i++) {
            const int64_t place = v.sizes[i] == 1 ? 0 : i == 1 && v.sizes[1] < heads ? at[1] / (heads / v.sizes[1]) : at[i];
            sum += place * v.steps[i];
        }
        return sum;
    }
    static float read(const View &v, const std::array<int64_t, 4> &at, int64_t heads) {
        if (v.is_scalar) return v.scalar;
        const int64_t i = offset(v, at, heads);
        if (!v.place->bound) return v.place->own[size_t(i)];
        const unsigned char *p = v.place->bound + size_t(i) * bytes(v.place->type);
        emu::note_access(p, bytes(v.place->type), false);
        if (v.place->type == kBf16) return __bfloat162float(*reinterpret_cast<const __nv_bfloat16 *>(p));
        return v.place->type == kInt32 ? float(*reinterpret_cast<const int32_t *>(p)) : *reinterpret_cast<const float *>(p);
    }
    static void write(const View &v, const std::array<int64_t, 4> &at, float x) {
        const int64_t i = offset(v, at, v.sizes[1]);
        if (!v.place->bound) {
            v.place->own[size_t(i)] = rounded(x, v.place->type);
            return;
        }
        unsigned char *p = v.place->bound + size_t(i) * bytes(v.place->type);
        emu::note_access(p, bytes(v.place->type), true);
        if (v.place->type == kBf16) *reinterpret_cast<__nv_bfloat16 *>(p) = __float2bfloat16(x);
        else *reinterpret_cast<float *>(p) = x;
    }
    template <class F> static void each(const std::array<int64_t, 4> &sizes, F f) {
        std::array<int64_t, 4> at;
        for (at[0] = 0; at[0] < sizes[0]; at[0]++)
            for (at[1] = 0; at[1] < sizes[1]; at[1]++)
                for (at[2] = 0; at[2] < sizes[2]; at[2]++)
                    for (at[3] = 0; at[3] < sizes[3]; at[3]++) f(at);
    }

    void pointwise(const Node &op) {
        const Node &how = *op.node(kPointwiseOperationDescriptor);
        const auto mode = Pointwise(how.one<int>(kPointwiseMode));
        const View x = view(op.node(kPointwiseOperationX)), y = view(op.node(kPointwiseOperationY));
        const Node *bn = op.node(kPointwiseOperationB), *tn = op.node(kPointwiseOperationT);
        const View b = bn ? view(bn) : x, t = tn ? view(tn) : x;
        const auto axis = size_t(how.one<int64_t>(kPointwiseAxis));
        const bool forgets = flaw == Flaw::Documents && bn && !b.is_scalar && b.place->type == kInt32 && b.place->bound;
        if (flaw == Flaw::LogSum && mode == Pointwise::Add) return;
        each(y.sizes, [&](const std::array<int64_t, 4> &at) {
            const int64_t heads = y.sizes[1];
            const float left = read(x, at, heads), right = read(b, at, heads);
            float value = 0;
            switch (mode) {
                case Pointwise::Add: value = left + right; break;
                case Pointwise::Multiply: value = left * right; break;
                case Pointwise::Divide: value = left / right; break;
                case Pointwise::Subtract: value = left - right; break;
                case Pointwise::Exp: value = std::exp(left); break;
                case Pointwise::Log: value = std::log(left); break;
                case Pointwise::IsAtLeast: value = left >= right || forgets; break;
                case Pointwise::Index: value = float(at[axis]); break;
                case Pointwise::Select: value = read(t, at, heads) != 0 ? left : right; break;
            }
            write(y, at, value);
        });
    }
    void multiply(const Node &op, float factor) {
        const View a = view(op.node(kMatmulOperationA)), b = view(op.node(kMatmulOperationB)), c = view(op.node(kMatmulOperationC));
        each(c.sizes, [&](const std::array<int64_t, 4> &at) {
            float sum = 0;
            for (int64_t k = 0; k < a.sizes[3]; k++)
                sum += rounded(read(a, {at[0], at[1], at[2], k}, c.sizes[1]), kBf16) * rounded(read(b, {at[0], at[1], k, at[3]}, c.sizes[1]), kBf16);
            write(c, at, sum * factor);
        });
    }
    void reduce(const Node &op) {
        const auto how = Reduce(op.node(kReductionOperationDescriptor)->one<int>(kReductionOperator));
        const View x = view(op.node(kReductionOperationX)), y = view(op.node(kReductionOperationY));
        std::map<int64_t, float> sums;
        each(x.sizes, [&](const std::array<int64_t, 4> &at) {
            const float value = read(x, at, x.sizes[1]);
            const auto [sum, is_first] = sums.try_emplace(offset(y, at, x.sizes[1]), value);
            if (!is_first) sum->second = how == Reduce::Max ? std::max(sum->second, value) : sum->second + value;
        });
        each(y.sizes, [&](const std::array<int64_t, 4> &at) { write(y, at, sums.at(offset(y, at, y.sizes[1]))); });
    }
    // The same memory, read with other steps.
    void reshape(const Node &op) {
        const Node *to = op.node(kReshapeOperationY);
        auto made = std::make_shared<Place>(place(op.node(kReshapeOperationX)));
        if (!made->bound) {
            made->type = DataType(to->one<int>(kTensorType));
            for (float &x : made->own) x = rounded(x, made->type);
        }
        places[to] = made;
    }
    void run(const std::vector<const Node *> &operations) {
        emu::DeviceScope scope;
        int products = 0;
        const bool is_backward = std::any_of(operations.begin(), operations.end(), [](const Node *n) { return n->kind == kReshapeOperation; });
        std::memset(workspace, 0x5a, kSmallWorkspace);
        for (const Node *op : operations) switch (op->kind) {
                case kPointwiseOperation: pointwise(*op); break;
                case kReductionOperation: reduce(*op); break;
                case kReshapeOperation: reshape(*op); break;
                default: {
                    products++;
                    float factor = 1;
                    if (flaw == Flaw::Output && !is_backward && products == 2) factor = 1.02f;
                    if (flaw == Flaw::Gradient && is_backward && products == 4) factor = 1.02f;
                    if (flaw == Flaw::Unrepeated && is_backward && products == 5) factor = 1.0f + float(run_count % 2) / 256;
                    multiply(*op, factor);
                }
            }
    }
};
std::vector<const Node *> operations_of(const Node *plan) {
    return plan->node(kPlanConfig)->node(kHeuristicsGraph)->all<const Node *>(kGraphOperations);
}
int64_t workspace_of(const Node *plan) {
    int64_t bytes = kSmallWorkspace;
    for (const Node *op : operations_of(plan))
        if (op->kind == kReshapeOperation) {
            const auto sizes = op->node(kReshapeOperationY)->all<int64_t>(kTensorSizes);
            if (sizes[2] == sizes[3]) bytes = std::max(bytes, sizes[0] * sizes[1] * sizes[2] * sizes[3] * 2 + int64_t(fake_cudnn::extra_workspace));
        }
    return bytes;
}
}  // namespace

size_t fake_cudnn::live_descriptors() { return live; }
size_t fake_cudnn::runs() { return run_count; }

extern "C" {
size_t cudnnGetVersion() { return fake_cudnn::version; }
void cudnnGetLastErrorString(char *text, size_t bytes) { std::snprintf(text, bytes, "as the test asked"); }
Status cudnnCreate(Handle *handle) {
    cudaError_t injected;
    if (emu::take_failure("cudnnCreate", &injected)) return 1001;
    return *handle = new Context, live++, 0;
}
Status cudnnDestroy(Handle handle) { return delete static_cast<Context *>(handle), live--, 0; }
Status cudnnSetStream(Handle handle, cudaStream_t stream) { return static_cast<Context *>(handle)->stream = stream, 0; }
Status cudnnBackendCreateDescriptor(int kind, Descriptor *made) { return *made = new Node{kind, false, {}}, live++, 0; }
// Work that is still queued may ask for it.
Status cudnnBackendDestroyDescriptor(Descriptor d) {
    static std::vector<std::unique_ptr<Node>> buried;
    return buried.emplace_back(static_cast<Node *>(d)), live--, 0;
}
Status cudnnBackendSetAttribute(Descriptor d, int attribute, int type, int64_t count, const void *values) {
    Node &node = *static_cast<Node *>(d);
    if (node.is_final) return kBad;
    const auto *bytes = static_cast<const unsigned char *>(values);
    node.attributes[attribute].assign(bytes, bytes + size_t(count) * bytes_of(type));
    return 0;
}
Status cudnnBackendFinalize(Descriptor d) {
    Node &node = *static_cast<Node *>(d);
    cudaError_t injected;
    if (node.kind == kOperationGraph && emu::take_failure("cudnnBackendFinalize", &injected)) return kNotSupported;
    if (node.kind == kTensor && (node.all<int64_t>(kTensorSizes).size() != 4 || node.all<int64_t>(kTensorSteps).size() != 4)) return kBad;
    for (const Node *op : node.all<const Node *>(kGraphOperations))
        if (!op->is_final) return kBad;
    node.is_final = true;
    return 0;
}
Status cudnnBackendGetAttribute(Descriptor d, int attribute, int, int64_t wanted, int64_t *count, void *values) {
    const Node &node = *static_cast<Node *>(d);
    *count = 0;
    if (attribute == kHeuristicsResults) {
        if (!node.is_final) return kBad;
        *count = flaw == Flaw::Refused ? 0 : 1;
        if (wanted == 0 || *count == 0) return 0;
        Node &config = **static_cast<Node **>(values);
        config.attributes[kHeuristicsGraph] = node.attributes.at(kHeuristicsGraph);
        return 0;
    }
    if (attribute == kPlanWorkspace) return *count = 1, *static_cast<int64_t *>(values) = workspace_of(&node), 0;
    return attribute == kConfigEngine || attribute == kEngineNumericalNotes ? 0 : kBad;
}
Status cudnnBackendExecute(Handle handle, Descriptor plan, Descriptor pack_descriptor) {
    const Node &pack = *static_cast<Node *>(pack_descriptor);
    cudaError_t injected;
    if (!pack.is_final || emu::take_failure("cudnnBackendExecute", &injected)) return kFailed;
    auto calculation = std::make_shared<Calculation>();
    const auto ids = pack.all<int64_t>(kPackIds);
    const auto pointers = pack.all<void *>(kPackPointers);
    calculation->workspace = pack.one<void *>(kPackWorkspace);
    if (ids.size() != pointers.size() || !calculation->workspace) return kBad;
    const auto operations = operations_of(static_cast<Node *>(plan));
    std::map<int64_t, const Node *> outside;
    for (const Node *op : operations)
        for (const auto &[attribute, bytes] : op->attributes)
            if (bytes.size() == sizeof(void *))
                if (const Node *t = op->node(attribute); t->kind == kTensor && !t->one<bool>(kTensorIsVirtual)) outside[t->one<int64_t>(kTensorId)] = t;
    for (size_t i = 0; i < ids.size(); i++) {
        if (!outside.contains(ids[i]) || !pointers[i]) return kBad;
        if (outside.at(ids[i])->one<bool>(kTensorIsByValue)) calculation->scalars[ids[i]] = *static_cast<const float *>(pointers[i]);
        else if (reinterpret_cast<uintptr_t>(pointers[i]) % 16 != 0) return kBad;
        else calculation->bound[ids[i]] = pointers[i];
    }
    if (outside.size() != ids.size()) return kBad;
    run_count++;
    emu::queue(static_cast<Context *>(handle)->stream, [calculation, operations] { calculation->run(operations); });
    return 0;
}
}
