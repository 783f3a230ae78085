// The optimisers: AdamW beside PyTorch's and its 8-bit form beside bitsandbytes' (test/fixtures/make_optimizer_reference.py), bf16
// moments and Muon beside double precision, the memory plan, and for each kind that a run cut in two ends in the same bytes.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "../naive_backend.hpp"
#include "../temporary_folder.hpp"
#include "engine/backend/devices.hpp"
#include "engine/backend/dynamic_map.hpp"
#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/train/checkpoint.hpp"
#include "engine/train/measured_backend.hpp"
#include "engine/train/optimizer.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::train {
namespace {

using core::DType;
using graph::Parameter;

// The weights of the reference, in its order.
graph::Graph two_parameters() {
  graph::Builder b(DType::F32);
  b.parameter("matrix", {65, 67}, true);
  b.parameter("bias", {65}, false);
  return std::move(b).finish();
}

// A table, projections of both layouts, wide and tall, and vectors.
graph::Graph several(DType compute) {
  graph::Builder b(compute);
  const graph::Value table = b.parameter("table", {70, 64}, true), wide = b.parameter("wide", {64, 96}, true), tall = b.parameter("tall", {80, 96}, true);
  const graph::Value square = b.parameter("square", {64, 80}, true), wide_bias = b.parameter("wide.bias", {96}, false);
  const graph::Value ids = b.input("ids", 8), targets = b.input("targets", 8);
  const graph::Value x = b.linear(b.embedding(table, ids), wide, wide_bias, graph::Activation::Gelu);
  b.linear_cross_entropy(b.projection(b.projection(x, tall, {}), square, {}), table, targets);
  return std::move(b).finish();
}

// As in make_optimizer_reference.py.
float value(std::int64_t i, std::int64_t step) {
  constexpr double kSizes[] = {1.0, 0.25, 0.0625, 0.015625};
  return static_cast<float>(static_cast<double>((i * 7919 + (step + 1) * 104729) % 2003 - 1001) / 1001.0 * kSizes[(i + step + 4) % 4]);
}

void run_reference(backend::Backend& device, const OptimizerOptions& options, const std::function<void(const graph::ParameterStore&, const std::vector<float>&, const Optimizer&)>& check) {
  const graph::Graph graph = two_parameters();
  graph::ParameterStore store(graph, device, graph::Mode::Train);
  std::vector<float> values(static_cast<std::size_t>(store.count()));
  const auto make = [&](std::int64_t step) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(static_cast<std::int64_t>(i), step);
  };
  make(-1);
  store.upload_weights(values.data());
  Optimizer optimizer(store, options);
  for (int step = 0; step < 6; ++step) {
    make(step);
    device.upload(store.gradients(), values.data(), values.size() * sizeof(float));
    optimizer.gradient_norm();
    optimizer.update(step, 3e-3);
  }
  store.download_weights(values.data());
  check(store, values, optimizer);
}

io::SafetensorsFile reference() { return io::SafetensorsFile(std::string(PGTRAIN_FIXTURES) + "/optimizer_reference.safetensors"); }

// How many are not within `near`; all are within `most`.
int expect_weights(const char* kind, const graph::ParameterStore& store, const std::vector<float>& weights, double most, double near = 0) {
  int far = 0;
  const io::SafetensorsFile file = reference();
  for (const Parameter& parameter : store.parameters()) {
    std::vector<float> wanted(static_cast<std::size_t>(parameter.count));
    file.read_f32(file.require(std::string(kind) + "/" + parameter.name, {parameter.shape.begin(), parameter.shape.end()}), wanted.data());
    for (std::int64_t i = 0; i < parameter.count; ++i) {
      const double x = weights[static_cast<std::size_t>(parameter.offset + i)], y = wanted[static_cast<std::size_t>(i)];
      EXPECT_NEAR(x, y, most) << parameter.name << " " << i;
      far += !(std::abs(x - y) <= near);
    }
  }
  return far;
}

TEST(Optimizers, AdamWFollowsPyTorch) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  NaiveBackend naive;
  for (backend::Backend* device : {cpu.get(), static_cast<backend::Backend*>(&naive)})
    run_reference(*device, {0.1, 0.9, 0.95, 1e-8, 0.5}, [](const auto& store, const auto& weights, const auto&) { expect_weights("adamw", store, weights, 1e-6); });
}

