// Low-rank adapters of rank 16 beside the projections of one layer, forward and backward, in three forms over the same numbers:
//   plain    as graph/run_linear.cpp does it: of each adapter two products forward and four back, beside the weight's own two
//   stacked  what reads the same x (q, k, v; gate, up) has its A matrices one below the other, so that x passes once for them all
//   folded   stacked, and B in more columns of the frozen weight: [x | s x A'] [W | B]' forward and dy [W | B] back are one product each
// and base: the weight's own two products alone, which no form can undercut. Not timed: what the norms would do for the folded form, to write and
// read rows with room behind them, and the copy of B into the weight's columns once a step.
// Prints the products of a layer and the bytes that they move, medians of alternated rounds (compared by processor time on the CPU, by the clock
// elsewhere), and with smollm2 on the CPU the share that adapters have of a LoRA step. Called by bench/adapters.sh:
//   forms DEVICE THREADS smollm2|llama3-8b fp32|bf16 ROWS ROUNDS      (0 rounds: counts, and measures nothing)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/graph/executor.hpp"
#include "engine/models/model.hpp"
#include "engine/train/measured_backend.hpp"
#include "engine/train/optimizer.hpp"

namespace {

using namespace pgtrain::engine;
using backend::Matmul;
using core::DType;

constexpr std::int64_t kRank = 16;
constexpr float kScale = 2.0f;

class Clock {
 public:
  double wall() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  double processor() const { return static_cast<double>(std::clock() - processor_) / CLOCKS_PER_SEC; }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::clock_t processor_ = std::clock();
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Counts products, and the bytes of what they read and write; times those of adapters, which have a side of the rank.
class Watched final : public train::MeasuredBackend {
 public:
  using MeasuredBackend::MeasuredBackend;
  void matmul(const Matmul& a) override {
    ++products;
    bytes += static_cast<double>((a.m * a.k + a.k * a.n) * static_cast<std::int64_t>(core::size_of(a.in)) +
                                 a.m * a.n * static_cast<std::int64_t>(core::size_of(a.out)) * (a.beta != 0 ? 2 : 1));
    if (only_counts) return;
    const Clock clock;
    MeasuredBackend::matmul(a);
    if (std::min({a.m, a.n, a.k}) <= kRank) ++of_adapters, wall += clock.wall(), processor += clock.processor();
  }
  void* allocate(std::size_t size) override { return MeasuredBackend::allocate(only_counts ? 1 : size); }
  void upload(void* to, const void* from, std::size_t size) override {
    if (!only_counts) MeasuredBackend::upload(to, from, size);
  }
  void clear() { products = of_adapters = 0, bytes = wall = processor = 0; }

  bool only_counts = false;
  int products = 0, of_adapters = 0;
  double bytes = 0, wall = 0, processor = 0;
};

class Matrix {
 public:
  Matrix(backend::Backend& device, DType type, std::int64_t rows, std::int64_t columns) : device_(device), type_(type), count_(rows * columns) {
    data_ = static_cast<char*>(device.allocate(static_cast<std::size_t>(count_) * core::size_of(type)));
  }
  ~Matrix() { device_.release(data_); }
  Matrix(const Matrix&) = delete;
  void* at(std::int64_t element) const { return data_ + element * static_cast<std::int64_t>(core::size_of(type_)); }
  void set(const std::vector<float>& values) {
    if (type_ == DType::F32) return device_.upload(data_, values.data(), values.size() * sizeof(float));
    std::vector<core::Bf16> narrow;
    std::transform(values.begin(), values.end(), std::back_inserter(narrow), [](float value) { return core::to_bf16(value); });
    device_.upload(data_, narrow.data(), narrow.size() * sizeof(core::Bf16));
  }
  std::vector<float> get() const {
    std::vector<float> out(static_cast<std::size_t>(count_));
    if (type_ == DType::F32) return device_.download(out.data(), data_, out.size() * sizeof(float)), out;
    std::vector<core::Bf16> narrow(out.size());
    device_.download(narrow.data(), data_, narrow.size() * sizeof(core::Bf16));
    std::transform(narrow.begin(), narrow.end(), out.begin(), [](core::Bf16 value) { return core::to_float(value); });
    return out;
  }

