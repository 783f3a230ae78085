// How the CUDA backend meets machines that cannot run it, and faults: each must become one plain sentence or a core::Error
// with the right code that names the call. Emulated build: the machine is whatever emu_control says.
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
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
    const int count = pgtrain_cuda_device_count(error, sizeof error);
    expect(name + " has no usable device", count == 0, std::to_string(count));
    expect(name + " is told", has(error, part), error);
    error[0] = 0;
    const std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open(0, 0, error, sizeof error));
    expect(name + " opens nothing", backend == nullptr);
    expect(name + " is told on opening", has(error, part), error);
}
std::unique_ptr<backend::Backend> open_device(std::uint64_t memory_limit_bytes = 0) {
    char error[512] = "";
    std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open(0, memory_limit_bytes, error, sizeof error));
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
    expect("two devices are counted", pgtrain_cuda_device_count(error, sizeof error) == 2 && error[0] == 0, error);
    const std::unique_ptr<backend::Backend> third(pgtrain_cuda_open(2, 0, error, sizeof error));
    expect("a third one is refused", !third && has(error, "CUDA device 2 does not exist"), error);
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

void test_nothing_leaks() {
    usual_machine();
    expect("no device memory is left", emu_control::live_buffers() == 0, std::to_string(emu_control::live_buffers()));
    for (const char *call : {"cudaStreamCreateWithFlags", "cudaMallocHost", "cudaMalloc", "cudaSetDevice"})
        for (int after : {0, 1}) {
            emu_control::fail_next(call, cudaErrorMemoryAllocation, after);
            char error[512] = "";
            const std::unique_ptr<backend::Backend> backend(pgtrain_cuda_open(0, 0, error, sizeof error));
            expect(std::string("opening with a failing ") + call + " tells it", backend || has(error, call), error);
            emu_control::fail_next(call, cudaSuccess, 1 << 30);  // whatever was not used up
        }
    expect("a failed opening keeps no memory", emu_control::live_buffers() == 0, std::to_string(emu_control::live_buffers()));
}
}  // namespace

int main() {
    test_reasons();
    test_faults();
    test_memory_limit();
    test_nothing_leaks();
    if (failures) std::printf("[  FAILED  ] %d tests\n", failures);
    std::printf("[  PASSED  ] %d tests.\n", passed);
    return failures != 0;
}