// bitsandbytes stores the same codes. Seldom the last bit of a share moves one to its neighbour; then the next moments of that weight
// differ by up to such a step, which where they cancel is many of the dense codes near zero.
TEST(Optimizers, AdamW8bitFollowsBitsandbytes) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  run_reference(*cpu, {.gradient_clip = 0, .kind = OptimizerKind::AdamW8bit}, [&](const auto& store, const auto& weights, const Optimizer& optimizer) {
    EXPECT_LE(expect_weights("adamw_8bit", store, weights, 1e-3, 1e-6), 20);
    const io::SafetensorsFile file = reference();
    const auto& parts = optimizer.state();
    ASSERT_EQ(parts.size(), 6u);  // four of the matrix, and the small bias keeps floats
    EXPECT_EQ(parts[4].name, "first_moments/bias");
    EXPECT_EQ(parts[4].type, io::StoredType::F32);
    const char* const names[] = {"first_codes", "second_codes", "first_scales", "second_scales"};
    for (std::size_t part = 0; part < 4; ++part) {
      const io::StoredTensor& wanted = *file.find(names[part]);
      const std::string_view theirs = file.data(wanted);
      if (part < 2) {
        const auto* ours = static_cast<const std::uint8_t*>(parts[part].memory);
        const auto book = backend::dynamic_map(part == 0);
        int different = 0;
        for (std::size_t i = 0; i < 65 * 67; ++i) {
          ASSERT_NEAR(book[ours[i]], book[static_cast<std::uint8_t>(theirs[i])], 0.02) << names[part] << " " << i;
          different += ours[i] != static_cast<std::uint8_t>(theirs[i]);
        }
        EXPECT_LE(different, 20) << names[part];
      } else {
        const auto* ours = static_cast<const float*>(parts[part].memory);
        ASSERT_EQ(parts[part].bytes, theirs.size());
        for (std::size_t i = 0; i < theirs.size() / sizeof(float); ++i) {
          float number = 0;
          std::memcpy(&number, theirs.data() + i * sizeof number, sizeof number);
          ASSERT_NEAR(ours[i] / number, 1, 1e-5) << names[part] << " " << i;
        }
      }
    }
  });
}

TEST(Optimizers, Bf16MomentsStayNearFloats) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  run_reference(*cpu, {.gradient_clip = 0.5, .moments = DType::Bf16}, [](const auto& store, const auto& weights, const Optimizer& optimizer) {
    for (const StateTensor& part : optimizer.state()) EXPECT_EQ(part.type, io::StoredType::BF16);
    // Six steps of 3e-3, each right to the 8 bits of a moment or so.
    expect_weights("adamw", store, weights, 4e-4);
  });
}

using Matrix = std::vector<double>;

// Muon as its author publishes it, in double: momentum 0.95, Nesterov, five iterations, sqrt(max(1, outputs / inputs)).
Matrix orthogonal(Matrix x, std::int64_t rows, std::int64_t columns) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  for (double& v : x) v /= std::sqrt(squares) + 1e-7;
  const auto product = [](const Matrix& a, const Matrix& b, std::int64_t m, std::int64_t k, std::int64_t n) {
    Matrix c(static_cast<std::size_t>(m * n));
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t l = 0; l < k; ++l)
        for (std::int64_t j = 0; j < n; ++j) c[static_cast<std::size_t>(i * n + j)] += a[static_cast<std::size_t>(i * k + l)] * b[static_cast<std::size_t>(l * n + j)];
    return c;
  };
  for (int step = 0; step < 5; ++step) {
    Matrix turned(x.size());
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) turned[static_cast<std::size_t>(j * rows + i)] = x[static_cast<std::size_t>(i * columns + j)];
    const Matrix gram = product(x, turned, rows, columns, rows), square = product(gram, gram, rows, rows, rows);
    Matrix mixed(gram.size());
    for (std::size_t i = 0; i < gram.size(); ++i) mixed[i] = -4.7750 * gram[i] + 2.0315 * square[i];
    const Matrix added = product(mixed, x, rows, rows, columns);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = 3.4445 * x[i] + added[i];
  }
  return x;
}

