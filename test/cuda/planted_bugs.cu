// Kernels that are wrong in one way each, and right ones that look suspicious. They prove that the emulation finds what the
// other CUDA tests rely on it to find: a checker that finds nothing must not look like code without bugs.
// Run without arguments: each case runs in its own process, in every mode of this build (EMU_BUILD), and must be caught by
// the builds its row names (a wrong result, a report, or a fault); a control must be caught by none.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "engine/backend/cuda/kernel.cuh"

namespace pgtrain::engine::backend::gpu {
void raise(const char *call, cudaError_t error) {
    std::fprintf(stderr, "%s: %s\n", call, cudaGetErrorName(error));
    std::_Exit(3);
}
}  // namespace pgtrain::engine::backend::gpu

namespace {
using namespace pgtrain::engine::backend::gpu;
constexpr int kBlock = 256;

// ---- wrong
__global__ void missing_barrier(float *y, const float *x) {
    __shared__ float parts[32];
    const float v = warp_sum(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    y[threadIdx.x] = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : 0.0f);
}
__device__ __forceinline__ float sum_into(float *parts, float v) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) sum += parts[i];
    return sum;
}
__global__ void shared_reused_early(float *y, const float *x) {  // the second sum writes while the first is still read
    __shared__ float parts[32];
    const float a = sum_into(parts, x[threadIdx.x]), b = sum_into(parts, 2 * x[threadIdx.x]);
    y[threadIdx.x] = b - a;
}
__global__ void lockstep_assumed(float *y, const float *x) {
    __shared__ float s[kBlock];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
__global__ void plain_add_in_block(float *y, const float *x) { y[0] += x[threadIdx.x]; }
__global__ void plain_add_across_blocks(float *y, const float *x) { y[threadIdx.x] += x[threadIdx.x]; }
__global__ void last_writer_wins(float *y, const float *) { y[0] = float(threadIdx.x); }
__global__ void counter_across_blocks(float *y, float *counter) {
    if (threadIdx.x == 0) {
        counter[0] += 1;
        y[blockIdx.x] = counter[0];
    }
}
__global__ void neighbours_in_place(float *y, const float *x) {
    const int i = int(threadIdx.x), last = int(blockDim.x) - 1;
    y[i] = x[i > 0 ? i - 1 : 0] + x[i < last ? i + 1 : last];
}
__global__ void no_tail_check(float *y, const float *x) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    y[i] = x[i];
}
__global__ void one_past_16_bit(bf16 *y, int n) {
    for (int i = int(threadIdx.x); i <= n; i += int(blockDim.x)) y[i] = __float2bfloat16(1.0f);
}
__global__ void far_past(float *y, const float *) { y[threadIdx.x + 5000] = 1; }
__global__ void past_dynamic_shared(float *y, const float *) {
    GPU_DYNAMIC_SHARED(float, s);
    s[threadIdx.x + 1] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x + 1];
}
__global__ void past_static_shared(float *y, int n) {
    __shared__ float a[8], b[8];
    if (threadIdx.x < 8) b[threadIdx.x] = 1;
    __syncthreads();
    for (int i = int(threadIdx.x); i <= n; i += int(blockDim.x)) a[i] = 2;
    __syncthreads();
    if (threadIdx.x < 8) y[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
}
__global__ void unwritten_shared(float *y, const float *x) {  // eight warps write, all 32 lanes read
    __shared__ float parts[32];
    const float v = warp_sum(x[threadIdx.x]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    y[threadIdx.x] = warp_sum(parts[threadIdx.x % 32]);
}
__global__ void add_to(float *y, const float *x) { y[threadIdx.x] += x[threadIdx.x]; }
__global__ void barrier_in_branch(float *y, const float *x) {
    __shared__ float s[kBlock];
    if (threadIdx.x < 200) {
        s[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        y[threadIdx.x] = s[199 - threadIdx.x];
    }
}
__global__ void two_barriers_in_branches(float *y, const float *x) {
    if (threadIdx.x < 128) __syncthreads();
    else
        __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
__global__ void return_before_barrier(float *y, const float *x) {
    __shared__ float s[kBlock];
    if (threadIdx.x >= 200) return;
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[199 - threadIdx.x];
}
__global__ void shuffle_in_branch(float *y, const float *x) {
    if (threadIdx.x < 40) y[threadIdx.x] = warp_sum(x[threadIdx.x]);
}
__global__ void wants_power_of_two(float *y, const float *x) {
    __shared__ float s[kBlock];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half; half /= 2) {
        if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[0] = s[0];
}
__global__ void copy_n(float *y, const float *x, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) y[i] = x[i];
}
__global__ void misaligned_vector(float *y, const float *x) { store_vector<float, 4>(y, load_vector<float, 4>(x + 1)); }
__global__ void much_shared(float *y, const float *) {
    GPU_DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = 1;
    y[threadIdx.x] = s[threadIdx.x];
}

// ---- right
__global__ void exchange_in_warp(float *y, const float *x) {
    __shared__ float s[kBlock];
    s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    const float v = s[threadIdx.x ^ 1];
    __syncwarp();
    s[threadIdx.x] = v;
    y[threadIdx.x] = s[threadIdx.x];
}
__global__ void histogram(float *y, const float *x) {
    __shared__ unsigned counts[8];
    if (threadIdx.x < 8) counts[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&counts[int(x[threadIdx.x])], 1u);
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&y[threadIdx.x], float(counts[threadIdx.x]));
}
__global__ void exchange_through_global(float *y, const float *x) {
    float *mine = y + blockIdx.x * blockDim.x;
    mine[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    const float v = mine[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
    mine[threadIdx.x] = v;
}
__global__ void two_block_sums(float *y, const float *x) {
    __shared__ float parts[32];
    const float a = block_sum(x[threadIdx.x], parts), b = block_sum(2 * x[threadIdx.x], parts), c = block_max(x[threadIdx.x], parts);
    y[blockIdx.x * blockDim.x + threadIdx.x] = b - a + c;
}
__global__ void half_warp_mask(float *y, const float *x) {  // 80 threads: the last warp is half a warp
    const unsigned mask = threadIdx.x >= 64 ? 0xffffu : kAllLanes;
    float v = x[threadIdx.x];
    for (int bit = 8; bit; bit /= 2) v += __shfl_xor_sync(mask, v, bit, 16);
    y[threadIdx.x] = v;
}

// ---- cases
struct Device {
    float *p = nullptr;
    explicit Device(size_t n, bool filled = true) {
        check("cudaMalloc", cudaMalloc(&p, n * sizeof(float)));
        if (!filled) return;
        std::vector<float> values(n);
        for (size_t i = 0; i < n; i++) values[i] = float(i % 7);
        cudaMemcpyAsync(p, values.data(), n * sizeof(float), cudaMemcpyHostToDevice, nullptr);
        cudaStreamSynchronize(nullptr);
    }
    void zero(size_t n) { cudaMemsetAsync(p, 0, n * sizeof(float), nullptr); }
    float at(size_t i) const {
        float v = 0;
        cudaMemcpyAsync(&v, p + i, sizeof v, cudaMemcpyDeviceToHost, nullptr);
        cudaDeviceSynchronize();
        return v;
    }
};
float sum_of(int n) {
    float s = 0;
    for (int i = 0; i < n; i++) s += float(i % 7);
    return s;
}
// Runs y = kernel(x) on `blocks` blocks and hands y to `right`.
using Kernel2 = void (*)(float *, const float *);
bool run_on(Kernel2 kernel, int blocks, int threads, size_t shared, const std::function<bool(const Device &)> &right, bool filled = true) {
    Device x(kBlock), y(size_t(blocks) * kBlock, filled);
    launch("planted", kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), shared, nullptr, y.p, x.p);
    return right(y);
}
bool sums_everywhere(const Device &y) { return y.at(0) == sum_of(kBlock) && y.at(kBlock - 1) == sum_of(kBlock); }
bool anything(const Device &y) { return y.at(0) == y.at(0) || true; }

enum Finder : unsigned { None = 0, Fast = 1, Asan = 2, Checked = 4, Everywhere = 7 };
struct Case {
    const char *name;
    unsigned caught_by;
    const char *report;  // what the checked build's message must hold; null: any
    std::function<bool()> is_right;
};
const Case kCases[] = {
    {"missing_barrier", Everywhere, "race:", [] { return run_on(missing_barrier, 1, kBlock, 0, sums_everywhere); }},
    {"shared_reused_early", Everywhere, "race:", [] { return run_on(shared_reused_early, 1, kBlock, 0, sums_everywhere); }},
    {"lockstep_assumed", Everywhere, "race:", [] { return run_on(lockstep_assumed, 1, kBlock, 0, [](const Device &y) { return y.at(0) == 1 && y.at(1) == 0; }); }},
    {"plain_add_in_block", Checked, "race:", [] { return run_on(plain_add_in_block, 1, kBlock, 0, anything); }},
    {"plain_add_across_blocks", Checked, "race:", [] { return run_on(plain_add_across_blocks, 4, kBlock, 0, anything); }},
    {"last_writer_wins", Fast | Checked, "race:", [] { return run_on(last_writer_wins, 1, kBlock, 0, [](const Device &y) { return y.at(0) == kBlock - 1; }); }},
    {"counter_across_blocks", Fast | Checked, "race:",
     [] {
         Device y(8), counter(1);
         counter.zero(1);
         launch("planted", counter_across_blocks, 8, 32, 0, nullptr, y.p, counter.p);
         return y.at(7) == 8;
     }},
    {"neighbours_in_place", Everywhere, "race:",
     [] {
         Device x(kBlock);
         launch("planted", neighbours_in_place, 1, kBlock, 0, nullptr, x.p, x.p);
         return x.at(1) == 2 && x.at(100) == 3 + 1;
     }},
    {"no_tail_check", Everywhere, "out of bounds",
     [] {
         Device x(1000), y(1000);
         launch("planted", no_tail_check, 4, kBlock, 0, nullptr, y.p, x.p);
         return y.at(999) == 999 % 7;
     }},
    {"one_past_16_bit", Asan | Checked, "out of bounds",
     [] {
         bf16 *p;
         cudaMalloc(&p, 1001 * sizeof(bf16));
         launch("planted", one_past_16_bit, 1, kBlock, 0, nullptr, p, 1001);
         return true;
     }},
    {"far_past", Fast | Checked, "out of bounds",  // beyond AddressSanitizer's margin it is luck
     [] {
         Device y(64), other(64);
         launch("planted", far_past, 1, 32, 0, nullptr, y.p, y.p);
         return y.at(0) == 0;
     }},
    {"past_dynamic_shared", Everywhere, nullptr, [] { return run_on(past_dynamic_shared, 1, kBlock, kBlock * sizeof(float), anything); }},
    {"past_static_shared", Asan, nullptr,
     [] {
         Device y(8);
         launch("planted", past_static_shared, 1, 32, 0, nullptr, y.p, 8);
         return true;
     }},
    {"unwritten_shared", Checked, "uninitialised shared", [] { return run_on(unwritten_shared, 1, kBlock, 0, anything); }},
    {"unwritten_device", Everywhere, "uninitialised device",
     [] { return run_on(add_to, 1, kBlock, 0, [](const Device &y) { return y.at(3) == y.at(3); }, false); }},
    {"barrier_in_branch", Everywhere, nullptr, [] { return run_on(barrier_in_branch, 1, kBlock, 0, anything); }},
    {"two_barriers_in_branches", Everywhere, "different barriers", [] { return run_on(two_barriers_in_branches, 1, kBlock, 0, anything); }},
    {"return_before_barrier", Everywhere, nullptr, [] { return run_on(return_before_barrier, 1, kBlock, 0, anything); }},
    {"shuffle_in_branch", Everywhere, nullptr, [] { return run_on(shuffle_in_branch, 1, 64, 0, anything); }},
    {"wants_power_of_two", Everywhere, nullptr,
     [] { return run_on(wants_power_of_two, 1, 96, 0, [](const Device &y) { return y.at(0) == sum_of(96); }); }},
    {"grid_too_small", Everywhere, nullptr,
     [] {
         Device x(1000), y(1000, false);
         launch("planted", copy_n, 1000 / kBlock, kBlock, 0, nullptr, y.p, x.p, 1000);
         return y.at(999) == 999 % 7;
     }},
    {"host_pointer", Checked, "host memory",
     [] {
         std::vector<float> host(kBlock);
         Device x(kBlock);
         launch("planted", copy_n, 1, kBlock, 0, nullptr, host.data(), x.p, kBlock);
         cudaDeviceSynchronize();
         return true;
     }},
    {"host_reads_device", Fast, nullptr,
     [] {
         Device x(kBlock);
         return *static_cast<volatile float *>(x.p + 3) == 3;
     }},
    {"misaligned_vector", Everywhere, "misaligned",
     [] {
         Device x(8), y(8);
         launch("planted", misaligned_vector, 1, 1, 0, nullptr, y.p, x.p);
         return y.at(0) == 1;
     }},
    {"shared_over_the_default", Everywhere, "launch refused", [] { return run_on(much_shared, 1, kBlock, 64 << 10, anything); }},
    {"too_many_threads", Everywhere, "launch refused", [] { return run_on(much_shared, 1, 2048, 0, anything); }},
    {"use_after_free", Everywhere, nullptr,
     [] {
         Device x(kBlock), y(kBlock);
         cudaFree(x.p);
         launch("planted", copy_n, 1, kBlock, 0, nullptr, y.p, x.p, kBlock);
         return y.at(3) == 3;
     }},
    {"no_event_between_streams", Fast, nullptr,
     [] {
         cudaStream_t a, b;
         cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
         Device x(kBlock), middle(kBlock, false), y(kBlock, false);
         middle.zero(kBlock), y.zero(kBlock);
         cudaDeviceSynchronize();
         launch("planted", copy_n, 1, kBlock, 0, a, middle.p, x.p, kBlock);
         launch("planted", copy_n, 1, kBlock, 0, b, y.p, middle.p, kBlock);
         cudaStreamSynchronize(b);
         return y.at(3) == 3;
     }},
    {"host_buffer_reused_early", Fast, nullptr,
     [] {
         cudaStream_t a;
         cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
         Device x(1, false);
         float value = 5;
         cudaMemcpyAsync(x.p, &value, sizeof value, cudaMemcpyHostToDevice, a);
         value = 6;
         cudaStreamSynchronize(a);
         return x.at(0) == 5;
     }},
    {"right_exchange_in_warp", None, nullptr, [] { return run_on(exchange_in_warp, 1, kBlock, 0, [](const Device &y) { return y.at(0) == 1 && y.at(1) == 0; }); }},
    {"right_histogram", None, nullptr,
     [] {
         Device x(kBlock), y(8);
         y.zero(8);
         launch("planted", histogram, 4, kBlock, 0, nullptr, y.p, x.p);
         return y.at(0) == 4 * 37;
     }},
    {"right_exchange_through_global", None, nullptr,
     [] { return run_on(exchange_through_global, 4, kBlock, 0, [](const Device &y) { return y.at(0) == (kBlock - 1) % 7; }); }},
    {"right_two_block_sums", None, nullptr,
     [] { return run_on(two_block_sums, 2, kBlock, 0, [](const Device &y) { return y.at(0) == sum_of(kBlock) + 6; }); }},
    {"right_half_warp_mask", None, nullptr, [] { return run_on(half_warp_mask, 1, 80, 0, [](const Device &y) { return y.at(0) == sum_of(16); }); }},
    {"right_event_between_streams", None, nullptr,
     [] {
         cudaStream_t a, b;
         cudaEvent_t done;
         cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking), cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
         cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
         Device x(kBlock), middle(kBlock, false), y(kBlock, false);
         launch("planted", copy_n, 1, kBlock, 0, a, middle.p, x.p, kBlock);
         cudaEventRecord(done, a);
         cudaStreamWaitEvent(b, done);
         launch("planted", copy_n, 1, kBlock, 0, b, y.p, middle.p, kBlock);
         cudaStreamSynchronize(b);
         return y.at(3) == 3;
     }},
};

struct Outcome {
    bool caught;
    std::string text;
};
// In a child: exit status 0 right, 1 wrong, 2 reported (message on its output), else a fault.
Outcome run_apart(const Case &c, const std::function<void()> &mode) {
    int ends[2];
    if (pipe(ends)) std::abort();
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1), dup2(ends[1], 2);
        int status = 0;
        try {
            mode();
            status = c.is_right() ? 0 : 1;
        } catch (const std::exception &e) {
            std::fprintf(stderr, "%s\n", e.what());
            status = 2;
        }
        std::_Exit(status);
    }
    close(ends[1]);
    std::string output;
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) output.append(buffer, size_t(n));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    return {!(WIFEXITED(status) && WEXITSTATUS(status) == 0), output};
}
}  // namespace

