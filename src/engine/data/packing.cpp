// Packing. The window is small and the order of choice fixed, so a cursor of a few numbers restores the stream exactly.
#include "engine/data/packing.hpp"

#include <algorithm>
#include <numeric>

#include "engine/core/error.hpp"
#include "engine/data/streams.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kWindow = 64;

std::uint64_t usable_of(const SequenceFacts& facts, int columns, LongSamples rule) {
  return rule == LongSamples::Split ? facts.predictions : std::min<std::uint64_t>(facts.predictions, static_cast<std::uint64_t>(columns));
}

}  // namespace

LongSamples parse_long_samples(const std::string& text) {
  if (text == "error") return LongSamples::Error;
  if (text == "split") return LongSamples::Split;
  if (text == "truncate") return LongSamples::Truncate;
  throw core::Error("config_invalid", "long_samples: \"" + text + "\" is not known", "", "Use error, split or truncate.");
}

void reset(Batch& batch, int rows, int columns) {
  const std::size_t cells = static_cast<std::size_t>(rows) * columns;
  batch.rows = rows, batch.columns = columns;
  batch.inputs.assign(cells, 0);
  batch.targets.assign(cells, -1);
  batch.positions.assign(cells, 0);
  batch.segments.assign(cells, 0);
  batch.predictions = batch.tokens = 0;
}

void place(const TokenStore& store, std::uint64_t sequence, std::uint64_t start, std::uint64_t count, Batch& batch, int row, int column, int segment) {
  const std::size_t at = static_cast<std::size_t>(row) * batch.columns + column;
  batch.predictions += store.copy(sequence, start, count, batch.inputs.data() + at, batch.targets.data() + at);
  for (std::uint64_t i = 0; i < count; ++i) {
    batch.positions[at + i] = static_cast<std::int32_t>(i);
    batch.segments[at + i] = segment;
  }
  batch.tokens += count;
}

// Empty cells form a segment of their own, which nothing is predicted from.
void pad_row(Batch& batch, int row, int column, int segment) {
  for (int i = column; i < batch.columns; ++i) {
    const std::size_t at = static_cast<std::size_t>(row) * batch.columns + i;
    batch.positions[at] = i - column;
    batch.segments[at] = segment;
  }
}

Fit fit_samples(const TokenStore& store, int columns, LongSamples rule) {
  Fit fit;
  for (std::size_t i = 0; i < store.size(); ++i) {
    const SequenceFacts facts = store.facts(i);
    if (rule == LongSamples::Error && facts.predictions > static_cast<std::uint64_t>(columns))
      throw core::Error("data_invalid", "sample " + std::to_string(facts.sample + 1) + " has " + std::to_string(facts.predictions + std::uint64_t{1}) +
                                            " tokens, its marks included, more than the context of " + std::to_string(columns) + " holds",
                        "", "Choose a larger context, or long_samples => split or truncate.");
    const std::uint64_t usable = usable_of(facts, columns, rule);
    fit.documents += usable < facts.predictions;
    fit.tokens += facts.predictions - usable;
    const std::uint64_t learned = store.learned_between(facts, 0, usable);
    fit.unlearned += learned == 0;
    fit.learned += learned;
    for (std::uint64_t start = 0; start < usable; start += static_cast<std::uint64_t>(columns)) {
      const std::uint64_t count = std::min<std::uint64_t>(static_cast<std::uint64_t>(columns), usable - start);
      if (store.learned_between(facts, start, count) > 0) fit.predictions += count;
    }
  }
  if (store.size() > 0 && fit.learned == 0)
    throw core::Error("data_invalid", "within the context of " + std::to_string(columns) + " tokens no sample has anything to learn", "",
                      "The answers lie behind it: choose a larger context, or long_samples => split.");
  return fit;
}

std::vector<std::uint32_t> epoch_order(std::size_t documents, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::uint32_t> order(documents);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t left = documents; left > 1; --left) std::swap(order[left - 1], order[draw_below(seed, Stream::Order, epoch, left, left)]);
  return order;
}

TrainingStream::TrainingStream(const TokenStore& store, const StreamOptions& options) : store_(store), options_(options), cuts_(store.is_all_learned()) {
  begin_epoch();
}

std::uint64_t TrainingStream::usable(std::uint64_t document) const {
  return usable_of(store_.facts(document), options_.columns, options_.long_samples);
}

void TrainingStream::begin_epoch() { order_ = epoch_order(store_.size(), options_.seed, epoch_); }

void TrainingStream::refill() {
  bool found = true;
  while (window_.size() < kWindow) {
    if (next_ == order_.size()) {
      // A window that reached over several epochs would see a small document many times in one row for nothing.
      if (!window_.empty() || (options_.epochs > 0 && epoch_ + 1 >= options_.epochs)) return;
      if (!found) throw core::Error("data_invalid", "no sample has anything to learn", "", "Look at the dataset's answers.");
      found = false;
      ++epoch_;
      next_ = 0;
      begin_epoch();
    }
    if (order_.empty()) return;
    const std::uint32_t document = order_[next_];
    const SequenceFacts facts = store_.facts(document);
    const std::uint64_t usable = usable_of(facts, options_.columns, options_.long_samples);
    const std::uint64_t count = std::min<std::uint64_t>(static_cast<std::uint64_t>(options_.columns), usable - next_start_);
    if (store_.learned_between(facts, next_start_, count) > 0) {
      window_.push_back({document, next_start_, count});
      found = true;
    }
    next_start_ += count;
    if (next_start_ == usable) {
      ++next_;
      next_start_ = 0;
    }
  }
}

