// The CUDA side of the table in backend/backend.hpp: checks what the kernels rely on, picks the type, queues the work on the
// device's one stream. Called through libpgtrain_cuda.so by the engine, and directly by the emulated tests.
#include "engine/backend/backend.hpp"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <unordered_map>

#include "engine/backend/cuda/cudnn_attention.hpp"
#include "engine/backend/cuda/device.hpp"
#include "engine/backend/cuda/recording.hpp"
#include "engine/backend/cuda/staging.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::gpu {
namespace {
constexpr std::int64_t kMostGridRows = 65535, kMostInt = 0x7fffffff;
constexpr std::uintptr_t kBiasAlignment = 16;

void require(bool holds, const std::string &what) {
    if (!holds) throw core::Error("config_invalid", "the CUDA backend cannot run this shape", what);
}
std::string uuid_text(const cudaDeviceProp &p) {
    std::string text = "GPU-";
    char byte[3];
    for (int i = 0; i < 16; i++) {
        std::snprintf(byte, sizeof byte, "%02x", unsigned(static_cast<unsigned char>(p.uuid.bytes[i])));
        text += byte;
        if (i == 3 || i == 5 || i == 7 || i == 9) text += '-';
    }
    return text;
}
DeviceInfo info_of(int index, const cudaDeviceProp &p) {
    DeviceInfo info;
    info.name = "cuda:" + std::to_string(index);
    info.description = p.name;
    info.uuid = uuid_text(p);
    info.isa = "sm_" + std::to_string(p.major) + std::to_string(p.minor);
    info.memory_bytes = p.totalGlobalMem;
    info.units = p.multiProcessorCount;
    info.best_dtype = DType::Bf16;
    return info;
}
Type type_of(DType t) { return t == DType::Bf16 ? Type::Bf16 : Type::Float; }

// Calls f with a null pointer of the compute type.
template <class F> void with_type(DType type, F f) {
    require(type != DType::I32, "the operation has no int32 form");
    if (type == DType::Bf16) f(static_cast<bf16 *>(nullptr));
    else f(static_cast<float *>(nullptr));
}
template <class T> T *as(T *, void *p) { return static_cast<T *>(p); }
template <class T> const T *as(T *, const void *p) { return static_cast<const T *>(p); }

class CudaBackend final : public Backend {
  public:
    CudaBackend(int index, std::uint64_t memory_limit_bytes)
        : device_(index), staging_(device_.stream()), info_(info_of(index, device_.properties())), used_(Device::reserved_bytes()) {
        limit_ = memory_limit_bytes > 0 ? std::min(memory_limit_bytes, info_.memory_bytes) : info_.memory_bytes;
        attention_ = std::make_unique<CudnnAttention>(*this, device_.stream(), device_.properties().major, limit_);
    }
    const DeviceInfo &info() const override { return info_; }
    std::uint64_t workspace_bytes() const override { return Device::reserved_bytes(); }
    void choose_attention(const AttentionShape &a) const override {
        if (a.type == DType::Bf16 && a.batch <= kMostGridRows && a.length <= kMostInt && a.head_size <= kWidestHead) attention_->choose(key_of(a));
    }
    std::uint64_t attention_workspace_bytes(const AttentionShape &a) const override { return a.type == DType::Bf16 ? attention_->bytes_of(key_of(a)) : 0; }