 private:
  backend::Backend& device_;
  DType type_;
  std::int64_t count_;
  char* data_;
};

struct Kind {
  const char* name;
  std::int64_t k;
  std::vector<std::int64_t> parts;  // outputs, an adapter each
};

class Projection {
 public:
  Projection(backend::Backend& device, DType type, std::int64_t rows, const Kind& kind, std::mt19937& random)
      : device_(device), type_(type), rows_(rows), k_(kind.k), parts_(kind.parts), n_(std::accumulate(parts_.begin(), parts_.end(), std::int64_t{0})), rank_(kRank * static_cast<std::int64_t>(parts_.size())), wide_(k_ + rank_) {
    const auto values = [&](std::int64_t count, float spread) {
      std::vector<float> out(static_cast<std::size_t>(count));
      for (float& value : out) value = std::uniform_real_distribution<float>(-spread, spread)(random);
      return out;
    };
    const auto x = values(rows_ * k_, 1), w = values(n_ * k_, 0.05f);
    x_.set(x), w_.set(w);
    x_wide_.set(widened(x)), w_wide_.set(widened(w));
    a_.set(values(rank_ * k_, 0.05f)), dy_.set(values(rows_ * n_, 1));
    set_up(values(n_ * kRank, 0.05f), w);
    forget();
  }
  void forget() { da_.set(std::vector<float>(static_cast<std::size_t>(rank_ * k_))), db_.set(std::vector<float>(static_cast<std::size_t>(n_ * kRank))); }

  void base_forward() { device_.matmul({.m = rows_, .n = n_, .k = k_, .transpose_b = true, .a = x_.at(0), .b = w_.at(0), .c = y_.at(0), .in = type_, .out = type_}); }
  void base_backward() { device_.matmul({.m = rows_, .n = k_, .k = n_, .a = dy_.at(0), .b = w_.at(0), .c = dx_.at(0), .in = type_, .out = type_}); }

  void plain_forward() {
    base_forward();
    for (const Part& part : parts()) {
      down(part.first, kRank, low_.at(part.first * rows_), kRank);
      up(part, low_.at(part.first * rows_), kRank);
    }
  }
  void plain_backward() {
    base_backward();
    for (const Part& part : parts()) {
      up_gradient(part, low_.at(part.first * rows_), kRank, kScale);
      low_gradient(part, dlow_.at(0), kRank);
      down_gradient(part.first, kRank, dlow_.at(0), kRank);
    }
  }
  void stacked_forward() {
    base_forward();
    down(0, rank_, low_.at(0), rank_);
    for (const Part& part : parts()) up(part, low_.at(part.first), rank_);
  }
  void stacked_backward() {
    base_backward();
    for (const Part& part : parts()) {
      up_gradient(part, low_.at(part.first), rank_, kScale);
      low_gradient(part, dlow_.at(part.first), rank_);
    }
    down_gradient(0, rank_, dlow_.at(0), rank_);
  }
  void folded_forward() {
    device_.matmul({.m = rows_, .n = rank_, .k = k_, .transpose_b = true, .a = x_wide_.at(0), .b = a_.at(0), .c = x_wide_.at(k_), .a_pitch = wide_, .c_pitch = wide_, .in = type_,
                    .out = type_, .alpha = kScale});
    device_.matmul({.m = rows_, .n = n_, .k = wide_, .transpose_b = true, .a = x_wide_.at(0), .b = w_wide_.at(0), .c = y_.at(0), .in = type_, .out = type_});
  }
  void folded_backward() {
    device_.matmul({.m = rows_, .n = wide_, .k = n_, .a = dy_.at(0), .b = w_wide_.at(0), .c = d_wide_.at(0), .in = type_, .out = type_});
    for (const Part& part : parts()) up_gradient(part, x_wide_.at(k_ + part.first), wide_, 1);
    device_.matmul({.m = rank_, .n = k_, .k = rows_, .transpose_a = true, .a = d_wide_.at(k_), .b = x_wide_.at(0), .c = da_.at(0), .a_pitch = wide_, .b_pitch = wide_, .in = type_,
                    .out = DType::F32, .alpha = kScale, .beta = 1});
    device_.matmul({.m = rows_, .n = k_, .k = rank_, .a = d_wide_.at(k_), .b = a_.at(0), .c = d_wide_.at(0), .a_pitch = wide_, .c_pitch = wide_, .in = type_, .out = type_,
                    .alpha = kScale, .beta = 1});
  }

  // y, dx, dA, dB.
  std::vector<std::vector<float>> results(bool is_folded) const {
    std::vector<float> back = dx_.get();
    if (is_folded) {
      const std::vector<float> all = d_wide_.get();
      for (std::int64_t row = 0; row < rows_; ++row) std::copy_n(all.begin() + row * wide_, k_, back.begin() + row * k_);
    }
    return {y_.get(), back, da_.get(), db_.get()};
  }