int main() {
    using emu_control::Order;
    const std::string build = EMU_BUILD;
    const Finder me = build == "checked" ? Checked : build == "asan" ? Asan : Fast;
    std::vector<std::function<void()>> modes{[] { emu_control::set_order(Order::Forward); }};
    if (me == Fast) {
        modes.push_back([] { emu_control::set_order(Order::Reverse); });
        modes.push_back([] { emu_control::set_order(Order::Random, 7); });
        modes.push_back([] { emu_control::set_lazy(true); });
    }
    int failures = 0, caught = 0;
    for (const Case &c : kCases) {
        bool found = false, named = !c.report || me != Checked;
        std::string last;
        for (const auto &mode : modes) {
            const Outcome o = run_apart(c, mode);
            found = found || o.caught;
            if (c.report && o.text.find(c.report) != std::string::npos) named = true;
            if (o.caught) last = o.text;
        }
        const bool wanted = c.caught_by & me, is_control = c.caught_by == None;
        caught += found && !is_control;
        if ((wanted && (!found || !named)) || (is_control && found)) {
            failures++;
            std::printf("FAIL %s: %s in the %s build\n%s\n", c.name, is_control ? "a right kernel is reported" : found ? "caught, but not by name" : "not caught",
                        build.c_str(), last.c_str());
        }
    }
    std::printf("%s build: %d planted bugs caught, %d surprises\n", build.c_str(), caught, failures);
    return failures != 0;
}
