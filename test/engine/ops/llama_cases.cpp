// What Llama-shaped models have beyond GPT-2's operations: RMS norm of rows and of heads, rotary positions, SwiGLU; forward and
// backward against the references in double.
#include "../reference_llama.hpp"
#include "cases.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;

constexpr float kGap = std::numeric_limits<float>::quiet_NaN();

// Rows of `columns` values in rows of `pitch`; what lies between is NaN and must stay so.
std::vector<float> spread(const std::vector<float>& values, std::int64_t columns, std::int64_t pitch) {
  const std::int64_t rows = std::int64_t(values.size()) / columns;
  std::vector<float> out(std::size_t(rows * pitch), kGap);
  for (std::int64_t r = 0; r < rows; ++r) std::copy_n(values.begin() + r * columns, columns, out.begin() + r * pitch);
  return out;
}
std::vector<float> gathered(const std::string& what, const std::vector<float>& values, std::int64_t columns, std::int64_t pitch) {
  std::vector<float> out;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (std::int64_t(i) % pitch < columns) out.push_back(values[i]);
    else expect(what + ": element " + std::to_string(i) + " lies between the rows and was written", std::isnan(values[i]));
  return out;
}

struct NormShape {
  int rows, width, groups, gap;
  bool residual, accumulate, frozen, in_place;
};
void check_rms_norm(Backend& backend, DType type, const NormShape& s) {
  const std::int64_t columns = std::int64_t(s.groups) * s.width, pitch = columns + s.gap, count = s.rows * columns, runs = std::int64_t(s.rows) * s.groups;
  const auto x = random_values(type, count), second = random_values(type, count), gain = random_values(type, s.width), dy = random_values(type, count),
             old_dx = random_values(type, count), old_gain = random_values(DType::F32, s.width);
  std::vector<float> total = x;
  for (std::size_t i = 0; s.residual && i < total.size(); ++i) {
    total[i] = x[i] + second[i];
    if (type == DType::Bf16) total[i] = engine::core::to_float(engine::core::to_bf16(total[i]));
  }
  const reference::RmsNorm want = reference::rms_norm(s.width, 1e-5, widen(total), widen(gain));
  reference::RmsNormGradients gradients = reference::rms_norm_backward(s.width, widen(total), widen(gain), want.rstd, widen(dy));

  Buffer bx(backend, type, spread(x, columns, pitch)), bsecond(backend, type, spread(second, columns, pitch)), bgain(backend, type, gain), bdy(backend, type, spread(dy, columns, pitch));
  Buffer y(backend, type, s.rows * pitch), sum(backend, type, s.rows * pitch), rstd(backend, DType::F32, runs), kept(backend, type, spread(total, columns, pitch));
  const bool over_x = s.in_place && !s.residual;
  RmsNormForward f;
  f.type = type, f.y = over_x ? bx.get() : y.get(), f.rstd = rstd.floats(), f.x = bx.get(), f.gain = bgain.get();
  if (s.residual) f.residual = bsecond.get(), f.sum = s.in_place ? bx.get() : sum.get();
  f.rows = s.rows, f.width = s.width, f.groups = s.groups, f.pitch = s.gap > 0 ? pitch : 0, f.epsilon = 1e-5f;
  backend.rms_norm_forward(f);
  expect_close("forward", gathered("forward", over_x ? bx.read() : y.read(), columns, pitch), want.y, forward_bar(type));
  expect_close("rstd", rstd.read(), want.rstd, 2e-6);
  if (s.residual) expect_close("sum with the residual", s.in_place ? bx.read() : sum.read(), widen(total), 1e-7);

  Buffer dx(backend, type, spread(old_dx, columns, pitch)), dgain(backend, DType::F32, old_gain);
  RmsNormBackward g;
  g.type = type, g.dx = s.accumulate ? dx.get() : bdy.get(), g.accumulate_dx = s.accumulate, g.dgain = s.frozen ? nullptr : dgain.floats();
  g.dy = bdy.get(), g.x = kept.get(), g.gain = bgain.get(), g.rstd = rstd.floats();
  g.rows = s.rows, g.width = s.width, g.groups = s.groups, g.pitch = f.pitch;
  backend.rms_norm_backward(g);
  for (std::size_t i = 0; s.accumulate && i < gradients.dx.size(); ++i) gradients.dx[i] += old_dx[i];
  for (int c = 0; c < s.width; ++c) gradients.dgain[c] = old_gain[c] + (s.frozen ? 0 : gradients.dgain[c]);
  expect_close(s.accumulate ? "dx added" : "dx over dy", gathered("dx", s.accumulate ? dx.read() : bdy.read(), columns, pitch), gradients.dx, gradient_bar(type));
  expect_close("dgain", dgain.read(), gradients.dgain, 5e-6);
}

