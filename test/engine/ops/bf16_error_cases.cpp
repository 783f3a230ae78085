// Our bf16 error against double beside PyTorch's on the same inputs: at most 1.2 times that. A bar of a type's rounding alone
// would let an operation round more often than it must.
#include "../bf16_errors.hpp"
#include "../reference_llama.hpp"
#include "cases.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;
using reference::Vector;

constexpr DType kType = DType::Bf16;
constexpr std::int64_t kRows = 64, kIn = 96, kOut = 128, kVocabulary = 257;

void expect_no_worse(const std::string& name, const std::vector<float>& got, const Vector& want) {
  const double error = relative_error(got, want), allowed = allowed_bf16_error(name);
  if (error <= allowed) return;
  char numbers[96];
  std::snprintf(numbers, sizeof numbers, ": error %.4g, 1.2 times PyTorch's is %.4g", error, allowed);
  throw std::runtime_error(name + numbers);
}

// As the graph runs it: the product with its epilogue, then gelu's slope, the column sums and the two products backward.
void check_linear(Backend& backend, const std::string& name, bool with_gelu) {
  const auto x = fixed_values(1, kRows * kIn), w = fixed_values(2, kIn * kOut, 0.1), b = fixed_values(3, kOut, 0.1), dout = fixed_values(4, kRows * kOut);
  const Vector before = reference::multiply({kRows, kOut, kIn}, widen(x), widen(w), {}, widen(b));
  Vector out = before, d = widen(dout);
  for (std::size_t i = 0; with_gelu && i < out.size(); ++i) out[i] = reference::gelu(before[i]), d[i] *= reference::gelu_slope(before[i]);

  Buffer bx(backend, kType, x), bw(backend, kType, w), bb(backend, kType, b), bdout(backend, kType, dout), y(backend, kType, kRows * kOut), kept(backend, kType, kRows * kOut);
  Buffer dx(backend, kType, kRows * kIn), dw(backend, DType::F32, std::vector<float>(kIn * kOut)), db(backend, DType::F32, std::vector<float>(kOut));
  backend.matmul({.m = kRows, .n = kOut, .k = kIn, .a = bx.get(), .b = bw.get(), .c = y.get(), .in = kType, .out = kType, .bias = bb.get(), .gelu = with_gelu,
                  .gelu_input = with_gelu ? kept.get() : nullptr});
  if (with_gelu) backend.gelu_backward(kType, bdout.get(), bdout.get(), kept.get(), kRows * kOut);
  backend.column_sum(kType, db.floats(), bdout.get(), kRows, kOut);
  backend.matmul({.m = kIn, .n = kOut, .k = kRows, .transpose_a = true, .a = bx.get(), .b = bdout.get(), .c = dw.get(), .in = kType, .out = DType::F32, .beta = 1.0f});
  backend.matmul({.m = kRows, .n = kIn, .k = kOut, .transpose_b = true, .a = bdout.get(), .b = bw.get(), .c = dx.get(), .in = kType, .out = kType});
  expect_no_worse(name + " output", y.read(), out);
  expect_no_worse(name + " dx", dx.read(), reference::multiply({kRows, kIn, kOut, false, true}, d, widen(w)));
  expect_no_worse(name + " dw", dw.read(), reference::multiply({kIn, kOut, kRows, true, false}, widen(x), d));
  expect_no_worse(name + " db", db.read(), reference::column_sums(kRows, kOut, d));
}

void check_elementwise(Backend& backend) {
  const auto x = fixed_values(5, kRows * kOut, 2), dout = fixed_values(4, kRows * kOut), a = fixed_values(9, kRows * kOut), b = fixed_values(10, kRows * kOut);
  Vector y, dx, sum;
  for (std::size_t i = 0; i < x.size(); ++i) {
    y.push_back(reference::gelu(x[i]));
    dx.push_back(dout[i] * reference::gelu_slope(x[i]));
    sum.push_back(double(a[i]) + b[i]);
  }
  Buffer bx(backend, kType, x), by(backend, kType, kRows * kOut), bdout(backend, kType, dout), ba(backend, kType, a), bb(backend, kType, b);
  backend.gelu_forward(kType, by.get(), bx.get(), kRows * kOut);
  expect_no_worse("gelu output", by.read(), y);
  backend.gelu_backward(kType, bdout.get(), bdout.get(), bx.get(), kRows * kOut);
  expect_no_worse("gelu dx", bdout.read(), dx);
  backend.add(kType, ba.get(), ba.get(), bb.get(), kRows * kOut);
  expect_no_worse("add output", ba.read(), sum);
}

