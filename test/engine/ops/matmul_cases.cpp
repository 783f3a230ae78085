// Products: every transposition, type pair, alpha and beta, row pitches beyond the row, bias, gelu with and without the kept input.
#include "cases.hpp"

namespace pgtrain::test {
namespace {
using engine::backend::Matmul;

struct Shape {
  std::int64_t m, n, k, extra_pitch;
};
// The elements of a pitched matrix without what lies between its rows.
reference::Vector packed(const std::vector<float>& values, std::int64_t rows, std::int64_t width, std::int64_t pitch) {
  reference::Vector out;
  for (std::int64_t r = 0; r < rows; ++r) out.insert(out.end(), values.begin() + r * pitch, values.begin() + r * pitch + width);
  return out;
}

struct Options {
  bool bias = false, gelu = false, keep = false, accumulate = false;
};
void check_product(Backend& backend, DType in, DType out, Shape s, bool ta, bool tb, Options o) {
  const std::int64_t a_rows = ta ? s.k : s.m, a_width = ta ? s.m : s.k, b_rows = tb ? s.n : s.k, b_width = tb ? s.k : s.n;
  const std::int64_t a_pitch = a_width + s.extra_pitch, b_pitch = b_width + s.extra_pitch, c_pitch = s.n + s.extra_pitch;
  const auto a = random_values(in, a_rows * a_pitch), b = random_values(in, b_rows * b_pitch), bias = random_values(in, s.n);
  const auto old = random_values(out, s.m * c_pitch);
  const float alpha = o.accumulate ? 0.5f : 1.0f, beta = o.accumulate ? 1.0f : 0.0f;

  const reference::Vector before = reference::multiply({s.m, s.n, s.k, ta, tb, alpha, beta}, packed(a, a_rows, a_width, a_pitch), packed(b, b_rows, b_width, b_pitch),
                                                       packed(old, s.m, s.n, c_pitch), o.bias ? widen(bias) : reference::Vector{});
  reference::Vector after = before;
  for (double& value : after)
    if (o.gelu) value = reference::gelu(value);

  Buffer da(backend, in, a), db(backend, in, b), dbias(backend, in, bias), kept(backend, out, s.m * s.n);
  std::unique_ptr<Buffer> dc = o.accumulate ? std::make_unique<Buffer>(backend, out, old) : std::make_unique<Buffer>(backend, out, s.m * c_pitch);
  Matmul call;
  call.m = s.m, call.n = s.n, call.k = s.k;
  call.transpose_a = ta, call.transpose_b = tb;
  call.a = da.get(), call.b = db.get(), call.c = dc->get();
  if (s.extra_pitch) call.a_pitch = a_pitch, call.b_pitch = b_pitch, call.c_pitch = c_pitch;
  call.in = in, call.out = out;
  call.alpha = alpha, call.beta = beta;
  if (o.bias) call.bias = dbias.get();
  call.gelu = o.gelu;
  if (o.keep) call.gelu_input = kept.get();
  backend.matmul(call);

  const auto c = dc->read();
  std::vector<float> rows;
  for (std::int64_t i = 0; i < s.m; ++i)
    for (std::int64_t j = 0; j < s.n; ++j) rows.push_back(c[std::size_t(i * c_pitch + j)]);
  for (std::int64_t i = 0; i < s.m; ++i)  // what lies between rows is not the product's
    for (std::int64_t j = s.n; j < c_pitch; ++j) {
      const float v = c[std::size_t(i * c_pitch + j)];
      expect("elements between the rows were written", o.accumulate ? v == old[std::size_t(i * c_pitch + j)] : v != v);
    }
  // gelu of a value that was rounded to bf16 first
  expect_close("result", rows, after, forward_bar(out) * (o.gelu && out == DType::Bf16 ? 2 : 1));
  if (o.keep) expect_close("kept values before gelu", kept.read(), before, forward_bar(out));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const std::pair<DType, DType> pairs[] = {{DType::F32, DType::F32}, {DType::Bf16, DType::Bf16}, {DType::Bf16, DType::F32}};
  for (const auto& [in, out] : pairs) {
    const std::string types = "matmul " + type_name(in) + " to " + type_name(out);
    for (int t = 0; t < 4; ++t) {
      const bool ta = t & 1, tb = t & 2;
      const std::string name = types + (ta ? " A transposed" : "") + (tb ? " B transposed" : "");
      all.push_back({name, [=](Backend& b) {
                       // The last two are large enough to be shared among threads, by rows and by columns.
                       for (const Shape& s : {Shape{1, 1, 1, 0}, Shape{33, 17, 65, 0}, Shape{64, 96, 32, 8}, Shape{7, 130, 19, 3}, Shape{150, 50, 40, 0}, Shape{50, 150, 40, 8}})
                         check_product(b, in, out, s, ta, tb, {});
                     }});
      all.push_back({name + " accumulated", [=](Backend& b) {
                       check_product(b, in, out, {29, 37, 23, 0}, ta, tb, {.accumulate = true});
                       check_product(b, in, out, {8, 16, 40, 8}, ta, tb, {.accumulate = true});
                     }});
    }
    all.push_back({types + " of few rows", [=](Backend& b) {
                     for (const std::int64_t m : {1, 2, 3, 4, 5, 8})
                       for (const bool tb : {false, true}) {
                         check_product(b, in, out, {m, 301, 230, m % 2 ? 3 : 0}, false, tb, {.bias = true});
                         check_product(b, in, out, {m, 47, 21, 0}, false, tb, {.accumulate = true});
                       }
                   }});
    // As the gradient of an adapter's weights.
    all.push_back({types + " of few columns", [=](Backend& b) {
                     for (const std::int64_t n : {1, 5, 16, 64, 65})
                       for (const bool tb : {false, true}) {
                         check_product(b, in, out, {151, n, 70, n % 2 ? 3 : 0}, true, tb, {});
                         check_product(b, in, out, {97, n, 33, n % 2 ? 0 : 8}, true, tb, {.accumulate = true});
                       }
                     check_product(b, in, out, {16421, 3, 5, 2}, true, false, {.accumulate = true});
                   }});
    all.push_back({types + " bias", [=](Backend& b) {
                     check_product(b, in, out, {19, 45, 33, 0}, false, false, {.bias = true});
                     check_product(b, in, out, {32, 64, 16, 8}, false, true, {.bias = true});
                   }});
    // As the head of a large vocabulary: wider than what is computed at once.
    all.push_back({types + " of many columns", [=](Backend& b) {
                     check_product(b, in, out, {13, 16501, 9, 0}, false, true, {});
                     check_product(b, in, out, {10, 25003, 5, 3}, false, false, {.bias = true});
                     check_product(b, in, out, {40, 16417, 4, 0}, true, true, {.accumulate = true});
                   }});
    all.push_back({types + " bias and gelu", [=](Backend& b) {
                     check_product(b, in, out, {19, 45, 33, 0}, false, false, {.bias = true, .gelu = true});
                     check_product(b, in, out, {32, 64, 16, 0}, false, true, {.bias = true, .gelu = true, .keep = true});
                     check_product(b, in, out, {5, 24, 48, 0}, false, false, {.gelu = true, .keep = true});
                   }});
  }
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