 private:
  struct Part { std::int64_t first, column, width; };  // of A's rows; of the output
  std::vector<Part> parts() const {
    std::vector<Part> out;
    for (const std::int64_t width : parts_) out.push_back({static_cast<std::int64_t>(out.size()) * kRank, out.empty() ? 0 : out.back().column + out.back().width, width});
    return out;
  }
  std::vector<float> widened(const std::vector<float>& values) const {
    const std::int64_t count = static_cast<std::int64_t>(values.size()) / k_;
    std::vector<float> out(static_cast<std::size_t>(count * wide_));
    for (std::int64_t row = 0; row < count; ++row) std::copy_n(values.begin() + row * k_, k_, out.begin() + row * wide_);
    return out;
  }
  void set_up(const std::vector<float>& up, const std::vector<float>& w) {
    b_.set(up);
    std::vector<float> wide = widened(w);
    for (const Part& part : parts())
      for (std::int64_t row = part.column; row < part.column + part.width; ++row) std::copy_n(up.begin() + row * kRank, kRank, wide.begin() + row * wide_ + k_ + part.first);
    w_wide_.set(wide);
  }
  void down(std::int64_t first, std::int64_t rank, void* low, std::int64_t pitch) {
    device_.matmul({.m = rows_, .n = rank, .k = k_, .transpose_b = true, .a = x_.at(0), .b = a_.at(first * k_), .c = low, .c_pitch = pitch, .in = type_, .out = type_});
  }
  void up(const Part& part, const void* low, std::int64_t pitch) {
    device_.matmul({.m = rows_, .n = part.width, .k = kRank, .transpose_b = true, .a = low, .b = b_.at(part.column * kRank), .c = y_.at(part.column), .a_pitch = pitch, .c_pitch = n_,
                    .in = type_, .out = type_, .alpha = kScale, .beta = 1});
  }
  void up_gradient(const Part& part, const void* low, std::int64_t pitch, float scale) {
    device_.matmul({.m = part.width, .n = kRank, .k = rows_, .transpose_a = true, .a = dy_.at(part.column), .b = low, .c = db_.at(part.column * kRank), .a_pitch = n_, .b_pitch = pitch,
                    .in = type_, .out = DType::F32, .alpha = scale, .beta = 1});
  }
  void low_gradient(const Part& part, void* dlow, std::int64_t pitch) {
    device_.matmul({.m = rows_, .n = kRank, .k = part.width, .a = dy_.at(part.column), .b = b_.at(part.column * kRank), .c = dlow, .a_pitch = n_, .c_pitch = pitch, .in = type_,
                    .out = type_, .alpha = kScale});
  }
  void down_gradient(std::int64_t first, std::int64_t rank, const void* dlow, std::int64_t pitch) {
    device_.matmul({.m = rank, .n = k_, .k = rows_, .transpose_a = true, .a = dlow, .b = x_.at(0), .c = da_.at(first * k_), .a_pitch = pitch, .in = type_, .out = DType::F32, .beta = 1});
    device_.matmul({.m = rows_, .n = k_, .k = rank, .a = dlow, .b = a_.at(first * k_), .c = dx_.at(0), .a_pitch = pitch, .in = type_, .out = type_, .beta = 1});
  }