void check_layer_norm(Backend& backend) {
  const auto x = fixed_values(6, kRows * kOut), gain = fixed_values(7, kOut, 0.1, 1), bias = fixed_values(8, kOut, 0.1), dout = fixed_values(4, kRows * kOut);
  const reference::Norm want = reference::layer_norm(kRows, kOut, 1e-5, widen(x), widen(gain), widen(bias));
  const reference::NormGradients gradients = reference::layer_norm_backward(kRows, kOut, widen(x), widen(gain), want.mean, want.rstd, widen(dout));
  Buffer bx(backend, kType, x), bgain(backend, kType, gain), bbias(backend, kType, bias), bdout(backend, kType, dout), y(backend, kType, kRows * kOut), dx(backend, kType, kRows * kOut);
  Buffer mean(backend, DType::F32, kRows), rstd(backend, DType::F32, kRows), dgain(backend, DType::F32, std::vector<float>(kOut)), dbias(backend, DType::F32, std::vector<float>(kOut));
  backend.layer_norm_forward({.type = kType, .y = y.get(), .mean = mean.floats(), .rstd = rstd.floats(), .x = bx.get(), .gain = bgain.get(), .bias = bbias.get(),
                              .rows = kRows, .width = kOut});
  backend.layer_norm_backward({.type = kType, .dx = dx.get(), .dgain = dgain.floats(), .dbias = dbias.floats(), .dy = bdout.get(), .x = bx.get(), .gain = bgain.get(),
                               .mean = mean.floats(), .rstd = rstd.floats(), .rows = kRows, .width = kOut});
  expect_no_worse("layer_norm output", y.read(), want.y);
  expect_no_worse("layer_norm dx", dx.read(), gradients.dx);
  expect_no_worse("layer_norm dg", dgain.read(), gradients.dgain);
  expect_no_worse("layer_norm db", dbias.read(), gradients.dbias);
}

void check_rms_norm(Backend& backend) {
  const auto x = fixed_values(6, kRows * kOut), gain = fixed_values(7, kOut, 0.1, 1), dout = fixed_values(4, kRows * kOut);
  const reference::RmsNorm want = reference::rms_norm(kOut, 1e-5, widen(x), widen(gain));
  const reference::RmsNormGradients gradients = reference::rms_norm_backward(kOut, widen(x), widen(gain), want.rstd, widen(dout));
  Buffer bx(backend, kType, x), bgain(backend, kType, gain), bdout(backend, kType, dout), y(backend, kType, kRows * kOut), dx(backend, kType, kRows * kOut);
  Buffer rstd(backend, DType::F32, kRows), dgain(backend, DType::F32, std::vector<float>(kOut));
  backend.rms_norm_forward({.type = kType, .y = y.get(), .rstd = rstd.floats(), .x = bx.get(), .gain = bgain.get(), .rows = kRows, .width = kOut});
  backend.rms_norm_backward({.type = kType, .dx = dx.get(), .dgain = dgain.floats(), .dy = bdout.get(), .x = bx.get(), .gain = bgain.get(), .rstd = rstd.floats(), .rows = kRows,
                             .width = kOut});
  expect_no_worse("rms_norm output", y.read(), want.y);
  expect_no_worse("rms_norm dx", dx.read(), gradients.dx);
  expect_no_worse("rms_norm dg", dgain.read(), gradients.dgain);
}

void check_rope(Backend& backend) {
  const auto x = fixed_values(19, kRows * kOut), dout = fixed_values(4, kRows * kOut);
  const Vector table = reference::rotary_table(kRows, kOut / 4, 10000);
  reference::Numbers positions(kRows);
  std::iota(positions.begin(), positions.end(), 0);
  Buffer bx(backend, kType, x), bdout(backend, kType, dout), numbers(backend, positions), btable(backend, DType::F32, std::vector<float>(table.begin(), table.end()));
  Rope call{.type = kType, .y = bx.get(), .x = bx.get(), .positions = numbers.numbers(), .table = btable.floats(), .rows = kRows, .heads = 4, .columns = kOut, .head_size = kOut / 4,
            .context = kRows};
  backend.rope(call);
  expect_no_worse("rope output", bx.read(), reference::rope({4, kOut, kOut / 4, false}, widen(x), table, positions));
  call.y = bdout.get(), call.x = bdout.get(), call.inverse = true;
  backend.rope(call);
  expect_no_worse("rope dx", bdout.read(), reference::rope({4, kOut, kOut / 4, true}, widen(dout), table, positions));
}

void check_swiglu(Backend& backend) {
  const auto x = fixed_values(20, kRows * 2 * kOut, 2), dout = fixed_values(4, kRows * kOut);
  Buffer bx(backend, kType, x), bdout(backend, kType, dout), y(backend, kType, kRows * kOut);
  backend.swiglu_forward({kType, y.get(), bx.get(), kRows, kOut});
  backend.swiglu_backward({kType, bx.get(), bdout.get(), bx.get(), kRows, kOut});
  expect_no_worse("swiglu output", y.read(), reference::swiglu(kOut, widen(x)));
  expect_no_worse("swiglu dx", bx.read(), reference::swiglu_backward(kOut, widen(x), widen(dout)));
}

