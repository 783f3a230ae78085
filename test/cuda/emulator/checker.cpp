// The checker. Kernels of the checked build are compiled with -fsanitize=thread, which makes g++ call __tsan_readN and
// __tsan_writeN at every access; this file answers those calls instead of ThreadSanitizer's runtime, by CUDA's rules: a
// barrier orders a block, __syncwarp orders a warp, a shuffle orders nothing, blocks are never ordered. It also knows which
// memory a kernel may touch and what has been written. It is itself compiled without the instrumentation.
// Shadow: one cell for two bytes (no kernel of ours writes single bytes, and the checker refuses one that does).
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <unordered_map>

#include "core.hpp"

extern "C" char __executable_start, __data_start, _end;

namespace emu {
namespace {
constexpr size_t kGrain = 2;
enum Mixed : uint8_t { Lanes = 1, Warps = 2, Blocks = 4 };
struct Access {  // the last one, and which unordered others it stands for
    uint32_t block, barrier_interval, pc;
    uint16_t thread, warp_interval;
    uint8_t mixed;
    bool atomic, present;
};
struct Cell {
    uint32_t launch, block;  // block: whose contents a shared cell holds
    Access written, read;
    bool allocated, defined;
};
struct Shadow {
    Cell *cells = nullptr;  // device memory; reserved, touched where used
    std::unordered_map<uintptr_t, Cell> shared;
    uint32_t launch = 0;
    std::set<std::pair<uint32_t, uint32_t>> reported;  // one report for a pair of places and launch
};
Shadow g;

Cell *cell_of(const void *p) { return g.cells + size_t(static_cast<const char *>(p) - arena().begin) / kGrain; }
size_t cells_in(const void *p, size_t bytes) {
    return (reinterpret_cast<uintptr_t>(p) % kGrain + bytes + kGrain - 1) / kGrain;
}
uint32_t code_offset(const void *pc) { return uint32_t(static_cast<const char *>(pc) - &__executable_start); }
// "file:line", innermost first where calls were inlined.
std::string line_of(uint32_t pc) {
    FILE *pipe = popen(text("addr2line -i -s -e /proc/%d/exe 0x%x", int(getpid()), pc - 1).c_str(), "r");
    std::string places;
    char line[512];
    while (pipe && std::fgets(line, sizeof line, pipe)) {
        const std::string place = std::string(line).substr(0, std::string(line).find_first_of(" \n"));
        if (place.rfind("emulator.h", 0) == 0 || place.rfind("tuple", 0) == 0 || place.rfind("invoke", 0) == 0) break;
        places += (places.empty() ? "" : " < ") + place;
    }
    if (pipe) pclose(pipe);
    return places;
}

bool happened_before(const Access &a, const Position &now) {
    if (!a.present) return true;
    if ((a.mixed & Blocks) || a.block != now.block) return false;
    if (a.barrier_interval != now.barrier_interval) return true;
    if ((a.mixed & Warps) || a.thread / 32u != now.thread / 32u) return false;
    if (a.warp_interval != uint16_t(now.warp_interval)) return true;
    return !(a.mixed & Lanes) && a.thread == now.thread;
}
void remember(Access &a, const Position &now, uint32_t pc, bool atomic) {
    uint8_t mixed = 0;
    if (a.present) {
        mixed = a.mixed & Blocks;
        if (a.block != now.block) mixed |= Blocks;
        else if (a.barrier_interval == now.barrier_interval) {
            if ((a.mixed & Warps) || a.thread / 32u != now.thread / 32u) mixed |= Warps;
            else if (a.warp_interval == uint16_t(now.warp_interval) && ((a.mixed & Lanes) || a.thread != now.thread)) mixed |= Lanes;
        }
        atomic = atomic && (a.atomic || happened_before(a, now));
    }
    a = {now.block, now.barrier_interval, pc, uint16_t(now.thread), uint16_t(now.warp_interval), mixed, atomic, true};
}
void report_race(const char *what, const Access &old, uint32_t pc) {
    if (!g.reported.insert({pc, old.pc}).second) return;
    report(std::string("race: ") + what + " at " + line_of(pc) + " by " + who() + " against the access at " + line_of(old.pc) + " by block " +
           std::to_string(old.block) + " thread " + std::to_string(old.thread));
}
void check_cell(Cell &c, const Position &now, bool shared, bool write, bool atomic, uint32_t pc) {
    if (c.launch != g.launch || (shared && c.block != now.block)) {  // another launch or block came before: all of it is over
        c.launch = g.launch;
        c.block = now.block;
        c.written.present = c.read.present = false;
        if (shared) c.defined = false;
    }
    if ((!write || atomic) && !c.defined && g.reported.insert({pc, 0}).second)
        report(std::string("uninitialised ") + (shared ? "shared" : "device") + " memory read at " + line_of(pc) + " by " + who());
    if (!(atomic && c.written.atomic) && !happened_before(c.written, now)) report_race(write ? "write" : "read", c.written, pc);
    if (!write) return remember(c.read, now, pc, false);
    if (!happened_before(c.read, now)) report_race("write", c.read, pc);
    remember(c.written, now, pc, atomic);
    c.defined = true;
}
void check_device(const void *p, size_t bytes, const Position &now, bool write, bool atomic, uint32_t pc) {
    Cell *c = cell_of(p);
    for (size_t i = 0, n = cells_in(p, bytes); i < n; i++) {
        if (!c[i].allocated) stop_block(std::string("out of bounds ") + (write ? "write" : "read") + " at " + line_of(pc) + " by " + who());
        check_cell(c[i], now, false, write, atomic, pc);
    }
}
void check_access(const void *p, size_t bytes, bool write, bool atomic, const void *return_address) {
    if (!inside_kernel || fiber_stack(current_fiber()).holds(p, bytes)) return;
    const char *c = static_cast<const char *>(p);
    const char *own = reinterpret_cast<const char *>(&builtins);
    if (c >= own && c < own + sizeof builtins) return;
    const uint32_t pc = code_offset(return_address);
    const Position now = position();
    if (bytes < kGrain && write) stop_block("single-byte write at " + line_of(pc) + ": the checker's grain is two bytes");
    if (arena().begin && c >= arena().begin && c < arena().end) return check_device(p, bytes, now, write, atomic, pc);
    const bool statics = c >= &__data_start && c < &_end;
    if (statics || dynamic_shared_range().holds(p, bytes)) {
        for (size_t i = 0, n = cells_in(p, bytes); i < n; i++)
            check_cell(g.shared[reinterpret_cast<uintptr_t>(c) / kGrain + i], now, true, write, atomic, pc);
        return;
    }
    const bool constants = c >= &__executable_start && c < &__data_start;
    if (!write && (constants || argument_range().holds(p, bytes))) return;
    stop_block(std::string(all_fiber_stacks().holds(p, bytes) ? "another thread's locals" : "host memory") + (write ? " written" : " read") +
               " at " + line_of(pc) + " by " + who());
}
}  // namespace
}  // namespace emu

