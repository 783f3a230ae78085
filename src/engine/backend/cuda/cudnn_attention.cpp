// Who does an attention: cuDNN where it has a plan for the shape, our own kernels elsewhere. A chosen plan first runs beside our own on
// random data, with documents of many lengths: results apart by more than bf16 explains, or any error, end cuDNN's use for as long as
// the device is open. A backward that is not the same twice, or takes more than its share of memory, stays ours: what a run computes
// after it was resumed must be what it would have computed.
#include "engine/backend/cuda/cudnn_attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "engine/backend/cuda/recording.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
using cudnn::Binding;
using namespace cudnn_attention;

constexpr float kNever = -INFINITY, kUnit = 1.0f;
constexpr int kRepeatableMajor = 9;                      // Hopper, whose repeatable backward knows our mask
constexpr std::uint64_t kShareOfMemory = 32;             // a workspace is at most that part of what the device may hold
constexpr double kForwardBar = 4e-3, kBackwardBar = 8e-3, kLogSumBar = 1e-3;  // relative, of two results with bf16's own errors
constexpr int kLongest = 1 << 20;
constexpr std::size_t kAtOnce = std::size_t(1) << 22;    // elements that pass through the host together

std::uint64_t rounded(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }
std::uint64_t first_bytes(const AttentionKey &s) {
    return s.has_first() ? rounded(std::uint64_t(s.batch) * std::uint64_t(s.length) * sizeof(std::int32_t)) : 0;
}
bool is_aligned(const void *p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
enum class Setting { Off, Forward, Both };
Setting setting() {
    const char *word = std::getenv("PGTRAIN_CUDNN");
    if (word && std::strcmp(word, "off") == 0) return Setting::Off;
    return word && std::strcmp(word, "forward") == 0 ? Setting::Forward : Setting::Both;
}
void tell(const std::string &what) { std::fprintf(stderr, "pgtrain: %s\n", what.c_str()); }

template <class Call> AttentionKey key_of(const Call &a) {
    return {a.batch, a.length, a.heads, a.kv_heads, a.head_size, a.reach, a.segments != nullptr};
}

// Memory for the time of a proof.
class Loan {
  public:
    Loan(Backend &owner, std::uint64_t bytes) : owner_(owner), memory_(owner.allocate(bytes)), bytes_(bytes) {}
    ~Loan() { owner_.release(memory_); }
    Loan(const Loan &) = delete;
    Loan &operator=(const Loan &) = delete;
    template <class T> T *as() const { return static_cast<T *>(memory_); }
    void spoil(cudaStream_t stream) const { check("cudaMemsetAsync", cudaMemsetAsync(memory_, 0xff, bytes_, stream)); }  // NaN in every type

  private:
    Backend &owner_;
    void *memory_;
    std::uint64_t bytes_;
};
class Chance {
  public:
    explicit Chance(std::uint32_t seed) : state_(seed) {}
    std::uint32_t word() { return (state_ = state_ * 1664525u + 1013904223u) >> 8; }
    float value() { return (float(word()) / float(1 << 23) - 1.0f) * 1.7320508f; }  // of variance 1

  private:
    std::uint32_t state_;
};
void fill(Backend &owner, core::Bf16 *to, std::size_t count, Chance chance) {
    std::vector<core::Bf16> values(std::min(count, kAtOnce));
    for (std::size_t done = 0; done < count; done += values.size()) {
        const std::size_t part = std::min(values.size(), count - done);
        for (std::size_t i = 0; i < part; i++) values[i] = core::to_bf16(chance.value());
        owner.upload(to + done, values.data(), part * sizeof values[0]);
    }
}
// Documents from a single position to half of a row.
void fill_segments(Backend &owner, std::int32_t *to, int batch, int length) {
    Chance chance(3);
    std::vector<std::int32_t> row(static_cast<std::size_t>(length));
    for (int b = 0; b < batch; b++) {
        std::uint32_t left = 0;
        std::int32_t document = 0;
        for (std::int32_t &segment : row) {
            if (left == 0) document++, left = 1 + chance.word() % std::uint32_t(std::max(1, length >> (1 + document % 4)));
            segment = document;
            left--;
        }
        owner.upload(to + std::int64_t(b) * length, row.data(), row.size() * sizeof row[0]);
    }
}
// How far apart the columns from `from` to `to` of two matrices are, as a share of the second's length; NaN where either holds one.
template <class T> double apart(Backend &owner, const T *a, const T *b, std::int64_t rows, std::int64_t pitch, std::int64_t from, std::int64_t to) {
    const std::int64_t together = std::max<std::int64_t>(1, std::int64_t(kAtOnce) / pitch);
    std::vector<T> x, y;
    double difference = 0, length = 0;
    for (std::int64_t done = 0; done < rows; done += together) {
        const std::int64_t part = std::min(together, rows - done);
        x.resize(std::size_t(part * pitch)), y.resize(x.size());
        owner.download(x.data(), a + done * pitch, x.size() * sizeof(T));
        owner.download(y.data(), b + done * pitch, y.size() * sizeof(T));
        for (std::int64_t r = 0; r < part; r++)
            for (std::int64_t c = from; c < to; c++) {
                const double mine = core::to_float(y[std::size_t(r * pitch + c)]), off = core::to_float(x[std::size_t(r * pitch + c)]) - mine;
                difference += off * off, length += mine * mine;
            }
    }
    return std::sqrt(difference) / std::max(std::sqrt(length), 1e-30);
}
std::string share(double x) {
    if (std::isnan(x)) return "nan";
    char text[32];
    std::snprintf(text, sizeof text, "%.2g", x);
    return text;
}
}  // namespace