void check_embedding(Backend& backend) {
  const auto ids = fixed_numbers(11, kRows * 4, 16);
  const auto dout = fixed_values(13, kRows * 4 * kOut);
  Buffer bids(backend, ids), bdout(backend, kType, dout), dtable(backend, DType::F32, std::vector<float>(16 * kOut));
  backend.embedding_backward({kType, dtable.floats(), bdout.get(), bids.numbers(), kRows * 4, kOut, 16});
  expect_no_worse("embedding dtable", dtable.read(), reference::embedding_backward(16, kOut, ids, widen(dout)));
}

void check_attention(Backend& backend, const std::string& name, bool is_packed, bool is_grouped = false) {
  const double scale = 1 / std::sqrt(32.0);
  const reference::AttentionShape shape = is_grouped ? reference::AttentionShape{2, 96, 6, 32, scale, 2, 40} : reference::AttentionShape{2, 96, 2, 32, scale};
  const std::int64_t rows = shape.batch * shape.length;
  const auto qkv = fixed_values(is_grouped ? 21 : 14, rows * shape.columns()), dout = fixed_values(is_grouped ? 22 : 15, rows * shape.width());
  const auto segments = is_packed ? fixed_documents(16, shape.batch, shape.length) : std::vector<std::int32_t>{};
  Buffer bqkv(backend, kType, qkv), bdout(backend, kType, dout), numbers(backend, is_packed ? segments : std::vector<std::int32_t>(1));
  Buffer out(backend, kType, rows * shape.width()), dqkv(backend, kType, rows * shape.columns());
  Buffer log_sum(backend, DType::F32, rows * shape.heads), delta(backend, DType::F32, rows * shape.heads);
  const std::int32_t* seen = is_packed ? numbers.numbers() : nullptr;
  backend.attention_forward({kType, bqkv.get(), out.get(), log_sum.floats(), seen, shape.batch, shape.length, shape.heads, shape.head_size, float(shape.scale),
                             shape.kv_heads, shape.window});
  backend.attention_backward({.type = kType, .qkv = bqkv.get(), .out = out.get(), .dout = bdout.get(), .log_sum = log_sum.floats(), .delta = delta.floats(), .segments = seen,
                              .dqkv = dqkv.get(), .batch = shape.batch, .length = shape.length, .heads = shape.heads, .head_size = shape.head_size, .scale = float(shape.scale),
                              .kv_heads = shape.kv_heads, .window = shape.window});
  expect_no_worse(name + " output", out.read(), reference::attention(shape, widen(qkv), segments).out);
  expect_no_worse(name + " dqkv", dqkv.read(), reference::attention_backward(shape, widen(qkv), segments, widen(dout)));
}

void check_cross_entropy(Backend& backend) {
  const auto logits = fixed_values(18, kRows * kVocabulary, 2);
  auto targets = fixed_numbers(17, kRows, kVocabulary);
  for (std::size_t i = 5; i < targets.size(); i += 9) targets[i] = -1;
  const reference::Loss want = reference::cross_entropy(kVocabulary, widen(logits), targets, 1);
  Buffer blogits(backend, kType, logits), btargets(backend, targets), losses(backend, DType::F32, kRows);
  backend.cross_entropy({.type = kType, .logits = blogits.get(), .losses = losses.floats(), .targets = btargets.numbers(), .rows = kRows, .vocabulary = kVocabulary});
  expect_no_worse("cross_entropy output", losses.read(), want.losses);
  expect_no_worse("cross_entropy dlogits", blogits.read(), want.gradient);
}

const AddCases added({{"bf16 error of linear", [](Backend& b) { check_linear(b, "linear", false); }},
                      {"bf16 error of linear with gelu", [](Backend& b) { check_linear(b, "linear gelu", true); }},
                      {"bf16 error of gelu and add", check_elementwise},
                      {"bf16 error of layer_norm", check_layer_norm},
                      {"bf16 error of embedding", check_embedding},
                      {"bf16 error of attention", [](Backend& b) { check_attention(b, "attention", false); }},
                      {"bf16 error of attention packed", [](Backend& b) { check_attention(b, "attention packed", true); }},
                      {"bf16 error of attention grouped", [](Backend& b) { check_attention(b, "attention grouped", false, true); }},
                      {"bf16 error of rms_norm", check_rms_norm},
                      {"bf16 error of rope", check_rope},
                      {"bf16 error of swiglu", check_swiglu},
                      {"bf16 error of cross_entropy", check_cross_entropy}});
}  // namespace
}  // namespace pgtrain::test
