// Attention by cuDNN, in place of our own kernels where it can do what they do: chosen a shape at a time when a run is planned, and
// proved there against our own. Statistics are the same, so that forward and backward may go different ways.
#pragma once
#include <compare>
#include <map>
#include <memory>
#include <string>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/cudnn_graph.hpp"
#include "engine/backend/cuda/kernels.hpp"

namespace pgtrain::engine::backend::gpu {
struct AttentionKey {
    int batch = 0, length = 0, heads = 0, kv_heads = 0, head_size = 0;
    int reach = kNoWindow;
    bool has_segments = false;
    auto operator<=>(const AttentionKey &) const = default;
    bool has_first() const { return has_segments || reach != kNoWindow; }
};
std::string describe(const AttentionKey &shape);

// What is bound to the graphs below.
namespace cudnn_attention {
enum Id : int64_t { kQ = 1, kK, kV, kOut, kLogSum, kFirst, kScale, kFuture, kPast, kOne, kOutGradient, kQGradient, kKGradient, kVGradient, kDelta };
std::unique_ptr<cudnn::Graph> describe_forward(const cudnn::Library &library, const AttentionKey &shape);
std::unique_ptr<cudnn::Graph> describe_backward(const cudnn::Library &library, const AttentionKey &shape);
}  // namespace cudnn_attention

class CudnnAttention {
  public:
    // Memory is the owner's, so that it counts against its limit.
    CudnnAttention(Backend &owner, cudaStream_t stream, int compute_major, std::uint64_t memory_limit);
    ~CudnnAttention();
    CudnnAttention(const CudnnAttention &) = delete;
    CudnnAttention &operator=(const CudnnAttention &) = delete;

    // Decides about a shape, once. Plans are made, memory is taken and given back, the device is waited for: not while work is captured.
    void choose(const AttentionKey &shape);
    std::uint64_t bytes_of(const AttentionKey &shape) const;
    // False: nothing was done, our own kernel is to do it. So for every shape that was not chosen.
    bool forward(const AttentionForward<bf16> &a);
    bool backward(const AttentionBackward<bf16> &a);
    std::uint64_t moves() const { return moves_; }  // how often its memory became another

  private:
    struct Choice {
        std::unique_ptr<cudnn::Graph> forward, backward;  // null: our own
        std::uint64_t bytes = 0;
    };
    bool is_open();
    void decide(const AttentionKey &shape, Choice &choice);
    void reserve(const AttentionKey &shape, Choice &choice);
    void fit_memory();
    void prove(const AttentionKey &shape, Choice &choice);
    void give_up(const AttentionKey &shape, const std::string &why);
    void fail(const AttentionKey &shape, const cudnn::Failure &failure);
    void bind_first(const AttentionKey &shape, const int32_t *segments, std::vector<cudnn::Binding> &bindings);
    void run_forward(cudnn::Graph &graph, const AttentionKey &shape, const AttentionForward<bf16> &a);
    void run_backward(cudnn::Graph &graph, const AttentionKey &shape, const AttentionBackward<bf16> &a);

    Backend &owner_;
    cudaStream_t stream_;
    int major_;
    std::uint64_t memory_limit_;
    const cudnn::Library *library_ = nullptr;
    cudnn::Handle handle_ = nullptr;
    bool was_opened_ = false, is_given_up_ = false, does_backward_ = true;
    void *memory_ = nullptr;  // the largest workspace, then the first keys
    std::uint64_t memory_bytes_ = 0, moves_ = 0;
    std::map<AttentionKey, Choice> choices_;
};
}  // namespace pgtrain::engine::backend::gpu