  backend::Backend& device_;
  DType type_;
  std::int64_t rows_, k_;
  std::vector<std::int64_t> parts_;
  std::int64_t n_, rank_, wide_;
  Matrix x_{device_, type_, rows_, k_}, w_{device_, type_, n_, k_}, a_{device_, type_, rank_, k_}, b_{device_, type_, n_, kRank}, dy_{device_, type_, rows_, n_};
  Matrix y_{device_, type_, rows_, n_}, dx_{device_, type_, rows_, k_}, low_{device_, type_, rows_, rank_}, dlow_{device_, type_, rows_, rank_};
  Matrix da_{device_, DType::F32, rank_, k_}, db_{device_, DType::F32, n_, kRank};
  Matrix x_wide_{device_, type_, rows_, wide_}, w_wide_{device_, type_, n_, wide_}, d_wide_{device_, type_, rows_, wide_};
};

struct Form {
  const char* name;
  void (Projection::*forward)();
  void (Projection::*backward)();
};
const Form kForms[] = {{"base", &Projection::base_forward, &Projection::base_backward},
                       {"plain", &Projection::plain_forward, &Projection::plain_backward},
                       {"stacked", &Projection::stacked_forward, &Projection::stacked_backward},
                       {"folded", &Projection::folded_forward, &Projection::folded_backward}};
constexpr int kCount = std::size(kForms), kPlain = 1, kFolded = 3;

void count_products(Watched& device, DType type, std::int64_t rows, const std::vector<Kind>& kinds) {
  std::mt19937 random;
  device.only_counts = true;
  for (const Form& form : kForms) {
    device.clear();
    for (const Kind& kind : kinds) {
      Projection p(device, type, rows, kind, random);
      (p.*form.forward)();
      (p.*form.backward)();
    }
    std::printf("%-8s %2d products a layer, %.0f bytes a token and layer\n", form.name, device.products, device.bytes / static_cast<double>(rows));
  }
  device.only_counts = false;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double top = 0, bottom = 0;
  for (std::size_t i = 0; i < a.size(); ++i) top += std::pow(static_cast<double>(a[i]) - b[i], 2), bottom += std::pow(static_cast<double>(b[i]), 2);
  return std::sqrt(top / bottom);
}

void require_alike(Projection& p, const char* name, DType type) {
  std::vector<std::vector<float>> plain;
  for (int form = kPlain; form < kCount; ++form) {
    p.forget();
    (p.*kForms[form].forward)();
    (p.*kForms[form].backward)();
    const auto found = p.results(form == kFolded);
    if (form == kPlain) plain = found;
    for (std::size_t i = 0; i < found.size(); ++i)
      if (!(difference(found[i], plain[i]) < (type == DType::F32 ? 1e-5 : 1e-2)))
        throw core::Error("device_fault", std::string(kForms[form].name) + " and plain differ in " + name, "by " + std::to_string(difference(found[i], plain[i])));
  }
}

void measure(Watched& device, DType type, std::int64_t rows, const std::vector<Kind>& kinds, int rounds) {
  const bool is_cpu = device.info().name == "cpu";
  constexpr int kLayers = 4;  // so that weights come from memory as in a model
  std::mt19937 random(20261122);
  std::vector<double> wall(kCount), compared(kCount);
  for (const Kind& kind : kinds) {
    std::vector<std::unique_ptr<Projection>> layers;
    for (int layer = 0; layer < kLayers; ++layer) layers.push_back(std::make_unique<Projection>(device, type, rows, kind, random));
    require_alike(*layers[0], kind.name, type);
    std::vector<std::vector<double>> walls(kCount), processors(kCount), over_plain(kCount);
    for (int round = -1; round < rounds; ++round) {
      std::vector<double> now(kCount);
      for (int turn = 0; turn < kCount; ++turn) {
        const int form = (turn + round + 1) % kCount;
        const Clock clock;
        for (const auto& layer : layers) (*layer.*kForms[form].forward)();
        for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) (**layer.*kForms[form].backward)();
        device.synchronize();
        now[form] = is_cpu ? clock.processor() : clock.wall();
        if (round >= 0) walls[form].push_back(clock.wall() / kLayers * 1e3), processors[form].push_back(clock.processor() / kLayers * 1e3);
      }
      for (int form = 0; form < kCount && round >= 0; ++form) over_plain[form].push_back(now[form] / now[kPlain]);
    }
    std::printf("%-8s", kind.name);
    const double plain = median(is_cpu ? processors[kPlain] : walls[kPlain]);
    for (int form = 0; form < kCount; ++form) {
      std::printf("  %s %.2f ms (processor %.2f, over plain %.3f)", kForms[form].name, median(walls[form]), median(processors[form]), median(over_plain[form]));
      wall[form] += median(walls[form]), compared[form] += plain * median(over_plain[form]);
    }
    std::printf("\n");
  }
  std::printf("%-8s", "layer");
  for (int form = 0; form < kCount; ++form)
    std::printf("  %s %.2f ms (over plain %.3f)", kForms[form].name, wall[form], compared[form] / compared[kPlain]);
  std::printf("\n");
}

void share_of_step(Watched& device, DType type, std::int64_t batch, std::int64_t length) {
  models::ModelConfig config;
  config.model_type = "llama", config.layers = 30, config.width = 576, config.heads = 9, config.kv_heads = 3, config.head_width = 64, config.inner_width = 1536;
  config.context = 2048, config.vocab_size = 49152, config.norm_epsilon = 1e-5, config.ties_head = true;
  models::Tuning tuning;
  tuning.adapters.emplace();
  tuning.adapters->rank = kRank, tuning.adapters->targets = {"all-linear"};
  constexpr graph::Gradients gradients = graph::Gradients::Replaced;
  const graph::Graph graph = models::build_model(config, tuning, type, batch, length);
  graph::ParameterStore store(graph, device, graph::Mode::Train, gradients);
  graph::Executor executor(graph, store, graph::Mode::Train, graph::Recompute::None, gradients);
  train::Optimizer optimizer(store, {.weight_decay = 0.0, .beta1 = 0.9, .beta2 = 0.999, .gradient_clip = 1.0});
  std::mt19937 random(20261122);
  std::normal_distribution<float> draw(0, 0.02f);
  const auto values = [&](const graph::Parameter& parameter) {
    std::vector<float> out(static_cast<std::size_t>(parameter.count), 1.0f);
    for (float& value : out) value = parameter.shape.size() == 1 ? 1.0f : draw(random);
    return out;
  };
  for (const graph::Parameter& parameter : store.frozen()) store.upload_frozen(parameter, values(parameter).data());
  for (const graph::Parameter& parameter : store.parameters()) store.upload_weight(parameter, values(parameter).data());
  const std::int64_t cells = batch * length;
  const auto ids = [&](auto value) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(cells));
    for (std::int64_t i = 0; i < cells; ++i) out[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(value(i));
    return out;
  };
  const auto token = [&](std::int64_t) { return random() % 49152; };
  executor.set_input("tokens", ids(token).data()), executor.set_input("targets", ids(token).data());
  executor.set_input("positions", ids([&](std::int64_t i) { return i % length; }).data()), executor.set_input("segments", ids([](std::int64_t) { return 0; }).data());
  std::vector<double> walls, processors, shares;
  for (int step = 0; step < 6; ++step) {
    device.clear();
    const Clock clock;
    executor.forward_backward(1.0f / static_cast<float>(cells));
    (void)executor.loss_sum();
    optimizer.gradient_norm();
    optimizer.update(step, 1e-4);
    device.synchronize();
    if (step > 0) walls.push_back(clock.wall()), processors.push_back(clock.processor()), shares.push_back(device.processor / clock.processor());
  }
  std::printf("LoRA step, %lld rows of %lld: %.3f s (processor %.3f), of which %d products of adapters take %.1f %% (processor)\n", static_cast<long long>(batch),
              static_cast<long long>(length), median(walls), median(processors), device.of_adapters, 100 * median(shares));
}

