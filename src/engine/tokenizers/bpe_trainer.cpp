// Counts distinct pieces once, then merges pair after pair, touching only the pieces that hold the pair.
#include "engine/tokenizers/bpe_trainer.hpp"

#include <algorithm>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "engine/tokenizers/pretokenizer.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kLongestPiece = 256;
constexpr int kFirstMergeId = 257;

using Id = Tokenizer::Id;

struct Word {
  std::vector<Id> symbols;
  std::int64_t count = 0;
};

std::uint64_t pair_key(Id left, Id right) { return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right); }

class BpeTrainer {
 public:
  explicit BpeTrainer(const BpeTrainingOptions& options) : options_(options) {}

  Tokenizer train(const std::vector<std::string_view>& documents) {
    count_words(documents);
    for (std::uint32_t i = 0; i < words_.size(); ++i) {
      for (std::size_t at = 0; at + 1 < words_[i].symbols.size(); ++at) add_pair(i, words_[i].symbols[at], words_[i].symbols[at + 1]);
      if (i % 4096 == 0) keep_alive();
    }
    for (const auto& [pair, entry] : pairs_) heap_.push({entry.count, pair});
    std::vector<Tokenizer::Merge> merges;
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    tokens.emplace_back(kEndOfText);
    std::unordered_set<std::string> known(tokens.begin(), tokens.end());
    while (kFirstMergeId + static_cast<int>(merges.size()) < options_.vocab_size) {
      std::uint64_t best = 0;
      if (!take_best(best)) break;
      const Tokenizer::Merge merge{static_cast<Id>(best >> 32), static_cast<Id>(best & 0xFFFFFFFF)};
      // Two ways to one spelling would be two tokens of one name; the later way is left alone.
      std::string made = tokens[merge.left] + tokens[merge.right];
      if (!known.insert(made).second) continue;
      tokens.push_back(std::move(made));
      merge_everywhere(merge, kFirstMergeId + static_cast<Id>(merges.size()));
      merges.push_back(merge);
      keep_alive();
    }
    return Tokenizer::from_merges(merges);
  }

 private:
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::uint32_t> words;  // may name a word that has lost the pair since
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : pair > other.pair; }
  };

  void keep_alive() const {
    if (options_.keep_alive) options_.keep_alive();
  }

  void count_words(const std::vector<std::string_view>& documents) {
    std::size_t total = 0;
    for (const std::string_view document : documents) total += document.size();
    const std::size_t stride = total / options_.max_text_bytes + 1;
    std::unordered_map<std::string, std::int64_t> counts;
    std::size_t taken = 0;
    for (std::size_t i = 0; i < documents.size() && taken < options_.max_text_bytes; i += stride) {
      const std::string_view text = documents[i].substr(0, options_.max_text_bytes - taken);
      taken += text.size();
      std::size_t pieces = 0;
      for_each_piece(text, [&](std::string_view piece) {
        for (std::size_t at = 0; at < piece.size(); at += kLongestPiece) ++counts[std::string(piece.substr(at, kLongestPiece))];
        if (++pieces % 65536 == 0) keep_alive();
      });
      keep_alive();
    }
    for (const auto& [text, count] : counts) {
      if (text.size() < 2) continue;
      Word word;
      for (const char c : text) word.symbols.push_back(static_cast<unsigned char>(c));
      word.count = count;
      words_.push_back(std::move(word));
    }
    // Not needed for the result, which is a sum over words, but it keeps memory access and time alike between runs.
    std::sort(words_.begin(), words_.end(), [](const Word& a, const Word& b) { return a.symbols < b.symbols; });
  }

  void add_pair(std::uint32_t word, Id left, Id right) {
    Pair& pair = pairs_[pair_key(left, right)];
    pair.count += words_[word].count;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
  }

  void remove_pair(std::uint32_t word, Id left, Id right) { pairs_[pair_key(left, right)].count -= words_[word].count; }

  // Counts only fall between a push and its pop, or the pair was pushed again with the higher one.
  bool take_best(std::uint64_t& best) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(top.pair);
      if (found == pairs_.end() || found->second.count < 2) continue;
      if (found->second.count != top.count) {
        if (found->second.count < top.count) heap_.push({found->second.count, top.pair});
        continue;
      }
      best = top.pair;
      return true;
    }
    return false;
  }

  void merge_everywhere(const Tokenizer::Merge& merge, Id made) {
    const std::vector<std::uint32_t> holders = std::move(pairs_[pair_key(merge.left, merge.right)].words);
    std::vector<std::uint64_t> grown;
    for (const std::uint32_t index : holders) {
      std::vector<Id>& symbols = words_[index].symbols;
      for (std::size_t at = 0; at + 1 < symbols.size(); ++at) {
        if (symbols[at] != merge.left || symbols[at + 1] != merge.right) continue;
        if (at > 0) {
          remove_pair(index, symbols[at - 1], merge.left);
          add_pair(index, symbols[at - 1], made);
          grown.push_back(pair_key(symbols[at - 1], made));
        }
        if (at + 2 < symbols.size()) {
          remove_pair(index, merge.right, symbols[at + 2]);
          add_pair(index, made, symbols[at + 2]);
          grown.push_back(pair_key(made, symbols[at + 2]));
        }
        symbols[at] = made;
        symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
      }
    }
    pairs_.erase(pair_key(merge.left, merge.right));
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const std::uint64_t pair : grown)
      if (const auto found = pairs_.find(pair); found != pairs_.end() && found->second.count > 0) heap_.push({found->second.count, pair});
  }

  const BpeTrainingOptions& options_;
  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

Tokenizer train_bpe(const std::vector<std::string_view>& documents, const BpeTrainingOptions& options) { return BpeTrainer(options).train(documents); }

}  // namespace pgtrain::engine::tokenizers
