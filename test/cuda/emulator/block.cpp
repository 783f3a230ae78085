// The scheduler: runs a grid block by block, a block as fibers, and checks every meeting of threads by CUDA's rules (who must
// arrive, at which line, with which mask). Between two meetings a thread runs undisturbed; which thread goes next is the
// order the tests choose. A broken meeting ends the launch with a report instead of hanging.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <vector>

#include "core.hpp"
#include "support/seed.hpp"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {
Builtins builtins;
bool inside_kernel = false;

namespace {
using emu_control::Order;
constexpr size_t kMaxShared = size_t(228) << 10, kPage = 4096;

enum class State : uint8_t { Ready, AtWarp, AtBlock, Done };
struct Thread {
    State state;
    WarpOp op;
    unsigned mask;
    int line, source, predicate;
    uint64_t value, result;
    uint3 index;
};
struct Warp {
    unsigned alive, ready, waiting;  // lane masks
    uint32_t interval;               // full __syncwarp calls passed
};
struct Scheduler {
    Thread threads[kMaxThreads];
    Warp warps[kMaxThreads / 32];
    Kernel *kernel = nullptr;
    int count = 0, live = 0, at_barrier = 0, running = kScheduler, built = 0;
    uint32_t block = 0, barrier_interval = 0;
    int barrier_result = 0;
    bool stopped = false;
    char *shared_end = nullptr, *shared = nullptr;
    size_t shared_bytes = 0;
    Order order = Order::Forward;
    uint64_t seed = 1;
    std::mt19937_64 random;
    std::vector<int> shuffled;
    std::vector<std::string> reports;

    Scheduler() {
        // Dynamic shared memory ends at a closed page.
        void *p = mmap(nullptr, kMaxShared + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) std::abort();
        shared_end = static_cast<char *>(p) + kMaxShared;
        mprotect(shared_end, kPage, PROT_NONE);
        if (const char *name = std::getenv("EMU_ORDER")) {
            const std::string order_name = name;
            if (order_name == "reverse") order = Order::Reverse;
            if (order_name.rfind("random", 0) == 0) {
                order = Order::Random;
                const size_t colon = order_name.find(':');
                seed = colon == std::string::npos ? pgtrain::test::seed() : std::strtoull(order_name.c_str() + colon + 1, nullptr, 10);
            }
        }
    }
};
Scheduler g;

int choose(unsigned ready) { return g.order == Order::Reverse ? 31 - __builtin_clz(ready) : __builtin_ctz(ready); }
void enter(int thread) {
    g.running = thread;
    g.warps[thread / 32].ready &= ~(1u << (thread % 32));
    builtins.thread = g.threads[thread].index;
}
// Leaves the running thread: straight to a lane of its warp that can go on (most meetings are a warp's), else to the scheduler.
void leave() {
    const int from = g.running;
    const unsigned ready = g.warps[from / 32].ready;
    int to = kScheduler;
    if (ready && !g.stopped && g.order != Order::Random) to = (from & ~31) + choose(ready);
    if (to != kScheduler) enter(to);
    switch_fiber(from, to);
}
void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    for (;;) {  // a fiber outlives its block: the next block takes it over
        g.kernel->run_thread();
        Thread &me = g.threads[g.running];
        me.state = State::Done;
        g.live--;
        g.warps[g.running / 32].alive &= ~(1u << (g.running % 32));
        leave();
    }
}
void resume(int thread) {
    enter(thread);
    inside_kernel = true;
    switch_fiber(kScheduler, thread);
    inside_kernel = false;
}
void wake(int warp, unsigned lanes) {
    g.warps[warp].ready |= lanes;
    if (inside_kernel && g.running / 32 == warp) g.warps[warp].ready &= ~(1u << (g.running % 32));
}
// From a fiber it does not return: the scheduler drops the whole launch.
void stop(const std::string &what) {
    report(what);
    g.stopped = true;
    while (inside_kernel) leave();
}

