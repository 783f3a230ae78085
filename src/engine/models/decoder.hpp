// Writes text with a model, token by token: several sequences at once, each with the keys and values of its earlier tokens kept on the
// device.
//
// Reads the weights of a store of build_model's graph, adapters beside them, while training holds still, or of a loaded model. Gives the
// same logits as a whole forward pass up to rounding, and the same whether a sequence is alone or not, up to the rounding of products of
// other sizes. Called for the samples of runs and by generation.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/models/model.hpp"

namespace pgtrain::engine::models {

struct DecoderSize {
  std::int64_t sequences = 1;
  std::int64_t positions = 0;  // kept of each; 0 = the whole context. A file may claim a context that is far larger than its weights
  std::int64_t rows = 64;      // tokens that are taken in at once; a longer prompt takes several passes
};

class Decoder {
 public:
  Decoder(const ModelConfig& config, const Tuning& tuning, graph::ParameterStore& store, const DecoderSize& size);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // What it will hold on the device, besides the backend's workspace for products.
  static std::uint64_t planned_bytes(const ModelConfig& config, const Tuning& tuning, graph::DType compute, const DecoderSize& size);

  void restart(int sequence) { used_[static_cast<std::size_t>(sequence)] = 0; }
  std::int64_t position(int sequence) const { return used_[static_cast<std::size_t>(sequence)]; }
  std::int64_t positions() const { return size_.positions; }
  bool is_full(int sequence) const { return position(sequence) == size_.positions; }

  // What one sequence is continued by.
  struct Piece {
    int sequence = 0;
    std::vector<std::int32_t> tokens;
  };
  // logits: vocab_size of them for each piece, of what follows its last token; null: not wanted.
  void accept(const std::vector<Piece>& pieces, std::vector<float>* logits);

 private:
  struct Layout;
  struct Use {
    const void *down, *up;
    const graph::Parameter* magnitude;  // null: the weight is not decomposed
    std::int64_t out, column, rank;
    float scale;
  };
  struct Linear {
    const void* weight = nullptr;
    const graph::Parameter* quantized = nullptr;  // instead of weight: held in 4 bits
    const void* bias = nullptr;
    std::int64_t in = 0, out = 0;
    bool is_in_out = false;
    std::vector<Use> uses;
    float* gain = nullptr;  // of each output, where adapters decompose the weight
  };
  struct Row {
    std::int32_t token, position, slot;
  };
  struct Last {
    std::size_t row, piece;
  };

  void find_weights(const Tuning& tuning);
  void find_gains(char* gains, const Layout& layout);
  const void* matrix_of(const Linear& layer);
  void check(const std::vector<Piece>& pieces) const;
  void pass(const Row* rows, std::int64_t count);
  void embed(const Row* rows, std::int64_t count);
  void attention(int layer, const std::string& block, std::int64_t rows);
  void linear(const void* x, const std::string& name, std::int64_t rows, void* y, bool has_gelu = false);
  void norm(const std::string& name, std::int64_t rows, bool adds);
  void head(const std::vector<Last>& last, std::vector<float>& logits);
  const void* weight(const std::string& name) const { return weights_.at(name); }

  const ModelConfig config_;
  DecoderSize size_;
  graph::ParameterStore& store_;
  backend::Backend& backend_;
  const core::DType type_;
  std::unordered_map<std::string, const void*> weights_;
  std::unordered_map<std::string, Linear> linears_;  // by module of the graph
  std::vector<std::int64_t> used_;                   // by sequence
  char* memory_ = nullptr;
  std::vector<void*> keys_, values_;
  void *stream_ = nullptr, *other_ = nullptr, *normed_ = nullptr, *wide_ = nullptr, *hidden_ = nullptr, *low_ = nullptr, *last_ = nullptr, *matrix_ = nullptr;
  float *statistics_ = nullptr, *more_statistics_ = nullptr, *logits_ = nullptr, *table_ = nullptr;
  std::int32_t *ids_ = nullptr, *positions_ = nullptr, *slots_ = nullptr;
};

}  // namespace pgtrain::engine::models