CudnnAttention::CudnnAttention(Backend &owner, cudaStream_t stream, int compute_major, std::uint64_t memory_limit)
    : owner_(owner), stream_(stream), major_(compute_major), memory_limit_(memory_limit) {}
CudnnAttention::~CudnnAttention() {
    choices_.clear();
    if (handle_) library_->destroy(handle_);
    if (memory_) owner_.release(memory_);
}

bool CudnnAttention::is_open() {
    if (was_opened_) return library_ && !is_given_up_;
    was_opened_ = true;
    const Setting wanted = setting();
    does_backward_ = wanted == Setting::Both;
    if (wanted == Setting::Off) return false;
    std::string why;
    const cudnn::Library *found = cudnn::load(cudnn::kNames, &why);
    if (!found) return tell(why + "; attention is done by pgtrain's own kernels"), false;
    cudnn::require(*found, "cudnnCreate", found->create(&handle_));
    library_ = found;
    cudnn::require(*found, "cudnnSetStream", found->set_stream(handle_, stream_));
    return true;
}
void CudnnAttention::give_up(const AttentionKey &shape, const std::string &why) {
    is_given_up_ = true;
    tell("cuDNN is not used for attention any more, pgtrain's own kernels do it: " + why + " (attention " + describe(shape) + ")");
}

// What cannot be recorded may well be called.
void CudnnAttention::fail(const AttentionKey &shape, const cudnn::Failure &failure) {
    if (is_recording(stream_)) throw core::Error("device_fault", "cuDNN's attention cannot be recorded", failure.what());
    give_up(shape, failure.what());
}

std::uint64_t CudnnAttention::bytes_of(const AttentionKey &shape) const {
    const auto found = choices_.find(shape);
    return found == choices_.end() ? 0 : found->second.bytes;
}
void CudnnAttention::choose(const AttentionKey &shape) {
    if (choices_.contains(shape)) return;
    Choice &choice = choices_[shape];
    if (shape.head_size % 8 != 0 || shape.length < 2 || shape.length > kLongest || is_given_up_) return;
    try {
        decide(shape, choice);
    } catch (const cudnn::Failure &e) {
        choice = {};
        give_up(shape, e.what());
        fit_memory();
    } catch (core::Error &e) {
        choice = {};
        if (e.code != "out_of_memory") {
            e.hint += " It happened while cuDNN's attention was tried: pgtrain.trainer_environment = 'PGTRAIN_CUDNN=off' leaves it out.";
            throw;
        }
        fit_memory();
        tell("no memory to try cuDNN's attention " + describe(shape) + "; pgtrain's own kernels do it: " + e.message);
    }
}

