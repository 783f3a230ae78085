// How the CUDA backend meets machines that cannot run it, and faults: each must become one plain sentence or a core::Error
// with the right code that names the call. Emulated build: the machine is whatever emu_control says.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "emulator.h"
#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/cublaslt.hpp"
#include "engine/core/error.hpp"

namespace {
using namespace pgtrain::engine;
constexpr size_t kMemory = size_t(1) << 30;
int failures = 0, passed = 0;

void expect(const std::string &what, bool holds, const std::string &got = "") {
    if (!holds) std::printf("[  FAILED  ] %s%s%s\n", what.c_str(), got.empty() ? "" : ": ", got.c_str());
    (holds ? passed : failures)++;
}
bool has(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }
void usual_machine() { emu_control::set_machine(1, 13000, 9, kMemory); }

void expect_reason(const std::string &name, const std::string &part) {
    char error[512] = "";
    backend::DeviceInfo info;
    expect(name + " has no usable device", !pgtrain_cuda_describe(0, &info, error, sizeof error));
    expect(name + " is told", has(error, part), error);
    error[0] = 0;
    const std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open_6(0, 0, error, sizeof error));
    expect(name + " opens nothing", backend == nullptr);
    expect(name + " is told on opening", has(error, part), error);
}
std::unique_ptr<backend::Backend> open_device(std::uint64_t memory_limit_bytes = 0) {
    char error[512] = "";
    std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open_6(0, memory_limit_bytes, error, sizeof error));
    expect("the usual machine opens", backend != nullptr, error);
    return backend;
}
// f must throw core::Error of that code whose message or detail holds `part`.
void expect_error(const std::string &name, const std::string &code, const std::string &part, const std::function<void()> &f) {
    try {
        f();
        expect(name + " raises", false);
    } catch (const core::Error &e) {
        expect(name + " has code " + code, e.code == code, e.code);
        expect(name + " names " + part, has(e.message + " " + e.detail, part), e.message + " | " + e.detail);
        expect(name + " says what to do or where", !e.hint.empty() || !e.detail.empty());
    }
}

// Devices are found one by one: an old card that comes first hides none, nor does one that is full or held by another program.
void test_listing() {
    char error[512] = "";
    backend::DeviceInfo info;
    emu_control::set_machine(3, 13000, 9, kMemory, 6);
    expect("all are counted", pgtrain_cuda_count(error, sizeof error) == 3, error);
    expect("the old one is told", !pgtrain_cuda_describe(0, &info, error, sizeof error) && has(error, "compute capability 6.0"), error);
    for (int i : {1, 2}) {
        for (const char *call : {"cudaMalloc", "cudaSetDevice", "cudaStreamCreateWithFlags"}) emu_control::fail_next(call, cudaErrorDevicesUnavailable);
        expect("a busy one is found", pgtrain_cuda_describe(i, &info, error, sizeof error) && info.name == "cuda:" + std::to_string(i), error);
        for (const char *call : {"cudaMalloc", "cudaSetDevice", "cudaStreamCreateWithFlags"}) emu_control::fail_next(call, cudaSuccess, 1 << 30);
        const std::unique_ptr<backend::Backend> device(pgtrain_cuda_open_6(i, 0, error, sizeof error));
        expect("one behind an old one opens under its own number", device && device->info().name == info.name, error);
    }
    emu_control::fail_next("cudaGetDeviceProperties", cudaErrorInvalidValue);
    expect("one that does not answer is told", !pgtrain_cuda_describe(1, &info, error, sizeof error) && has(error, "cudaGetDeviceProperties"), error);
    expect("and hides no other", pgtrain_cuda_describe(2, &info, error, sizeof error) && info.name == "cuda:2", error);
}

