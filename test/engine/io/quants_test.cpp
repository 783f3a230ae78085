// Block formats against the reference implementation: digests of what it reads and writes (test/fixtures/make_block_digests.py),
// and error bounds where it has no answer.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/core/dtype.hpp"
#include "engine/core/sha256.hpp"
#include "engine/io/quants.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::io {
namespace {

constexpr std::uint64_t kBlocks = 4096;

// splitmix64, as in make_block_digests.py.
std::vector<std::uint64_t> words(std::uint64_t seed, std::size_t count) {
  std::vector<std::uint64_t> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t state = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    out[i] = state ^ (state >> 31);
  }
  return out;
}

std::vector<float> floats(std::uint64_t seed, std::size_t count) {
  const auto raw = words(seed, count), group = words(seed + 1, count / 256);
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t exponent = 127 - 60 + group[i / 256] % 72 + (raw[i] >> 32) % 4;
    out[i] = std::bit_cast<float>(static_cast<std::uint32_t>((raw[i] & 0x807FFFFF) | exponent << 23));
  }
  return out;
}

std::string digest(const void* data, std::size_t bytes) { return core::sha256_hex({static_cast<const char*>(data), bytes}).substr(0, 16); }

std::string digest_of_reading(BlockType type) {
  const BlockFormat& format = block_format(type);
  const auto raw = words(static_cast<std::uint64_t>(type), kBlocks * format.bytes / 8);
  std::vector<float> values(kBlocks * format.elements);
  dequantize(type, raw.data(), values.size(), values.data());
  for (float& value : values)
    if (std::isnan(value)) value = std::bit_cast<float>(0x7FC00000u);
  return digest(values.data(), 4 * values.size());
}

std::string digest_of_writing(BlockType type) {
  const BlockFormat& format = block_format(type);
  const auto values = floats(1000 + static_cast<std::uint64_t>(type), kBlocks * 32);
  std::vector<unsigned char> blocks(values.size() / format.elements * format.bytes);
  quantize(type, values.data(), values.size(), blocks.data());
  return digest(blocks.data(), blocks.size());
}

TEST(Quants, ReadsTheBitsOfTheReference) {
#define READ(name, expected) EXPECT_EQ(digest_of_reading(BlockType::name), expected) << #name;
#define WRITTEN(name, expected)
#include "../../fixtures/block_digests.inc"
#undef READ
#undef WRITTEN
}

TEST(Quants, WritesTheBitsOfTheReference) {
#define READ(name, expected)
#define WRITTEN(name, expected) EXPECT_EQ(digest_of_writing(BlockType::name), expected) << #name;
#include "../../fixtures/block_digests.inc"
#undef READ
#undef WRITTEN
}

TEST(Quants, HalvesRoundToNearestEven) {
  for (std::uint32_t half = 0; half < 0x10000; ++half) {
    const float value = core::half_to_float(static_cast<std::uint16_t>(half));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(core::half_to_float(core::float_to_half(value))));
      continue;
    }
    EXPECT_EQ(core::float_to_half(value), half);
    if ((half & 0x7FFFu) >= 0x7BFFu) continue;
    // Between this half and the next larger in magnitude: the middle goes to the even one, its neighbours to the nearer.
    const float next = core::half_to_float(static_cast<std::uint16_t>(half + 1)), middle = value + (next - value) / 2;
    EXPECT_EQ(core::float_to_half(middle), half % 2 == 0 ? half : half + 1);
    EXPECT_EQ(core::float_to_half(std::nextafter(middle, value)), half);
    EXPECT_EQ(core::float_to_half(std::nextafter(middle, next)), half + 1);
  }
  EXPECT_EQ(core::float_to_half(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(core::float_to_half(-65520.0f), 0xFC00);
  EXPECT_EQ(core::float_to_half(0x1p-25f), 0);
}

TEST(Quants, SaysWhenAValueDoesNotFit) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<unsigned char> out(1024);
  for (const BlockType type : {BlockType::F16, BlockType::BF16, BlockType::Q8_0, BlockType::Q4_K}) {
    std::vector<float> values(256, 0.5f);
    EXPECT_TRUE(quantize(type, values.data(), values.size(), out.data())) << block_format(type).name;
    values[200] = std::numeric_limits<float>::max();
    EXPECT_FALSE(quantize(type, values.data(), values.size(), out.data())) << block_format(type).name;
    const bool holds_infinity = type == BlockType::F16 || type == BlockType::BF16;
    for (const float value : {infinity, -infinity, std::nanf("")}) {
      values[200] = value;
      EXPECT_EQ(quantize(type, values.data(), values.size(), out.data()), holds_infinity) << block_format(type).name << " " << value;
    }
  }
}