bool same_meeting(int warp, unsigned lanes) {
    const Thread *base = g.threads + warp * 32;
    const int first = __builtin_ctz(lanes);
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        if (base[i].op == base[first].op && base[i].mask == base[first].mask && base[i].line == base[first].line) continue;
        stop(text("lanes %d and %d of warp %d meet at different warp operations (lines %d and %d, masks %08x and %08x)", first, i, warp,
                  base[first].line, base[i].line, base[first].mask, base[i].mask));
        return false;
    }
    return true;
}
// All lanes of `lanes` have arrived: computes what each of them gets and lets them go.
void complete_warp(int warp, unsigned lanes) {
    if (!same_meeting(warp, lanes)) return;
    Thread *base = g.threads + warp * 32;
    const Thread &first = base[__builtin_ctz(lanes)];
    uint64_t ballot = 0;
    void *payloads[32] = {};
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const int i = __builtin_ctz(rest);
        Thread &t = base[i];
        if (t.op == WarpOp::Shuffle) {
            if (!(lanes >> t.source & 1)) return stop(text("shuffle at line %d: lane %d reads lane %d, which takes no part", t.line, i, t.source));
            t.result = base[t.source].value;
        } else if (t.op == WarpOp::Ballot) {
            ballot |= uint64_t(t.value != 0) << i;
        } else if (t.op == WarpOp::Call) {
            payloads[i] = reinterpret_cast<void *>(t.value);
        }
    }
    if (first.op == WarpOp::Call) reinterpret_cast<WarpFunction>(first.result)(payloads);
    if (first.op == WarpOp::Sync && lanes == g.warps[warp].alive) g.warps[warp].interval++;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        Thread &t = base[__builtin_ctz(rest)];
        if (t.op == WarpOp::Ballot) t.result = ballot;
        t.state = State::Ready;
    }
    g.warps[warp].waiting &= ~lanes;
    wake(warp, lanes);
}
// Lanes that returned are no longer waited for.
bool complete_without_returned(int warp) {
    const Warp &w = g.warps[warp];
    for (unsigned rest = w.waiting; rest; rest &= rest - 1) {
        const unsigned needed = g.threads[warp * 32 + __builtin_ctz(rest)].mask & w.alive;
        if (needed && (w.waiting & needed) == needed) return complete_warp(warp, needed), true;
    }
    return false;
}
void open_barrier() {
    const int line = g.threads[0].line;
    int votes = 0;
    for (int i = 0; i < g.count; i++) {
        const Thread &t = g.threads[i];
        if (t.state == State::Done) return stop(text("barrier in block %u: %d of its %d threads have returned", g.block, g.count - g.live, g.count));
        if (t.line != line) return stop(text("block %u meets at different barriers: lines %d and %d", g.block, line, t.line));
        votes += t.predicate != 0;
    }
    g.barrier_result = votes;
    for (int i = 0; i < g.count; i++) g.threads[i].state = State::Ready;
    for (int w = 0; w < (g.count + 31) / 32; w++) wake(w, g.warps[w].alive);
    g.at_barrier = 0;
    g.barrier_interval++;
}
void report_stuck() {
    std::string what = text("block %u is stuck:", g.block);
    for (State state : {State::AtWarp, State::AtBlock}) {
        const auto waits = std::find_if(g.threads, g.threads + g.count, [=](const Thread &t) { return t.state == state; });
        if (waits == g.threads + g.count) continue;
        const int i = int(waits - g.threads);
        what += state == State::AtWarp ? text(" thread %d waits in a warp operation at line %d (mask %08x)", i, waits->line, waits->mask)
                                       : text(" thread %d waits at the barrier at line %d", i, waits->line);
    }
    stop(what);
}
// One pass over the block: everything that can move moves once. False: nothing could.
bool run_pass() {
    bool moved = false;
    const int warps = (g.count + 31) / 32;
    if (g.order == Order::Random) {
        for (int i : g.shuffled)
            if (!g.stopped && g.warps[i / 32].ready >> (i % 32) & 1) resume(i), moved = true;
        for (int w = 0; w < warps && !g.stopped && !moved; w++) moved = complete_without_returned(w);
        return moved;
    }
    for (int k = 0; k < warps; k++) {
        const int w = g.order == Order::Reverse ? warps - 1 - k : k;
        while (!g.stopped && (g.warps[w].ready || complete_without_returned(w))) {
            if (g.warps[w].ready) resume(w * 32 + choose(g.warps[w].ready));
            moved = true;
        }
    }
    return moved;
}
void run_block(uint3 index, uint32_t linear) {
    builtins.block = index;
    g.block = linear;
    for (; g.built < g.count; g.built++) build_fiber(g.built, fiber_main);
    for (int i = 0; i < g.count; i++) g.threads[i].state = State::Ready;
    for (int w = 0; w * 32 < g.count; w++) {
        const int lanes = std::min(32, g.count - w * 32);
        const unsigned all = lanes == 32 ? ~0u : (1u << lanes) - 1;
        g.warps[w] = {all, all, 0, 0};
    }
    g.live = g.count;
    g.at_barrier = 0;
    g.barrier_interval = 0;
    std::memset(g.shared, 0xff, g.shared_bytes);  // NaN: nothing has been written yet
    if (g.order == Order::Random) std::shuffle(g.shuffled.begin(), g.shuffled.end(), g.random);
    while (g.live && !g.stopped) {
        const bool moved = run_pass();
        if (g.stopped || !g.live) break;
        if (g.at_barrier == g.live) open_barrier();
        else if (!moved) report_stuck();
    }
}
}  // namespace

