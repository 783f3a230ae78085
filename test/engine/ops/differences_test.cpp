// The double-precision references themselves, against central differences: every operation with a backward, every input that
// has a gradient, fresh random numbers. Each case also shows that it can fail, with a gradient that is off by a little.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "../reference_llama.hpp"
#include "support/seed.hpp"

namespace pgtrain::reference {
namespace {

constexpr double kBar = 1e-7;

struct Operation {
  std::vector<Vector> inputs;
  std::function<Vector(const std::vector<Vector>&)> forward;
  std::function<std::vector<Vector>(const std::vector<Vector>&, const Vector& dout)> backward;
};

class Differences : public ::testing::Test {
 protected:
  Differences() : seed_(test::seed()), random_(seed_) {}

  Vector values(std::int64_t count, double spread = 1) {
    Vector out(size(count));
    for (double& value : out) value = spread * std::normal_distribution<double>()(random_);
    return out;
  }
  Numbers numbers(std::int64_t count, int below) {
    Numbers out(size(count));
    for (std::int32_t& number : out) number = static_cast<std::int32_t>(random_() % static_cast<unsigned>(below));
    return out;
  }

  // d <dout, forward> / d input, element by element.
  static std::vector<Vector> by_differences(const Operation& op, const Vector& dout) {
    std::vector<Vector> inputs = op.inputs, gradients;
    for (Vector& input : inputs) {
      gradients.emplace_back();
      for (double& element : input) {
        const double kept = element, step = 1e-5 * std::max(1.0, std::abs(kept));
        element = kept + step;
        const Vector above = op.forward(inputs);
        const double up = element;
        element = kept - step;
        const Vector below = op.forward(inputs);
        double slope = 0;
        for (std::size_t i = 0; i < dout.size(); ++i) slope += dout[i] * (above[i] - below[i]);
        gradients.back().push_back(slope / (up - element));
        element = kept;
      }
    }
    return gradients;
  }
  static double error(const Vector& got, const Vector& want) {
    double difference = 0, length = 0;
    for (std::size_t i = 0; i < want.size(); ++i) difference += (got[i] - want[i]) * (got[i] - want[i]), length += want[i] * want[i];
    return std::sqrt(difference / length);
  }

  void check(const std::string& name, const Operation& op) {
    SCOPED_TRACE(name + ", seed " + std::to_string(seed_));
    const Vector dout = values(static_cast<std::int64_t>(op.forward(op.inputs).size()));
    const std::vector<Vector> want = by_differences(op, dout), got = op.backward(op.inputs, dout);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t input = 0; input < want.size(); ++input) {
      ASSERT_EQ(got[input].size(), want[input].size()) << "input " << input;
      EXPECT_LE(error(got[input], want[input]), kBar) << "input " << input;
      Vector planted = got[input];
      *std::max_element(planted.begin(), planted.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }) *= 1.0001;
      EXPECT_GT(error(planted, want[input]), kBar) << "a wrong gradient of input " << input << " was not found";
    }
  }

  unsigned seed_;
  std::mt19937 random_;
};

// Linear layers of every transposition: A, B, what is added to, and the bias; then gelu on top.
TEST_F(Differences, Products) {
  for (int form = 0; form < 8; ++form) {
    const bool ta = form & 1, tb = form & 2, with_gelu = form & 4;
    const std::int64_t m = 5, n = 7, k = 6;
    const Product p{m, n, k, ta, tb, with_gelu ? 1.0 : 0.75, with_gelu ? 0.0 : 0.5};
    Operation op;
    op.inputs = {values(m * k), values(k * n), values(n)};
    if (!with_gelu) op.inputs.push_back(values(m * n));
    const auto before = [=](const std::vector<Vector>& in) { return multiply(p, in[0], in[1], with_gelu ? Vector{} : in[3], in[2]); };
    op.forward = [=](const std::vector<Vector>& in) {
      Vector out = before(in);
      for (double& value : out) value = with_gelu ? gelu(value) : value;
      return out;
    };
    op.backward = [=](const std::vector<Vector>& in, const Vector& dout) {
      Vector d = dout;
      const Vector x = before(in);
      for (std::size_t i = 0; i < d.size(); ++i) d[i] *= with_gelu ? gelu_slope(x[i]) : 1;
      const Vector da = ta ? multiply({k, m, n, tb, true, p.alpha}, in[1], d) : multiply({m, k, n, false, !tb, p.alpha}, d, in[1]);
      const Vector db = tb ? multiply({n, k, m, true, ta, p.alpha}, d, in[0]) : multiply({k, n, m, !ta, false, p.alpha}, in[0], d);
      std::vector<Vector> gradients{da, db, column_sums(m, n, d)};
      if (!with_gelu) {
        gradients.push_back(d);
        for (double& value : gradients.back()) value *= p.beta;
      }
      return gradients;
    };
    check(std::string("product") + (ta ? " A transposed" : "") + (tb ? " B transposed" : "") + (with_gelu ? " with gelu" : ""), op);
  }
}