    void *allocate(std::size_t bytes) override {
        const std::size_t whole = std::max<std::size_t>(bytes, 1);
        if (used_ > limit_ || whole > limit_ - used_)
            throw core::Error("out_of_memory", "the memory limit of " + info_.name + " is reached: " + std::to_string(whole) + " bytes more are needed",
                              std::to_string(used_) + " of " + std::to_string(limit_) + " bytes are in use", "Choose a smaller size, batch_size or context.");
        void *memory = nullptr;
        check("cudaMalloc", cudaMalloc(&memory, whole));
        blocks_[memory] = whole;
        used_ += whole;
        return memory;
    }
    void release(void *memory) noexcept override {
        const auto block = blocks_.find(memory);
        if (block == blocks_.end()) return;
        used_ -= block->second;
        blocks_.erase(block);
        cudaFree(memory);
    }
    void upload(void *to, const void *from, std::size_t bytes) override {
        if (bytes) staging_.upload(to, from, bytes);
    }
    void download(void *to, const void *from, std::size_t bytes) override {
        if (bytes) check("cudaMemcpyAsync from the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device_.stream()));
        device_.synchronize();
    }
    void copy(void *to, const void *from, std::size_t bytes) override {
        if (bytes) check("cudaMemcpyAsync on the device", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device_.stream()));
    }
    void zero(void *memory, std::size_t bytes) override {
        if (bytes) check("cudaMemsetAsync", cudaMemsetAsync(memory, 0, bytes, device_.stream()));
    }
    void synchronize() override { device_.synchronize(); }
    std::unique_ptr<Recording> record(const std::function<void()> &calls) override { 
        return gpu::record(device_.stream(), calls, [this, before = attention_->moves()] { return attention_->moves() == before; });
    }

