// Attention by cuDNN: what is chosen when, that it says the same as our own kernels, and that a library which is wrong, fails or is not
// there costs nothing but its speed. Emulated build; fake/fake_cudnn.cpp calculates the graphs, wrong on purpose where a test asks.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"
#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/cudnn.hpp"
#include "engine/backend/cuda/kernels.hpp"
#include "engine/core/error.hpp"
#include "fake_cudnn.hpp"

namespace {
using namespace pgtrain::engine;
using backend::AttentionShape;
using backend::DType;
using fake_cudnn::Flaw;
constexpr size_t kMemory = size_t(1) << 30;
int failures = 0, passed = 0;

void expect(const std::string &what, bool holds, const std::string &got = "") {
    if (!holds) std::printf("[  FAILED  ] %s%s%s\n", what.c_str(), got.empty() ? "" : ": ", got.c_str());
    (holds ? passed : failures)++;
}
std::unique_ptr<backend::Backend> open_device(std::uint64_t memory_limit_bytes = 0, int major = 9, size_t memory = kMemory) {
    emu_control::set_machine(1, 13000, major, memory);
    char error[512] = "";
    std::unique_ptr<backend::Backend> device(pgtrain_cuda_open_6(0, memory_limit_bytes, error, sizeof error));
    if (!device) std::printf("[  FAILED  ] %s\n", error), std::exit(1);
    return device;
}
// What is written to the error output meanwhile.
std::string said(const std::function<void()> &f) {
    std::fflush(stderr);
    char path[] = "/tmp/pgtrain-cudnn-test-XXXXXX";
    const int file = mkstemp(path), before = dup(2);
    dup2(file, 2);
    f();
    std::fflush(stderr);
    dup2(before, 2);
    close(before);
    std::string text(4096, 0);
    const ssize_t count = pread(file, text.data(), text.size(), 0);
    text.resize(count > 0 ? size_t(count) : 0);
    close(file);
    std::remove(path);
    return text;
}
bool has(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

struct Results {
    std::vector<core::Bf16> out, gradient;
    std::vector<float> log_sum;
    size_t library_runs = 0;  // of this forward and backward
};
AttentionShape shape(std::int64_t batch, std::int64_t length, std::int64_t heads, std::int64_t kv_heads, std::int64_t head_size, std::int64_t window, bool documents) {
    return {.type = DType::Bf16, .batch = batch, .length = length, .heads = heads, .head_size = head_size, .kv_heads = kv_heads, .window = window, .has_segments = documents};
}
std::string name_of(const AttentionShape &s) {
    return std::to_string(s.batch) + "x" + std::to_string(s.length) + " " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " of " + std::to_string(s.head_size) +
           " window " + std::to_string(s.window) + (s.has_segments ? " documents" : "");
}
Results attend(backend::Backend &device, const AttentionShape &s, bool records = false, const std::function<void()> &between = {}) {
    const auto rows = size_t(s.batch * s.length), channels = size_t(s.heads * s.head_size), pitch = channels + 2 * size_t(s.kv_heads * s.head_size);
    std::uint32_t state = 77;
    const auto random = [&](size_t count) {
        std::vector<core::Bf16> values(count);
        for (core::Bf16 &v : values) v = core::to_bf16(float((state = state * 1664525u + 1013904223u) >> 8) / float(1 << 22) - 2.0f);
        return values;
    };
    std::vector<void *> memory;
    const auto take = [&](size_t bytes) { return memory.emplace_back(device.allocate(bytes)); };
    const auto give = [&](const auto &values) {
        void *p = take(values.size() * sizeof values[0]);
        device.upload(p, values.data(), values.size() * sizeof values[0]);
        return p;
    };
    std::vector<std::int32_t> segments(rows);
    for (size_t i = 0; i < rows; i++) segments[i] = i % size_t(s.length) == 0 ? 5 : segments[i - 1] + (random(1)[0].bits % 11 == 0);
    backend::AttentionForward forward;
    forward.type = s.type, forward.batch = s.batch, forward.length = s.length, forward.heads = s.heads, forward.kv_heads = s.kv_heads;
    forward.head_size = s.head_size, forward.window = s.window, forward.scale = 0.3f;
    forward.qkv = give(random(rows * pitch));
    forward.segments = s.has_segments ? static_cast<std::int32_t *>(give(segments)) : nullptr;
    forward.out = take(rows * channels * 2);
    forward.log_sum = static_cast<float *>(take(rows * size_t(s.heads) * 4));
    backend::AttentionBackward backward;
    backward.type = s.type, backward.batch = s.batch, backward.length = s.length, backward.heads = s.heads, backward.kv_heads = s.kv_heads;
    backward.head_size = s.head_size, backward.window = s.window, backward.scale = forward.scale;
    backward.qkv = forward.qkv, backward.out = forward.out, backward.log_sum = forward.log_sum, backward.segments = forward.segments;
    backward.dout = give(random(rows * channels));
    backward.delta = static_cast<float *>(take(rows * size_t(s.heads) * 4));
    backward.dqkv = take(rows * pitch * 2);
    const size_t before = fake_cudnn::runs();
    const auto calls = [&] {
        device.attention_forward(forward);
        device.attention_backward(backward);
    };
    const std::unique_ptr<backend::Recording> recording = records ? device.record(calls) : nullptr;
    if (between) between();
    if (!recording || !recording->replay()) calls();
    device.synchronize();
    Results r;
    r.library_runs = fake_cudnn::runs() - before;
    r.out.resize(rows * channels), r.gradient.resize(rows * pitch), r.log_sum.resize(rows * size_t(s.heads));
    device.download(r.out.data(), forward.out, r.out.size() * 2);
    device.download(r.gradient.data(), backward.dqkv, r.gradient.size() * 2);
    device.download(r.log_sum.data(), forward.log_sum, r.log_sum.size() * 4);
    for (void *p : memory) device.release(p);
    return r;
}
template <class T> double apart(const std::vector<T> &a, const std::vector<T> &b) {
    double difference = 0, length = 0;
    for (size_t i = 0; i < a.size(); i++) {
        const double x = core::to_float(a[i]), y = core::to_float(b[i]);
        difference += (x - y) * (x - y), length += y * y;
    }
    return std::sqrt(difference / length);
}
bool are_same(const Results &a, const Results &b) {
    const auto same = [](const auto &x, const auto &y) { return std::memcmp(x.data(), y.data(), x.size() * sizeof x[0]) == 0; };
    return same(a.out, b.out) && same(a.gradient, b.gradient) && same(a.log_sum, b.log_sum);
}
const AttentionShape kUsual = shape(2, 37, 4, 2, 16, 0, true);

void test_first_keys() {
    const auto device = open_device();
    for (const int length : {1, 31, 33, 512, 700, 1200})
        for (const int reach : {1, 40, backend::gpu::kNoWindow})
            for (const bool has_segments : {false, true}) {
                constexpr int kBatch = 2;
                std::vector<std::int32_t> segments(size_t(kBatch * length)), wanted(segments.size()), found(segments.size());
                std::uint32_t state = 9;
                for (int b = 0; b < kBatch; b++)
                    for (int i = 0, begin = 0; i < length; i++) {
                        const size_t at = size_t(b * length + i);
                        const bool is_new = i > 0 && ((state = state * 1664525u + 1013904223u) >> 24) < 12;
                        segments[at] = i == 0 ? 3 : segments[at - 1] + (is_new ? 1 - 2 * int(state & 1) : 0);  // numbers may come again
                        if (has_segments && is_new) begin = i;
                        wanted[at] = std::max(begin, reach == backend::gpu::kNoWindow ? 0 : i - reach + 1);
                    }
                auto *first = static_cast<std::int32_t *>(device->allocate(found.size() * 4)), *given = static_cast<std::int32_t *>(device->allocate(found.size() * 4));
                device->upload(given, segments.data(), segments.size() * 4);
                device->synchronize();
                cudaStream_t stream = nullptr;
                cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
                backend::gpu::first_keys(first, has_segments ? given : nullptr, kBatch, length, reach, stream);
                cudaStreamSynchronize(stream);
                cudaStreamDestroy(stream);
                device->download(found.data(), first, found.size() * 4);
                expect("first keys of " + std::to_string(length) + ", reach " + std::to_string(reach), found == wanted);
                device->release(first), device->release(given);
            }
}

void test_same_as_ours() {
    for (const AttentionShape &s : {kUsual, shape(1, 64, 2, 2, 8, 0, false), shape(2, 40, 3, 1, 24, 0, true), shape(1, 50, 4, 4, 32, 17, false), shape(2, 35, 4, 2, 64, 20, true),
                                    shape(1, 33, 2, 1, 128, 0, true)}) {
        const auto ours = open_device(), device = open_device();
        const std::string told = said([&] { device->choose_attention(s); });
        expect(name_of(s) + " is told", has(told, "cuDNN 9.19.0, forward and backward"), told);
        const Results plain = attend(*ours, s), found = attend(*device, s);
        expect(name_of(s) + " not chosen goes our way", plain.library_runs == 0);
        expect(name_of(s) + " goes through the library", found.library_runs == 2);
        expect(name_of(s) + " out", apart(found.out, plain.out) < 4e-3, std::to_string(apart(found.out, plain.out)));
        expect(name_of(s) + " log-sums", apart(found.log_sum, plain.log_sum) < 1e-4);
        expect(name_of(s) + " gradient", apart(found.gradient, plain.gradient) < 8e-3, std::to_string(apart(found.gradient, plain.gradient)));
        expect(name_of(s) + " is the same again", are_same(found, attend(*device, s)));
        const auto first_bytes = std::uint64_t(s.has_segments || s.window ? (s.batch * s.length * 4 + 255) / 256 * 256 : 0);
        const auto workspace = std::uint64_t((s.batch * s.heads * s.length * s.length * 2 + 255) / 256 * 256);
        expect(name_of(s) + " is planned for", device->attention_workspace_bytes(s) == std::max<std::uint64_t>(512, workspace) + first_bytes,
               std::to_string(device->attention_workspace_bytes(s)));
    }
}

void test_left_to_ours() {
    const auto device = open_device();
    AttentionShape wide = kUsual, odd = kUsual;
    wide.type = DType::F32, odd.head_size = 12;
    for (const AttentionShape &s : {wide, odd, shape(3, 1, 2, 2, 8, 0, true)}) {
        expect(name_of(s) + " is nothing for the library", said([&] { device->choose_attention(s); }).empty() && device->attention_workspace_bytes(s) == 0);
        if (s.type == DType::Bf16) expect(name_of(s) + " goes our way", attend(*device, s).library_runs == 0);
    }
    {
        fake_cudnn::flaw = Flaw::Refused;
        const auto refused = open_device();
        expect("a refused shape is silent", said([&] { refused->choose_attention(kUsual); }).empty());
        expect("and goes our way", attend(*refused, kUsual).library_runs == 0);
        fake_cudnn::flaw = Flaw::None;
        refused->choose_attention(shape(1, 40, 2, 2, 8, 0, true));
        expect("and ends nothing", attend(*refused, shape(1, 40, 2, 2, 8, 0, true)).library_runs == 2);
    }
    const auto old = open_device(0, 8);
    expect("an Ampere card's backward is ours", has(said([&] { old->choose_attention(kUsual); }), "forward only") && attend(*old, kUsual).library_runs == 1);
    fake_cudnn::extra_workspace = kMemory / 32;
    const auto greedy = open_device();
    expect("a backward that wants more than its share is ours", has(said([&] { greedy->choose_attention(kUsual); }), "forward only"));
    expect("and nobody pays for it", greedy->attention_workspace_bytes(kUsual) == 512 + 512 && attend(*greedy, kUsual).library_runs == 1);
    fake_cudnn::extra_workspace = 0;
    for (const auto &[word, runs] : {std::pair("off", size_t(0)), std::pair("forward", size_t(1)), std::pair("", size_t(2))}) {
        setenv("PGTRAIN_CUDNN", word, 1);
        const auto asked = open_device();
        asked->choose_attention(kUsual);
        expect(std::string("PGTRAIN_CUDNN=") + word, attend(*asked, kUsual).library_runs == runs);
    }
    unsetenv("PGTRAIN_CUDNN");
}

void test_flaws() {
    const Results plain = attend(*open_device(), kUsual);
    const AttentionShape other = shape(1, 40, 2, 2, 8, 0, true);
    for (const auto &[flaw, word] : {std::pair(Flaw::Output, "the output is 0.02 away"), std::pair(Flaw::Gradient, "the keys' gradient is 0.02 away"),
                                     std::pair(Flaw::Documents, "the output is"), std::pair(Flaw::LogSum, "the sum of the weights is nan away")}) {
        fake_cudnn::flaw = flaw;
        const auto device = open_device();
        const std::string told = said([&] { device->choose_attention(kUsual); });
        fake_cudnn::flaw = Flaw::None;
        expect(std::string(word) + " is told", has(told, "is not used for attention any more") && has(told, word), told);
        expect(std::string(word) + ": no memory stays", device->attention_workspace_bytes(kUsual) == 0);
        expect(std::string(word) + ": our kernels do it", are_same(attend(*device, kUsual), plain) && attend(*device, kUsual).library_runs == 0);
        expect(std::string(word) + ": and all others", said([&] { device->choose_attention(other); }).empty() && attend(*device, other).library_runs == 0);
    }
    fake_cudnn::flaw = Flaw::Unrepeated;
    const auto device = open_device();
    const std::string told = said([&] { device->choose_attention(kUsual); });
    expect("an unrepeatable backward is told", has(told, "is not the same twice") && has(told, "forward only"), told);
    expect("and is ours", attend(*device, kUsual).library_runs == 1);
    expect("and its workspace given back", device->attention_workspace_bytes(kUsual) == 512 + 512, std::to_string(device->attention_workspace_bytes(kUsual)));
    fake_cudnn::flaw = Flaw::None;
}

void test_failures() {
    const Results plain = attend(*open_device(), kUsual);
    for (const auto &[call, after] : {std::pair("cudnnCreate", 0), std::pair("cudnnBackendFinalize", 0), std::pair("cudnnBackendFinalize", 1), std::pair("cudnnBackendExecute", 0),
                                      std::pair("cudnnBackendExecute", 2)}) {
        const auto device = open_device();
        emu_control::fail_next(call, cudaErrorLaunchFailure, after);
        const std::string told = said([&] { device->choose_attention(kUsual); });
        expect(std::string(call) + " is told", has(told, call) && has(told, "as the test asked") && has(told, "2 x 37, 4/2 heads of 16, documents"), told);
        expect(std::string(call) + ": our kernels do it", are_same(attend(*device, kUsual), plain));
    }
    for (const int after : {0, 1}) {  // later, while a run goes on: the forward, the backward
        const auto device = open_device();
        device->choose_attention(kUsual);
        const Results good = attend(*device, kUsual);
        emu_control::fail_next("cudnnBackendExecute", cudaErrorLaunchFailure, after);
        Results found;
        const std::string told = said([&] { found = attend(*device, kUsual); });
        expect("a late failure is told", has(told, "cudnnBackendExecute: status 5000"), told);
        expect("a late failure changes little", apart(found.out, good.out) < 4e-3 && apart(found.gradient, good.gradient) < 8e-3);
        expect("and from then on it is ours", are_same(attend(*device, kUsual), plain));
    }
    {
        const auto device = open_device();
        emu_control::fail_next("cudaStreamSynchronize", cudaErrorIllegalAddress, 1);
        try {
            device->choose_attention(kUsual);
            expect("a fault of the device raises", false);
        } catch (const core::Error &e) {
            expect("a fault of the device says how to leave cuDNN out", e.code == "device_fault" && has(e.hint, "PGTRAIN_CUDNN=off"), e.hint);
        }
        emu_control::fail_next("cudaStreamSynchronize", cudaSuccess, 1 << 30);
    }
    const std::uint64_t reserved = open_device()->workspace_bytes();
    const auto full = open_device(reserved + 20000);
    const std::string told = said([&] { full->choose_attention(kUsual); });
    expect("a proof that finds no memory is told", has(told, "no memory to try") && full->attention_workspace_bytes(kUsual) == 0, told);
    void *all = full->allocate(20000);  // it gave back what it had
    full->release(all);
}

void test_recordings() {
    const AttentionShape larger = shape(4, 64, 4, 2, 16, 0, true);
    const auto device = open_device();
    device->choose_attention(kUsual);
    const Results called = attend(*device, kUsual);
    const std::uint64_t graphs = emu_control::graph_launches();
    expect("what is recorded gives the bits of calls", are_same(attend(*device, kUsual, true), called));
    expect("and is replayed", emu_control::graph_launches() == graphs + 1);
    const Results moved = attend(*device, kUsual, true, [&] { device->choose_attention(larger); });
    expect("what was recorded with memory that has moved is not replayed", emu_control::graph_launches() == graphs + 1 && are_same(moved, called));
    emu_control::fail_next("cudnnBackendExecute", cudaErrorLaunchFailure, 1);
    Results found;
    const std::string told = said([&] { found = attend(*device, kUsual, true); });
    expect("what cannot be recorded is told", has(told, "no CUDA graph") && has(told, "cudnnBackendExecute"), told);
    expect("and called", emu_control::graph_launches() == graphs + 1 && are_same(found, called) && attend(*device, kUsual).library_runs == called.library_runs);
}

void test_versions() {
    std::string why;
    const char *missing[] = {"libno-such-cudnn.so.9", nullptr}, *other[] = {"libm.so.6", nullptr};
    expect("a missing cuDNN is told", !backend::gpu::cudnn::load(missing, &why) && has(why, "libno-such-cudnn.so.9"), why);
    expect("a library that is no cuDNN is told", !backend::gpu::cudnn::load(other, &why) && has(why, "cudnnGetVersion"), why);
    for (const size_t version : {size_t(8905), size_t(90500), size_t(91000), size_t(91001), size_t(100000)}) {
        fake_cudnn::version = version;
        const auto device = open_device();
        const std::string told = said([&] { device->choose_attention(kUsual); });
        expect("version " + std::to_string(version) + " is refused", has(told, "a 9 from 9.10.2 on is needed"), told);
        expect("and our kernels do it", attend(*device, kUsual).library_runs == 0);
    }
    fake_cudnn::version = 91002;
    expect("9.10.2 will do", backend::gpu::cudnn::load(backend::gpu::cudnn::kNames, &why) != nullptr, why);
    fake_cudnn::version = 91900;
}
}  // namespace

int main() {
    test_first_keys();
    test_same_as_ours();
    test_left_to_ours();
    test_flaws();
    test_failures();
    test_recordings();
    test_versions();
    expect("no descriptor is left", fake_cudnn::live_descriptors() == 0, std::to_string(fake_cudnn::live_descriptors()));
    expect("no device memory is left", emu_control::live_buffers() == 0, std::to_string(emu_control::live_buffers()));
    if (failures) std::printf("[  FAILED  ] %d tests\n", failures);
    std::printf("[  PASSED  ] %d tests.\n", passed);
    return failures != 0;
}
