// The operations of weight-decomposed adapters (DoRA), in both layouts of the weight and beside other columns.
#include "cases.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;

std::size_t at(std::int64_t i) { return std::size_t(i); }

// `beside`: outputs of others in the same stored matrix.
void check_gain(Backend& backend, DType type, int out, int in, int rank, int beside, bool is_in_out) {
  const int pitch = is_in_out ? out + beside : in + beside;
  const auto weight = random_values(type, std::int64_t(is_in_out ? in : out) * pitch), up = random_values(type, out * rank, 0.3f);
  const auto overlap = random_values(DType::F32, out * rank, 0.1f), magnitude = random_values(DType::F32, out);
  auto gram = random_values(DType::F32, rank * rank, 0.1f);
  for (int i = 0; i < rank; ++i) gram[at(i * rank + i)] += float(rank);  // as products of a matrix with itself are: no square below 0
  const double scale = 0.5;
  std::vector<double> norm, gain;
  for (int o = 0; o < out; ++o) {
    double square = 0;
    for (int i = 0; i < in; ++i) {
      const double w = weight[at(is_in_out ? i * pitch + o : o * pitch + i)];
      square += w * w;
    }
    for (int k = 0; k < rank; ++k) {
      square += 2 * scale * up[at(o * rank + k)] * overlap[at(o * rank + k)];
      for (int j = 0; j < rank; ++j) square += scale * scale * up[at(o * rank + k)] * gram[at(k * rank + j)] * up[at(o * rank + j)];
    }

    norm.push_back(std::sqrt(square));
    gain.push_back(magnitude[at(o)] / norm.back());
  }
  Buffer bw(backend, type, weight), bu(backend, type, up), bo(backend, DType::F32, overlap), bg(backend, DType::F32, gram), bm(backend, DType::F32, magnitude);
  Buffer got_norm(backend, DType::F32, out), got_gain(backend, DType::F32, out);
  DecomposedGain call;
  call.type = type, call.gain = got_gain.floats(), call.norm = got_norm.floats(), call.magnitude = bm.floats(), call.weight = bw.get(), call.up = bu.get();
  call.overlap = bo.floats(), call.gram = bg.floats(), call.out = out, call.in = in, call.rank = rank, call.pitch = pitch, call.scale = float(scale), call.is_in_out = is_in_out;
  backend.decomposed_gain(call);
  expect_close("norm", got_norm.read(), norm, 5e-6);
  expect_close("gain", got_gain.read(), gain, 5e-6);
}

void check_scale(Backend& backend, DType type, int rows, int width, int beside) {
  const int pitch = width + beside;
  const auto x = random_values(type, std::int64_t(rows) * pitch), old = random_values(type, std::int64_t(rows) * pitch), bias = random_values(type, width);
  const auto gain = random_values(DType::F32, width);
  Buffer bgain(backend, DType::F32, gain), bbias(backend, type, bias);
  for (const bool accumulates : {false, true})
    for (const bool has_gain : {false, true})
      for (const bool is_in_place : {false, true}) {
        if (accumulates && is_in_place) continue;
        std::vector<double> want, terms;
        const auto before = is_in_place ? x : old;
        for (std::int64_t i = 0; i < std::int64_t(rows) * pitch; ++i) {
          const std::int64_t c = i % pitch;
          const double scaled = c < width ? -1.5 * x[at(i)] * (has_gain ? gain[at(c)] : 1.0) + (has_gain ? bias[at(c)] : 0.0) : 0.0;
          want.push_back(c >= width || accumulates ? before[at(i)] + scaled : scaled);
          terms.push_back(std::abs(want.back()) + std::abs(scaled) + (has_gain && c < width ? std::abs(bias[at(c)]) : 0.0));
        }
        Buffer bx(backend, type, x), by(backend, type, before);
        ScaleColumns call;
        call.type = type, call.x = bx.get(), call.y = is_in_place ? bx.get() : by.get(), call.gain = has_gain ? bgain.floats() : nullptr, call.bias = has_gain ? bbias.get() : nullptr;
        call.factor = -1.5f, call.rows = rows, call.width = width, call.pitch = beside ? pitch : 0, call.accumulate = accumulates;
        backend.scale_columns(call);
        expect_close("scaled", (is_in_place ? bx : by).read(), want, forward_bar(type), terms);
      }
}

void check_dot(Backend& backend, DType type, int rows, int width, int beside) {
  const int pitch = width + beside;
  const auto a = random_values(type, std::int64_t(rows) * pitch), b = random_values(type, std::int64_t(rows) * pitch), old = random_values(DType::F32, width);
  auto divisor = random_values(DType::F32, width);
  for (float& d : divisor) d = 1 + std::fabs(d);
  std::vector<double> want = widen(old), terms;
  for (const double before : want) terms.push_back(std::abs(before));
  for (std::int64_t r = 0; r < rows; ++r)
    for (int c = 0; c < width; ++c) {
      const double term = double(a[at(r * pitch + c)]) * double(b[at(r * pitch + c)]) / divisor[at(c)];
      want[at(c)] += term, terms[at(c)] = std::hypot(terms[at(c)], term);
    }
  Buffer ba(backend, type, a), bb(backend, type, b), bd(backend, DType::F32, divisor), out(backend, DType::F32, old);
  ColumnDot call;
  call.type = type, call.out = out.floats(), call.a = ba.get(), call.b = bb.get(), call.divisor = bd.floats(), call.rows = rows, call.width = width, call.pitch = pitch;
  backend.column_dot(call);
  expect_close("dots", out.read(), want, 5e-6, terms);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (DType type : kTypes) {
    const std::string t = " " + type_name(type);
    all.push_back({"dora gain" + t, [=](Backend& b) {
                     for (const bool is_in_out : {false, true}) {
                       check_gain(b, type, 1, 9, 1, 0, is_in_out);
                       check_gain(b, type, 37, 70, 4, 5, is_in_out);
                       check_gain(b, type, 130, 33, 40, 0, is_in_out);
                     }
                   }});
    all.push_back({"dora columns" + t, [=](Backend& b) {
                     check_scale(b, type, 1, 1, 0);
                     check_scale(b, type, 19, 77, 3);
                     check_scale(b, type, 40, 128, 0);
                   }});
    all.push_back({"dora dots" + t, [=](Backend& b) {
                     check_dot(b, type, 1, 1, 0);
                     check_dot(b, type, 70, 133, 3);
                     check_dot(b, type, 19, 260, 0);
                   }});
  }
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