int run(char** arguments) {
  const std::string model = arguments[3], precision = arguments[4];
  const DType type = precision == "bf16" ? DType::Bf16 : DType::F32;
  const std::int64_t rows = std::atoll(arguments[5]);
  const int rounds = std::atoi(arguments[6]);
  const bool is_small = model == "smollm2";
  const std::vector<Kind> kinds = is_small ? std::vector<Kind>{{"qkv", 576, {576, 192, 192}}, {"o", 576, {576}}, {"gate_up", 576, {1536, 1536}}, {"down", 1536, {576}}}
                                           : std::vector<Kind>{{"qkv", 4096, {4096, 1024, 1024}}, {"o", 4096, {4096}}, {"gate_up", 4096, {14336, 14336}}, {"down", 14336, {4096}}};
  const auto inner = backend::open(arguments[1], {std::atoi(arguments[2]), 0});
  Watched device(*inner);
  std::printf("## %s, %s, %s (%s), %lld rows, rank %lld\n", model.c_str(), precision.c_str(), inner->info().name.c_str(), inner->info().isa.c_str(), static_cast<long long>(rows),
              static_cast<long long>(kRank));
  count_products(device, type, rows, kinds);
  if (rounds == 0) return 0;
  measure(device, type, rows, kinds, rounds);
  if (!is_small || inner->info().name != "cpu") return 0;  // elsewhere a call ends before its work
  share_of_step(device, type, rows / 256, 256);
  share_of_step(device, type, rows / 1024, 1024);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7 || (std::string(arguments[3]) != "smollm2" && std::string(arguments[3]) != "llama3-8b")) {
    std::fprintf(stderr, "usage: forms DEVICE THREADS smollm2|llama3-8b fp32|bf16 ROWS ROUNDS\n");
    return 2;
  }
  try {
    return run(arguments);
  } catch (const core::Error& error) {
    std::fprintf(stderr, "forms: %s %s\n", error.message.c_str(), error.detail.c_str());
    return 1;
  }
}