void run_grid(Kernel &kernel, dim3 grid, dim3 block, size_t shared_bytes, uint64_t salt) {
    g.kernel = &kernel;
    g.stopped = false;
    g.count = int(block.x * block.y * block.z);
    g.shared_bytes = shared_bytes;
    g.shared = g.shared_end - (shared_bytes + 15) / 16 * 16;
    g.random.seed(g.seed * 1000003 + salt);
    g.shuffled.resize(size_t(g.count));
    builtins.block_size = block;
    builtins.grid_size = grid;
    for (int i = 0; i < g.count; i++) {
        const unsigned u = unsigned(i);
        g.threads[i].index = {u % block.x, u / block.x % block.y, u / block.x / block.y};
        g.shuffled[size_t(i)] = i;
    }
    std::vector<uint32_t> blocks(size_t(grid.x) * grid.y * grid.z);
    for (size_t i = 0; i < blocks.size(); i++) blocks[i] = uint32_t(g.order == Order::Reverse ? blocks.size() - 1 - i : i);
    if (g.order == Order::Random) std::shuffle(blocks.begin(), blocks.end(), g.random);
    for (uint32_t i : blocks) {
        run_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, i);
        if (g.stopped) break;
    }
    if (g.stopped) g.built = 0;  // their stacks hold half-run kernels
    throw_reports();
}

uint64_t warp_rendezvous(WarpOp op, unsigned mask, uint64_t value, int source, int line) {
    const int warp = g.running / 32, me = g.running % 32;
    Thread &t = g.threads[g.running];
    if (!(mask >> me & 1)) stop_block(text("%s: warp operation at line %d with a mask (%08x) that leaves the caller out", who().c_str(), line, mask));
    t.op = op;
    t.mask = mask;
    t.value = value;
    t.source = source;
    t.line = line;
    t.state = State::AtWarp;
    Warp &w = g.warps[warp];
    w.waiting |= 1u << me;
    const unsigned needed = mask & w.alive;
    if ((w.waiting & needed) == needed) complete_warp(warp, needed);
    else leave();
    return t.result;
}
void warp_call(WarpFunction function, void *payload, int line) {
    g.threads[g.running].result = reinterpret_cast<uint64_t>(function);
    warp_rendezvous(WarpOp::Call, ~0u, reinterpret_cast<uint64_t>(payload), 0, line);
}
int block_barrier(BarrierKind kind, int predicate, int line) {
    Thread &t = g.threads[g.running];
    t.line = line;
    t.predicate = predicate;
    t.state = State::AtBlock;
    if (++g.at_barrier == g.count) open_barrier();
    else leave();
    const int votes = g.barrier_result;
    switch (kind) {
        case BarrierKind::Count: return votes;
        case BarrierKind::And: return votes == g.count;
        case BarrierKind::Or: return votes != 0;
        case BarrierKind::Plain: break;
    }
    return 0;
}
unsigned lane() { return unsigned(g.running % 32); }
void *dynamic_shared() { return g.shared; }
int current_fiber() { return g.running; }
Range dynamic_shared_range() { return {g.shared, g.shared + g.shared_bytes}; }
Range argument_range() { return {g.kernel->arguments_begin, g.kernel->arguments_end}; }
Position position() { return {g.block, uint32_t(g.running), g.barrier_interval, g.warps[g.running / 32].interval}; }
std::string who() {
    const uint3 b = builtins.block, t = builtins.thread;
    return text("block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
}
void report(const std::string &what) {
    constexpr size_t kMost = 20;
    if (g.reports.size() < kMost && std::find(g.reports.begin(), g.reports.end(), what) == g.reports.end()) g.reports.push_back(what);
}
void throw_reports() {
    if (g.reports.empty()) return;
    std::string all;
    for (const std::string &r : g.reports) all += (all.empty() ? "" : "\n") + r;
    g.reports.clear();
    throw std::runtime_error(all);
}
void stop_block(const std::string &what) {
    stop(what);
    throw std::logic_error(what);  // not inside a kernel
}
void check_alignment(const void *p, size_t bytes) {
    if (inside_kernel && reinterpret_cast<uintptr_t>(p) % bytes) stop_block(text("%s: misaligned %zu-byte access", who().c_str(), bytes));
}
uint32_t atomic32(uint32_t *p, Atomic kind, uint32_t value) {
    if (emu_check_atomic) emu_check_atomic(p, 4, __builtin_return_address(0));
    const uint32_t old = *p;  // one OS thread: nothing can come between
    switch (kind) {
        case Atomic::AddInteger: *p = old + value; break;
        case Atomic::AddFloat: *p = bit_cast<uint32_t>(bit_cast<float>(old) + bit_cast<float>(value)); break;
        case Atomic::Max: *p = uint32_t(std::max(int32_t(old), int32_t(value))); break;
        case Atomic::Exchange: *p = value; break;
    }
    return old;
}
std::string text(const char *format, ...) {
    char buffer[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}
}  // namespace emu

void emu_control::set_order(Order order, uint64_t seed) {
    emu::g.order = order;
    emu::g.seed = seed;
}
