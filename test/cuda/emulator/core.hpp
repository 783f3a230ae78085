// What the emulation's own files share: the scheduler (block.cpp) on fibers (fiber.cpp), device memory (memory.cpp), streams
// (stream.cpp) and the checker (checker.cpp, linked only in the checked build, hence its weak hooks). Not for kernels or tests.
#pragma once
#include "emulator.h"

namespace emu {
// ---- fiber.cpp
constexpr int kMaxThreads = 1024, kScheduler = -1;
void build_fiber(int index, void (*entry)());  // its next turn starts at entry()
void switch_fiber(int from, int to);
struct Range {
    const char *begin, *end;
    bool holds(const void *p, size_t bytes) const {
        const char *c = static_cast<const char *>(p);
        return c >= begin && c + bytes <= end;
    }
};
Range fiber_stack(int index);
Range all_fiber_stacks();

// ---- block.cpp
struct Position {  // what the checker compares two accesses by
    uint32_t block, thread, barrier_interval, warp_interval;
};
extern bool inside_kernel;
Position position();
std::string who();
Range dynamic_shared_range();
Range argument_range();
int current_fiber();
void run_grid(Kernel &kernel, dim3 grid, dim3 block, size_t shared_bytes, uint64_t salt);
void report(const std::string &what);                 // the launch goes on and throws at its end
[[noreturn]] void stop_block(const std::string &what);  // the launch ends here and throws
void throw_reports();

// ---- stream.cpp, memory.cpp
void synchronize_all();
bool refused_by_capture();  // whether a stream captures, whose capture is spoilt then
void open_memory(bool open);
constexpr size_t kArenaBytes = size_t(8) << 30;
Range arena();

[[gnu::format(printf, 1, 2)]] std::string text(const char *format, ...);
}  // namespace emu

// ---- checker.cpp
extern "C" {
[[gnu::weak]] void emu_check_arena(const void *p, size_t bytes);
[[gnu::weak]] void emu_check_allocate(const void *p, size_t bytes);
[[gnu::weak]] void emu_check_free(const void *p, size_t bytes);
[[gnu::weak]] void emu_check_launch();
[[gnu::weak]] void emu_check_atomic(const void *p, size_t bytes, const void *pc);
[[gnu::weak]] void emu_check_library(const void *p, size_t bytes, int write);
}
