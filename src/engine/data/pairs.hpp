// Batches of preferences: whole pairs, packed into B rows of T columns.
//
// A pair's two sequences lie in one batch, each whole in one row and in a segment of its own; per cell stands which sequence
// it belongs to, so that a loss can be summed by sequence. Nothing is cut but what is longer than the context, where asked.
// How many pairs a batch holds differs; every pair comes once per epoch.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/data/packing.hpp"

namespace pgtrain::engine::data {

struct PairBatch : Batch {
  std::vector<std::int32_t> sequences;  // per cell: 2k chosen, 2k + 1 rejected of pairs[k]; -1 = empty
  std::vector<std::uint64_t> pairs;     // which of the store: its sequences 2p and 2p + 1
};

struct PairOptions {
  int rows = 0, columns = 0;
  std::uint64_t seed = 0;
  LongSamples long_samples = LongSamples::Truncate;
  std::uint64_t epochs = 0;     // 0 = without end
  bool keeps_order = false;     // as in the store, but for what packs better: evaluations
};

// Fit::documents counts sequences, Fit::unlearned pairs of which one side has lost its answer; these are left out.
// Refuses (data_invalid, by sample) what is too long where asked, a pair that one row cannot hold, and Split: half an answer is
// no preference.
Fit fit_pairs(const TokenStore& store, const PairOptions& options);

class PairStream {
 public:
  PairStream(const TokenStore& store, const PairOptions& options);

  // False, and a batch without pairs, once the last epoch is over.
  bool next(PairBatch& batch) { return fill(&batch); }
  // As next, without the tokens.
  bool skip() { return fill(nullptr); }
  std::uint64_t epoch() const { return epoch_; }

  // [epoch, place in its order, then the pairs that wait]
  std::vector<std::int64_t> cursor() const;
  void restore(const std::vector<std::int64_t>& cursor);  // model_invalid when it does not fit this data

 private:
  struct Places {
    int chosen = -1, rejected = -1;  // rows
  };

  void begin_epoch();
  void refill();
  bool fill(PairBatch* batch);
  Places find_places(std::uint64_t pair, const std::vector<int>& taken) const;
  int put(std::uint64_t sequence, int row, std::vector<int>& taken, std::vector<int>& segments, std::int32_t number, PairBatch* batch) const;

  const TokenStore& store_;
  PairOptions options_;
  std::uint64_t epoch_ = 0, next_ = 0;
  std::vector<std::uint32_t> order_;
  std::vector<std::uint32_t> window_;  // in order of arrival
};

// Batches until the given number of epochs (at least 1) is over.
std::uint64_t count_batches(const TokenStore& store, const PairOptions& options);

}  // namespace pgtrain::engine::data
