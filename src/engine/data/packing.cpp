// Packing. The window is small and the order of choice fixed, so a cursor of a few numbers restores the stream exactly.
#include "engine/data/packing.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "engine/core/error.hpp"
#include "engine/data/streams.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kWindow = 64;

void reset(Batch& batch, int rows, int columns) {
  const std::size_t cells = static_cast<std::size_t>(rows) * columns;
  batch.rows = rows, batch.columns = columns;
  batch.inputs.assign(cells, 0);
  batch.targets.assign(cells, -1);
  batch.positions.assign(cells, 0);
  batch.segments.assign(cells, 0);
  batch.predictions = 0;
}

void place(const TokenStore& store, const Piece& piece, std::uint64_t count, Batch& batch, int row, int column, int segment) {
  const std::size_t at = static_cast<std::size_t>(row) * batch.columns + column;
  store.copy(piece.document, piece.start, count, batch.inputs.data() + at, batch.targets.data() + at);
  for (std::uint64_t i = 0; i < count; ++i) {
    batch.positions[at + i] = static_cast<std::int32_t>(i);
    batch.segments[at + i] = segment;
  }
  batch.predictions += count;
}

// Empty cells form a segment of their own, which nothing is predicted from.
void pad_row(Batch& batch, int row, int column, int segment) {
  for (int i = column; i < batch.columns; ++i) {
    const std::size_t at = static_cast<std::size_t>(row) * batch.columns + i;
    batch.positions[at] = i - column;
    batch.segments[at] = segment;
  }
}

}  // namespace

LongSamples parse_long_samples(const std::string& text) {
  if (text == "error") return LongSamples::Error;
  if (text == "split") return LongSamples::Split;
  if (text == "truncate") return LongSamples::Truncate;
  throw core::Error("config_invalid", "long_samples: \"" + text + "\" is not known", "", "Use error, split or truncate.");
}

std::vector<std::uint64_t> usable_predictions(const TokenStore& store, int columns, LongSamples rule, Truncation& truncation) {
  std::vector<std::uint64_t> usable(store.size());
  const std::uint64_t most = static_cast<std::uint64_t>(columns);
  for (std::size_t i = 0; i < store.size(); ++i) {
    usable[i] = store.predictions(i);
    if (usable[i] <= most || rule == LongSamples::Split) continue;
    if (rule == LongSamples::Error)
      throw core::Error("data_invalid", "a sample has " + std::to_string(store.tokens(i)) + " tokens, with its end mark more than the context of " +
                                            std::to_string(columns) + " holds", "",
                        "Choose a larger context, or long_samples => split or truncate.");
    ++truncation.documents;
    truncation.tokens += usable[i] - most;
    usable[i] = most;
  }
  return usable;
}

std::vector<std::uint32_t> epoch_order(std::size_t documents, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::uint32_t> order(documents);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t left = documents; left > 1; --left) std::swap(order[left - 1], order[draw_below(seed, Stream::Order, epoch, left, left)]);
  return order;
}

TrainingStream::TrainingStream(const TokenStore& store, std::vector<std::uint64_t> usable, int rows, int columns, std::uint64_t seed)
    : store_(store), usable_(std::move(usable)), rows_(rows), columns_(columns), seed_(seed) {
  begin_epoch();
}

void TrainingStream::begin_epoch() { order_ = epoch_order(usable_.size(), seed_, epoch_); }

void TrainingStream::refill() {
  while (window_.size() < kWindow) {
    if (next_ == order_.size()) {
      // A window that reached over several epochs would see a small document many times in one row for nothing.
      if (!window_.empty()) return;
      ++epoch_;
      next_ = 0;
      begin_epoch();
    }
    const std::uint32_t document = order_[next_];
    const std::uint64_t count = std::min<std::uint64_t>(columns_, usable_[document] - next_start_);
    window_.push_back({document, next_start_, count});
    next_start_ += count;
    if (next_start_ == usable_[document]) {
      ++next_;
      next_start_ = 0;
    }
  }
}

void TrainingStream::fill_row(Batch& batch, int row) {
  int column = 0, segment = 0;
  while (column < columns_) {
    refill();
    const std::uint64_t room = static_cast<std::uint64_t>(columns_ - column);
    auto chosen = std::find_if(window_.begin(), window_.end(), [&](const Piece& piece) { return piece.count <= room; });
    if (chosen == window_.end()) chosen = window_.begin();
    const std::uint64_t count = std::min(room, chosen->count);
    place(store_, *chosen, count, batch, row, column, segment++);
    column += static_cast<int>(count);
    if (count == chosen->count) {
      window_.erase(chosen);
    } else {
      chosen->start += count;
      chosen->count -= count;
    }
  }
}

void TrainingStream::next(Batch& batch) {
  reset(batch, rows_, columns_);
  for (int row = 0; row < rows_; ++row) fill_row(batch, row);
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
  const std::vector<std::uint32_t> order = epoch_order(usable_.size(), seed_, static_cast<std::uint64_t>(cursor[0]));
  const std::uint64_t next = static_cast<std::uint64_t>(cursor[1]), next_start = static_cast<std::uint64_t>(cursor[2]);
  if (next > order.size() || (next == order.size() ? next_start != 0 : next_start >= usable_[order[next]])) refuse();
  std::vector<Piece> window;
  for (std::size_t i = 3; i < cursor.size(); i += 3) {
    const Piece piece{static_cast<std::uint64_t>(cursor[i]), static_cast<std::uint64_t>(cursor[i + 1]), static_cast<std::uint64_t>(cursor[i + 2])};
    if (cursor[i] < 0 || piece.document >= usable_.size()) refuse();
    const std::uint64_t most = usable_[piece.document];
    if (piece.start >= most || piece.count == 0 || piece.count > most - piece.start || piece.count > static_cast<std::uint64_t>(columns_)) refuse();
    window.push_back(piece);
  }
  epoch_ = static_cast<std::uint64_t>(cursor[0]);
  next_ = next;
  next_start_ = next_start;
  order_ = order;
  window_ = std::move(window);
}

std::vector<Batch> evaluation_batches(const TokenStore& store, int rows, int columns, int most) {
  std::vector<Batch> batches;
  int row = rows, column = columns, segment = 0;
  for (std::size_t document = 0; document < store.size(); ++document) {
    const std::uint64_t total = store.predictions(document);
    for (std::uint64_t start = 0; start < total;) {
      if (column == columns) {
        if (++row >= rows) {
          if (static_cast<int>(batches.size()) == most) return batches;
          reset(batches.emplace_back(), rows, columns);
          row = 0;
        }
        column = segment = 0;
      }
      const std::uint64_t count = std::min<std::uint64_t>(columns - column, total - start);
      place(store, {document, start, count}, count, batches.back(), row, column, segment++);
      column += static_cast<int>(count);
      start += count;
    }
  }
  if (batches.empty()) return batches;
  pad_row(batches.back(), row, column, segment);
  while (++row < rows) pad_row(batches.back(), row, 0, 0);
  return batches;
}

}  // namespace pgtrain::engine::data
