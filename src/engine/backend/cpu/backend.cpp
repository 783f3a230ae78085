// The CPU backend: fits the kernels and the product libraries to the table of backend.hpp. Memory is counted against the
// limit, so that a model that is too large is refused with the numbers instead of being killed by the system.
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "engine/backend/cpu/kernels.hpp"
#include "engine/backend/cpu/matmul.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend {
namespace {

using cpu::Kernels;

constexpr std::uint64_t kScratchBytesPerThread = std::uint64_t{4} << 20;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "CPU";
}

// The machine's memory, or the control group's share of it.
std::uint64_t memory_bytes() {
  std::uint64_t bytes = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGE_SIZE));
  for (const char* name : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::uint64_t limit = 0;
    if (std::ifstream file(name); file >> limit && limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

// Processors that this process may run on.
int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const OpenOptions& options)
      : workers_(options.threads > 0 ? options.threads : usable_processors()), kernels_(cpu::find_kernels(options.instruction_set)), scratch_(workers_),
        bf16_(options.instruction_set.empty() ? cpu::open_bf16_products(workers_) : nullptr) {
    info_.name = "cpu";
    info_.description = processor_name();
    info_.uuid = "cpu";
    info_.isa = std::string(kernels_.isa) + (bf16_ != nullptr ? " with bf16 products" : "");
    info_.memory_bytes = memory_bytes();
    info_.units = workers_.count();
    info_.best_dtype = bf16_ != nullptr ? DType::Bf16 : DType::F32;
    limit_ = options.memory_limit_bytes > 0 ? std::min(options.memory_limit_bytes, info_.memory_bytes) : info_.memory_bytes;
  }
  ~CpuBackend() override {
    while (!blocks_.empty()) release(blocks_.begin()->first);
  }

  const DeviceInfo& info() const override { return info_; }
  std::uint64_t workspace_bytes() const override { return static_cast<std::uint64_t>(workers_.count()) * kScratchBytesPerThread; }
  std::uint64_t attention_workspace_bytes(const AttentionShape& a) const override {
    const auto need = static_cast<std::uint64_t>(kernels_.attention_floats(a.length, a.head_size)) * sizeof(float);
    return need > kScratchBytesPerThread ? (need - kScratchBytesPerThread) * static_cast<std::uint64_t>(workers_.count()) : 0;
  }

  std::uint64_t matmul_workspace_bytes(const Matmul& given) const override {
    if (given.in != DType::Bf16 || cpu::takes_few_rows(given)) return 0;
    return bf16_ != nullptr ? bf16_->workspace_bytes(given) : rounded(Widened(with_pitches(given)).total * sizeof(float));
  }

  void* allocate(std::size_t bytes) override {
    const std::size_t whole = rounded(bytes);
    if (used_ + whole > limit_)
      throw core::Error("out_of_memory", "the CPU's memory limit is reached: " + std::to_string(whole) + " bytes more are needed",
                        std::to_string(used_) + " of " + std::to_string(limit_) + " bytes are in use", "Choose a smaller size, batch_size or context.");
    const std::size_t alignment = whole >= kHugePage ? kHugePage : 256;
    void* memory = std::aligned_alloc(alignment, (whole + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw core::Error("out_of_memory", "the system refused " + std::to_string(whole) + " bytes");
    if (alignment == kHugePage) (void)madvise(memory, whole, MADV_HUGEPAGE);  // advice only: fewer page faults and misses
    blocks_[memory] = whole;
    used_ += whole;
    return memory;
  }
  void release(void* memory) noexcept override {
    if (memory == nullptr) return;
    const auto block = blocks_.find(memory);
    if (block == blocks_.end()) return;
    used_ -= block->second;
    blocks_.erase(block);
    std::free(memory);
  }
  void upload(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override { std::memmove(to, from, bytes); }
  void zero(void* memory, std::size_t bytes) override {
    constexpr std::size_t kWorthSharing = std::size_t{1} << 20, kLine = 64;
    if (bytes < kWorthSharing) return void(std::memset(memory, 0, bytes));
    workers_.run([&](int number) {
      const auto edge = [&](int n) { return n == workers_.count() ? bytes : bytes / static_cast<std::size_t>(workers_.count()) / kLine * kLine * static_cast<std::size_t>(n); };
      std::memset(static_cast<char*>(memory) + edge(number), 0, edge(number + 1) - edge(number));
    });
  }
  void synchronize() override {}

  void matmul(const Matmul& given) override {
    Matmul a = with_pitches(given);
    // A gelu that keeps its input is a pass of its own: the product goes to gelu_input, which needs C's layout.
    if (a.gelu && a.gelu_input != nullptr) a.c = a.gelu_input;
    const bool is_narrow = cpu::takes_few_rows(a);
    if (is_narrow)
      kernels_.few_rows(a, scratch_);
    else if (a.in == DType::F32)
      cpu::matmul_float(a, workers_);
    else if (bf16_ != nullptr)
      bf16_->run(a);
    else
      widened(a);
    if (a.bias != nullptr && a.in == DType::F32 && !is_narrow) kernels_.add_bias(a.out, a.c, a.c_pitch, a.in, a.bias, a.m, a.n, workers_);
    if (!a.gelu) return;
    if (a.c_pitch == a.n) return kernels_.gelu_forward(a.out, given.c, a.c, a.m * a.n, workers_);
    const std::size_t row_bytes = static_cast<std::size_t>(a.c_pitch) * core::size_of(a.out);
    for (std::int64_t r = 0; r < a.m; ++r)  // what lies between the rows is not ours
      kernels_.gelu_forward(a.out, static_cast<char*>(given.c) + static_cast<std::size_t>(r) * row_bytes, static_cast<char*>(a.c) + static_cast<std::size_t>(r) * row_bytes, a.n, workers_);
  }
  void embedding_forward(const EmbeddingForward& a) override {
    const std::size_t bytes = static_cast<std::size_t>(a.width) * core::size_of(a.type);
    for (std::int64_t r = 0; r < a.rows; ++r)
      std::memcpy(static_cast<char*>(a.out) + static_cast<std::size_t>(r) * bytes, static_cast<const char*>(a.table) + static_cast<std::size_t>(a.ids[r]) * bytes, bytes);
  }
  void embedding_backward(const EmbeddingBackward& a) override { kernels_.embedding_backward(a, workers_); }
  void layer_norm_forward(const LayerNormForward& a) override { kernels_.layer_norm_forward(a, workers_); }
  void layer_norm_backward(const LayerNormBackward& a) override { kernels_.layer_norm_backward(a, scratch_); }
  void rms_norm_forward(const RmsNormForward& a) override { kernels_.rms_norm_forward(a, workers_); }
  void rms_norm_backward(const RmsNormBackward& a) override { kernels_.rms_norm_backward(a, scratch_); }
  void rope(const Rope& a) override { kernels_.rope(a, workers_); }
  void swiglu_forward(const SwiGluForward& a) override { kernels_.swiglu_forward(a, workers_); }
  void swiglu_backward(const SwiGluBackward& a) override { kernels_.swiglu_backward(a, workers_); }
  void dropout(const Dropout& a) override { kernels_.dropout(with_numbers(a), workers_); }
  void nf4_dequantize(const Nf4Dequantize& a) override { kernels_.nf4_dequantize(a, workers_); }
  void decomposed_gain(const DecomposedGain& a) override { kernels_.decomposed_gain(a, workers_); }
  void scale_columns(const ScaleColumns& a) override { kernels_.scale_columns(a, workers_); }
  void column_dot(const ColumnDot& a) override { kernels_.column_dot(a, workers_); }
  void attention_forward(const AttentionForward& a) override { kernels_.attention_forward(a, scratch_); }
  void attention_backward(const AttentionBackward& a) override { kernels_.attention_backward(a, scratch_); }
  void attention_decode(const AttentionDecode& a) override { kernels_.attention_decode(a, scratch_); }
  void cross_entropy(const CrossEntropy& a) override { kernels_.cross_entropy(with_numbers(a), workers_); }
  void gelu_forward(DType type, void* y, const void* x, std::int64_t count) override { kernels_.gelu_forward(type, y, x, count, workers_); }
  void gelu_backward(DType type, void* dx, const void* dy, const void* x, std::int64_t count) override { kernels_.gelu_backward(type, dx, dy, x, count, workers_); }
  void add(DType type, void* y, const void* a, const void* b, std::int64_t count) override { kernels_.add(type, y, a, b, count, workers_); }
  void scale(DType type, void* x, float factor, std::int64_t count) override { kernels_.scale(type, x, factor, count, workers_); }
  void cast(DType to_type, void* to, DType from_type, const void* from, std::int64_t count) override { kernels_.cast(to_type, to, from_type, from, count, workers_); }
  void split(const Halves& to, const float* from, std::int64_t count) override { kernels_.split_halves(to, from, count, workers_); }
  void join(float* to, const Halves& from, std::int64_t count) override { kernels_.join_halves(to, from, count, workers_); }
  void column_sum(DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) override { kernels_.column_sum(type, out, x, rows, width, workers_); }
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override { *out = static_cast<float>(kernels_.sum(x, count, workers_)) + (accumulate ? *out : 0.0f); }
  void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) override {
    *out = static_cast<float>(kernels_.sum_of_squares(x, count, workers_)) + (accumulate ? *out : 0.0f);
  }
  void adamw(const AdamW& a) override { kernels_.adamw(a, gradient_factor(a), workers_); }
  void adamw_8bit(const AdamW8bit& a) override { kernels_.adamw_8bit(a, gradient_factor(a), workers_); }

 private:
  static std::size_t rounded(std::size_t bytes) { return (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256; }
  // The scale, times what clipping leaves.
  template <class Step>
  static float gradient_factor(const Step& a) {
    if (a.clip <= 0 || a.squared_norm == nullptr) return a.gradient_scale;
    const float norm = std::sqrt(*a.squared_norm) * a.gradient_scale;
    return norm > a.clip ? a.gradient_scale * (a.clip / norm) : a.gradient_scale;
  }
  static Matmul with_pitches(Matmul a) {
    if (a.a_pitch == 0) a.a_pitch = a.transpose_a ? a.m : a.k;
    if (a.b_pitch == 0) a.b_pitch = a.transpose_b ? a.k : a.n;
    if (a.c_pitch == 0) a.c_pitch = a.n;
    return a;
  }

  // Floats that a product's bf16 operands take, with what lies between their rows.
  struct Widened {
    explicit Widened(const Matmul& a)
        : a_count(span(a.transpose_a ? a.k : a.m, a.transpose_a ? a.m : a.k, a.a_pitch)), b_count(span(a.transpose_b ? a.n : a.k, a.transpose_b ? a.k : a.n, a.b_pitch)),
          c_count(a.out == DType::Bf16 ? span(a.m, a.n, a.c_pitch) : 0), total(static_cast<std::size_t>(a_count + b_count + c_count)) {}
    static std::int64_t span(std::int64_t rows, std::int64_t columns, std::int64_t pitch) { return (rows - 1) * pitch + columns; }
    std::int64_t a_count, b_count, c_count;
    std::size_t total;
  };

  // bf16 without a bf16 library: the operands become float, the result is rounded once.
  void widened(const Matmul& a) {
    const Widened count(a);
    if (count.total * sizeof(float) > wide_bytes_) {
      release(std::exchange(wide_, nullptr));
      wide_bytes_ = 0;
      wide_ = static_cast<float*>(allocate(count.total * sizeof(float)));
      wide_bytes_ = count.total * sizeof(float);
    }
    float *wide_a = wide_, *wide_b = wide_a + count.a_count, *wide_c = wide_b + count.b_count;
    kernels_.cast(DType::F32, wide_a, DType::Bf16, a.a, count.a_count, workers_);
    kernels_.cast(DType::F32, wide_b, DType::Bf16, a.b, count.b_count, workers_);
    Matmul wide = a;
    wide.a = wide_a;
    wide.b = wide_b;
    wide.in = wide.out = DType::F32;
    wide.bias = nullptr;
    if (a.out == DType::Bf16) {
      if (a.beta != 0.0f) kernels_.cast(DType::F32, wide_c, DType::Bf16, a.c, count.c_count, workers_);
      wide.c = wide_c;
    }
    cpu::matmul_float(wide, workers_);
    if (a.bias != nullptr) kernels_.add_bias(DType::F32, wide.c, a.c_pitch, a.in, a.bias, a.m, a.n, workers_);
    if (a.out != DType::Bf16) return;
    if (a.c_pitch == a.n) return kernels_.cast(DType::Bf16, a.c, DType::F32, wide_c, count.c_count, workers_);
    for (std::int64_t r = 0; r < a.m; ++r)  // what lies between the rows is not ours
      kernels_.cast(DType::Bf16, static_cast<core::Bf16*>(a.c) + r * a.c_pitch, DType::F32, wide_c + r * a.c_pitch, a.n, workers_);
  }

  cpu::Workers workers_;
  const Kernels& kernels_;
  cpu::Scratch scratch_;
  std::unique_ptr<cpu::Bf16Products> bf16_;
  DeviceInfo info_;
  std::uint64_t limit_ = 0, used_ = 0;
  std::map<void*, std::size_t> blocks_;
  float* wide_ = nullptr;  // one of blocks_
  std::size_t wide_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Backend> open_cpu(const OpenOptions& options) { return std::make_unique<CpuBackend>(options); }

}  // namespace pgtrain::engine::backend