void test_reasons() {
    emu_control::set_machine(1, 0, 9, kMemory);
    expect_reason("a machine without a driver", "no NVIDIA driver");
    emu_control::set_machine(1, 12020, 9, kMemory);
    expect_reason("an old driver", "supports CUDA 12.2, this build needs 13.0");
    emu_control::set_machine(0, 13000, 9, kMemory);
    expect_reason("a driver without a device", "sees no CUDA device");
    emu_control::set_machine(1, 13000, 7, kMemory);
    expect_reason("an old device", "compute capability 7.0, 8.0 is needed");

    emu_control::set_machine(2, 13000, 9, kMemory);
    char error[512] = "x";
    expect("two devices are counted", pgtrain_cuda_count(error, sizeof error) == 2 && error[0] == 0, error);
    const std::unique_ptr<backend::Backend> third(pgtrain_cuda_open_6(2, 0, error, sizeof error));
    expect("a third one is refused", !third && has(error, "CUDA device 2 does not exist"), error);
    test_listing();
    for (const auto &[code, part] : {std::pair(cudaErrorSystemNotReady, "nvidia-fabricmanager"), std::pair(cudaErrorOperatingSystem, "sandbox")}) {
        emu_control::fail_next("cudaGetDeviceCount", code);
        expect("a failing start has no device", pgtrain_cuda_count(error, sizeof error) == 0);
        expect("a failing start names the remedy", has(error, part) && has(error, "cudaErrorS") == (code == cudaErrorSystemNotReady), error);
    }
    usual_machine();

    std::string why;
    const char *missing[] = {"libno-such-cublas.so.1", "libno-such-cublas.so.2", nullptr}, *other[] = {"libm.so.6", nullptr};
    expect("a missing cuBLASLt is told", !backend::gpu::load_cublaslt(missing, &why) && has(why, "libno-such-cublas.so.2"), why);
    expect("a library that is no cuBLASLt is told", !backend::gpu::load_cublaslt(other, &why) && has(why, "cublasLtCreate"), why);
}

void test_faults() {
    usual_machine();
    const auto device = open_device();
    if (!device) return;
    expect("device name", device->info().name == "cuda:0" && device->info().isa == "sm_90" && device->info().memory_bytes == kMemory);
    emu_control::fail_next("cudaMalloc", cudaErrorMemoryAllocation);  // other programs hold it
    expect_error("memory that is not there", "out_of_memory", "MiB are free", [&] { device->allocate(kMemory / 2); });
    expect_error("more than the device has", "out_of_memory", "1073741824 bytes are in use", [&] { device->allocate(2 * kMemory); });
    float *p = static_cast<float *>(device->allocate(4096));
    device->zero(p, 4096);
    std::vector<float> host(1024);
    emu_control::fail_next("cudaMemcpyAsync", cudaErrorIllegalAddress);
    expect_error("a failing upload", "device_fault", "cudaMemcpyAsync", [&] { device->upload(p, host.data(), 4096); });
    emu_control::fail_next("cudaMemsetAsync", cudaErrorLaunchFailure);
    expect_error("a failing fill", "device_fault", "cudaMemsetAsync", [&] { device->zero(p, 4096); });
    emu_control::fail_next("cudaStreamSynchronize", cudaErrorIllegalAddress);
    expect_error("a kernel's late fault", "device_fault", "cudaErrorIllegalAddress", [&] { device->synchronize(); });
    backend::Matmul product;
    product.m = product.n = product.k = 16;
    product.a = product.b = p;
    product.c = p + 512;
    emu_control::fail_next("cublasLtMatmul", cudaErrorLaunchFailure);
    expect_error("a failing product", "device_fault", "cublasLtMatmul", [&] { device->matmul(product); });
    product.k = 0;
    expect_error("a product of nothing", "config_invalid", "inner size", [&] { device->matmul(product); });
    backend::AttentionForward attention;
    attention.qkv = p, attention.out = p, attention.log_sum = p;
    attention.batch = attention.length = attention.heads = 1, attention.head_size = 129;
    expect_error("a wide head", "config_invalid", "129", [&] { device->attention_forward(attention); });
    device->release(p);
}

float value_of(float x) { return x; }
float value_of(__nv_bfloat16 x) { return __bfloat162float(x); }
// Parameters lie one after the other, so a narrow model's biases lie anywhere: one shape meets biases of every alignment.
void test_bias_alignment() {
    usual_machine();
    const auto device = open_device();
    if (!device) return;
    constexpr int kSide = 24;
    std::vector<float> ones(kSide * kSide, 1.0f), biases(kSide + 64);
    for (size_t i = 0; i < biases.size(); i++) biases[i] = float(i);
    auto *a = static_cast<float *>(device->allocate(ones.size() * 4)), *c = static_cast<float *>(device->allocate(ones.size() * 4));
    auto *bias = static_cast<float *>(device->allocate(biases.size() * 4));
    device->upload(a, ones.data(), ones.size() * 4);
    device->upload(bias, biases.data(), biases.size() * 4);
    for (const int offset : {0, 4, 1, 2, 3, 8, 64, 5}) {
        backend::Matmul product;
        product.m = product.n = product.k = kSide;
        product.a = product.b = a, product.c = c;
        product.bias = bias + offset;
        std::vector<float> host(ones.size());
        try {
            device->matmul(product);
            device->download(host.data(), c, host.size() * 4);
        } catch (const core::Error &e) {
            host[5] = NAN;
        }
        expect("a bias " + std::to_string(offset * 4) + " bytes in", host[5] == float(kSide + offset + 5), std::to_string(host[5]));
    }
    for (void *p : {a, c, bias}) device->release(p);
}

