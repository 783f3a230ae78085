// Layer norm, embedding, gelu, column sums and the loss, forward and backward.
#include <algorithm>

#include "cases.hpp"

namespace pgtrain::test {
namespace {
using namespace engine::backend;

void check_layer_norm(Backend& backend, DType type, int rows, int width, bool residual, bool accumulate) {
  const std::int64_t count = std::int64_t(rows) * width;
  const auto x = random_values(type, count), second = random_values(type, count), gain = random_values(type, width), bias = random_values(type, width);
  const auto dy = random_values(type, count), old_dx = random_values(type, count), old_gain = random_values(DType::F32, width),
             old_bias = random_values(DType::F32, width);
  std::vector<float> total = x;
  if (residual)
    for (std::size_t i = 0; i < total.size(); ++i) {
      total[i] = x[i] + second[i];
      if (type == DType::Bf16) total[i] = engine::core::to_float(engine::core::to_bf16(total[i]));
    }
  const reference::Norm want = reference::layer_norm(rows, width, 1e-5, widen(total), widen(gain), widen(bias));
  reference::NormGradients gradients = reference::layer_norm_backward(rows, width, widen(total), widen(gain), want.mean, want.rstd, widen(dy));

  Buffer bx(backend, type, x), bsecond(backend, type, second), bgain(backend, type, gain), bbias(backend, type, bias), bdy(backend, type, dy);
  Buffer y(backend, type, count), sum(backend, type, count), mean(backend, DType::F32, rows), rstd(backend, DType::F32, rows);
  LayerNormForward f;
  f.type = type, f.y = y.get(), f.mean = mean.floats(), f.rstd = rstd.floats(), f.x = bx.get(), f.gain = bgain.get(), f.bias = bbias.get();
  if (residual) f.residual = bsecond.get(), f.sum = sum.get();
  f.rows = rows, f.width = width, f.epsilon = 1e-5f;
  backend.layer_norm_forward(f);
  expect_close("forward", y.read(), want.y, forward_bar(type));
  if (residual) expect_close("sum with the residual", sum.read(), std::vector<double>(total.begin(), total.end()), 1e-7);

  Buffer dx(backend, type, old_dx), dgain(backend, DType::F32, old_gain), dbias(backend, DType::F32, old_bias);
  LayerNormBackward g;
  g.type = type, g.dx = accumulate ? dx.get() : bdy.get(), g.accumulate_dx = accumulate, g.dgain = dgain.floats(), g.dbias = dbias.floats();
  g.dy = bdy.get(), g.x = residual ? sum.get() : bx.get(), g.gain = bgain.get(), g.mean = mean.floats(), g.rstd = rstd.floats();
  g.rows = rows, g.width = width;
  backend.layer_norm_backward(g);
  for (std::size_t i = 0; accumulate && i < gradients.dx.size(); ++i) gradients.dx[i] += old_dx[i];
  for (int c = 0; c < width; ++c) gradients.dgain[c] += old_gain[c], gradients.dbias[c] += old_bias[c];
  expect_close(accumulate ? "dx added" : "dx over dy", accumulate ? dx.read() : bdy.read(), gradients.dx, gradient_bar(type));
  expect_close("dgain", dgain.read(), gradients.dgain, 5e-6);
  expect_close("dbias", dbias.read(), gradients.dbias, 5e-6);
}

void check_embedding(Backend& backend, DType type, int rows, int width, int vocabulary) {
  const auto table = random_values(type, std::int64_t(vocabulary) * width), dout = random_values(type, std::int64_t(rows) * width);
  const auto old = random_values(DType::F32, std::int64_t(vocabulary) * width);
  std::vector<std::int32_t> ids;
  for (int r = 0; r < rows; ++r) ids.push_back(random_below(vocabulary));
  const reference::Vector out = reference::embedding(width, widen(table), ids);
  reference::Vector dtable = reference::embedding_backward(vocabulary, width, ids, widen(dout));
  for (std::size_t i = 0; i < dtable.size(); ++i) dtable[i] += old[i];
  Buffer btable(backend, type, table), bdout(backend, type, dout), bids(backend, ids), bout(backend, type, std::int64_t(rows) * width);
  Buffer bdtable(backend, DType::F32, old);
  EmbeddingForward f;
  f.type = type, f.out = bout.get(), f.table = btable.get(), f.ids = bids.numbers(), f.rows = rows, f.width = width, f.vocabulary = vocabulary;
  backend.embedding_forward(f);
  expect_close("rows", bout.read(), out, 0);
  EmbeddingBackward g;
  g.type = type, g.dtable = bdtable.floats(), g.dout = bdout.get(), g.ids = bids.numbers(), g.rows = rows, g.width = width, g.vocabulary = vocabulary;
  backend.embedding_backward(g);
  expect_close("gradient of the table", bdtable.read(), dtable, 5e-6);
}

void check_gelu(Backend& backend, DType type, int count) {
  auto x = random_values(type, count, 2.0f);
  const auto dy = random_values(type, count);
  // Alone, a value where gelu or its slope is nearly 0 has no meaningful relative error.
  if (count == 1) x[0] = std::abs(x[0]);
  std::vector<double> y, dx;
  for (int i = 0; i < count; ++i) {
    y.push_back(reference::gelu(x[i]));
    dx.push_back(dy[i] * reference::gelu_slope(x[i]));
  }
  Buffer bx(backend, type, x), by(backend, type, count), bdy(backend, type, dy);
  backend.gelu_forward(type, by.get(), bx.get(), count);
  expect_close("forward", by.read(), y, forward_bar(type));
  backend.gelu_backward(type, bdy.get(), bdy.get(), bx.get(), count);
  expect_close("backward over dy", bdy.read(), dx, gradient_bar(type));
}

void check_column_sum(Backend& backend, DType type, int rows, int width) {
  const auto x = random_values(type, std::int64_t(rows) * width), old = random_values(DType::F32, width);
  reference::Vector want = reference::column_sums(rows, width, widen(x));
  for (int c = 0; c < width; ++c) want[c] += old[c];
  Buffer bx(backend, type, x), out(backend, DType::F32, old);
  backend.column_sum(type, out.floats(), bx.get(), rows, width);
  expect_close("sums", out.read(), want, 5e-6);
}

// A loss is the difference of numbers as large as the logits, so its error is measured against those.
void expect_losses(const std::string& what, const std::vector<float>& got, const std::vector<double>& want) {
  for (std::size_t r = 0; r < want.size(); ++r)
    expect(what + " of row " + std::to_string(r) + ": " + std::to_string(got[r]) + ", not " + std::to_string(want[r]), std::fabs(got[r] - want[r]) <= 1e-5);
}
void check_cross_entropy(Backend& backend, DType type, int rows, int vocabulary, int extra_pitch) {
  const int pitch = vocabulary + extra_pitch;
  // Of two logits far apart the gradient is the small difference of two large numbers, in any float arithmetic.
  auto logits = random_values(type, std::int64_t(rows) * pitch, vocabulary > 2 ? 3.0f : 0.5f);
  const auto weights = random_values(DType::F32, rows);
  std::vector<std::int32_t> targets;
  for (int r = 0; r < rows; ++r) {
    const auto row = logits.begin() + std::ptrdiff_t(r) * pitch;
    const auto highest = std::max_element(row, row + vocabulary);
    // Most targets are the highest logit, some of them not the first that is as high.
    if (r % 3 == 1) row[random_below(vocabulary)] = *highest;
    targets.push_back(r % 5 == 3 ? -1 : r % 4 == 2 ? random_below(vocabulary) : int(highest - row));
  }
  const double scale = 0.25;
  reference::Vector rows_only;
  for (int r = 0; r < rows; ++r) rows_only.insert(rows_only.end(), logits.begin() + std::ptrdiff_t(r) * pitch, logits.begin() + std::ptrdiff_t(r) * pitch + vocabulary);
  const reference::Loss want = reference::cross_entropy(vocabulary, rows_only, targets, scale), weighted = reference::cross_entropy(vocabulary, rows_only, targets, scale, widen(weights));
  Buffer blogits(backend, type, logits), btargets(backend, targets), blosses(backend, DType::F32, rows), bhits(backend, DType::F32, rows), bweights(backend, DType::F32, weights);
  CrossEntropy call;
  call.type = type, call.logits = blogits.get(), call.pitch = extra_pitch ? pitch : 0, call.losses = blosses.floats(), call.targets = btargets.numbers();
  call.rows = rows, call.vocabulary = vocabulary, call.scale = float(scale), call.gradient = false;
  backend.cross_entropy(call);
  expect_losses("loss alone", blosses.read(), want.losses);
  expect_close("logits without gradient", blogits.read(), std::vector<double>(logits.begin(), logits.end()), 0);
  const auto gradient = [&] {
    blogits.write(logits);
    backend.cross_entropy(call);
    const auto all = blogits.read();
    std::vector<float> got;
    for (int r = 0; r < rows; ++r) got.insert(got.end(), all.begin() + std::ptrdiff_t(r) * pitch, all.begin() + std::ptrdiff_t(r) * pitch + vocabulary);
    return got;
  };
  call.gradient = true;
  const std::vector<float> alone = gradient();
  expect_close("gradient", alone, want.gradient, gradient_bar(type));
  const Buffer numbers(backend, words_of({.scale = 0.5f}));
  call.scale = float(2 * scale), call.run = run_numbers(numbers);
  expect("gradient with the run's scale", gradient() == alone);
  expect_losses("loss", blosses.read(), want.losses);
  call.weights = bweights.floats(), call.hits = bhits.floats();
  expect_close("weighted gradient", gradient(), weighted.gradient, gradient_bar(type));
  expect_losses("loss beside weights", blosses.read(), want.losses);
  expect_close("hits", bhits.read(), want.hits, 0);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (DType type : kTypes) {
    const std::string t = " " + type_name(type);
    all.push_back({"layer_norm" + t, [=](Backend& b) {
                     check_layer_norm(b, type, 1, 7, false, false);  // of one or two elements dx is a difference of equals
                     check_layer_norm(b, type, 37, 97, false, false);
                     check_layer_norm(b, type, 130, 64, false, true);
                     check_layer_norm(b, type, 5, 300, false, true);
                   }});
    all.push_back({"layer_norm residual" + t, [=](Backend& b) {
                     check_layer_norm(b, type, 21, 128, true, false);
                     check_layer_norm(b, type, 9, 33, true, true);
                   }});
    all.push_back({"embedding" + t, [=](Backend& b) {
                     check_embedding(b, type, 1, 1, 1);
                     check_embedding(b, type, 300, 40, 7);
                     check_embedding(b, type, 45, 130, 300);
                   }});
    all.push_back({"gelu" + t, [=](Backend& b) {
                     check_gelu(b, type, 1);
                     check_gelu(b, type, 1029);
                     check_gelu(b, type, 9001);
                   }});
    all.push_back({"column_sum" + t, [=](Backend& b) {
                     check_column_sum(b, type, 1, 1);
                     check_column_sum(b, type, 70, 133);
                     check_column_sum(b, type, 19, 260);
                   }});
    all.push_back({"cross_entropy" + t, [=](Backend& b) {
                     check_cross_entropy(b, type, 1, 2, 0);
                     check_cross_entropy(b, type, 17, 257, 0);
                     check_cross_entropy(b, type, 9, 100, 4);
                     check_cross_entropy(b, type, 4, 1500, 0);
                   }});
  }
  return all;
}
const AddCases added(cases());
}  // namespace
}  // namespace pgtrain::test