// Index in the window; its size when none is to be taken.
std::size_t TrainingStream::choose(std::uint64_t room, bool is_first) const {
  // The oldest begins a row, so none waits forever.
  if (is_first) return 0;
  std::size_t chosen = window_.size();
  for (std::size_t i = 0; i < window_.size(); ++i) {
    if (window_[i].count > room) continue;
    if (cuts_) return i;
    if (chosen == window_.size() || window_[i].count > window_[chosen].count) chosen = i;
  }
  return cuts_ ? 0 : chosen;
}

bool TrainingStream::fill_row(Batch* batch, int row) {
  int column = 0, segment = 0;
  while (column < options_.columns) {
    refill();
    const std::uint64_t room = static_cast<std::uint64_t>(options_.columns - column);
    const std::size_t at = window_.empty() ? 0 : choose(room, column == 0);
    if (at == window_.size()) break;
    Piece& chosen = window_[at];
    const std::uint64_t count = std::min(room, chosen.count);
    if (batch != nullptr) place(store_, chosen.document, chosen.start, count, *batch, row, column, segment);
    ++segment;
    column += static_cast<int>(count);
    if (count == chosen.count) {
      window_.erase(window_.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      chosen.start += count;
      chosen.count -= count;
    }
  }
  if (batch != nullptr) pad_row(*batch, row, column, segment);
  return column > 0;
}

bool TrainingStream::fill(Batch* batch) {
  if (batch != nullptr) reset(*batch, options_.rows, options_.columns);
  bool has_tokens = false;
  for (int row = 0; row < options_.rows; ++row) has_tokens |= fill_row(batch, row);
  return has_tokens;
}

std::vector<std::int64_t> TrainingStream::cursor() const {
  std::vector<std::int64_t> out = {static_cast<std::int64_t>(epoch_), static_cast<std::int64_t>(next_), static_cast<std::int64_t>(next_start_)};
  for (const Piece& piece : window_)
    out.insert(out.end(), {static_cast<std::int64_t>(piece.document), static_cast<std::int64_t>(piece.start), static_cast<std::int64_t>(piece.count)});
  return out;
}

void TrainingStream::restore(const std::vector<std::int64_t>& cursor) {
  const auto refuse = [] {
    throw core::Error("model_invalid", "the checkpoint's place in the data does not fit these documents", "",
                      "Resume with the dataset that the run was started with.");
  };
  if (cursor.size() < 3 || cursor.size() % 3 != 0 || cursor[0] < 0 || cursor[1] < 0 || cursor[2] < 0) refuse();
  const std::vector<std::uint32_t> order = epoch_order(store_.size(), options_.seed, static_cast<std::uint64_t>(cursor[0]));
  const std::uint64_t next = static_cast<std::uint64_t>(cursor[1]), next_start = static_cast<std::uint64_t>(cursor[2]);
  if (next > order.size() || (next == order.size() ? next_start != 0 : next_start >= usable(order[next]))) refuse();
  std::vector<Piece> window;
  for (std::size_t i = 3; i < cursor.size(); i += 3) {
    const Piece piece{static_cast<std::uint64_t>(cursor[i]), static_cast<std::uint64_t>(cursor[i + 1]), static_cast<std::uint64_t>(cursor[i + 2])};
    if (cursor[i] < 0 || piece.document >= store_.size()) refuse();
    const std::uint64_t most = usable(piece.document);
    if (piece.start >= most || piece.count == 0 || piece.count > most - piece.start || piece.count > static_cast<std::uint64_t>(options_.columns)) refuse();
    window.push_back(piece);
  }
  epoch_ = static_cast<std::uint64_t>(cursor[0]);
  next_ = next;
  next_start_ = next_start;
  order_ = order;
  window_ = std::move(window);
}

std::uint64_t count_batches(const TokenStore& store, const StreamOptions& options) {
  TrainingStream stream(store, options);
  std::uint64_t batches = 0;
  while (stream.skip()) ++batches;
  return batches;
}

// Moves on to the next piece that has something to learn; false at the end.
bool EvaluationStream::skip_unlearned() {
  while (document_ < store_.size()) {
    const SequenceFacts facts = store_.facts(document_);
    const std::uint64_t usable = usable_of(facts, columns_, rule_);
    if (start_ < usable) {
      const std::uint64_t count = std::min<std::uint64_t>(static_cast<std::uint64_t>(columns_), usable - start_);
      if (store_.learned_between(facts, start_, count) > 0) return true;
      start_ += count;
    } else {
      ++document_;
      start_ = 0;
    }
  }
  return false;
}

int EvaluationStream::fill_row(Batch& batch, int row) {
  int column = 0, segment = 0;
  while (column < columns_ && skip_unlearned()) {
    const std::uint64_t room = static_cast<std::uint64_t>(columns_ - column);
    const std::uint64_t left = usable_of(store_.facts(document_), columns_, rule_) - start_;
    const std::uint64_t whole = std::min<std::uint64_t>(left, static_cast<std::uint64_t>(columns_));
    if (!cuts_ && whole > room) break;
    const std::uint64_t count = std::min(room, left);
    place(store_, document_, start_, count, batch, row, column, segment++);
    column += static_cast<int>(count);
    start_ += count;
  }
  pad_row(batch, row, column, segment);
  return column;
}

bool EvaluationStream::next(Batch& batch) {
  reset(batch, rows_, columns_);
  for (int row = 0; row < rows_; ++row) fill_row(batch, row);
  return batch.tokens > 0;
}

}  // namespace pgtrain::engine::data
