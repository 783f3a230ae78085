// The ranges are laid out once as blocks of 256 code points; equal blocks are kept once (about 60 KB in all).
#include "engine/tokenizers/char_class.hpp"

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "engine/tokenizers/unicode_classes.hpp"

namespace pgtrain::engine::tokenizers {
namespace {

constexpr std::size_t kBlock = 256, kBlocks = 0x110000 / kBlock;

struct Table {
  std::array<std::uint16_t, kBlocks> block_of{};
  std::vector<unsigned char> blocks;

  Table() {
    std::vector<unsigned char> all(0x110000, 0);
    for (const ClassRange& range : kClassRanges)
      for (char32_t point = range.first; point <= range.last; ++point) all[point] = range.bits;
    std::map<std::vector<unsigned char>, std::uint16_t> known;
    for (std::size_t i = 0; i < kBlocks; ++i) {
      const std::vector<unsigned char> block(all.begin() + static_cast<std::ptrdiff_t>(i * kBlock),
                                             all.begin() + static_cast<std::ptrdiff_t>((i + 1) * kBlock));
      const auto [found, is_new] = known.emplace(block, static_cast<std::uint16_t>(known.size()));
      if (is_new) blocks.insert(blocks.end(), block.begin(), block.end());
      block_of[i] = found->second;
    }
  }
};

constexpr std::array<unsigned char, 128> make_ascii() {
  std::array<unsigned char, 128> out{};
  for (const ClassRange& range : kClassRanges)
    for (char32_t point = range.first; point <= range.last && point < 128; ++point) out[point] = range.bits;
  return out;
}

constexpr std::array<unsigned char, 128> kAscii = make_ascii();

}  // namespace

const unsigned char* const kAsciiClasses = kAscii.data();

unsigned char class_of(char32_t point) {
  static const Table table;
  if (point >= 0x110000) return 0;
  return table.blocks[table.block_of[point / kBlock] * kBlock + point % kBlock];
}

}  // namespace pgtrain::engine::tokenizers
