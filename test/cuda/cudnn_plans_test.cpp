// Whether the real cuDNN takes the graphs that we describe: it makes plans for the shapes of our models without a card or a driver, given
// an H200's description and a stand-in for libcuda (fake/standin_cuda.cpp). Says nothing of what the plans compute, nor how fast. Where
// cuDNN's header is, the numbers of our own declarations are held against it (cudnn_header.cpp).
#include <cstdio>
#include <string>

#include "engine/backend/cuda/cudnn_attention.hpp"

namespace {
using namespace pgtrain::engine::backend::gpu;
int failures = 0, passed = 0;

void expect(const std::string &what, bool holds, const std::string &got = "") {
    if (!holds) std::printf("[  FAILED  ] %s%s%s\n", what.c_str(), got.empty() ? "" : ": ", got.c_str());
    (holds ? passed : failures)++;
}
// What cuDNN asks a device for; written by hand from NVIDIA's tables until one was read off a card.
std::string description(int version, int processors, int shared) {
    return R"({"deviceVer":)" + std::to_string(version) + R"(,"driverVer":13000,"cudaDeviceId":0,"maxGridSize":[2147483647,65535,65535],)" +
           R"("maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"multiProcessorCount":)" + std::to_string(processors) +
           R"(,"warpSize":32,"maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":)" + std::to_string(shared) +
           R"(,"reservedSharedMemoryPerBlock":1024,"maxRegistersPerSM":65536,"maxCtasPerSM":32,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,)" +
           R"("pciDeviceId":0,"isTccDriver":0,"supportCoopLaunch":1,"smClockRateKHz":1980000,"memClockRateKHz":3201000,"l2CacheSize":62914560,)" +
           R"("totalGlobalMem":150754820096,"deviceName":"described"})";
}
struct Outcome {
    bool is_planned = false;
    int64_t workspace = 0;
    std::string why;
};
Outcome plan(cudnn::Graph &graph, const std::string &device, int64_t most) {
    Outcome found;
    try {
        found.is_planned = graph.plan({nullptr, device.c_str(), true, most});
        found.workspace = graph.workspace_bytes();
    } catch (const cudnn::Failure &e) {
        found.why = e.what();
    }
    return found;
}
}  // namespace

int main() {
    std::string why;
    const cudnn::Library *library = cudnn::load(cudnn::kNames, &why);
    if (!library) {
        std::printf("cudnn_plans_test: Skipped\n%s\n[  SKIPPED ] cuda.cudnn_plans (0 ms)\n[  PASSED  ] 0 tests.\n", why.c_str());
        return 0;
    }
    std::printf("cuDNN %s\n", cudnn::version_text(*library).c_str());
    const std::string hopper = description(900, 132, 232448), ampere = description(800, 108, 166912);
    constexpr int64_t kAny = int64_t(1) << 40;
    struct Case {
        const char *name;
        AttentionKey shape;
    };
    const Case cases[] = {{"SmolLM2 135M", {8, 1024, 9, 3, 64, kNoWindow, true}},
                          {"GPT-2 124M", {8, 1024, 12, 12, 64, kNoWindow, true}},
                          {"Qwen2.5 0.5B", {4, 2048, 14, 2, 64, kNoWindow, true}},
                          {"Llama 3 8B", {8, 2048, 32, 8, 128, kNoWindow, true}},
                          {"Mistral 7B", {2, 8192, 32, 8, 128, 4096, true}},
                          {"a small one of our own", {3, 250, 2, 2, 24, kNoWindow, true}},
                          {"no documents", {4, 512, 8, 8, 96, kNoWindow, false}}};
    for (const auto &[name, shape] : cases) {
        const auto forward = cudnn_attention::describe_forward(*library, shape), backward = cudnn_attention::describe_backward(*library, shape);
        const Outcome there = plan(*forward, hopper, kAny), back = plan(*backward, hopper, kAny);
        std::printf("%s (%s): forward %.1f MB, backward %.1f MB of workspace\n", name, describe(shape).c_str(), double(there.workspace) / 1e6, double(back.workspace) / 1e6);
        expect(std::string(name) + " forward", there.is_planned, there.why);
        expect(std::string(name) + " backward", back.is_planned, back.why);
        // A repeatable backward keeps the gradients of all scores; what it takes besides is no more than a few times its results.
        const int64_t scores = int64_t(shape.batch) * shape.heads * shape.length * shape.length * 2;
        const int64_t results = int64_t(shape.batch) * shape.length * (3 * int64_t(shape.heads)) * shape.head_size * 4;
        expect(std::string(name) + " backward's workspace", back.workspace >= scores && back.workspace <= scores + scores / 4 + 2 * results, std::to_string(back.workspace));
        expect(std::string(name) + " forward's workspace", there.workspace <= results, std::to_string(there.workspace));
    }
    const auto bounded = cudnn_attention::describe_backward(*library, cases[0].shape);
    expect("what takes too much is not planned", !plan(*bounded, hopper, 1 << 20).is_planned);
    const auto older = cudnn_attention::describe_forward(*library, cases[0].shape);
    const Outcome there = plan(*older, ampere, kAny);
    expect("an Ampere card's forward", there.is_planned, there.why);
    if (failures) std::printf("[  FAILED  ] %d tests\n", failures);
    std::printf("[  PASSED  ] %d tests.\n", passed);
    return failures != 0;
}
