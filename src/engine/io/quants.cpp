// Block formats: sizes, names, every dequantisation, and the quantisations that need no search.
//
// This file is compiled without contraction of a * b + c (CMakeLists.txt): the reference rounds twice. Loops run over the
// pieces of a block that share a scale, so that they become vector instructions.
#include "engine/io/quants.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "engine/core/dtype.hpp"
#include "engine/io/quantize_q4_k.hpp"

namespace pgtrain::engine::io {
namespace {

using Byte = unsigned char;

constexpr BlockFormat kFormats[] = {
    {BlockType::F32, "F32", 1, 4, true},       {BlockType::F16, "F16", 1, 2, true},       {BlockType::BF16, "BF16", 1, 2, true},
    {BlockType::Q8_0, "Q8_0", 32, 34, true},   {BlockType::Q4_0, "Q4_0", 32, 18, false},  {BlockType::Q4_1, "Q4_1", 32, 20, false},
    {BlockType::Q5_0, "Q5_0", 32, 22, false},  {BlockType::Q5_1, "Q5_1", 32, 24, false},  {BlockType::Q2_K, "Q2_K", 256, 84, false},
    {BlockType::Q3_K, "Q3_K", 256, 110, false}, {BlockType::Q4_K, "Q4_K", 256, 144, true}, {BlockType::Q5_K, "Q5_K", 256, 176, false},
    {BlockType::Q6_K, "Q6_K", 256, 210, false}};

struct OtherType {
  std::uint32_t type;
  const char* name;
};
constexpr OtherType kOthers[] = {{4, "Q4_2"},     {5, "Q4_3"},     {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
                                 {18, "IQ3_XXS"}, {19, "IQ1_S"},   {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
                                 {24, "I8"},      {25, "I16"},     {26, "I32"},   {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
                                 {34, "TQ1_0"},   {35, "TQ2_0"},   {39, "MXFP4"}};

float half_at(const Byte* at) {
  std::uint16_t bits;
  std::memcpy(&bits, at, 2);
  return core::half_to_float(bits);
}

std::uint32_t word_at(const Byte* at) {
  std::uint32_t bits;
  std::memcpy(&bits, at, 4);
  return bits;
}

void read_f16(const Byte* in, float* out) { *out = half_at(in); }
void read_bf16(const Byte* in, float* out) {
  core::Bf16 value;
  std::memcpy(&value.bits, in, 2);
  *out = core::to_float(value);
}

void read_q8_0(const Byte* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<signed char>(in[2 + i])) * d;
}

void read_q4_0(const Byte* in, float* out) {
  const float d = half_at(in);
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>((in[2 + i] & 15) - 8);
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>((in[2 + i] >> 4) - 8);
}

void read_q4_1(const Byte* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(in[4 + i] & 15) + m;
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(in[4 + i] >> 4) + m;
}

// The fifth bits of all 32 elements lie together in one word.
int fifth_bit(std::uint32_t high, int i) { return static_cast<int>(high >> i & 1) << 4; }

void read_q5_0(const Byte* in, float* out) {
  const float d = half_at(in);
  const std::uint32_t high = word_at(in + 2);
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(((in[6 + i] & 15) | fifth_bit(high, i)) - 16);
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(((in[6 + i] >> 4) | fifth_bit(high, 16 + i)) - 16);
}

void read_q5_1(const Byte* in, float* out) {
  const float d = half_at(in), m = half_at(in + 2);
  const std::uint32_t high = word_at(in + 4);
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>((in[8 + i] & 15) | fifth_bit(high, i)) + m;
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>((in[8 + i] >> 4) | fifth_bit(high, 16 + i)) + m;
}

// In Q2_K and Q3_K each half of the block has 32 bytes, which hold four elements each, 32 apart.
void read_q2_k(const Byte* in, float* out) {
  const Byte *scales = in, *quants = in + 16;
  const float d = half_at(in + 80), dmin = half_at(in + 82);
  for (int piece = 0; piece < 16; ++piece) {
    const float scale = d * static_cast<float>(scales[piece] & 15), least = dmin * static_cast<float>(scales[piece] >> 4);
    const Byte* bytes = quants + piece / 8 * 32 + piece % 2 * 16;
    const int shift = piece % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) out[16 * piece + i] = scale * static_cast<float>(bytes[i] >> shift & 3) - least;
  }
}

void read_q3_k(const Byte* in, float* out) {
  const Byte *high = in, *quants = in + 32, *scales = in + 96;
  const float d = half_at(in + 108);
  for (int piece = 0; piece < 16; ++piece) {
    const int low_scale = piece < 8 ? scales[piece] & 15 : scales[piece - 8] >> 4;
    const int high_scale = scales[8 + piece % 4] >> 2 * (piece / 4) & 3;
    const float scale = d * static_cast<float>((low_scale | high_scale << 4) - 32);
    const Byte *bytes = quants + piece / 8 * 32 + piece % 2 * 16, *bits = high + piece % 2 * 16;
    const int shift = piece % 8 / 2 * 2, bit = piece / 2;
    // The offset of 4 is taken off where the bit is not set.
    for (int i = 0; i < 16; ++i)
      out[16 * piece + i] = scale * static_cast<float>((bytes[i] >> shift & 3) - (~(bits[i] >> bit) & 1) * 4);
  }
}

struct ScaleAndLeast {
  float scale, least;
};
// Eight 6-bit scales and eight 6-bit minima in 12 bytes; the upper two bits of the last four of each lie in the first eight bytes.
ScaleAndLeast six_bits(const Byte* packed, int piece, float d, float dmin) {
  int scale = packed[piece % 4] & 63, least = packed[4 + piece % 4] & 63;
  if (piece >= 4) {
    scale = (packed[4 + piece] & 15) | (packed[piece - 4] >> 6) << 4;
    least = (packed[4 + piece] >> 4) | (packed[piece] >> 6) << 4;
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(least)};
}

void read_q4_k(const Byte* in, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  for (int piece = 0; piece < 8; ++piece) {
    const auto [scale, least] = six_bits(in + 4, piece, d, dmin);
    const Byte* bytes = in + 16 + piece / 2 * 32;
    const int shift = piece % 2 * 4;
    for (int i = 0; i < 32; ++i) out[32 * piece + i] = scale * static_cast<float>(bytes[i] >> shift & 15) - least;
  }
}

void read_q5_k(const Byte* in, float* out) {
  const float d = half_at(in), dmin = half_at(in + 2);
  const Byte* high = in + 16;
  for (int piece = 0; piece < 8; ++piece) {
    const auto [scale, least] = six_bits(in + 4, piece, d, dmin);
    const Byte* bytes = in + 48 + piece / 2 * 32;
    const int shift = piece % 2 * 4;
    for (int i = 0; i < 32; ++i)
      out[32 * piece + i] = scale * static_cast<float>((bytes[i] >> shift & 15) | (high[i] >> piece & 1) << 4) - least;
  }
}

void read_q6_k(const Byte* in, float* out) {
  const Byte *low = in, *high = in + 128, *scales = in + 192;
  const float d = half_at(in + 208);
  for (int piece = 0; piece < 16; ++piece) {
    const float scale = d * static_cast<float>(static_cast<signed char>(scales[piece]));
    const Byte *nibbles = low + piece / 8 * 64 + piece % 4 * 16, *pairs = high + piece / 8 * 32 + piece % 2 * 16;
    const int shift = piece % 8 / 4 * 4, high_shift = piece % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i)
      out[16 * piece + i] = scale * static_cast<float>(((nibbles[i] >> shift & 15) | (pairs[i] >> high_shift & 3) << 4) - 32);
  }
}

template <void (*read)(const Byte*, float*)>
void read_all(const BlockFormat& format, const void* blocks, std::uint64_t count, float* out) {
  const Byte* at = static_cast<const Byte*>(blocks);
  const std::uint32_t elements = format.elements, bytes = format.bytes;
  for (std::uint64_t i = 0; i < count; i += elements, at += bytes) read(at, out + i);
}

// A finite value that becomes an infinity is what the caller must hear of.
template <typename Store>
bool store_all(const float* values, std::uint64_t count, void* out, std::uint16_t infinity, Store store) {
  bool all_fit = true;
  Byte* at = static_cast<Byte*>(out);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint16_t bits = store(values[i]);
    all_fit = all_fit && ((bits & 0x7FFFu) != infinity || std::isinf(values[i]));
    std::memcpy(at + 2 * i, &bits, 2);
  }
  return all_fit;
}

bool write_q8_0(const float* values, Byte* out) {
  float largest = 0;
  bool all_finite = true;
  for (int i = 0; i < 32; ++i) {
    largest = std::fmax(largest, std::fabs(values[i]));
    all_finite = all_finite && std::isfinite(values[i]);
  }
  const float d = largest / 127.0f;
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  const std::uint16_t stored = core::float_to_half(d);
  std::memcpy(out, &stored, 2);
  // 1 / d overflows where d is far below what a half can hold; the stored scale is then 0 and so are all values.
  const bool is_usable = all_finite && std::isfinite(inverse);
  for (int i = 0; i < 32; ++i) out[2 + i] = is_usable ? static_cast<Byte>(static_cast<signed char>(std::round(values[i] * inverse))) : Byte{0};
  return all_finite && stored < 0x7C00u;
}

}  // namespace