TEST_F(Differences, Gelu) {
  Operation op;
  op.inputs = {values(60, 2)};
  op.forward = [](const std::vector<Vector>& in) {
    Vector out = in[0];
    for (double& value : out) value = gelu(value);
    return out;
  };
  op.backward = [](const std::vector<Vector>& in, const Vector& dout) {
    Vector dx = dout;
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] *= gelu_slope(in[0][i]);
    return std::vector<Vector>{dx};
  };
  check("gelu", op);
}

TEST_F(Differences, Embedding) {
  const std::int64_t vocabulary = 6, width = 5;
  const Numbers ids = numbers(14, vocabulary);  // some twice, perhaps some never
  Operation op;
  op.inputs = {values(vocabulary * width)};
  op.forward = [=](const std::vector<Vector>& in) { return embedding(width, in[0], ids); };
  op.backward = [=](const std::vector<Vector>&, const Vector& dout) { return std::vector<Vector>{embedding_backward(vocabulary, width, ids, dout)}; };
  check("embedding", op);
}

TEST_F(Differences, LayerNorm) {
  for (const bool is_sum : {false, true}) {
    const std::int64_t rows = 4, width = 9;
    const double epsilon = 1e-3;
    Operation op;
    op.inputs = {values(width), values(width), values(rows * width)};
    if (is_sum) op.inputs.push_back(values(rows * width));
    const auto sum = [=](const std::vector<Vector>& in) {
      Vector x = in[2];
      for (std::size_t i = 0; is_sum && i < x.size(); ++i) x[i] += in[3][i];
      return x;
    };
    op.forward = [=](const std::vector<Vector>& in) { return layer_norm(rows, width, epsilon, sum(in), in[0], in[1]).y; };
    op.backward = [=](const std::vector<Vector>& in, const Vector& dout) {
      const Norm norm = layer_norm(rows, width, epsilon, sum(in), in[0], in[1]);
      const NormGradients g = layer_norm_backward(rows, width, sum(in), in[0], norm.mean, norm.rstd, dout);
      std::vector<Vector> gradients{g.dgain, g.dbias, g.dx};
      if (is_sum) gradients.push_back(g.dx);
      return gradients;
    };
    check(is_sum ? "layer norm of a sum" : "layer norm", op);
  }
}

TEST_F(Differences, Attention) {
  for (const bool is_packed : {false, true}) {
    const AttentionShape shape{2, 7, 2, 3, 0.6, 0, 0};
    Numbers segments;
    for (std::int64_t b = 0; is_packed && b < shape.batch; ++b)
      for (std::int32_t t = 0, number = 0; t < shape.length; ++t) segments.push_back(number += t == 2 + b || random_() % 4 == 0);
    Operation op;
    op.inputs = {values(shape.batch * shape.length * 3 * shape.width())};
    op.forward = [=](const std::vector<Vector>& in) { return attention(shape, in[0], segments).out; };
    op.backward = [=](const std::vector<Vector>& in, const Vector& dout) { return std::vector<Vector>{attention_backward(shape, in[0], segments, dout)}; };
    check(is_packed ? "attention over packed documents" : "attention", op);
  }
}