// A shape that cuBLASLt has no algorithm for, be it told by the heuristic or by the product, has the same result by the plain kernel.
template <class T> void test_plain_product(core::DType in, core::DType out, const char *refusing) {
    const auto device = open_device();
    if (!device) return;
    constexpr int kM = 37, kN = 21, kK = 50, kPitch = 23;
    auto random = [seed = 1u](size_t count) mutable {
        std::vector<float> values(count);
        for (float &v : values) v = float(int((seed = seed * 1664525u + 1013904223u) >> 24) - 128) / 64.0f;
        return values;
    };
    for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true})
            for (const float beta : {0.0f, 0.5f}) {
                const auto a = random(kM * kK), b = random(kK * kN), old = random(kM * kPitch), bias = random(kN);
                std::vector<void *> memory;
                const auto to_device = [&](core::DType type, const std::vector<float> &values) {
                    void *wide = device->allocate(values.size() * 4), *narrow = device->allocate(values.size() * 4);
                    memory.insert(memory.end(), {wide, narrow});
                    device->upload(wide, values.data(), values.size() * 4);
                    device->cast(type, narrow, core::DType::F32, wide, std::int64_t(values.size()));
                    return narrow;
                };
                backend::Matmul product;
                product.m = kM, product.n = kN, product.k = kK;
                product.transpose_a = transpose_a, product.transpose_b = transpose_b;
                product.in = in, product.out = out;
                product.a = to_device(in, a), product.b = to_device(in, b), product.bias = to_device(in, bias);
                product.c_pitch = kPitch;
                product.alpha = 0.25f, product.beta = beta;
                std::vector<std::vector<T>> results;
                for (const bool plain : {false, true}) {
                    product.c = to_device(out, old);
                    const auto fresh = open_device();  // plans are kept, so the second asks anew
                    if (plain) emu_control::fail_next(refusing, cudaErrorInvalidConfiguration);
                    fresh->matmul(product);
                    fresh->synchronize();
                    device->synchronize();
                    std::vector<T> host(kM * kPitch);
                    device->download(host.data(), product.c, host.size() * sizeof(T));
                    results.push_back(host);
                }
                int wrong = 0;
                for (size_t i = 0; i < results[0].size(); i++) {
                    const float x = value_of(results[0][i]), y = value_of(results[1][i]);
                    wrong += !(std::fabs(x - y) <= 0.01 * (1 + std::fabs(x)));
                }
                expect(std::string(refusing) + " refuses, transposed " + std::to_string(transpose_a) + std::to_string(transpose_b), wrong == 0, std::to_string(wrong) + " differ");
                for (void *p : memory) device->release(p);
            }
}

void test_memory_limit() {
    usual_machine();
    constexpr size_t kRoom = size_t(8) << 20;
    std::uint64_t reserved = 0;
    {
        const auto device = open_device();
        reserved = device->workspace_bytes();
    }
    const auto device = open_device(reserved + kRoom);
    void *first = device->allocate(kRoom - 1000);
    void *rest = device->allocate(1000);
    for (const size_t bytes : {size_t(1), kMemory, ~size_t(0)})
        expect_error(std::to_string(bytes) + " bytes above the limit", "out_of_memory",
                     std::to_string(bytes) + " bytes more are needed " + std::to_string(reserved + kRoom) + " of " + std::to_string(reserved + kRoom),
                     [&] { device->allocate(bytes); });
    expect_error("an allocation of nothing takes a byte", "out_of_memory", "1 bytes more", [&] { device->allocate(0); });
    device->release(rest);
    rest = device->allocate(1000);  // what is released can be had again
    device->release(first);
    device->release(rest);
    emu_control::fail_next("cudaMalloc", cudaErrorMemoryAllocation);
    expect_error("a refusal of the device", "out_of_memory", "cudaMalloc", [&] { device->allocate(kRoom); });
    device->release(device->allocate(kRoom));  // and was not counted
    device->release(nullptr);
    expect_error("less than the device's own workspace", "out_of_memory", "is reached", [&] { open_device(1000)->allocate(1); });
}