const BlockFormat* find_block_format(std::uint32_t type) {
  for (const BlockFormat& format : kFormats)
    if (static_cast<std::uint32_t>(format.type) == type) return &format;
  return nullptr;
}

const BlockFormat& block_format(BlockType type) {
  const BlockFormat* format = find_block_format(static_cast<std::uint32_t>(type));
  if (format == nullptr) throw std::logic_error("no such block type");
  return *format;
}

std::string block_type_name(std::uint32_t type) {
  if (const BlockFormat* format = find_block_format(type)) return format->name;
  for (const OtherType& other : kOthers)
    if (other.type == type) return other.name;
  return "type " + std::to_string(type);
}

std::string supported_block_types() {
  std::string out;
  for (const BlockFormat& format : kFormats) out += (out.empty() ? "" : ", ") + std::string(format.name);
  return out;
}

void dequantize(BlockType type, const void* blocks, std::uint64_t count, float* out) {
  const BlockFormat& format = block_format(type);
  switch (type) {
    case BlockType::F32:
      if (count > 0) std::memcpy(out, blocks, 4 * count);
      return;
    case BlockType::F16: return read_all<read_f16>(format, blocks, count, out);
    case BlockType::BF16: return read_all<read_bf16>(format, blocks, count, out);
    case BlockType::Q8_0: return read_all<read_q8_0>(format, blocks, count, out);
    case BlockType::Q4_0: return read_all<read_q4_0>(format, blocks, count, out);
    case BlockType::Q4_1: return read_all<read_q4_1>(format, blocks, count, out);
    case BlockType::Q5_0: return read_all<read_q5_0>(format, blocks, count, out);
    case BlockType::Q5_1: return read_all<read_q5_1>(format, blocks, count, out);
    case BlockType::Q2_K: return read_all<read_q2_k>(format, blocks, count, out);
    case BlockType::Q3_K: return read_all<read_q3_k>(format, blocks, count, out);
    case BlockType::Q4_K: return read_all<read_q4_k>(format, blocks, count, out);
    case BlockType::Q5_K: return read_all<read_q5_k>(format, blocks, count, out);
    case BlockType::Q6_K: return read_all<read_q6_k>(format, blocks, count, out);
  }
}

bool quantize(BlockType type, const float* values, std::uint64_t count, void* blocks) {
  const BlockFormat& format = block_format(type);
  Byte* at = static_cast<Byte*>(blocks);
  bool all_fit = true;
  switch (type) {
    case BlockType::F32:
      if (count > 0) std::memcpy(blocks, values, 4 * count);
      return true;
    case BlockType::F16: return store_all(values, count, blocks, 0x7C00, core::float_to_half);
    case BlockType::BF16: return store_all(values, count, blocks, 0x7F80, [](float value) { return core::to_bf16(value).bits; });
    case BlockType::Q8_0:
      for (std::uint64_t i = 0; i < count; i += 32, at += format.bytes) all_fit = write_q8_0(values + i, at) && all_fit;
      return all_fit;
    case BlockType::Q4_K:
      for (std::uint64_t i = 0; i < count; i += 256, at += format.bytes) all_fit = quantize_q4_k(values + i, at) && all_fit;
      return all_fit;
    default: throw std::logic_error(std::string(format.name) + " is read, not written");
  }
}

}  // namespace pgtrain::engine::io