TEST_F(Differences, AttentionOfGroupsAndWindows) {
  for (const bool is_packed : {false, true}) {
    const AttentionShape shape{2, 7, 6, 3, 0.6, 2, is_packed ? 4 : 3};
    Numbers segments;
    for (std::int64_t b = 0; is_packed && b < shape.batch; ++b)
      for (std::int32_t t = 0, number = 0; t < shape.length; ++t) segments.push_back(number += t == 2 + b);
    Operation op;
    op.inputs = {values(shape.batch * shape.length * shape.columns())};
    op.forward = [=](const std::vector<Vector>& in) { return attention(shape, in[0], segments).out; };
    op.backward = [=](const std::vector<Vector>& in, const Vector& dout) { return std::vector<Vector>{attention_backward(shape, in[0], segments, dout)}; };
    check(is_packed ? "grouped attention over packed documents" : "grouped attention", op);
  }
}

TEST_F(Differences, RmsNorm) {
  const std::int64_t runs = 5, width = 9;
  const double epsilon = 1e-3;
  Operation op;
  op.inputs = {values(width), values(runs * width)};
  op.forward = [=](const std::vector<Vector>& in) { return rms_norm(width, epsilon, in[1], in[0]).y; };
  op.backward = [=](const std::vector<Vector>& in, const Vector& dout) {
    const RmsNormGradients g = rms_norm_backward(width, in[1], in[0], rms_norm(width, epsilon, in[1], in[0]).rstd, dout);
    return std::vector<Vector>{g.dgain, g.dx};
  };
  check("rms norm", op);
}

// The backward of a turn is the turn back, which also undoes it.
TEST_F(Differences, Rope) {
  const RopeShape shape{2, 17, 6, false};
  RopeShape back = shape;
  back.inverse = true;
  const Vector table = rotary_table(11, shape.head_size, 100);
  const Numbers positions = numbers(5, 11);
  Operation op;
  op.inputs = {values(5 * shape.columns)};
  op.forward = [=](const std::vector<Vector>& in) { return rope(shape, in[0], table, positions); };
  op.backward = [=](const std::vector<Vector>&, const Vector& dout) { return std::vector<Vector>{rope(back, dout, table, positions)}; };
  check("rope", op);
  EXPECT_LE(error(rope(back, op.forward(op.inputs), table, positions), op.inputs[0]), 1e-14);
}

TEST_F(Differences, SwiGlu) {
  const std::int64_t width = 7;
  Operation op;
  op.inputs = {values(4 * 2 * width, 2)};
  op.forward = [=](const std::vector<Vector>& in) { return swiglu(width, in[0]); };
  op.backward = [=](const std::vector<Vector>& in, const Vector& dout) { return std::vector<Vector>{swiglu_backward(width, in[0], dout)}; };
  check("swiglu", op);
}

TEST_F(Differences, Dropout) {
  const Vector factors = dropout_factors(90, 0.4, 7, 9);
  const auto masked = [=](const Vector& x) {
    Vector y = x;
    for (std::size_t i = 0; i < y.size(); ++i) y[i] *= factors[i];
    return y;
  };
  Operation op;
  op.inputs = {values(90)};
  op.forward = [=](const std::vector<Vector>& in) { return masked(in[0]); };
  op.backward = [=](const std::vector<Vector>&, const Vector& dout) { return std::vector<Vector>{masked(dout)}; };
  check("dropout", op);
}

// The gradient comes with its scale, so the forward here is the scaled sum of the losses.
TEST_F(Differences, CrossEntropy) {
  const std::int64_t vocabulary = 9;
  Numbers targets = numbers(6, vocabulary);
  targets[1] = targets[4] = -1;
  const double scale = 0.3;
  Operation op;
  op.inputs = {values(static_cast<std::int64_t>(targets.size()) * vocabulary, 2)};
  op.forward = [=](const std::vector<Vector>& in) {
    double total = 0;
    for (const double loss : cross_entropy(vocabulary, in[0], targets, scale).losses) total += scale * loss;
    return Vector{total};
  };
  op.backward = [=](const std::vector<Vector>& in, const Vector& dout) {
    Vector gradient = cross_entropy(vocabulary, in[0], targets, scale).gradient;
    for (double& value : gradient) value *= dout[0];
    return std::vector<Vector>{gradient};
  };
  check("cross entropy", op);
}

}  // namespace
}  // namespace pgtrain::reference
