// Fills fixed batches of B rows and T columns with sequences.
//
// Every prediction that is learned appears exactly once per epoch. A row is filled by whole sequences as they fit, from a
// small window of the epoch's order. When none fits: where everything is learned one is cut and its rest goes on in a later
// row, so that no cell is lost; where only answers are learned nothing is cut, since an answer must see its question, and
// the rest of the row stays empty. Each piece has its own segment number in its row, so that pieces do not see each other,
// and its positions count from 0. Sequences longer than T are refused, split or truncated (counted) as asked.
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
  std::vector<std::int32_t> inputs, targets, positions, segments;  // rows * columns each; target -1 = not learned
  std::uint64_t predictions = 0;                                   // targets that are learned
  std::uint64_t tokens = 0;                                        // cells that hold a token
};

// What the rule for long samples does to a store.
struct Fit {
  std::uint64_t documents = 0, tokens = 0;   // truncated, and what was cut off
  std::uint64_t unlearned = 0;               // sequences of which nothing that is learned is left
  std::uint64_t predictions = 0, learned = 0;  // that an epoch shows
};
// Refuses (data_invalid) a long sample by name where asked, and a store that has nothing to learn.
Fit fit_samples(const TokenStore& store, int columns, LongSamples rule);

struct StreamOptions {
  int rows = 0, columns = 0;
  std::uint64_t seed = 0;
  LongSamples long_samples = LongSamples::Split;
  std::uint64_t epochs = 0;  // 0 = without end
};

// A stream of training batches; its whole state is a cursor.
class TrainingStream {
 public:
  TrainingStream(const TokenStore& store, const StreamOptions& options);

  // False, and a batch without tokens, once the last epoch is over; the batch before it may have empty cells.
  bool next(Batch& batch) { return fill(&batch); }
  // As next, without the tokens.
  bool skip() { return fill(nullptr); }
  std::uint64_t epoch() const { return epoch_; }

  // [epoch, place in its order, prediction within that document, then document, start, count of each waiting piece]
  std::vector<std::int64_t> cursor() const;
  void restore(const std::vector<std::int64_t>& cursor);  // model_invalid when it does not fit this data

 private:
  struct Piece {
    std::uint64_t document = 0, start = 0, count = 0;  // predictions of a sequence
  };

  std::uint64_t usable(std::uint64_t document) const;
  void begin_epoch();
  void refill();
  bool fill(Batch* batch);
  bool fill_row(Batch* batch, int row);
  std::size_t choose(std::uint64_t room, bool is_first) const;

  const TokenStore& store_;
  StreamOptions options_;
  bool cuts_;  // everything is learned
  std::uint64_t epoch_ = 0, next_ = 0, next_start_ = 0;
  std::vector<std::uint32_t> order_;
  std::vector<Piece> window_;  // in order of arrival
};

// Batches until the given number of epochs (at least 1) is over.
std::uint64_t count_batches(const TokenStore& store, const StreamOptions& options);

// The order of the documents in an epoch: a function of seed and epoch only.
std::vector<std::uint32_t> epoch_order(std::size_t documents, std::uint64_t seed, std::uint64_t epoch);

// The held-out samples, always alike: in their order, the rest of the last batch empty.
class EvaluationStream {
 public:
  EvaluationStream(const TokenStore& store, int rows, int columns, LongSamples rule = LongSamples::Split)
      : store_(store), rows_(rows), columns_(columns), rule_(rule), cuts_(store.is_all_learned()) {}
  bool next(Batch& batch);  // false once all were shown
  std::uint64_t samples() const { return document_ + (start_ > 0 ? 1 : 0); }  // shown so far, some perhaps in part

 private:
  int fill_row(Batch& batch, int row);  // columns taken
  bool skip_unlearned();

  const TokenStore& store_;
  int rows_, columns_;
  LongSamples rule_;
  bool cuts_;
  std::uint64_t document_ = 0, start_ = 0;
};

// Parts that streams share.
void reset(Batch& batch, int rows, int columns);
void place(const TokenStore& store, std::uint64_t sequence, std::uint64_t start, std::uint64_t count, Batch& batch, int row, int column, int segment);
void pad_row(Batch& batch, int row, int column, int segment);

}  // namespace pgtrain::engine::data
