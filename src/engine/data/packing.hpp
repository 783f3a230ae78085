// Fills fixed batches of B rows and T columns with documents, without padding while training lasts.
//
// Every prediction of every document appears exactly once per epoch. A row is filled by whole documents as they fit, from
// a small window of the epoch's order; only when none fits is one cut, and its rest goes on in a later row. Each piece has
// its own segment number in its row, so that pieces do not see each other, and its positions count from 0.
// Documents longer than T are refused, split or truncated (counted) as asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/data/token_store.hpp"

namespace pgtrain::engine::data {

enum class LongSamples { Error, Split, Truncate };
LongSamples parse_long_samples(const std::string& text);

struct Batch {
  int rows = 0, columns = 0;
  std::vector<std::int32_t> inputs, targets, positions, segments;  // rows * columns each; target -1 = not predicted
  std::uint64_t predictions = 0;                                   // targets that count
};

struct Piece {
  std::uint64_t document = 0, start = 0, count = 0;  // predictions of a document
};

struct Truncation {
  std::uint64_t documents = 0, tokens = 0;
};
// Predictions of each document that are used; refuses (data_invalid) by document where asked.
std::vector<std::uint64_t> usable_predictions(const TokenStore& store, int columns, LongSamples rule, Truncation& truncation);

// An endless stream of training batches; its whole state is a cursor.
class TrainingStream {
 public:
  TrainingStream(const TokenStore& store, std::vector<std::uint64_t> usable, int rows, int columns, std::uint64_t seed);

  void next(Batch& batch);
  std::uint64_t epoch() const { return epoch_; }

  // [epoch, place in its order, prediction within that document, then document, start, count of each waiting piece]
  std::vector<std::int64_t> cursor() const;
  void restore(const std::vector<std::int64_t>& cursor);  // model_invalid when it does not fit this data

 private:
  void begin_epoch();
  void refill();
  void fill_row(Batch& batch, int row);

  const TokenStore& store_;
  std::vector<std::uint64_t> usable_;
  int rows_, columns_;
  std::uint64_t seed_, epoch_ = 0, next_ = 0, next_start_ = 0;
  std::vector<std::uint32_t> order_;
  std::vector<Piece> window_;  // in order of arrival
};

// The order of the documents in an epoch: a function of seed and epoch only.
std::vector<std::uint32_t> epoch_order(std::size_t documents, std::uint64_t seed, std::uint64_t epoch);

// The held-out batches: always the same, in the order of the documents, the last one padded with target -1.
std::vector<Batch> evaluation_batches(const TokenStore& store, int rows, int columns, int most);

}  // namespace pgtrain::engine::data