// Gains that are frozen change nothing else.
void check_frozen_layer_norm(Backend& backend, DType type, int rows, int width) {
  const std::int64_t count = std::int64_t(rows) * width;
  Buffer x(backend, type, random_values(type, count)), gain(backend, type, random_values(type, width)), dy(backend, type, random_values(type, count));
  Buffer mean(backend, DType::F32, random_values(DType::F32, rows)), rstd(backend, DType::F32, random_values(DType::F32, rows));
  std::vector<std::vector<float>> results;
  std::vector<float> both_gain, both_bias;
  for (int form = 0; form < 4; ++form) {
    Buffer dx(backend, type, count), dgain(backend, DType::F32, std::vector<float>(std::size_t(width))), dbias(backend, DType::F32, std::vector<float>(std::size_t(width)));
    LayerNormBackward g;
    g.type = type, g.dx = dx.get(), g.dgain = form & 1 ? nullptr : dgain.floats(), g.dbias = form & 2 ? nullptr : dbias.floats();
    g.dy = dy.get(), g.x = x.get(), g.gain = gain.get(), g.mean = mean.floats(), g.rstd = rstd.floats(), g.rows = rows, g.width = width;
    backend.layer_norm_backward(g);
    results.push_back(dx.read());
    if (form == 0) both_gain = dgain.read(), both_bias = dbias.read();
    expect("dx with frozen parameters", results.back() == results.front());
    expect("dgain beside a frozen bias", form & 1 || dgain.read() == both_gain);
    expect("dbias beside a frozen gain", form & 2 || dbias.read() == both_bias);
  }
}

void check_rope(Backend& backend, DType type, int rows, int heads, int head_size, int rest) {
  const int context = 50, columns = heads * head_size + rest;
  const auto x = random_values(type, std::int64_t(rows) * columns);
  std::vector<float> table;
  for (const double value : reference::rotary_table(context, head_size, 10000)) table.push_back(float(value));
  std::vector<std::int32_t> positions;
  for (int r = 0; r < rows; ++r) positions.push_back(random_below(context));
  Buffer bx(backend, type, x), y(backend, type, std::int64_t(rows) * columns), btable(backend, DType::F32, table), numbers(backend, positions);
  for (const bool inverse : {false, true}) {
    const reference::Vector want = reference::rope({heads, columns, head_size, inverse}, widen(x), widen(table), positions);
    Rope call;
    call.type = type, call.y = y.get(), call.x = bx.get(), call.positions = numbers.numbers(), call.table = btable.floats();
    call.rows = rows, call.heads = heads, call.columns = columns, call.head_size = head_size, call.context = context, call.inverse = inverse;
    y.write(std::vector<float>(x.size(), kGap));
    backend.rope(call);
    expect_close(inverse ? "turned back" : "turned", y.read(), want, forward_bar(type));
    call.y = bx.get();
    backend.rope(call);
    expect("in place gives other bits", bx.read() == y.read());
    bx.write(x);
  }
}

void check_swiglu(Backend& backend, DType type, int rows, int width) {
  auto gate_up = random_values(type, 2 * std::int64_t(rows) * width, 2.0f);
  auto dy = random_values(type, std::int64_t(rows) * width);
  // Where e^x has no float; beside small numbers, so that one rounding does not outweigh all others.
  if (width > 2) gate_up[0] = 120, gate_up[1] = -120, gate_up[std::size_t(width)] = dy[0] = 1.0f / 64;
  Buffer in(backend, type, gate_up), y(backend, type, std::int64_t(rows) * width), bdy(backend, type, dy), d(backend, type, 2 * std::int64_t(rows) * width);
  backend.swiglu_forward({type, y.get(), in.get(), rows, width});
  expect_close("forward", y.read(), reference::swiglu(width, widen(gate_up)), forward_bar(type));
  const reference::Vector want = reference::swiglu_backward(width, widen(gate_up), widen(dy));
  backend.swiglu_backward({type, d.get(), bdy.get(), in.get(), rows, width});
  expect_close("backward", d.read(), want, gradient_bar(type));
  backend.swiglu_backward({type, in.get(), bdy.get(), in.get(), rows, width});
  expect("backward in place gives other bits", in.read() == d.read());
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (DType type : kTypes) {
    const std::string t = " " + type_name(type);
    all.push_back({"rms_norm" + t, [=](Backend& b) {
                     check_rms_norm(b, type, {1, 7, 1, 0, false, false, false, false});
                     check_rms_norm(b, type, {37, 97, 1, 0, false, false, false, true});
                     check_rms_norm(b, type, {130, 64, 1, 0, false, true, false, false});
                     check_rms_norm(b, type, {5, 300, 1, 12, false, true, true, false});
                   }});
    all.push_back({"rms_norm residual" + t, [=](Backend& b) {
                     check_rms_norm(b, type, {21, 128, 1, 0, true, false, false, false});
                     check_rms_norm(b, type, {9, 33, 1, 0, true, true, false, true});
                   }});
    all.push_back({"rms_norm of heads" + t, [=](Backend& b) {
                     check_rms_norm(b, type, {19, 32, 4, 64, false, false, false, false});
                     check_rms_norm(b, type, {70, 20, 3, 0, false, true, false, true});
                     check_rms_norm(b, type, {11, 8, 2, 5, false, false, true, true});
                   }});
    all.push_back({"layer_norm frozen" + t, [=](Backend& b) { check_frozen_layer_norm(b, type, 41, 70); }});
    all.push_back({"rope" + t, [=](Backend& b) {
                     check_rope(b, type, 1, 1, 2, 0);
                     check_rope(b, type, 40, 3, 64, 64);
                     check_rope(b, type, 21, 5, 20, 37);
                     check_rope(b, type, 9, 2, 128, 0);
                   }});
    all.push_back({"swiglu" + t, [=](Backend& b) {
                     check_swiglu(b, type, 1, 1);
                     check_swiglu(b, type, 13, 97);
                     check_swiglu(b, type, 9, 320);
                     check_swiglu(b, type, 3, 2200);
                   }});
  }
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
