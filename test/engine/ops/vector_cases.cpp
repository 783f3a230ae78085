// Operations on flat vectors: add, scale, cast, halves, sums, AdamW; and memory itself. Also the promise of equal bits twice.
#include <bit>
#include <cstring>

#include "cases.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;

void check_elementwise(Backend& backend, DType type, int count) {
  const auto a = random_values(type, count), b = random_values(type, count);
  std::vector<double> sum, scaled;
  for (int i = 0; i < count; ++i) sum.push_back(double(a[i]) + b[i]), scaled.push_back(double(a[i]) * 0.3f);
  Buffer ba(backend, type, a), bb(backend, type, b), y(backend, type, count);
  backend.add(type, y.get(), ba.get(), bb.get(), count);
  expect_close("add", y.read(), sum, forward_bar(type));
  backend.add(type, bb.get(), ba.get(), bb.get(), count);
  expect_close("add in place", bb.read(), sum, forward_bar(type));
  backend.scale(type, ba.get(), 0.3f, count);
  expect_close("scale", ba.read(), scaled, forward_bar(type));
}
void check_cast(Backend& backend, int count) {
  auto wide = random_values(DType::F32, count);
  wide[0] = std::numeric_limits<float>::infinity();
  wide[1] = 1.00390625f;  // halfway between two bf16: to the even one
  wide[2] = 1e-40f;
  std::vector<double> rounded;
  for (float v : wide) rounded.push_back(engine::core::to_float(engine::core::to_bf16(v)));
  Buffer bwide(backend, DType::F32, wide), narrow(backend, DType::Bf16, count), back(backend, DType::F32, count);
  backend.cast(DType::Bf16, narrow.get(), DType::F32, bwide.get(), count);
  backend.cast(DType::F32, back.get(), DType::Bf16, narrow.get(), count);
  const auto got = back.read();
  for (int i = 0; i < count; ++i) expect("cast of element " + std::to_string(i), double(got[i]) == rounded[i]);
  backend.cast(DType::F32, back.get(), DType::F32, bwide.get(), count);
  expect("cast to the same type copies", std::memcmp(back.read().data(), wide.data(), wide.size() * sizeof(float)) == 0);
}
void check_sums(Backend& backend, int count) {
  const auto x = random_values(DType::F32, count);
  double sum = 0, squares = 0, size = 0;
  for (float v : x) sum += v, squares += double(v) * v, size += std::fabs(v);
  Buffer bx(backend, DType::F32, x), out(backend, DType::F32, 1);
  backend.sum(out.floats(), bx.floats(), count, false);
  expect("sum", std::fabs(out.read()[0] - sum) <= 2e-6 * size);
  backend.sum(out.floats(), bx.floats(), count, true);
  expect("sum added", std::fabs(out.read()[0] - 2 * sum) <= 4e-6 * size);
  backend.sum_of_squares(out.floats(), bx.floats(), count, false);
  expect_close("sum of squares", out.read(), {squares}, 2e-6);
  backend.sum_of_squares(out.floats(), bx.floats(), count, true);
  expect_close("sum of squares added", out.read(), {2 * squares}, 2e-6);
}
void check_adamw(Backend& backend, int count, bool in_halves, float clip) {
  const auto p = random_values(DType::F32, count), g = random_values(DType::F32, count), m = random_values(DType::F32, count, 0.1f);
  auto v = random_values(DType::F32, count, 0.1f);
  for (float& x : v) x = x * x;
  AdamW a;
  a.count = count, a.learning_rate = 3e-2f, a.weight_decay = 0.1f, a.correction1 = float(1 / (1 - 0.9 * 0.9)), a.correction2 = float(1 / (1 - 0.95 * 0.95));
  a.gradient_scale = 0.5f, a.clip = clip;
  double squares = 0;
  for (float x : g) squares += double(x) * x;
  const double norm = std::sqrt(squares) * 0.5, factor = 0.5 * (clip > 0 && norm > clip ? clip / norm : 1);
  std::vector<double> wp, wm, wv;
  for (int i = 0; i < count; ++i) {
    const double gradient = g[i] * factor, beta1 = a.beta1, beta2 = a.beta2;
    wm.push_back(beta1 * m[i] + (1 - beta1) * gradient);
    wv.push_back(beta2 * v[i] + (1 - beta2) * gradient * gradient);
    wp.push_back(p[i] - a.learning_rate * (wm[i] * a.correction1 / (std::sqrt(wv[i] * a.correction2) + a.epsilon) + a.weight_decay * double(p[i])));
  }
  Buffer bp(backend, DType::F32, p), bg(backend, DType::F32, g), bm(backend, DType::F32, m), bv(backend, DType::F32, v);
  HalvesBuffer halves(backend, p);
  Buffer squared(backend, DType::F32, 1);
  backend.sum_of_squares(squared.floats(), bg.floats(), count, false);
  a.parameter = in_halves ? nullptr : bp.floats(), a.halves = halves.get(), a.m = bm.floats(), a.v = bv.floats(), a.gradient = bg.floats();
  a.squared_norm = clip > 0 ? squared.floats() : nullptr;
  backend.adamw(a);
  const double bar = count < 16 ? 1e-4 : 2e-6;  // of one element the terms may nearly cancel
  expect_close("parameters", in_halves ? halves.read() : bp.read(), wp, bar);
  expect_close("first moments", bm.read(), wm, bar);
  expect_close("second moments", bv.read(), wv, bar);
  if (in_halves) halves.expect_rounded();
}
// Floats at, just before and just after every place where rounding to bf16 changes, and where halves end.
void check_halves(Backend& backend) {
  std::vector<float> values;
  for (std::uint32_t high = 0; high < 0x10000; high += high % 0x80 < 3 || high % 0x80 > 0x7C ? 1 : 7)
    for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7FFEu, 0x7FFFu, 0x8000u, 0x8001u, 0x8002u, 0xFFFFu, std::uint32_t(random_below(0x10000))})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  HalvesBuffer halves(backend, values);
  const auto back = halves.read(), high = halves.upper();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::string what = "halves of " + std::to_string(std::bit_cast<std::uint32_t>(values[i]));
    if (values[i] != values[i]) {
      expect(what, back[i] != back[i] && high[i] != high[i]);
      continue;
    }
    const engine::core::Halves want = engine::core::split(values[i]);
    expect(what, std::bit_cast<std::uint32_t>(back[i]) == std::bit_cast<std::uint32_t>(engine::core::join(want)));
    expect(what, std::bit_cast<std::uint32_t>(high[i]) == std::uint32_t(want.high.bits) << 16);
  }
  HalvesBuffer few(backend, {1.00390625f, -3.0f, 0.1f});
  expect("a few", few.read()[2] == 0.1f && few.read()[1] == -3.0f);
}
void check_memory(Backend& backend) {
  // Host memory is reused at once, uploads larger and smaller than any staging buffer, copies in the order of the calls.
  for (int count : {1, 1000, 700000}) {
    auto values = random_values(DType::F32, count);
    const auto kept = values;
    Buffer a(backend, DType::F32, count), b(backend, DType::F32, count);
    backend.upload(a.get(), values.data(), a.bytes());
    for (float& v : values) v = -1;
    backend.copy(b.get(), a.get(), a.bytes());
    backend.zero(a.get(), a.bytes());
    expect("copied bytes", std::memcmp(b.read().data(), kept.data(), b.bytes()) == 0);
    for (float v : a.read()) expect("zeroed", v == 0);
  }
  std::vector<std::unique_ptr<Buffer>> many;
  std::vector<float> value(3);
  for (int i = 0; i < 40; ++i) {  // one host buffer for many uploads in a row
    for (float& v : value) v = float(i);
    many.push_back(std::make_unique<Buffer>(backend, DType::F32, 3));
    many.back()->write(value);
  }
  for (int i = 0; i < 40; ++i) expect("upload " + std::to_string(i), many[std::size_t(i)]->read()[1] == float(i));
}
void check_repeats(Backend& backend) {
  const int rows = 300, width = 70;
  const auto x = random_values(DType::F32, rows * width);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < rows; ++i) ids.push_back(random_below(5));
  Buffer bx(backend, DType::F32, x), bids(backend, ids);
  std::vector<float> first;
  for (int turn = 0; turn < 3; ++turn) {
    Buffer table(backend, DType::F32, std::vector<float>(5 * width)), sums(backend, DType::F32, std::vector<float>(width)), one(backend, DType::F32, 1);
    EmbeddingBackward g;
    g.dtable = table.floats(), g.dout = bx.get(), g.ids = bids.numbers(), g.rows = rows, g.width = width, g.vocabulary = 5;
    backend.embedding_backward(g);
    backend.column_sum(DType::F32, sums.floats(), bx.get(), rows, width);
    backend.sum_of_squares(one.floats(), bx.floats(), rows * width, false);
    std::vector<float> all = table.read();
    for (const Buffer* b : {&sums, &one})
      for (float v : b->read()) all.push_back(v);
    if (turn == 0) first = all;
    expect("the same sums gave other bits", std::memcmp(first.data(), all.data(), all.size() * sizeof(float)) == 0);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (DType type : kTypes)
    all.push_back({"add and scale " + type_name(type), [=](Backend& b) {
                     check_elementwise(b, type, 1);
                     check_elementwise(b, type, 1027);
                     check_elementwise(b, type, 9001);  // enough for two threads
                   }});
  all.push_back({"cast", [](Backend& b) { check_cast(b, 517), check_cast(b, 9001); }});
  all.push_back({"sums", [](Backend& b) {
                   check_sums(b, 1);
                   check_sums(b, 5003);
                   check_sums(b, 70001);
                 }});
  all.push_back({"adamw", [](Backend& b) {
                   check_adamw(b, 1, false, 0);
                   check_adamw(b, 1000, true, 0);
                   check_adamw(b, 517, true, 1.0f);
                   check_adamw(b, 517, false, 1e6f);
                   check_adamw(b, 9001, true, 1.0f);
                 }});
  all.push_back({"halves", check_halves});
  all.push_back({"memory", check_memory});
  all.push_back({"equal bits", check_repeats});
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