    void matmul(const Matmul &a) override;
    void embedding_forward(const EmbeddingForward &a) override {
        if (a.rows == 0) return;
        require(a.rows * a.width < kMostInt * std::int64_t(256) && a.width <= kMostInt && a.vocabulary <= kMostInt, "embedding too large");
        with_type(a.type, [&](auto *t) {
            gpu::embedding_forward(as(t, a.out), as(t, a.table), a.ids, a.rows, int(a.width), int(a.vocabulary), device_.stream());
        });
    }
    void embedding_backward(const EmbeddingBackward &a) override {
        if (a.rows == 0) return;
        require(a.rows <= kMostInt && a.width <= kMostInt && a.vocabulary <= kMostInt, "embedding too large");
        with_type(a.type, [&](auto *t) {
            gpu::embedding_backward(a.dtable, as(t, a.dout), a.ids, a.rows, int(a.width), int(a.vocabulary), device_.stream());
        });
    }
    void layer_norm_forward(const LayerNormForward &a) override {
        if (a.rows == 0) return;
        require(a.width <= kScratchFloats / 2, "rows of a layer norm hold at most 2^21 elements");
        with_type(a.type, [&](auto *t) {
            gpu::layer_norm_forward(as(t, a.y), a.mean, a.rstd, as(t, a.x), as(t, a.residual), as(t, a.sum), as(t, a.gain), as(t, a.bias), a.rows,
                                    int(a.width), a.epsilon, device_.stream());
        });
    }
    void layer_norm_backward(const LayerNormBackward &a) override {
        if (a.rows == 0) return;
        require(a.width <= kScratchFloats / 2, "rows of a layer norm hold at most 2^21 elements");
        with_type(a.type, [&](auto *t) {
            gpu::layer_norm_backward(as(t, a.dx), a.accumulate_dx, a.dgain, a.dbias, as(t, a.dy), as(t, a.x), as(t, a.gain), a.mean, a.rstd, a.rows,
                                     int(a.width), device_.scratch(), device_.stream());
        });
    }
    void rms_norm_forward(const RmsNormForward &a) override {
        if (a.rows == 0) return;
        const gpu::Runs runs = runs_of(a);
        with_type(a.type, [&](auto *t) {
            gpu::rms_norm_forward(as(t, a.y), a.rstd, as(t, a.x), as(t, a.residual), as(t, a.sum), as(t, a.gain), runs, a.epsilon, device_.stream());
        });
    }
    void rms_norm_backward(const RmsNormBackward &a) override {
        if (a.rows == 0) return;
        const gpu::Runs runs = runs_of(a);
        with_type(a.type, [&](auto *t) {
            gpu::rms_norm_backward(as(t, a.dx), a.accumulate_dx, a.dgain, as(t, a.dy), as(t, a.x), as(t, a.gain), a.rstd, runs, device_.scratch(), device_.stream());
        });
    }
    void rope(const backend::Rope &a) override {
        if (a.rows == 0) return;
        require(a.rows <= kMostInt && a.columns <= kMostInt && a.head_size % 2 == 0, "rotary positions take even heads and at most 2^31 - 1 rows and columns");
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::rope(gpu::Rope<T>{as(t, a.y), as(t, a.x), a.positions, a.table, a.rows, int(a.heads), int(a.columns), int(a.head_size), a.inverse}, device_.stream());
        });
    }
    void swiglu_forward(const SwiGluForward &a) override {
        if (a.rows == 0) return;
        require_swiglu(a.rows, a.width);
        with_type(a.type, [&](auto *t) { gpu::swiglu_forward(as(t, a.y), as(t, a.gate_up), a.rows, int(a.width), device_.stream()); });
    }
    void swiglu_backward(const SwiGluBackward &a) override {
        if (a.rows == 0) return;
        require_swiglu(a.rows, a.width);
        with_type(a.type, [&](auto *t) { gpu::swiglu_backward(as(t, a.dgate_up), as(t, a.dy), as(t, a.gate_up), a.rows, int(a.width), device_.stream()); });
    }
    void dropout(const backend::Dropout &a) override {
        if (a.count == 0) return;
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::dropout(gpu::Dropout<T>{as(t, a.y), as(t, a.x), a.count, a.seed, a.stream, a.run ? &a.run->seed : nullptr, a.accumulate}, dropout_threshold(a.rate), dropout_factor(a.rate),
                         device_.stream());
        });
    }
    void nf4_dequantize(const backend::Nf4Dequantize &a) override {
        if (a.count == 0) return;
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::nf4_dequantize(gpu::Nf4Dequantize<T>{as(t, a.out), a.codes, a.absmax, a.absmax8, a.nested_absmax, a.code_book, a.nested_offset, a.count},
                                device_.stream());
        });
    }
    void decomposed_gain(const backend::DecomposedGain &a) override {
        if (a.out == 0) return;
        require(a.rank <= kMostInt, "adapter too large");
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::decomposed_gain(gpu::DecomposedGain<T>{a.gain, a.norm, a.magnitude, as(t, a.weight), as(t, a.up), a.overlap, a.gram, a.out, a.in, a.pitch, int(a.rank),
                                                        a.scale, backend::kLeastSquare, a.is_in_out},
                                 device_.stream());
        });
    }
    void scale_columns(const backend::ScaleColumns &a) override {
        if (a.rows == 0 || a.width == 0) return;
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::scale_columns(gpu::ScaleColumns<T>{as(t, a.y), as(t, a.x), a.gain, as(t, a.bias), a.rows, a.width, a.pitch ? a.pitch : a.width, a.factor, a.accumulate}, device_.stream());
        });
    }
    void column_dot(const backend::ColumnDot &a) override {
        if (a.rows == 0 || a.width == 0) return;
        require(a.width <= kScratchFloats, "column_dot takes at most 2^22 columns");
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::column_dot(gpu::ColumnDot<T>{a.out, as(t, a.a), as(t, a.b), a.divisor, a.rows, a.width, a.pitch}, device_.scratch(), device_.stream());
        });
    }
    void attention_forward(const backend::AttentionForward &a) override {
        if (a.batch * a.length == 0) return;
        require_attention(a.batch, a.length, a.heads, a.head_size);
        require_groups(a.heads, a.kv_heads, a.window);
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            const gpu::AttentionForward<T> call{as(t, a.qkv), as(t, a.out), a.log_sum, a.segments, int(a.batch), int(a.length), int(a.heads),
                                                kv_heads_of(a), int(a.head_size), reach_of(a), a.scale};
            if constexpr (std::is_same_v<T, bf16>)
                if (attention_->forward(call)) return;
            gpu::attention_forward(call, device_.stream());
        });
    }
    void attention_backward(const backend::AttentionBackward &a) override {
        if (a.batch * a.length == 0) return;
        require_attention(a.batch, a.length, a.heads, a.head_size);
        require_groups(a.heads, a.kv_heads, a.window);
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            const gpu::AttentionBackward<T> call{as(t, a.qkv), as(t, a.out), as(t, a.dout), a.log_sum, a.delta, a.segments, as(t, a.dqkv),
                                                 int(a.batch), int(a.length), int(a.heads), kv_heads_of(a), int(a.head_size), reach_of(a), a.scale};
            if constexpr (std::is_same_v<T, bf16>)
                if (attention_->backward(call)) return;
            gpu::attention_backward(call, device_.stream());
        });
    }
    void attention_decode(const backend::AttentionDecode &a) override {
        if (a.sequences == 0) return;
        require_attention(a.sequences, a.context, a.heads, a.head_size);
        require_groups(a.heads, a.kv_heads, a.window);
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::attention_decode(gpu::AttentionDecode<T>{as(t, a.qkv), as(t, a.keys), as(t, a.values), as(t, a.out), a.positions, a.slots, int(a.sequences),
                                                          int(a.context), int(a.heads), kv_heads_of(a), int(a.head_size), int(a.window), a.scale},
                                  device_.stream());
        });
    }
    void cross_entropy(const backend::CrossEntropy &a) override {
        if (a.rows == 0) return;
        require(a.rows <= kMostInt && a.vocabulary <= kMostInt, "cross-entropy too large");
        with_type(a.type, [&](auto *t) {
            using T = std::remove_pointer_t<decltype(t)>;
            gpu::cross_entropy(gpu::CrossEntropy<T>{as(t, a.logits), a.pitch ? a.pitch : a.vocabulary, a.losses, a.hits, a.weights, a.targets, a.rows, int(a.vocabulary),
                                                    a.scale, a.run ? &a.run->scale : nullptr, a.gradient},
                               device_.stream());
        });
    }
    void gelu_forward(DType type, void *y, const void *x, std::int64_t count) override {
        if (count) with_type(type, [&](auto *t) { gpu::gelu_forward(as(t, y), as(t, x), count, device_.stream()); });
    }
    void gelu_backward(DType type, void *dx, const void *dy, const void *x, std::int64_t count) override {
        if (count) with_type(type, [&](auto *t) { gpu::gelu_backward(as(t, dx), as(t, dy), as(t, x), count, device_.stream()); });
    }
    void add(DType type, void *y, const void *a, const void *b, std::int64_t count) override {
        if (count) with_type(type, [&](auto *t) { gpu::add(as(t, y), as(t, a), as(t, b), count, device_.stream()); });
    }
    void scale(DType type, void *x, float factor, std::int64_t count) override {
        if (count) with_type(type, [&](auto *t) { gpu::scale(as(t, x), factor, count, device_.stream()); });
    }
    void cast(DType to_type, void *to, DType from_type, const void *from, std::int64_t count) override {
        if (to_type == from_type) return copy(to, from, std::size_t(count) * core::size_of(to_type));
        require(to_type != DType::I32 && from_type != DType::I32, "cast has no int32 form");
        if (count == 0) return;
        if (to_type == DType::Bf16) gpu::cast(static_cast<bf16 *>(to), static_cast<const float *>(from), count, device_.stream());
        else gpu::cast(static_cast<float *>(to), static_cast<const bf16 *>(from), count, device_.stream());
    }
    void split(const backend::Halves &to, const float *from, std::int64_t count) override {
        if (count) gpu::split(halves_of(to), from, count, device_.stream());
    }
    void join(float *to, const backend::Halves &from, std::int64_t count) override {
        if (count) gpu::join(to, halves_of(from), count, device_.stream());
    }
    void column_sum(DType type, float *out, const void *x, std::int64_t rows, std::int64_t width) override {
        if (rows == 0 || width == 0) return;
        require(width <= kScratchFloats, "column_sum takes at most 2^22 columns");
        with_type(type, [&](auto *t) { gpu::column_sum(out, true, as(t, x), rows, width, device_.scratch(), device_.stream()); });
    }
    void sum(float *out, const float *x, std::int64_t count, bool accumulate) override {
        gpu::sum(out, accumulate, x, count, device_.scratch(), device_.stream());
    }
    void sum_of_squares(float *out, const float *x, std::int64_t count, bool accumulate) override {
        gpu::sum_of_squares(out, accumulate, x, count, device_.scratch(), device_.stream());
    }
    void adamw(const backend::AdamW &a) override {
        if (a.count == 0) return;
        with_type(a.moments_type, [&](auto *t) {
            using M = std::remove_pointer_t<decltype(t)>;
            gpu::adamw(gpu::AdamW<M>{a.parameter, halves_of(a.halves), as(t, a.m), as(t, a.v), a.gradient, a.squared_norm, a.count, a.learning_rate, a.beta1,
                                     a.beta2, a.epsilon, a.weight_decay, a.correction1, a.correction2, a.gradient_scale, a.clip, a.chance},
                       device_.stream());
        });
    }

    void adamw_8bit(const backend::AdamW8bit &a) override {
        if (a.count == 0) return;
        gpu::adamw_8bit({a.parameter, halves_of(a.halves), a.m, a.v, a.m_scale, a.v_scale, a.m_book, a.v_book, a.gradient, a.squared_norm, a.count,
                         a.learning_rate, a.beta1, a.beta2, a.epsilon, a.weight_decay, a.correction1, a.correction2, a.gradient_scale, a.clip},
                        device_.stream());
    }

  private:
    static gpu::Halves halves_of(const backend::Halves &a) { return {reinterpret_cast<bf16 *>(a.high), a.low}; }
    static void require_attention(std::int64_t batch, std::int64_t length, std::int64_t heads, std::int64_t head_size) {
        require(head_size >= 1 && head_size <= kWidestHead, "a head has " + std::to_string(head_size) + " channels, at most " + std::to_string(kWidestHead) + " are supported");
        require(batch <= kMostGridRows && heads <= kMostGridRows, "attention takes at most 65535 sequences and heads");
        require(length <= kMostInt - 64, "sequence too long");
    }
    static void require_groups(std::int64_t heads, std::int64_t kv_heads, std::int64_t window) {
        require(kv_heads >= 0 && (kv_heads == 0 || heads % kv_heads == 0), std::to_string(heads) + " heads cannot share " + std::to_string(kv_heads) + " of keys and values");
        require(window >= 0 && window <= kMostInt / 2, "a window is 0 or at most 2^30 - 1 positions");
    }
    template <class Call> static int kv_heads_of(const Call &a) { return int(a.kv_heads ? a.kv_heads : a.heads); }
    template <class Call> static int reach_of(const Call &a) { return a.window ? int(a.window) : gpu::kNoWindow; }
    static AttentionKey key_of(const AttentionShape &a) {
        return {int(a.batch), int(a.length), int(a.heads), kv_heads_of(a), int(a.head_size), reach_of(a), a.has_segments};
    }
    template <class Call> static gpu::Runs runs_of(const Call &a) {
        require(a.width <= kScratchFloats / 2, "rows of an RMS norm hold at most 2^21 elements");
        require(a.groups >= 1 && a.groups <= kMostInt && a.rows * a.groups < kMostInt * std::int64_t(8), "too many rows of an RMS norm");
        return {a.rows * a.groups, a.pitch ? a.pitch : a.groups * a.width, int(a.groups), int(a.width)};
    }
    static void require_swiglu(std::int64_t rows, std::int64_t width) {
        require(width <= kMostInt / 2 && rows * (width / 256 + 1) <= kMostInt, "SwiGLU too large");
    }
    template <class T, class B> void finish(const Matmul &a, const Product &p) {
        Finish<T, B> f{};
        f.c = static_cast<T *>(a.c);
        f.pre = static_cast<const T *>(p.c);
        f.pre_pitch = p.c_pitch;
        f.keep = static_cast<T *>(a.gelu_input);
        f.bias = p.bias ? nullptr : static_cast<const B *>(a.bias);
        f.m = a.m;
        f.n = a.n;
        f.c_pitch = a.c_pitch ? a.c_pitch : a.n;
        f.gelu = a.gelu;
        finish_product(f, device_.stream());
    }

    Device device_;
    Staging staging_;
    DeviceInfo info_;
    std::uint64_t limit_ = 0, used_;  // bytes, with what the device holds for itself
    std::unordered_map<void *, std::size_t> blocks_;
    std::unique_ptr<CudnnAttention> attention_;  // last: gives its memory back here
};

