// A backend that counts the bytes held through it, so that a run's peak is measured and not only planned.
//
// Hands every call on; train() wraps the caller's backend in it. The backend's own workspace counts from the start.
#pragma once

#include <algorithm>
#include <unordered_map>

#include "engine/backend/backend.hpp"

namespace pgtrain::engine::train {

class MeasuredBackend : public backend::Backend {
 public:
  explicit MeasuredBackend(backend::Backend& inner) : inner_(inner), held_(inner.workspace_bytes()), peak_(held_) {}

  std::uint64_t peak_bytes() const { return peak_; }

  const backend::DeviceInfo& info() const override { return inner_.info(); }
  std::uint64_t workspace_bytes() const override { return inner_.workspace_bytes(); }
  void choose_attention(const backend::AttentionShape& a) const override { inner_.choose_attention(a); }
  std::uint64_t attention_workspace_bytes(const backend::AttentionShape& a) const override { return inner_.attention_workspace_bytes(a); }
  std::uint64_t matmul_workspace_bytes(const backend::Matmul& a) const override { return inner_.matmul_workspace_bytes(a); }

  void* allocate(std::size_t bytes) override {
    void* memory = inner_.allocate(bytes);
    sizes_[memory] = bytes;
    held_ += bytes;
    peak_ = std::max(peak_, held_);
    return memory;
  }
  void release(void* memory) noexcept override {
    if (const auto found = sizes_.find(memory); found != sizes_.end()) {
      held_ -= found->second;
      sizes_.erase(found);
    }
    inner_.release(memory);
  }
  void upload(void* to, const void* from_host, std::size_t bytes) override { inner_.upload(to, from_host, bytes); }
  void download(void* to_host, const void* from, std::size_t bytes) override { inner_.download(to_host, from, bytes); }
  void copy(void* to, const void* from, std::size_t bytes) override { inner_.copy(to, from, bytes); }
  void zero(void* memory, std::size_t bytes) override { inner_.zero(memory, bytes); }
  void synchronize() override { inner_.synchronize(); }
  std::unique_ptr<backend::Recording> record(const std::function<void()>& calls) override { return inner_.record(calls); }
  void forget(void* memory, std::size_t bytes) override { inner_.forget(memory, bytes); }

  void matmul(const backend::Matmul& a) override {
    count_workspace(matmul_, inner_.matmul_workspace_bytes(a));
    inner_.matmul(a);
  }
  void embedding_forward(const backend::EmbeddingForward& a) override { inner_.embedding_forward(a); }
  void embedding_backward(const backend::EmbeddingBackward& a) override { inner_.embedding_backward(a); }
  void layer_norm_forward(const backend::LayerNormForward& a) override { inner_.layer_norm_forward(a); }
  void layer_norm_backward(const backend::LayerNormBackward& a) override { inner_.layer_norm_backward(a); }
  void rms_norm_forward(const backend::RmsNormForward& a) override { inner_.rms_norm_forward(a); }
  void rms_norm_backward(const backend::RmsNormBackward& a) override { inner_.rms_norm_backward(a); }
  void rope(const backend::Rope& a) override { inner_.rope(a); }
  void swiglu_forward(const backend::SwiGluForward& a) override { inner_.swiglu_forward(a); }
  void swiglu_backward(const backend::SwiGluBackward& a) override { inner_.swiglu_backward(a); }
  void dropout(const backend::Dropout& a) override { inner_.dropout(a); }
  void nf4_dequantize(const backend::Nf4Dequantize& a) override { inner_.nf4_dequantize(a); }
  void decomposed_gain(const backend::DecomposedGain& a) override { inner_.decomposed_gain(a); }
  void scale_columns(const backend::ScaleColumns& a) override { inner_.scale_columns(a); }
  void column_dot(const backend::ColumnDot& a) override { inner_.column_dot(a); }
  void attention_forward(const backend::AttentionForward& a) override {
    count_workspace(attention_, inner_.attention_workspace_bytes(backend::shape_of(a)));
    inner_.attention_forward(a);
  }
  void attention_backward(const backend::AttentionBackward& a) override {
    count_workspace(attention_, inner_.attention_workspace_bytes(backend::shape_of(a)));
    inner_.attention_backward(a);
  }
  void attention_decode(const backend::AttentionDecode& a) override { inner_.attention_decode(a); }
  void cross_entropy(const backend::CrossEntropy& a) override { inner_.cross_entropy(a); }
  void gelu_forward(backend::DType type, void* y, const void* x, std::int64_t count) override { inner_.gelu_forward(type, y, x, count); }
  void gelu_backward(backend::DType type, void* dx, const void* dy, const void* x, std::int64_t count) override { inner_.gelu_backward(type, dx, dy, x, count); }
  void add(backend::DType type, void* y, const void* a, const void* b, std::int64_t count) override { inner_.add(type, y, a, b, count); }
  void scale(backend::DType type, void* x, float factor, std::int64_t count) override { inner_.scale(type, x, factor, count); }
  void cast(backend::DType to_type, void* to, backend::DType from_type, const void* from, std::int64_t count) override { inner_.cast(to_type, to, from_type, from, count); }
  void split(const backend::Halves& to, const float* from, std::int64_t count) override { inner_.split(to, from, count); }
  void join(float* to, const backend::Halves& from, std::int64_t count) override { inner_.join(to, from, count); }
  void column_sum(backend::DType type, float* out, const void* x, std::int64_t rows, std::int64_t width) override { inner_.column_sum(type, out, x, rows, width); }
  void sum(float* out, const float* x, std::int64_t count, bool accumulate) override { inner_.sum(out, x, count, accumulate); }
  void sum_of_squares(float* out, const float* x, std::int64_t count, bool accumulate) override { inner_.sum_of_squares(out, x, count, accumulate); }
  void adamw(const backend::AdamW& a) override { inner_.adamw(a); }
  void adamw_8bit(const backend::AdamW8bit& a) override { inner_.adamw_8bit(a); }

 private:
  // The backend's own memory for one kind of operation, of the largest shape that ran.
  void count_workspace(std::uint64_t& largest, std::uint64_t bytes) {
    if (bytes <= largest) return;
    held_ += bytes - largest;
    largest = bytes;
    peak_ = std::max(peak_, held_);
  }

  backend::Backend& inner_;
  std::unordered_map<void*, std::uint64_t> sizes_;
  std::uint64_t held_, peak_, attention_ = 0, matmul_ = 0;
};

}  // namespace pgtrain::engine::train