void check_muon(backend::Backend& device, DType compute, double most) {
  const graph::Graph graph = several(compute);
  graph::ParameterStore store(graph, device, graph::Mode::Train);
  std::mt19937 random(test::seed());
  std::normal_distribution<float> normal;
  std::vector<float> start(static_cast<std::size_t>(store.count())), gradients(start), after(start);
  for (float& v : start) v = normal(random);
  store.upload_weights(start.data());
  Optimizer optimizer(store, {.weight_decay = 0.1, .gradient_clip = 3.0, .kind = OptimizerKind::Muon});
  Matrix momentum(start.size()), weights(start.begin(), start.end());
  const double rate = 1e-3;
  for (int step = 0; step < 3; ++step) {
    double squares = 0;
    for (float& v : gradients) v = normal(random), squares += static_cast<double>(v) * v;
    device.upload(store.gradients(), gradients.data(), gradients.size() * sizeof(float));
    optimizer.gradient_norm();
    optimizer.update(step, rate);
    const double clipped = 3.0 / std::sqrt(squares);
    for (const Parameter& p : store.parameters()) {
      if (p.role == Parameter::Role::Other) continue;
      Matrix u(static_cast<std::size_t>(p.count));
      for (std::size_t i = 0; i < u.size(); ++i) {
        double& m = momentum[static_cast<std::size_t>(p.offset) + i];
        const double g = gradients[static_cast<std::size_t>(p.offset) + i] * clipped;
        m = 0.95 * m + g;
        u[i] = g + 0.95 * m;
      }
      u = orthogonal(std::move(u), p.shape[0], p.shape[1]);
      const double outputs = static_cast<double>(p.shape[p.role == Parameter::Role::OutIn ? 0 : 1]), inputs = static_cast<double>(p.shape[p.role == Parameter::Role::OutIn ? 1 : 0]);
      const double taken = rate * 0.02 / 3e-4;
      for (std::size_t i = 0; i < u.size(); ++i) {
        double& w = weights[static_cast<std::size_t>(p.offset) + i];
        w = w * (1 - taken * 0.1) - taken * std::sqrt(std::max(1.0, outputs / inputs)) * u[i];
      }
    }
  }
  store.download_weights(after.data());
  int matrices = 0;
  for (const Parameter& p : store.parameters()) {
    double difference = 0, moved = 0;
    for (std::int64_t i = p.offset; i < p.offset + p.count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      difference += std::pow(after[at] - weights[at], 2), moved += std::pow(after[at] - start[at], 2);
    }
    EXPECT_GT(moved, 0) << p.name;
    if (p.role == Parameter::Role::Other) continue;
    ++matrices;
    EXPECT_LT(std::sqrt(difference / moved), most) << p.name;
  }
  EXPECT_EQ(matrices, 3);
}

TEST(Optimizers, MuonFollowsItsDefinition) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  NaiveBackend naive;
  check_muon(naive, DType::F32, 1e-4);
  check_muon(*cpu, DType::F32, 1e-4);
  // In bf16 the iterations are those of its author, on numbers of 8 bits.
  check_muon(*cpu, DType::Bf16, 0.1);
}

TEST(Optimizers, RefuseWhatHasNothingToDo) {
  NaiveBackend device;
  const graph::Graph graph = two_parameters();
  graph::ParameterStore store(graph, device, graph::Mode::Train);
  EXPECT_THROW(Optimizer(store, {.kind = OptimizerKind::Muon}), core::Error);
  EXPECT_THROW(optimizer_memory(graph, {.kind = OptimizerKind::Muon}, device), core::Error);
  EXPECT_THROW(parse_optimizer("sgd"), core::Error);
}

const std::vector<OptimizerOptions> kKinds = {{}, {.moments = DType::Bf16}, {.kind = OptimizerKind::AdamW8bit}, {.kind = OptimizerKind::Muon}, {.kind = OptimizerKind::Muon, .moments = DType::Bf16}};

