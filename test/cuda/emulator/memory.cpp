// Device memory of the emulation: one arena of address space. A fresh buffer holds NaN, ends at a closed page (an overrun
// faults in every build) and has a wide closed gap behind it (so does an index that is far off); a freed buffer is closed.
// EMU_PROTECT=1 also closes device memory to host code outside launches and copies. Under AddressSanitizer buffers come
// from its allocator instead, which knows their ends to the byte.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "core.hpp"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace emu {
namespace {
constexpr size_t kPage = 4096, kGap = 64 * kPage, kAlignment = 16;
struct Buffer {
    size_t bytes;
    char *pages;
    size_t page_bytes;
};
struct Memory {
    char *base = nullptr;
    size_t used = 0, live_bytes = 0, limit = size_t(4) << 30;
    int open = 0;
    std::map<char *, Buffer> live;
    std::multimap<size_t, char *> free_pages;  // closed page runs, by size
};
Memory g;
[[maybe_unused]] size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#ifndef __SANITIZE_ADDRESS__
const bool g_protect = std::getenv("EMU_PROTECT") != nullptr;

// Only async-signal-safe calls. Exit status 86 is what the tests look for.
void on_fault(int, siginfo_t *info, void *) {
    const char *at = static_cast<const char *>(info->si_addr);
    const char *what = "bad memory access";
    if (at >= g.base && at < g.base + kArenaBytes)
        what = inside_kernel ? "a kernel ran past a device buffer" : "host code touched device memory";
    else if (const Range stacks = all_fiber_stacks(); at >= stacks.begin && at < stacks.end)
        what = "a kernel's stack overflowed";
    char line[256];
    const uint3 b = builtins.block, t = builtins.thread;
    const int n = std::snprintf(line, sizeof line, "emulator: %s at %p, block (%u,%u,%u) thread (%u,%u,%u)\n", what, info->si_addr, b.x, b.y,
                                b.z, t.x, t.y, t.z);
    if (write(2, line, size_t(n)) < 0) _exit(87);
    _exit(86);
}
void reserve_arena() {
    if (g.base) return;
    void *p = mmap(nullptr, kArenaBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    g.base = static_cast<char *>(p);
    if (emu_check_arena) emu_check_arena(g.base, kArenaBytes);
    static char alternate[64 << 10];
    stack_t stack = {};
    stack.ss_sp = alternate;
    stack.ss_size = sizeof alternate;
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
}
char *take_pages(size_t bytes) {
    if (const auto found = g.free_pages.find(bytes); found != g.free_pages.end()) {
        char *pages = found->second;
        g.free_pages.erase(found);
        return pages;
    }
    if (g.used + bytes + kGap > kArenaBytes) return nullptr;
    char *pages = g.base + g.used;
    g.used += bytes + kGap;
    return pages;
}
#endif
}  // namespace

Range arena() { return {g.base, g.base ? g.base + kArenaBytes : nullptr}; }

cudaError_t allocate(void **out, size_t bytes) {
    cudaError_t injected;
    if (take_failure("cudaMalloc", &injected)) return injected;
    if (refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return *out = nullptr, cudaSuccess;
    if (g.live_bytes + bytes > g.limit) return cudaErrorMemoryAllocation;
#ifdef __SANITIZE_ADDRESS__
    char *p = static_cast<char *>(aligned_alloc(kAlignment, round_up(bytes, kAlignment)));
    std::memset(p, 0xff, bytes);
    __asan_poison_memory_region(p + bytes, round_up(bytes, kAlignment) - bytes);
    g.live[p] = {bytes, nullptr, 0};
#else
    reserve_arena();
    // CUDA aligns to 256 bytes; 16 is all that kernels may use, and it leaves less room before the closed page.
    const size_t body = round_up(bytes, kAlignment), page_bytes = round_up(body, kPage);
    char *pages = take_pages(page_bytes);
    if (!pages) return cudaErrorMemoryAllocation;
    mprotect(pages, page_bytes, PROT_READ | PROT_WRITE);
    char *p = pages + page_bytes - body;
    std::memset(p, 0xff, body);
    if (g_protect && !g.open) mprotect(pages, page_bytes, PROT_NONE);
    g.live[p] = {bytes, pages, page_bytes};
    if (emu_check_allocate) emu_check_allocate(p, bytes);
#endif
    g.live_bytes += bytes;
    *out = p;
    return cudaSuccess;
}
void open_memory(bool open) {
    const bool change = open ? g.open++ == 0 : --g.open == 0;
    (void)change;
#ifndef __SANITIZE_ADDRESS__
    if (!g_protect || !change) return;
    for (auto &[p, buffer] : g.live) mprotect(buffer.pages, buffer.page_bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE);
#endif
}
DeviceScope::DeviceScope() { open_memory(true); }
DeviceScope::~DeviceScope() { open_memory(false); }
void note_access(const void *p, size_t bytes, bool write) {
    if (emu_check_library) emu_check_library(p, bytes, write);
}
}  // namespace emu

cudaError_t cudaFree(void *p) {
    using namespace emu;
    if (!p) return cudaSuccess;
    if (refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    synchronize_all();
    const auto found = g.live.find(static_cast<char *>(p));
    if (found == g.live.end()) throw std::runtime_error("cudaFree of a pointer that is no device buffer");
    const Buffer buffer = found->second;
    g.live_bytes -= buffer.bytes;
    g.live.erase(found);
#ifdef __SANITIZE_ADDRESS__
    std::free(p);
#else
    if (emu_check_free) emu_check_free(p, buffer.bytes);
    mprotect(buffer.pages, buffer.page_bytes, PROT_NONE);
    g.free_pages.emplace(buffer.page_bytes, buffer.pages);
#endif
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    cudaError_t injected;
    if (emu::refused_by_capture()) return cudaErrorStreamCaptureUnsupported;
    if (emu::take_failure("cudaMallocHost", &injected)) return injected;
    *out = std::malloc(bytes);
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p) {
    emu::synchronize_all();
    std::free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *total_bytes = emu::g.limit;
    *free_bytes = emu::g.limit - emu::g.live_bytes;
    return cudaSuccess;
}
size_t emu_control::live_buffers() { return emu::g.live.size(); }

namespace emu {
void set_memory_limit(size_t bytes) { g.limit = bytes; }
size_t memory_limit() { return g.limit; }
}  // namespace emu
