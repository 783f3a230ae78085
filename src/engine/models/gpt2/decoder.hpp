// One sequence, one token at a time, with the keys and values of earlier tokens kept on the device.
//
// Reads the weights of a ParameterStore while training holds still, or of a loaded model. Gives the same logits as a
// whole forward pass up to rounding. Called for samples and by generate().
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/graph/executor.hpp"
#include "engine/models/model_config.hpp"

namespace pgtrain::engine::models {

class GptDecoder {
 public:
  // Keeps keys and values of `positions` tokens; 0 = of the whole context. Who needs fewer asks for fewer: a file may claim a
  // context that is far larger than its weights.
  GptDecoder(const ModelConfig& config, graph::ParameterStore& store, std::int64_t positions = 0);
  ~GptDecoder();
  GptDecoder(const GptDecoder&) = delete;
  GptDecoder& operator=(const GptDecoder&) = delete;

  static std::uint64_t planned_bytes(const ModelConfig& config, graph::DType compute);

  void restart() { position_ = 0; }
  int position() const { return position_; }
  bool is_full() const { return position_ == config_.context; }
  // Takes the token at the next position; the logits of what follows it, when asked for.
  void accept(std::int32_t token, std::vector<float>* logits);

 private:
  struct Layout;
  const void* weight(const std::string& name) const;
  void linear(const void* x, const std::string& name, std::int64_t in, std::int64_t out, void* y, bool gelu);
  void norm(const void* x, const void* residual, void* sum, const std::string& name, void* y);

  const ModelConfig config_;
  const std::int64_t positions_;
  graph::ParameterStore& store_;
  backend::Backend& backend_;
  core::DType type_;
  std::unordered_map<std::string, const void*> weights_;
  int position_ = 0;
  char* memory_ = nullptr;
  std::vector<void*> keys_, values_;
  void *stream_ = nullptr, *other_ = nullptr, *normed_ = nullptr, *wide_ = nullptr, *branch_ = nullptr;
  float *mean_ = nullptr, *rstd_ = nullptr, *logits_ = nullptr;
  std::int32_t* ids_ = nullptr;
};

}  // namespace pgtrain::engine::models
