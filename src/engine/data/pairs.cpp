// Packing of pairs: the oldest that waits begins a batch, then whichever of a small window still finds two places.
#include "engine/data/pairs.hpp"

#include <algorithm>
#include <numeric>

#include "engine/core/error.hpp"

namespace pgtrain::engine::data {
namespace {

constexpr std::size_t kWindow = 64;

std::uint64_t usable(const SequenceFacts& facts, int columns) { return std::min<std::uint64_t>(facts.predictions, static_cast<std::uint64_t>(columns)); }

bool is_usable(const TokenStore& store, std::uint64_t pair, int columns) {
  for (const std::uint64_t sequence : {2 * pair, 2 * pair + 1}) {
    const SequenceFacts facts = store.facts(sequence);
    if (store.learned_between(facts, 0, usable(facts, columns)) == 0) return false;
  }
  return true;
}

[[noreturn]] void refuse(const SequenceFacts& facts, const std::string& reason, const std::string& hint) {
  throw core::Error("data_invalid", "sample " + std::to_string(facts.sample + 1) + ": " + reason, "", hint);
}

}  // namespace

Fit fit_pairs(const TokenStore& store, const PairOptions& options) {
  Fit fit;
  const std::uint64_t columns = static_cast<std::uint64_t>(options.columns);
  for (std::uint64_t pair = 0; pair < store.size() / 2; ++pair) {
    std::uint64_t together = 0, learned = 0;
    for (const std::uint64_t sequence : {2 * pair, 2 * pair + 1}) {
      const SequenceFacts facts = store.facts(sequence);
      const std::uint64_t kept = usable(facts, options.columns);
      if (facts.predictions > columns && options.long_samples != LongSamples::Truncate)
        refuse(facts, std::string(sequence % 2 == 0 ? "chosen" : "rejected") + " has " + std::to_string(facts.predictions + std::uint64_t{1}) +
                          " tokens with its prompt, more than the context of " + std::to_string(options.columns) + " holds",
               "Preferences are not split: choose a larger context, or long_samples => truncate.");
      fit.documents += kept < facts.predictions;
      fit.tokens += facts.predictions - kept;
      together += kept;
      learned += store.learned_between(facts, 0, kept);
    }
    if (options.rows == 1 && together > columns)
      refuse(store.facts(2 * pair), "chosen and rejected have " + std::to_string(together) + " tokens together, one row of " + std::to_string(options.columns) + " cannot hold them",
             "Choose batch_size => 2 or more, or a larger context.");
    if (is_usable(store, pair, options.columns)) fit.predictions += together, fit.learned += learned;
    else ++fit.unlearned;
  }
  if (store.size() > 0 && fit.learned == 0)
    throw core::Error("data_invalid", "within the context of " + std::to_string(options.columns) + " tokens no preference has both of its answers", "",
                      "The prompts fill it: choose a larger context.");
  return fit;
}

PairStream::PairStream(const TokenStore& store, const PairOptions& options) : store_(store), options_(options) { begin_epoch(); }

void PairStream::begin_epoch() {
  if (!options_.keeps_order) {
    order_ = epoch_order(store_.size() / 2, options_.seed, epoch_);
  } else if (order_.empty()) {
    order_.resize(store_.size() / 2);
    std::iota(order_.begin(), order_.end(), 0u);
  }
}

void PairStream::refill() {
  bool found = true;
  while (window_.size() < kWindow) {
    if (next_ == order_.size()) {
      if (!window_.empty() || (options_.epochs > 0 && epoch_ + 1 >= options_.epochs)) return;
      if (!found) throw core::Error("data_invalid", "no preference has both of its answers within the context", "", "Choose a larger context.");
      found = false;
      ++epoch_;
      next_ = 0;
      begin_epoch();
    }
    if (order_.empty()) return;
    const std::uint32_t pair = order_[next_++];
    if (!is_usable(store_, pair, options_.columns)) continue;
    window_.push_back(pair);
    found = true;
  }
}

// For each of the two the fullest row that holds it.
PairStream::Places PairStream::find_places(std::uint64_t pair, const std::vector<int>& taken) const {
  const auto fullest = [&](int wanted, int besides, int used) {
    int best = -1;
    for (int row = 0; row < options_.rows; ++row) {
      const int room = options_.columns - taken[static_cast<std::size_t>(row)] - (row == besides ? used : 0);
      if (room < wanted) continue;
      if (best < 0 || taken[static_cast<std::size_t>(row)] > taken[static_cast<std::size_t>(best)]) best = row;
    }
    return best;
  };
  const int chosen = static_cast<int>(usable(store_.facts(2 * pair), options_.columns));
  const int rejected = static_cast<int>(usable(store_.facts(2 * pair + 1), options_.columns));
  Places places;
  places.chosen = fullest(chosen, -1, 0);
  if (places.chosen >= 0) places.rejected = fullest(rejected, places.chosen, chosen);
  return places;
}

int PairStream::put(std::uint64_t sequence, int row, std::vector<int>& taken, std::vector<int>& segments, std::int32_t number, PairBatch* batch) const {
  const std::size_t at = static_cast<std::size_t>(row);
  const int count = static_cast<int>(usable(store_.facts(sequence), options_.columns));
  if (batch != nullptr) {
    place(store_, sequence, 0, static_cast<std::uint64_t>(count), *batch, row, taken[at], segments[at]);
    std::fill_n(batch->sequences.begin() + static_cast<std::ptrdiff_t>(row) * options_.columns + taken[at], count, number);
  }
  ++segments[at];
  return taken[at] += count;
}

bool PairStream::fill(PairBatch* batch) {
  std::vector<int> taken(static_cast<std::size_t>(options_.rows), 0), segments(taken);
  if (batch != nullptr) {
    reset(*batch, options_.rows, options_.columns);
    batch->sequences.assign(batch->inputs.size(), -1);
    batch->pairs.clear();
  }
  std::int32_t pairs = 0;
  while (true) {
    refill();
    Places places;
    std::size_t at = 0;
    for (; at < window_.size(); ++at) {
      places = find_places(window_[at], taken);
      if (places.chosen >= 0 && places.rejected >= 0) break;
    }
    if (at == window_.size()) break;
    const std::uint64_t pair = window_[at];
    put(2 * pair, places.chosen, taken, segments, 2 * pairs, batch);
    put(2 * pair + 1, places.rejected, taken, segments, 2 * pairs + 1, batch);
    if (batch != nullptr) batch->pairs.push_back(pair);
    ++pairs;
    window_.erase(window_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  if (pairs == 0 && !window_.empty()) refuse(store_.facts(2 * std::uint64_t{window_[0]}), "its chosen and rejected find no place in one batch", "Choose batch_size => 2 or more.");
  for (int row = 0; batch != nullptr && row < options_.rows; ++row) pad_row(*batch, row, taken[static_cast<std::size_t>(row)], segments[static_cast<std::size_t>(row)]);
  return pairs > 0;
}

std::vector<std::int64_t> PairStream::cursor() const {
  std::vector<std::int64_t> out = {static_cast<std::int64_t>(epoch_), static_cast<std::int64_t>(next_)};
  out.insert(out.end(), window_.begin(), window_.end());
  return out;
}

void PairStream::restore(const std::vector<std::int64_t>& cursor) {
  const auto refuse_cursor = [] {
    throw core::Error("model_invalid", "the checkpoint's place in the data does not fit these preferences", "",
                      "Resume with the dataset that the run was started with.");
  };
  if (cursor.size() < 2 || cursor.size() > 2 + kWindow || cursor[0] < 0 || cursor[1] < 0 || static_cast<std::uint64_t>(cursor[1]) > order_.size()) refuse_cursor();
  std::vector<std::uint32_t> window;
  for (std::size_t i = 2; i < cursor.size(); ++i) {
    const bool is_pair = cursor[i] >= 0 && static_cast<std::uint64_t>(cursor[i]) < order_.size();
    if (!is_pair || !is_usable(store_, static_cast<std::uint64_t>(cursor[i]), options_.columns)) refuse_cursor();
    window.push_back(static_cast<std::uint32_t>(cursor[i]));
  }
  epoch_ = static_cast<std::uint64_t>(cursor[0]);
  next_ = static_cast<std::uint64_t>(cursor[1]);
  begin_epoch();
  window_ = std::move(window);
}

std::uint64_t count_batches(const TokenStore& store, const PairOptions& options) {
  PairStream stream(store, options);
  std::uint64_t batches = 0;
  while (stream.skip()) ++batches;
  return batches;
}

}  // namespace pgtrain::engine::data