TEST(Optimizers, HoldWhatThePlanSays) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  const auto old = backend::open("cpu", {.threads = 2, .instruction_set = "x86-64-v2"});  // widens bf16 operands in memory of its own
  for (backend::Backend* device : {cpu.get(), old.get()})
    for (const DType compute : {DType::F32, DType::Bf16}) {
      const graph::Graph graph = several(compute);
      std::vector<std::uint64_t> bytes;
      for (const OptimizerOptions& options : kKinds) {
        MeasuredBackend measured(*device);
        graph::ParameterStore store(graph, measured, graph::Mode::Train);
        const std::uint64_t before = measured.peak_bytes();
        Optimizer optimizer(store, options);
        const graph::OptimizerMemory planned = optimizer_memory(graph, options, *device);
        EXPECT_EQ(measured.peak_bytes() - before, planned.bytes);
        bytes.push_back(planned.bytes);
        optimizer.gradient_norm();
        optimizer.update(0, 1e-3);
        EXPECT_EQ(measured.peak_bytes() - before, planned.bytes + planned.matmul_bytes);
      }
      const auto count = static_cast<std::uint64_t>(graph.parameter_count());
      EXPECT_NEAR(static_cast<double>(bytes[0]), static_cast<double>(count * 8), 1024);
      EXPECT_NEAR(static_cast<double>(bytes[1]), static_cast<double>(count * 4), 1024);
      EXPECT_LT(bytes[2], count * 5 / 2);  // and small vectors in float, scales, two books
    }
}

TEST(Optimizers, ContinueBitForBitFromACheckpoint) {
  const auto cpu = backend::open("cpu", {.threads = 2});
  const unsigned seed = test::seed();
  const TemporaryFolder folder;
  for (const DType compute : {DType::F32, DType::Bf16})
    for (std::size_t kind = 0; kind < kKinds.size(); ++kind) {
      SCOPED_TRACE(std::string(core::name_of(compute)) + " " + std::to_string(kind));
      const graph::Graph graph = several(compute);
      // Six steps in one go, or three, a checkpoint, and three more elsewhere.
      const auto run = [&](graph::ParameterStore& store, Optimizer& optimizer, int first, int last) {
        std::vector<float> gradients(static_cast<std::size_t>(store.count()));
        for (int step = first; step < last; ++step) {
          std::mt19937 random(seed + static_cast<unsigned>(step));
          std::normal_distribution<float> normal;
          for (float& v : gradients) v = normal(random);
          cpu->upload(store.gradients(), gradients.data(), gradients.size() * sizeof(float));
          optimizer.gradient_norm();
          optimizer.update(step, 1e-3);
        }
      };
      const auto bytes_of = [&](graph::ParameterStore& store, const Optimizer& optimizer) {
        std::vector<float> weights(static_cast<std::size_t>(store.count()));
        store.download_weights(weights.data());
        std::string all(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float));
        if (const backend::Halves halves = store.halves(0); halves.high != nullptr) all.append(reinterpret_cast<const char*>(halves.high), weights.size() * 2);
        for (const StateTensor& part : optimizer.state()) all.append(static_cast<const char*>(part.memory), part.bytes);
        return all;
      };
      graph::ParameterStore whole(graph, *cpu, graph::Mode::Train), half(graph, *cpu, graph::Mode::Train), rest(graph, *cpu, graph::Mode::Train);
      std::vector<float> start(static_cast<std::size_t>(whole.count()));
      std::mt19937 random(seed);
      for (float& v : start) v = std::normal_distribution<float>()(random);
      whole.upload_weights(start.data());
      half.upload_weights(start.data());
      Optimizer of_whole(whole, kKinds[kind]), of_half(half, kKinds[kind]), of_rest(rest, kKinds[kind]);
      run(whole, of_whole, 0, 6);
      run(half, of_half, 0, 3);
      const RunIdentity identity{"", compute == DType::Bf16 ? "bf16" : "fp32", "x"};
      write_checkpoint(folder.path("checkpoint"), identity, RunState{}, half, of_half);
      const CheckpointReader reader(folder.path("checkpoint"));
      reader.load(rest, of_rest);
      EXPECT_EQ(bytes_of(rest, of_rest), bytes_of(half, of_half));
      EXPECT_NE(bytes_of(rest, of_rest), bytes_of(whole, of_whole));
      run(rest, of_rest, 3, 6);
      EXPECT_EQ(bytes_of(rest, of_rest), bytes_of(whole, of_whole));
      // The state of another kind is refused, and nothing of it is taken.
      Optimizer other(rest, kKinds[(kind + 1) % kKinds.size()]);
      const std::string before = bytes_of(rest, other);
      EXPECT_THROW(reader.load(rest, other), core::Error);
      EXPECT_EQ(bytes_of(rest, other), before);
    }
}

}  // namespace
}  // namespace pgtrain::engine::train
