// Barriers, warp operations and atomics of the emulation. Each is a real rendezvous of fibers (block.cpp); the line of the
// call tells one site from another, so that lanes that meet at different sites are found.
#pragma once
#include "runtime.h"
#include "types.h"

namespace emu {
struct Builtins {
    uint3 thread, block;
    dim3 block_size, grid_size;
};
extern Builtins builtins;

enum class WarpOp : uint8_t { Sync, Shuffle, Ballot, Call };
uint64_t warp_rendezvous(WarpOp op, unsigned mask, uint64_t value, int source, int line);
using WarpFunction = void (*)(void *payloads[32]);  // run once, by the lane that arrives last
void warp_call(WarpFunction function, void *payload, int line);
enum class BarrierKind : uint8_t { Plain, Count, And, Or };
int block_barrier(BarrierKind kind, int predicate, int line);
unsigned lane();
void *dynamic_shared();
void check_alignment(const void *p, size_t bytes);

enum class Atomic : uint8_t { AddInteger, AddFloat, Max, Exchange };
uint32_t atomic32(uint32_t *p, Atomic kind, uint32_t value);

template <class T> T shuffle(unsigned mask, T value, int source, int line) {
    return from_word<T>(warp_rendezvous(WarpOp::Shuffle, mask, to_word(value), source, line));
}
}  // namespace emu

#define threadIdx (emu::builtins.thread)
#define blockIdx (emu::builtins.block)
#define blockDim (emu::builtins.block_size)
#define gridDim (emu::builtins.grid_size)

inline void __syncthreads(int line = __builtin_LINE()) { emu::block_barrier(emu::BarrierKind::Plain, 0, line); }
inline int __syncthreads_count(int p, int line = __builtin_LINE()) { return emu::block_barrier(emu::BarrierKind::Count, p, line); }
inline int __syncthreads_and(int p, int line = __builtin_LINE()) { return emu::block_barrier(emu::BarrierKind::And, p, line); }
inline int __syncthreads_or(int p, int line = __builtin_LINE()) { return emu::block_barrier(emu::BarrierKind::Or, p, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) { emu::warp_rendezvous(emu::WarpOp::Sync, mask, 0, 0, line); }

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32, int line = __builtin_LINE()) {
    const int me = int(emu::lane());
    return emu::shuffle(mask, v, (me & ~(width - 1)) | (source & (width - 1)), line);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, int line = __builtin_LINE()) {
    const int me = int(emu::lane()), other = me ^ bits;
    return emu::shuffle(mask, v, other <= (me | (width - 1)) ? other : me, line);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, int line = __builtin_LINE()) {
    const int me = int(emu::lane()), other = me + int(delta);
    return emu::shuffle(mask, v, other <= (me | (width - 1)) ? other : me, line);
}
inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) {
    return unsigned(emu::warp_rendezvous(emu::WarpOp::Ballot, mask, p != 0, 0, line));
}
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) { return __ballot_sync(mask, p, line) != 0; }
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) { return __ballot_sync(mask, p == 0, line) == 0; }

inline int atomicAdd(int *p, int v) { return int(emu::atomic32(reinterpret_cast<uint32_t *>(p), emu::Atomic::AddInteger, uint32_t(v))); }
inline unsigned atomicAdd(unsigned *p, unsigned v) { return emu::atomic32(p, emu::Atomic::AddInteger, v); }
inline float atomicAdd(float *p, float v) {
    return emu::bit_cast<float>(emu::atomic32(reinterpret_cast<uint32_t *>(p), emu::Atomic::AddFloat, emu::bit_cast<uint32_t>(v)));
}
inline int atomicMax(int *p, int v) { return int(emu::atomic32(reinterpret_cast<uint32_t *>(p), emu::Atomic::Max, uint32_t(v))); }
inline unsigned atomicExch(unsigned *p, unsigned v) { return emu::atomic32(p, emu::Atomic::Exchange, v); }