void CudaBackend::matmul(const Matmul &a) {
    if (a.m == 0 || a.n == 0) return;
    require(a.in != DType::I32 && a.out != DType::I32 && (a.in == DType::Bf16 || a.out == DType::F32), "products are fp32 to fp32, bf16 to bf16 or bf16 to fp32");
    require(a.k > 0, "a product needs an inner size of at least 1");
    require(!a.gelu || a.beta == 0.0f, "gelu after a product needs beta 0");
    // The epilogue takes a bias of the result's type only, and vectors of it, as narrow models do not have it.
    const bool bias_apart = a.bias && (a.in != a.out || reinterpret_cast<std::uintptr_t>(a.bias) % kBiasAlignment != 0);
    Product p;
    p.m = a.m, p.n = a.n, p.k = a.k;
    p.transpose_a = a.transpose_a, p.transpose_b = a.transpose_b;
    p.a = a.a, p.b = a.b;
    p.c = a.gelu && a.gelu_input ? a.gelu_input : a.c;
    p.a_pitch = a.a_pitch ? a.a_pitch : a.transpose_a ? a.m : a.k;
    p.b_pitch = a.b_pitch ? a.b_pitch : a.transpose_b ? a.k : a.n;
    p.c_pitch = p.c != a.c || !a.c_pitch ? a.n : a.c_pitch;
    p.in = type_of(a.in), p.out = type_of(a.out);
    p.alpha = a.alpha, p.beta = a.beta;
    p.bias = bias_apart ? nullptr : a.bias;
    device_.multiplier().run(p);
    if (!a.gelu && !bias_apart) return;
    if (a.out == DType::Bf16) finish<bf16, bf16>(a, p);
    else if (a.in == DType::Bf16) finish<float, bf16>(a, p);
    else finish<float, float>(a, p);
}