void CudnnAttention::decide(const AttentionKey &shape, Choice &choice) {
    if (!is_open()) return;
    cudnn::Wanted wanted{handle_, nullptr, true, std::int64_t(memory_limit_ / kShareOfMemory)};
    auto forward = describe_forward(*library_, shape);
    if (!forward->plan(wanted)) return;
    choice.forward = std::move(forward);
    if (does_backward_ && major_ == kRepeatableMajor) {
        auto backward = describe_backward(*library_, shape);
        if (backward->plan(wanted)) choice.backward = std::move(backward);
    }
    reserve(shape, choice);
    prove(shape, choice);
    reserve(shape, choice);  // the proof may have cost it its backward
    if (choice.forward)
        tell("attention " + describe(shape) + ": cuDNN " + cudnn::version_text(*library_) + (choice.backward ? ", forward and backward" : ", forward only"));
}
void CudnnAttention::reserve(const AttentionKey &shape, Choice &choice) {
    const std::int64_t most = std::max(choice.forward->workspace_bytes(), choice.backward ? choice.backward->workspace_bytes() : 0);
    choice.bytes = rounded(std::uint64_t(most)) + first_bytes(shape);
    fit_memory();
}
// As much as the largest choice needs.
void CudnnAttention::fit_memory() {
    std::uint64_t most = 0;
    for (const auto &[shape, choice] : choices_) most = std::max(most, choice.bytes);
    if (most == memory_bytes_) return;
    if (memory_) owner_.release(memory_);
    memory_ = nullptr, memory_bytes_ = 0;
    moves_++;
    if (most > 0) memory_ = owner_.allocate(most);
    memory_bytes_ = most;
}

void CudnnAttention::prove(const AttentionKey &shape, Choice &choice) {
    const std::int64_t rows = std::int64_t(shape.batch) * shape.length, channels = std::int64_t(shape.heads) * shape.head_size;
    const std::int64_t kv_channels = std::int64_t(shape.kv_heads) * shape.head_size, pitch = channels + 2 * kv_channels, statistics = rows * shape.heads;
    const auto two = [](std::int64_t n) { return std::uint64_t(n) * 2; };
    const auto four = [](std::int64_t n) { return std::uint64_t(n) * 4; };
    const Loan qkv(owner_, two(rows * pitch)), out(owner_, two(rows * channels)), other_out(owner_, two(rows * channels));
    const Loan log_sum(owner_, four(statistics)), other_log_sum(owner_, four(statistics)), segments(owner_, four(rows));
    fill(owner_, qkv.as<core::Bf16>(), std::size_t(rows * pitch), Chance(1));
    fill_segments(owner_, segments.as<std::int32_t>(), shape.batch, shape.length);
    const std::int32_t *documents = shape.has_segments ? segments.as<std::int32_t>() : nullptr;
    const float scale = 1.0f / std::sqrt(float(shape.head_size));

    AttentionForward<bf16> forward{qkv.as<bf16>(), out.as<bf16>(), log_sum.as<float>(), documents, shape.batch, shape.length, shape.heads,
                                   shape.kv_heads, shape.head_size, shape.reach, scale};
    gpu::attention_forward(forward, stream_);
    forward.out = other_out.as<bf16>(), forward.log_sum = other_log_sum.as<float>();
    other_out.spoil(stream_), other_log_sum.spoil(stream_);
    run_forward(*choice.forward, shape, forward);
    const auto hold = [&](const char *what, double found, double bar) {
        if (!(found <= bar)) throw cudnn::Failure(std::string(what) + " is " + share(found) + " away from that of pgtrain's kernels, at most " + share(bar) + " is right");
    };
    hold("the output", apart(owner_, other_out.as<core::Bf16>(), out.as<core::Bf16>(), rows, channels, 0, channels), kForwardBar);
    hold("the sum of the weights", apart(owner_, other_log_sum.as<float>(), log_sum.as<float>(), statistics, 1, 0, 1), kLogSumBar);
    if (!choice.backward) return;

    const Loan out_gradient(owner_, two(rows * channels)), gradient(owner_, two(rows * pitch)), other_gradient(owner_, two(rows * pitch)), delta(owner_, four(statistics));
    fill(owner_, out_gradient.as<core::Bf16>(), std::size_t(rows * channels), Chance(2));
    AttentionBackward<bf16> backward{qkv.as<bf16>(), out.as<bf16>(), out_gradient.as<bf16>(), log_sum.as<float>(), delta.as<float>(), documents,
                                     gradient.as<bf16>(), shape.batch, shape.length, shape.heads, shape.kv_heads, shape.head_size, shape.reach, scale};
    gpu::attention_backward(backward, stream_);
    const auto run_again = [&](const Loan &to) {
        backward.dqkv = to.as<bf16>();
        to.spoil(stream_), delta.spoil(stream_);
        run_backward(*choice.backward, shape, backward);
    };
    run_again(other_gradient);
    const auto difference = [&](std::int64_t from, std::int64_t to) {
        return apart(owner_, other_gradient.as<core::Bf16>(), gradient.as<core::Bf16>(), rows, pitch, from, to);
    };
    hold("the queries' gradient", difference(0, channels), kBackwardBar);
    hold("the keys' gradient", difference(channels, channels + kv_channels), kBackwardBar);
    hold("the values' gradient", difference(channels + kv_channels, pitch), kBackwardBar);
    run_again(gradient);
    if (difference(0, pitch) == 0.0) return;
    tell("cuDNN's backward of attention " + describe(shape) + " is not the same twice; pgtrain's own kernels do it");
    choice.backward.reset();
}

