// The search for the scales of a Q4_K block: 8 pieces of 32 elements, each value scale * q - least with q from 0 to 15; scale and
// least of a piece are 6-bit multiples of two half-precision numbers d and dmin of the block.
//
// What is made small is the squared error weighted by |x| plus the piece's root mean square: large weights matter more to a
// model than their number says. First each piece is fitted alone (a sweep of step sizes, each with its best line by least
// squares), then the 6-bit numbers are chosen for given d and dmin, then d and dmin are fitted to these; the best is kept.
// Compiled with free order of additions: nothing here must be equal to the bit, and sums become vector instructions.
#include "engine/io/quantize_q4_k.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/core/dtype.hpp"

namespace pgtrain::engine::io {
namespace {

constexpr int kPieces = 8, kWidth = 32, kElements = kPieces * kWidth, kMost = 15, kMostScale = 63;

struct Piece {
  float values[kWidth], weights[kWidth];
  float scale = 0, least = 0;  // the fit of this piece alone
};

float quantized(float value, float inverse, float least) {
  const float place = (value + least) * inverse + 0.5f, low = place > 0.0f ? place : 0.0f;
  return static_cast<float>(static_cast<int>(low < 15.0f ? low : 15.0f));
}

float error_of(const Piece& piece, float scale, float least) {
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  if (!std::isfinite(inverse)) return std::numeric_limits<float>::infinity();
  float sum = 0;
  for (int i = 0; i < kWidth; ++i) {
    const float miss = scale * quantized(piece.values[i], inverse, least) - least - piece.values[i];
    sum += piece.weights[i] * miss * miss;
  }
  return sum;
}

struct Line {
  float scale = 0, least = 0;
};

// The line that fits the quants which another line gives.
Line refitted(const Piece& piece, const Line& line) {
  const float inverse = line.scale > 0 ? 1.0f / line.scale : 0.0f;
  float w = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
  for (int i = 0; i < kWidth; ++i) {
    const float q = quantized(piece.values[i], inverse, line.least), weight = piece.weights[i];
    w += weight, wq += weight * q, wqq += weight * q * q, wx += weight * piece.values[i], wqx += weight * q * piece.values[i];
  }
  const float determinant = w * wqq - wq * wq;
  Line out = line;
  if (determinant > 0) out = {(w * wqx - wq * wx) / determinant, (wq * wqx - wqq * wx) / determinant};
  if (out.least < 0) out = {wqq > 0 ? wqx / wqq : 0.0f, 0.0f};  // the format has no negative minima
  if (!(out.scale >= 0)) out.scale = 0;
  return out;
}

void fit_piece(Piece& piece) {
  const auto [lowest, highest] = std::minmax_element(piece.values, piece.values + kWidth);
  const float least = std::max(-*lowest, 0.0f), range = *highest + least;
  if (!(range > 0)) {  // one value, not above zero
    piece.scale = 0, piece.least = least;
    return;
  }
  float best = std::numeric_limits<float>::infinity();
  const auto consider = [&](const Line& line) {
    const float error = error_of(piece, line.scale, line.least);
    if (error < best) best = error, piece.scale = line.scale, piece.least = line.least;
  };
  const Line whole = {range / kMost, least};
  consider(whole);
  // Smaller steps than the range asks for clip the ends, larger ones leave room at them.
  for (int step = -12; step <= 12; ++step) consider(refitted(piece, {range / (kMost + 0.12f * static_cast<float>(step)), least}));
  for (int round = 0; round < 2; ++round) consider(refitted(piece, {piece.scale, piece.least}));
}

struct Block {
  float d = 0, dmin = 0;  // as stored
  int scales[kPieces] = {}, leasts[kPieces] = {};
  float error = std::numeric_limits<float>::infinity();
};

int nearest(float value, float unit) { return unit > 0 ? std::clamp(static_cast<int>(std::lround(value / unit)), 0, kMostScale) : 0; }

// The 6-bit numbers around those of the piece's own fit that do best with this d and dmin.
Block with_integers(const Piece* pieces, float d, float dmin) {
  Block out;
  out.d = core::half_to_float(core::float_to_half(d)), out.dmin = core::half_to_float(core::float_to_half(dmin));
  out.error = 0;
  for (int p = 0; p < kPieces; ++p) {
    const int scale = nearest(pieces[p].scale, out.d), least = nearest(pieces[p].least, out.dmin);
    float best = std::numeric_limits<float>::infinity();
    for (int s = std::max(scale - 1, 0); s <= std::min(scale + 1, kMostScale); ++s)
      for (int l = std::max(least - 1, 0); l <= std::min(least + 1, kMostScale); ++l) {
        const float error = error_of(pieces[p], out.d * static_cast<float>(s), out.dmin * static_cast<float>(l));
        if (error < best) best = error, out.scales[p] = s, out.leasts[p] = l;
      }
    out.error += best;
  }
  return out;
}

// d and dmin by least squares with all integers of the block held.
Line refitted(const Piece* pieces, const Block& block) {
  double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
  for (int p = 0; p < kPieces; ++p) {
    const float scale = block.d * static_cast<float>(block.scales[p]), least = block.dmin * static_cast<float>(block.leasts[p]);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (int i = 0; i < kWidth; ++i) {
      const double x = pieces[p].values[i], w = pieces[p].weights[i];
      const double a = static_cast<double>(block.scales[p]) * quantized(pieces[p].values[i], inverse, least), b = -block.leasts[p];
      aa += w * a * a, ab += w * a * b, bb += w * b * b, ax += w * a * x, bx += w * b * x;
    }
  }
  const double determinant = aa * bb - ab * ab;
  if (determinant > 0)
    return {static_cast<float>((bb * ax - ab * bx) / determinant), static_cast<float>((aa * bx - ab * ax) / determinant)};
  return {aa > 0 ? static_cast<float>(ax / aa) : block.d, bb > 0 ? static_cast<float>(bx / bb) : block.dmin};
}

Block fit_block(const Piece* pieces) {
  float largest_scale = 0, largest_least = 0;
  for (int p = 0; p < kPieces; ++p)
    largest_scale = std::max(largest_scale, pieces[p].scale), largest_least = std::max(largest_least, pieces[p].least);
  Block best = with_integers(pieces, largest_scale / kMostScale, largest_least / kMostScale);
  Block at = best;
  for (int round = 0; round < 3; ++round) {
    const Line units = refitted(pieces, at);
    if (!(units.scale >= 0 && units.least >= 0)) break;
    at = with_integers(pieces, units.scale, units.least);
    if (!(at.error < best.error)) break;
    best = at;
  }
  return best;
}

void pack(const Piece* pieces, const Block& block, unsigned char* out) {
  const std::uint16_t d = core::float_to_half(block.d), dmin = core::float_to_half(block.dmin);
  std::memcpy(out, &d, 2);
  std::memcpy(out + 2, &dmin, 2);
  for (int p = 0; p < 4; ++p) {
    out[4 + p] = static_cast<unsigned char>(block.scales[p] | block.scales[p + 4] >> 4 << 6);
    out[8 + p] = static_cast<unsigned char>(block.leasts[p] | block.leasts[p + 4] >> 4 << 6);
    out[12 + p] = static_cast<unsigned char>((block.scales[p + 4] & 15) | (block.leasts[p + 4] & 15) << 4);
  }
  for (int p = 0; p < kPieces; ++p) {
    const float scale = block.d * static_cast<float>(block.scales[p]), least = block.dmin * static_cast<float>(block.leasts[p]);
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    unsigned char* quants = out + 16 + p / 2 * 32;
    for (int i = 0; i < kWidth; ++i)
      quants[i] = static_cast<unsigned char>(quants[i] | static_cast<int>(quantized(pieces[p].values[i], inverse, least)) << p % 2 * 4);
  }
}

}  // namespace

bool quantize_q4_k(const float* values, unsigned char* out) {
  std::memset(out, 0, 144);
  float largest = 0;
  for (int i = 0; i < kElements; ++i) {
    if (!std::isfinite(values[i])) return false;
    largest = std::max(largest, std::fabs(values[i]));
  }
  // d and dmin are halves, which end at 65504; a fit may overshoot what it started from, so half of the range is left to it.
  if (largest > 65504.0f * kMostScale / 2) return false;
  // Nothing of the block survives in half precision.
  if (largest < 0x1p-40f) return true;
  // Fitted at a size of about 1, so that squares of small weights do not vanish.
  const float unit = std::ldexp(1.0f, std::ilogb(largest));
  Piece pieces[kPieces];
  for (int p = 0; p < kPieces; ++p) {
    float squares = 0;
    for (int i = 0; i < kWidth; ++i) {
      const float value = values[kWidth * p + i] / unit;
      pieces[p].values[i] = value;
      squares += value * value;
    }
    const float mean = std::sqrt(squares / kWidth);
    for (int i = 0; i < kWidth; ++i) pieces[p].weights[i] = mean + std::fabs(pieces[p].values[i]);
    fit_piece(pieces[p]);
  }
  for (Piece& piece : pieces) {
    for (int i = 0; i < kWidth; ++i) piece.values[i] *= unit;
    piece.scale *= unit, piece.least *= unit;
  }
  pack(pieces, fit_block(pieces), out);
  return true;
}

}  // namespace pgtrain::engine::io