// What is recorded is done at replays only, with the arguments that it had and what memory holds by then; what cannot be recorded is
// refused whole, and the device goes on.
void test_recording() {
    usual_machine();
    const auto device = open_device();
    constexpr std::int64_t kCount = 300;
    auto *x = static_cast<float *>(device->allocate(kCount * sizeof(float)));
    auto *product = static_cast<float *>(device->allocate(sizeof(float)));
    const auto put = [&](float value) { device->upload(x, std::vector<float>(kCount, value).data(), kCount * sizeof(float)); };
    const auto first = [&] {
        float host = 0;
        device->download(&host, x, sizeof host);
        return host;
    };
    put(1);
    float factor = 3;
    const std::uint64_t graphs = emu_control::graph_launches();
    const auto calls = [&] {
        device->scale(core::DType::F32, x, factor, kCount);
        device->matmul({.m = 1, .n = 1, .k = kCount, .a = x, .b = x, .c = product});
        device->zero(x + 1, sizeof(float));
        device->copy(x + 2, x + 1, sizeof(float));
    };
    std::unique_ptr<backend::Recording> recording = device->record(calls);
    expect("calls are recorded", recording != nullptr);
    expect("recorded calls are not done", first() == 1);
    factor = 1000;
    recording->replay();
    expect("a replay has the numbers of the calls", first() == 3);
    put(2);
    recording->replay(), recording->replay();
    expect("replays read memory anew", first() == 18);
    float host = 0;
    device->download(&host, product, sizeof host);
    expect("products are replayed too", host == 298.0f * 18 * 18, std::to_string(host));
    expect("a replay is one launch of a graph", emu_control::graph_launches() == graphs + 3);
    recording.reset();

    put(1);
    const auto expect_refused = [&](const std::string &what, const std::function<void()> &refused) {
        expect(what + " cannot be recorded", device->record([&] {
            device->scale(core::DType::F32, x, 2, kCount);
            refused();
            device->scale(core::DType::F32, x, 2, kCount);
        }) == nullptr);
        expect("nothing of what could not be recorded for " + what + " is done", first() == 1);
        expect("after " + what + " calls are recorded again", device->record(calls) != nullptr);
    };
    expect_refused("waiting", [&] { device->synchronize(); });
    expect_refused("a download", [&] { device->download(&host, x, sizeof host); });
    expect_refused("an upload", [&] { device->upload(x, &host, sizeof host); });
    expect_refused("an allocation", [&] { device->release(device->allocate(1000)); });
    for (const char *call : {"cudaStreamBeginCapture", "cudaGraphInstantiateWithFlags"}) {
        emu_control::fail_next(call, cudaErrorUnknown);
        expect(std::string("a failing ") + call + " records nothing", device->record(calls) == nullptr && first() == 1);
    }
    setenv("PGTRAIN_CUDA_GRAPHS", "off", 1);
    expect("told not to, nothing is recorded", device->record(calls) == nullptr && first() == 1);
    unsetenv("PGTRAIN_CUDA_GRAPHS");
    expect("no graph is left", emu_control::live_graphs() == 0);
    device->release(x);
    device->release(product);
}

void test_nothing_leaks() {
    usual_machine();
    expect("no device memory is left", emu_control::live_buffers() == 0, std::to_string(emu_control::live_buffers()));
    for (const char *call : {"cudaStreamCreateWithFlags", "cudaMallocHost", "cudaMalloc", "cudaSetDevice"})
        for (int after : {0, 1}) {
            emu_control::fail_next(call, cudaErrorMemoryAllocation, after);
            char error[512] = "";
            const std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open_6(0, 0, error, sizeof error));
            expect(std::string("opening with a failing ") + call + " tells it", backend || has(error, call), error);
            emu_control::fail_next(call, cudaSuccess, 1 << 30);  // whatever was not used up
        }
    expect("a failed opening keeps no memory", emu_control::live_buffers() == 0, std::to_string(emu_control::live_buffers()));
}
}  // namespace

int main() {
    test_reasons();
    test_faults();
    test_bias_alignment();
    for (const char *refusing : {"cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul"}) {
        test_plain_product<float>(core::DType::F32, core::DType::F32, refusing);
        test_plain_product<float>(core::DType::Bf16, core::DType::F32, refusing);
        test_plain_product<__nv_bfloat16>(core::DType::Bf16, core::DType::Bf16, refusing);
    }
    test_memory_limit();
    test_recording();
    test_nothing_leaks();
    if (failures) std::printf("[  FAILED  ] %d tests\n", failures);
    std::printf("[  PASSED  ] %d tests.\n", passed);
    return failures != 0;
}