void CudnnAttention::bind_first(const AttentionKey &shape, const int32_t *segments, std::vector<Binding> &bindings) {
    if (!shape.has_first()) return;
    auto *first = reinterpret_cast<std::int32_t *>(static_cast<char *>(memory_) + memory_bytes_ - first_bytes(shape));
    first_keys(first, segments, shape.batch, shape.length, shape.reach, stream_);
    bindings.insert(bindings.end(), {{kFirst, first}, {kPast, &kNever}});
}
void CudnnAttention::run_forward(cudnn::Graph &graph, const AttentionKey &shape, const AttentionForward<bf16> &a) {
    const bf16 *k = a.qkv + std::int64_t(a.heads) * a.head_size, *v = k + std::int64_t(a.kv_heads) * a.head_size;
    std::vector<Binding> bindings = {{kQ, a.qkv}, {kK, k}, {kV, v}, {kOut, a.out}, {kLogSum, a.log_sum}, {kScale, &a.scale}, {kFuture, &kNever}};
    bind_first(shape, a.segments, bindings);
    graph.run(handle_, bindings, memory_);
}
void CudnnAttention::run_backward(cudnn::Graph &graph, const AttentionKey &shape, const AttentionBackward<bf16> &a) {
    const std::int64_t channels = std::int64_t(a.heads) * a.head_size, kv_channels = std::int64_t(a.kv_heads) * a.head_size;
    const bf16 *k = a.qkv + channels;
    bf16 *dk = a.dqkv + channels;
    std::vector<Binding> bindings = {{kQ, a.qkv},         {kK, k},           {kV, k + kv_channels},   {kOut, a.out},
                                     {kOutGradient, a.dout}, {kLogSum, a.log_sum}, {kDelta, a.delta},       {kQGradient, a.dqkv},
                                     {kKGradient, dk},    {kVGradient, dk + kv_channels}, {kScale, &a.scale}, {kOne, &kUnit},
                                     {kFuture, &kNever}};
    bind_first(shape, a.segments, bindings);
    graph.run(handle_, bindings, memory_);
}

bool CudnnAttention::forward(const AttentionForward<bf16> &a) {
    const AttentionKey shape = key_of(a);
    const auto found = choices_.find(shape);
    if (found == choices_.end() || !found->second.forward || is_given_up_) return false;
    if (!is_aligned(a.qkv) || !is_aligned(a.out) || !is_aligned(a.log_sum)) return false;
    try {
        run_forward(*found->second.forward, shape, a);
    } catch (const cudnn::Failure &e) {
        fail(shape, e);
    }
    return !is_given_up_;
}
bool CudnnAttention::backward(const AttentionBackward<bf16> &a) {
    const AttentionKey shape = key_of(a);
    const auto found = choices_.find(shape);
    if (found == choices_.end() || !found->second.backward || is_given_up_) return false;
    if (!is_aligned(a.qkv) || !is_aligned(a.out) || !is_aligned(a.dout) || !is_aligned(a.dqkv) || !is_aligned(a.log_sum) || !is_aligned(a.delta)) return false;
    try {
        run_backward(*found->second.backward, shape, a);
    } catch (const cudnn::Failure &e) {
        fail(shape, e);
    }
    return !is_given_up_;
}
}  // namespace pgtrain::engine::backend::gpu
