// cuDNN's graph interface, found at run time: without it attention is done by our own kernels. Libraries are NVIDIA's and never
// shipped. The declarations are our own, since toolkits come without cuDNN's header: the part of its C interface that cudnn_graph.cpp
// calls, with the interface's own numbers (test/cuda/cudnn_plans_test.cpp holds them against the header where there is one).
#pragma once
#include <string>

#include "engine/backend/cuda/gpu.h"

namespace pgtrain::engine::backend::gpu::cudnn {
using Status = int;  // 0 is success
using Handle = void *;
using Descriptor = void *;

enum DescriptorKind : int {
    kPointwise = 0,
    kEngine = 2,
    kEngineConfig = 3,
    kEngineHeuristics = 4,
    kExecutionPlan = 5,
    kPointwiseOperation = 13,
    kOperationGraph = 15,
    kVariantPack = 16,
    kTensor = 17,
    kMatmul = 18,
    kMatmulOperation = 19,
    kReduction = 21,
    kReductionOperation = 22,
    kReshapeOperation = 31,
    kDeviceProperties = 38
};
enum Attribute : int {
    kPointwiseMode = 0,
    kPointwisePrecision = 1,
    kPointwiseAxis = 9,
    kHeuristicsMode = 200,
    kHeuristicsGraph = 201,
    kHeuristicsResults = 202,
    kHeuristicsDevice = 204,
    kConfigEngine = 300,
    kPlanConfig = 401,
    kPlanWorkspace = 402,
    kPointwiseOperationDescriptor = 750,
    kPointwiseOperationX = 751,
    kPointwiseOperationB = 752,
    kPointwiseOperationY = 753,
    kPointwiseOperationT = 758,
    kGraphHandle = 800,
    kGraphOperations = 801,
    kTensorAlignment = 900,
    kTensorType = 901,
    kTensorSizes = 902,
    kTensorSteps = 903,
    kTensorId = 906,
    kTensorIsVirtual = 907,
    kTensorIsByValue = 908,
    kPackIds = 1000,
    kPackPointers = 1001,
    kPackWorkspace = 1003,
    kEngineNumericalNotes = 1303,
    kMatmulPrecision = 1500,
    kMatmulOperationA = 1520,
    kMatmulOperationB = 1521,
    kMatmulOperationC = 1522,
    kMatmulOperationDescriptor = 1523,
    kReductionOperator = 1600,
    kReductionPrecision = 1601,
    kReductionOperationX = 1610,
    kReductionOperationY = 1611,
    kReductionOperationDescriptor = 1612,
    kReshapeOperationX = 2200,
    kReshapeOperationY = 2201,
    kDeviceJson = 2702
};
enum AttributeType : int {
    kOfHandle = 0,
    kOfDataType = 1,
    kOfBoolean = 2,
    kOfInt64 = 3,
    kOfPointer = 6,
    kOfHeuristicsMode = 8,
    kOfNumericalNote = 11,
    kOfPointwiseMode = 14,
    kOfDescriptor = 15,
    kOfReductionOperator = 18,
    kOfChar = 24
};
enum DataType : int { kFloat = 0, kInt32 = 4, kBf16 = 9, kBoolean = 11 };
enum class Pointwise : int {
    Add = 0,
    Multiply = 1,
    Divide = 6,
    Subtract = 9,
    Exp = 13,
    Log = 15,
    IsAtLeast = 303,
    Index = 501,
    Select = 601
};
enum class Reduce : int { Add = 0, Max = 3 };
enum class Heuristics : int { Fallback = 2, A = 3 };
constexpr int kNotDeterministic = 4;  // a numerical note

struct Library {
    size_t (*version)();  // 91900 is 9.19.0
    void (*last_error)(char *text, size_t bytes);
    Status (*create)(Handle *handle);
    Status (*destroy)(Handle handle);
    Status (*set_stream)(Handle handle, cudaStream_t stream);
    Status (*create_descriptor)(int kind, Descriptor *made);
    Status (*destroy_descriptor)(Descriptor descriptor);
    Status (*finalize)(Descriptor descriptor);
    Status (*set)(Descriptor descriptor, int attribute, int type, int64_t count, const void *values);
    Status (*get)(Descriptor descriptor, int attribute, int type, int64_t wanted, int64_t *count, void *values);
    Status (*execute)(Handle handle, Descriptor plan, Descriptor pack);
};
// Null with the reason where no name of `names` can be opened, a call is missing, or the version is not one that we use.
const Library *load(const char *const *names, std::string *why_not);
extern const char *const kNames[];
std::string version_text(const Library &library);
}  // namespace pgtrain::engine::backend::gpu::cudnn
