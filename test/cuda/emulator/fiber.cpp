// Fibers: one stack a CUDA thread, switched by hand. x86-64 only; the emulation is a test tool and CMake builds it nowhere else.
// Each stack has a closed page below it, so that a kernel with huge locals faults by name instead of spoiling its neighbour.
#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>

#include "core.hpp"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#error "the CUDA emulation switches stacks in x86-64 assembly"
#endif

// Saves what a callee must preserve, changes stacks, leaves by a jump: a return would be mispredicted on every switch,
// which was half of the emulation's time.
extern "C" void emu_switch_stack(void **save, void *load);
asm(R"(
    .text
    .globl emu_switch_stack
    .type emu_switch_stack, @function
emu_switch_stack:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    pop %rdx
    jmp *%rdx
    .size emu_switch_stack, .-emu_switch_stack
)");

namespace emu {
namespace {
constexpr size_t kPage = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 65 * kPage;
#else
constexpr size_t kStackBytes = 17 * kPage;
#endif
struct Stacks {
    char *base;
    void *stack_pointer[kMaxThreads + 1] = {};  // the last one is the scheduler's
    void *shadow[kMaxThreads + 1] = {};         // AddressSanitizer's fake stacks
    const void *scheduler_low = nullptr;
    size_t scheduler_bytes = 0;

    Stacks() {
        void *p = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) std::abort();
        base = static_cast<char *>(p);
        for (int i = 0; i < kMaxThreads; i++) mprotect(base + kStackBytes * size_t(i), kPage, PROT_NONE);
        pthread_attr_t attributes;
        void *low = nullptr;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &low, &scheduler_bytes);
        pthread_attr_destroy(&attributes);
        scheduler_low = low;
    }
};
Stacks &stacks() {
    static Stacks all;
    return all;
}
int slot(int index) { return index == kScheduler ? kMaxThreads : index; }
// Tops differ by some cache lines, or the hot end of every stack would fall into the same cache sets.
size_t stagger(int index) { return size_t(index * 5 % 64) * 64; }
}  // namespace

Range fiber_stack(int index) {
    char *low = stacks().base + kStackBytes * size_t(index);
    return {low + kPage, low + kStackBytes};
}
Range all_fiber_stacks() { return {stacks().base, stacks().base + kStackBytes * kMaxThreads}; }

void build_fiber(int index, void (*entry)()) {
    Stacks &s = stacks();
    const Range range = fiber_stack(index);
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(range.begin, size_t(range.end - range.begin));
#endif
    s.shadow[index] = nullptr;
    void **top = reinterpret_cast<void **>(const_cast<char *>(range.end) - stagger(index));
    *--top = nullptr;  // where entry() would return to: it never does
    *--top = reinterpret_cast<void *>(entry);
    for (int saved = 0; saved < 6; saved++) *--top = nullptr;
    s.stack_pointer[index] = top;
}

void switch_fiber(int from, int to) {
    Stacks &s = stacks();
#ifdef __SANITIZE_ADDRESS__
    if (to == kScheduler) {
        __sanitizer_start_switch_fiber(&s.shadow[slot(from)], s.scheduler_low, s.scheduler_bytes);
    } else {
        const Range range = fiber_stack(to);
        __sanitizer_start_switch_fiber(&s.shadow[slot(from)], range.begin, size_t(range.end - range.begin));
    }
#endif
    emu_switch_stack(&s.stack_pointer[slot(from)], s.stack_pointer[slot(to)]);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(s.shadow[slot(from)], nullptr, nullptr);
#endif
}
}  // namespace emu
