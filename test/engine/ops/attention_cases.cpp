// Attention: forward, backward and decode against the textbook formula in double, head sizes with and without vector width,
// lengths around the tile of 64 and over three tiles, with packed documents and without.
#include "cases.hpp"

namespace pgtrain::test {
namespace {
struct Shape {
  int batch, length, heads, head_size;
  bool packed;
  int kv_heads = 0, window = 0;
};
std::vector<std::int32_t> random_documents(const Shape& s) {
  std::vector<std::int32_t> segments;
  for (int b = 0; b < s.batch; ++b)
    for (int t = 0, number = 0; t < s.length; ++t) segments.push_back(number += random_below(19) == 0);
  return segments;
}

void check_attention(Backend& backend, DType type, const Shape& s, bool as_chosen = false) {
  const std::int64_t rows = std::int64_t(s.batch) * s.length, channels = std::int64_t(s.heads) * s.head_size;
  const std::int64_t columns = channels + 2 * std::int64_t(s.kv_heads > 0 ? s.kv_heads : s.heads) * s.head_size;
  const auto qkv = random_values(type, rows * columns), dout = random_values(type, rows * channels);
  const auto segments = random_documents(s);
  const float scale = float(1 / std::sqrt(double(s.head_size)));
  const reference::AttentionShape shape{s.batch, s.length, s.heads, s.head_size, scale, s.kv_heads, s.window};
  const auto seen = s.packed ? segments : std::vector<std::int32_t>{};
  const reference::Attention want = reference::attention(shape, widen(qkv), seen);
  const reference::Vector want_dqkv = reference::attention_backward(shape, widen(qkv), seen, widen(dout));

  Buffer dqkv_in(backend, type, qkv), ddout(backend, type, dout), numbers(backend, segments);
  Buffer out(backend, type, rows * channels), log_sum(backend, DType::F32, rows * s.heads), delta(backend, DType::F32, rows * s.heads);
  Buffer dqkv(backend, type, rows * columns);
  engine::backend::AttentionForward f;
  f.type = type, f.qkv = dqkv_in.get(), f.out = out.get(), f.log_sum = log_sum.floats();
  f.segments = s.packed ? numbers.numbers() : nullptr;
  f.batch = s.batch, f.length = s.length, f.heads = s.heads, f.head_size = s.head_size, f.scale = scale, f.kv_heads = s.kv_heads, f.window = s.window;
  if (as_chosen) backend.choose_attention(engine::backend::shape_of(f));
  backend.attention_forward(f);
  engine::backend::AttentionBackward g;
  g.type = type, g.qkv = dqkv_in.get(), g.out = out.get(), g.dout = ddout.get(), g.log_sum = log_sum.floats(), g.delta = delta.floats();
  g.segments = f.segments, g.dqkv = dqkv.get();
  g.batch = s.batch, g.length = s.length, g.heads = s.heads, g.head_size = s.head_size, g.scale = scale, g.kv_heads = s.kv_heads, g.window = s.window;
  backend.attention_backward(g);

  const bool narrow = type == DType::Bf16;
  expect_close("output", out.read(), want.out, narrow ? 4e-3 : 2e-6);
  double worst = 0;
  const auto sums = log_sum.read();
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double d = std::fabs(sums[i] - want.log_sum[i]);
    worst = d == d ? std::max(worst, d) : 1;
  }
  expect("log_sum is off by " + std::to_string(worst), worst < 2e-5);
  expect_close("gradients", dqkv.read(), want_dqkv, narrow ? 8e-3 : 5e-6);
}

struct DecodeShape {
  int sequences, context, heads, kv_heads, head_size, window;
};
// Position by position, decode must give what the forward gives for whole rows; the sequences start at different times, so that
// their positions differ.
void check_decode(Backend& backend, DType type, const DecodeShape& s) {
  const std::int64_t kv_width = std::int64_t(s.kv_heads) * s.head_size, width = std::int64_t(s.heads) * s.head_size, columns = width + 2 * kv_width;
  const auto qkv = random_values(type, std::int64_t(s.sequences) * s.context * columns);
  const float scale = float(1 / std::sqrt(double(s.head_size)));
  const reference::Attention want = reference::attention({s.sequences, s.context, s.heads, s.head_size, scale, s.kv_heads, s.window}, widen(qkv), {});
  Buffer keys(backend, type, s.sequences * s.context * kv_width), values(backend, type, s.sequences * s.context * kv_width), out(backend, type, s.sequences * width);
  std::vector<float> got(want.out.size());
  for (int t = 0; t < s.context + s.sequences - 1; ++t) {
    std::vector<float> rows;
    std::vector<std::int32_t> positions;
    for (int i = 0; i < s.sequences; ++i) {
      positions.push_back(std::min(std::max(t - i, 0), s.context - 1));  // who has not begun or is done repeats a position
      const auto row = qkv.begin() + (std::int64_t(i) * s.context + positions.back()) * columns;
      rows.insert(rows.end(), row, row + columns);
    }
    Buffer row(backend, type, rows), where(backend, positions);
    engine::backend::AttentionDecode d;
    d.type = type, d.qkv = row.get(), d.keys = keys.get(), d.values = values.get(), d.out = out.get(), d.positions = where.numbers();
    d.sequences = s.sequences, d.context = s.context, d.heads = s.heads, d.head_size = s.head_size, d.scale = scale, d.window = s.window;
    d.kv_heads = s.kv_heads == s.heads ? 0 : s.kv_heads;
    backend.attention_decode(d);
    const auto drawn = out.read();
    for (int i = 0; i < s.sequences; ++i)
      std::copy(drawn.begin() + i * width, drawn.begin() + (i + 1) * width, got.begin() + (std::int64_t(i) * s.context + positions[std::size_t(i)]) * width);
  }
  expect_close("decoded rows", got, want.out, type == DType::Bf16 ? 4e-3 : 2e-6);
}

// The same in pieces: rows of several sequences and of many positions at once, whose caches the slots name.
void check_decode_of_pieces(Backend& backend, DType type, const DecodeShape& s, int piece) {
  const std::int64_t kv_width = std::int64_t(s.kv_heads) * s.head_size, width = std::int64_t(s.heads) * s.head_size, columns = width + 2 * kv_width;
  const auto qkv = random_values(type, std::int64_t(s.sequences) * s.context * columns);
  const float scale = float(1 / std::sqrt(double(s.head_size)));
  const reference::Attention want = reference::attention({s.sequences, s.context, s.heads, s.head_size, scale, s.kv_heads, s.window}, widen(qkv), {});
  Buffer keys(backend, type, s.sequences * s.context * kv_width), values(backend, type, s.sequences * s.context * kv_width);
  std::vector<float> got(want.out.size());
  for (int first = 0; first < s.context; first += piece) {
    std::vector<float> rows;
    std::vector<std::int32_t> positions, slots;
    for (int i = s.sequences - 1; i >= 0; --i)
      for (int t = first; t < std::min(first + piece, s.context); ++t) {
        positions.push_back(t), slots.push_back(i);
        const auto row = qkv.begin() + (std::int64_t(i) * s.context + t) * columns;
        rows.insert(rows.end(), row, row + columns);
      }
    const auto count = std::int64_t(positions.size());
    Buffer row(backend, type, rows), where(backend, positions), whose(backend, slots), out(backend, type, count * width);
    engine::backend::AttentionDecode d;
    d.type = type, d.qkv = row.get(), d.keys = keys.get(), d.values = values.get(), d.out = out.get(), d.positions = where.numbers(), d.slots = whose.numbers();
    d.sequences = count, d.context = s.context, d.heads = s.heads, d.head_size = s.head_size, d.scale = scale, d.window = s.window, d.kv_heads = s.kv_heads;
    backend.attention_decode(d);
    const auto drawn = out.read();
    for (std::int64_t r = 0; r < count; ++r)
      std::copy(drawn.begin() + r * width, drawn.begin() + (r + 1) * width, got.begin() + (std::int64_t(slots[std::size_t(r)]) * s.context + positions[std::size_t(r)]) * width);
  }
  expect_close("decoded rows", got, want.out, type == DType::Bf16 ? 4e-3 : 2e-6);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  // As in a planned run: a library may do it. Shapes of their own, since a choice stays.
  for (const Shape& s : {Shape{2, 33, 4, 32, true, 2}, Shape{1, 71, 2, 64, true, 1, 20}, Shape{2, 40, 2, 24, false}, Shape{1, 35, 3, 128, false, 3, 7}})
    all.push_back({"attention as chosen " + std::to_string(s.batch) + "x" + std::to_string(s.length) + " heads " + std::to_string(s.heads) + "x" + std::to_string(s.head_size),
                   [=](Backend& b) { check_attention(b, DType::Bf16, s, true); }});
  for (DType type : kTypes) {
    const Shape shapes[] = {{1, 1, 1, 32, false}, {2, 63, 2, 32, false}, {1, 65, 2, 64, true}, {2, 200, 1, 64, true},
                            {1, 150, 2, 128, false}, {1, 70, 3, 20, true}, {1, 40, 2, 5, false},
                            {2, 70, 6, 32, false, 2}, {1, 140, 3, 64, true, 1}, {1, 150, 2, 32, false, 0, 40}, {1, 200, 4, 20, true, 2, 70}, {1, 66, 2, 64, false, 1, 1}};
    for (const Shape& s : shapes)
      all.push_back({"attention " + type_name(type) + " " + std::to_string(s.batch) + "x" + std::to_string(s.length) + " heads " + std::to_string(s.heads) +
                         "x" + std::to_string(s.head_size) + (s.packed ? " packed" : "") + (s.kv_heads > 0 ? " over " + std::to_string(s.kv_heads) : "") + (s.window > 0 ? " window " + std::to_string(s.window) : ""),
                     [=](Backend& b) { check_attention(b, type, s); }});
    all.push_back({"attention decode " + type_name(type), [=](Backend& b) {
                     check_decode(b, type, {1, 11, 2, 2, 32, 0});
                     check_decode(b, type, {1, 5, 3, 3, 20, 0});
                     check_decode(b, type, {2, 6, 1, 1, 128, 0});
                   }});
    all.push_back({"attention decode of prompts " + type_name(type), [=](Backend& b) {
                     check_decode_of_pieces(b, type, {3, 9, 4, 2, 20, 0}, 9);
                     check_decode_of_pieces(b, type, {2, 11, 3, 3, 32, 4}, 4);
                   }});
    all.push_back({"attention decode of groups and windows " + type_name(type), [=](Backend& b) {
                     check_decode(b, type, {3, 9, 6, 2, 20, 0});
                     check_decode(b, type, {1, 13, 4, 1, 64, 5});
                     check_decode(b, type, {2, 7, 3, 3, 16, 1});
                   }});
  }
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