double relative_error(BlockType type, const std::vector<float>& values) {
  const BlockFormat& format = block_format(type);
  std::vector<unsigned char> blocks(values.size() / format.elements * format.bytes);
  EXPECT_TRUE(quantize(type, values.data(), values.size(), blocks.data()));
  std::vector<float> back(values.size());
  dequantize(type, blocks.data(), back.size(), back.data());
  double miss = 0, size = 0;
  for (std::size_t i = 0; i < values.size(); ++i) miss += std::pow(double{back[i]} - values[i], 2), size += std::pow(double{values[i]}, 2);
  return std::sqrt(miss / size);
}

// The bound of Q4_K lies between what this search reaches on normal weights, 0.0701, and what llama.cpp's does, 0.0712.
TEST(Quants, FourBitBlocksStayNearNormalWeights) {
  std::mt19937 random(test::seed());
  for (const double deviation : {2e-3, 0.02, 1.0, 300.0}) {
    std::vector<float> values(256 * 512);
    for (float& value : values) value = static_cast<float>(std::normal_distribution<double>(0, deviation)(random));
    EXPECT_LT(relative_error(BlockType::Q4_K, values), 0.0708) << deviation;
    EXPECT_LT(relative_error(BlockType::Q8_0, values), 0.0065) << deviation;
  }
}

TEST(Quants, FourBitBlocksKeepWhatTheyCanHold) {
  // What was read from a block of this type is written again almost without loss, whatever the block.
  std::mt19937 random(test::seed());
  std::vector<unsigned char> blocks(144 * 64);
  for (unsigned char& byte : blocks) byte = static_cast<unsigned char>(random());
  for (std::size_t block = 0; block < 64; ++block) {
    const std::uint16_t d = core::float_to_half(0.001f + 0.0001f * static_cast<float>(random() % 50)), dmin = core::float_to_half(0.002f);
    std::memcpy(&blocks[144 * block], &d, 2);
    std::memcpy(&blocks[144 * block + 2], &dmin, 2);
  }
  std::vector<float> values(256 * 64);
  dequantize(BlockType::Q4_K, blocks.data(), values.size(), values.data());
  EXPECT_LT(relative_error(BlockType::Q4_K, values), 0.012);
  // Pieces of one value, of zeros, of one large value among small ones; all negative and all positive.
  const std::vector<float> zeros(256, 0.0f);
  EXPECT_TRUE(quantize(BlockType::Q4_K, zeros.data(), 256, blocks.data()));
  std::vector<float> back(256, 1.0f);
  dequantize(BlockType::Q4_K, blocks.data(), 256, back.data());
  EXPECT_EQ(back, zeros);
  for (const float constant : {0.25f, -0.25f, 1e-3f, 1e4f}) EXPECT_LT(relative_error(BlockType::Q4_K, std::vector<float>(256, constant)), 0.01) << constant;
  std::vector<float> spike(256, 0.001f);
  spike[77] = -5.0f;
  EXPECT_LT(relative_error(BlockType::Q4_K, spike), 0.02);
}

TEST(Quants, NamesTypes) {
  EXPECT_EQ(block_type_name(17), "IQ2_XS");
  EXPECT_EQ(block_type_name(99), "type 99");
  EXPECT_EQ(find_block_format(17), nullptr);
  EXPECT_STREQ(find_block_format(14)->name, "Q6_K");
  EXPECT_NE(supported_block_types().find("Q4_K"), std::string::npos);
}

}  // namespace
}  // namespace pgtrain::engine::io