extern "C" {
void emu_check_arena(const void *, size_t bytes) {
    using emu::Cell;
    void *p = mmap(nullptr, bytes / emu::kGrain * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    emu::g.cells = static_cast<Cell *>(p);
}
void emu_check_allocate(const void *p, size_t bytes) {
    for (size_t i = 0; i < emu::cells_in(p, bytes); i++) {
        emu::cell_of(p)[i] = {};
        emu::cell_of(p)[i].allocated = true;
    }
}
void emu_check_free(const void *p, size_t bytes) {
    for (size_t i = 0; i < emu::cells_in(p, bytes); i++) emu::cell_of(p)[i] = {};
}
void emu_check_launch() {
    emu::g.launch++;
    emu::g.reported.clear();
    emu::g.shared.clear();
}
void emu_check_atomic(const void *p, size_t bytes, const void *pc) { emu::check_access(p, bytes, true, true, pc); }
void emu_check_library(const void *p, size_t bytes, int write) {
    const emu::Range arena = emu::arena();
    if (!arena.begin || !arena.holds(p, bytes)) throw std::runtime_error("a copy or a library call got a host pointer for a device one");
    for (size_t i = 0; i < emu::cells_in(p, bytes); i++) {
        emu::Cell &c = emu::cell_of(p)[i];
        if (!c.allocated) throw std::runtime_error("a copy or a library call runs past a device buffer");
        if (write) c.defined = true;
        else if (!c.defined) throw std::runtime_error("a copy or a library call reads device memory nobody wrote");
    }
}

#define ANSWER(N)                                                                                                      \
    void __tsan_read##N(void *p) { emu::check_access(p, N, false, false, __builtin_return_address(0)); }               \
    void __tsan_write##N(void *p) { emu::check_access(p, N, true, false, __builtin_return_address(0)); }               \
    void __tsan_unaligned_read##N(void *p) { emu::check_access(p, N, false, false, __builtin_return_address(0)); }     \
    void __tsan_unaligned_write##N(void *p) { emu::check_access(p, N, true, false, __builtin_return_address(0)); }     \
    void __tsan_volatile_read##N(void *p) { emu::check_access(p, N, false, false, __builtin_return_address(0)); }      \
    void __tsan_volatile_write##N(void *p) { emu::check_access(p, N, true, false, __builtin_return_address(0)); }
ANSWER(1)
ANSWER(2)
ANSWER(4)
ANSWER(8)
ANSWER(16)
void __tsan_read_range(void *p, size_t bytes) { emu::check_access(p, bytes, false, false, __builtin_return_address(0)); }
void __tsan_write_range(void *p, size_t bytes) { emu::check_access(p, bytes, true, false, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
}