void tell(const std::string &what, char *error, std::size_t bytes) {
    if (error && bytes) std::snprintf(error, bytes, "%s", what.c_str());
}
}  // namespace
}  // namespace pgtrain::engine::backend::gpu

using namespace pgtrain::engine;

extern "C" [[gnu::visibility("default")]] backend::Backend *pgtrain_cuda_open_6(int device, std::uint64_t memory_limit_bytes, char *error, std::size_t error_bytes) {
    try {
        return new backend::gpu::CudaBackend(device, memory_limit_bytes);
    } catch (const core::Error &e) {
        backend::gpu::tell(e.message + (e.detail.empty() ? "" : ": " + e.detail), error, error_bytes);
    } catch (const std::exception &e) {
        backend::gpu::tell(e.what(), error, error_bytes);
    }
    return nullptr;
}
extern "C" [[gnu::visibility("default")]] int pgtrain_cuda_count(char *error, std::size_t error_bytes) {
    try {
        std::string why;
        const int count = backend::gpu::count_devices(&why);
        backend::gpu::tell(why, error, error_bytes);
        return count;
    } catch (const std::exception &e) {
        backend::gpu::tell(e.what(), error, error_bytes);
        return 0;
    }
}
extern "C" [[gnu::visibility("default")]] bool pgtrain_cuda_describe(int device, backend::DeviceInfo *info, char *error, std::size_t error_bytes) {
    try {
        *info = backend::gpu::info_of(device, backend::gpu::describe_device(device));
        return true;
    } catch (const core::Error &e) {
        backend::gpu::tell(e.message + (e.detail.empty() ? "" : ": " + e.detail), error, error_bytes);
    } catch (const std::exception &e) {
        backend::gpu::tell(e.what(), error, error_bytes);
    }
    return false;
}
