// Neighbouring parameters of one rule are updated in one call where their moments lie like they do: AdamW's two calls a step, matrices
// first. Moments of 8 bits are cut into blocks from the beginning of each parameter, as bitsandbytes does, so they take a call each.
#include "engine/train/optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "engine/backend/dynamic_map.hpp"
#include "engine/core/error.hpp"
#include "engine/core/philox.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::int64_t kBlock = 256;            // moments of 8 bits that share a scale
constexpr std::int64_t kFewest8bit = 4096;      // smaller parameters keep floats, as in bitsandbytes
constexpr std::uint64_t kAlignment = 256;
constexpr int kIterations = 5;                  // Newton-Schulz, with the coefficients of Muon's author
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
std::int64_t blocks_of(std::int64_t count) { return (count + kBlock - 1) / kBlock; }

std::vector<graph::Parameter> trained(const graph::Graph& graph) {
  std::vector<graph::Parameter> out;
  for (const graph::Parameter& parameter : graph.parameters)
    if (parameter.trains) out.push_back(parameter);
  return out;
}

}  // namespace

struct Optimizer::Place {
  graph::Parameter parameter;
  enum class Rule { AdamW, AdamW8bit, Muon } rule = Rule::AdamW;
  core::DType moments = core::DType::F32;
  std::uint64_t m = 0, v = 0, m_scale = 0, v_scale = 0;  // offsets; Muon has m alone
  std::uint64_t norm = 0;                                // Muon: of its momentum

  std::uint64_t moment_bytes() const {
    if (rule == Rule::AdamW8bit) return static_cast<std::uint64_t>(blocks_of(parameter.count) * kBlock);
    return static_cast<std::uint64_t>(parameter.count) * core::size_of(moments);
  }
  std::uint64_t scale_bytes() const { return static_cast<std::uint64_t>(blocks_of(parameter.count)) * sizeof(float); }
  std::int64_t rows() const { return parameter.shape[0]; }
  std::int64_t columns() const { return parameter.shape[1]; }
};

struct Optimizer::Layout {
  std::vector<Place> places;
  std::uint64_t bytes = 0, state_bytes = 0;                // the state lies first
  std::uint64_t squared_norm = 0, books = 0, norms = 0, spare = 0, grams = 0, gram_bytes = 0;
  std::size_t matrices = 0;                                // of Muon's
};

OptimizerKind parse_optimizer(const std::string& name) {
  if (name == "adamw") return OptimizerKind::AdamW;
  if (name == "adamw_8bit") return OptimizerKind::AdamW8bit;
  if (name == "muon") return OptimizerKind::Muon;
  throw core::Error("config_invalid", "optimizer: \"" + name + "\" is not known", "", "Use one of: adamw, adamw_8bit, muon.");
}

Optimizer::Layout Optimizer::lay_out(const std::vector<graph::Parameter>& parameters, const OptimizerOptions& options, core::DType compute) {
  Layout layout;
  std::int64_t largest = 0, widest_gram = 0;
  for (const graph::Parameter& parameter : parameters) {
    Place place{.parameter = parameter};
    if (options.kind == OptimizerKind::Muon && parameter.shape.size() == 2 && parameter.role != graph::Parameter::Role::Other) {
      place.rule = Place::Rule::Muon;
      ++layout.matrices;
      largest = std::max(largest, parameter.count);
      widest_gram = std::max(widest_gram, std::min(place.rows(), place.columns()));
    } else if (options.kind == OptimizerKind::AdamW8bit) {
      place.rule = parameter.count < kFewest8bit ? Place::Rule::AdamW : Place::Rule::AdamW8bit;
    } else {
      place.moments = options.moments;
    }
    layout.places.push_back(std::move(place));
  }
  if (options.kind == OptimizerKind::Muon && layout.matrices == 0)
    throw core::Error("config_invalid", "optimizer: muon trains the matrices of projections, and this run trains none", "", "Use adamw or adamw_8bit for adapters.");
  const auto take = [&](std::uint64_t bytes) { return std::exchange(layout.bytes, layout.bytes + bytes); };
  const auto align = [&] { layout.bytes = aligned(layout.bytes); };
  // All first moments, then all second ones: neighbours under AdamW stay neighbours.
  for (const bool is_first : {true, false})
    for (Place& place : layout.places) {
      if (place.rule == Place::Rule::Muon && !is_first) continue;
      if (place.rule != Place::Rule::AdamW) align();
      (is_first ? place.m : place.v) = take(place.moment_bytes());
    }
  align();
  for (Place& place : layout.places)
    if (place.rule == Place::Rule::AdamW8bit) place.m_scale = take(place.scale_bytes()), place.v_scale = take(place.scale_bytes());
  align();
  layout.state_bytes = layout.bytes;
  layout.squared_norm = take(sizeof(float));
  layout.norms = layout.bytes;
  for (Place& place : layout.places)
    if (place.rule == Place::Rule::Muon) place.norm = take(sizeof(float));
  if (options.kind == OptimizerKind::AdamW8bit) align(), layout.books = take(2 * kBlock * sizeof(float));
  if (layout.matrices > 0) {
    align(), layout.spare = take(static_cast<std::uint64_t>(largest) * sizeof(float));
    layout.gram_bytes = aligned(static_cast<std::uint64_t>(widest_gram * widest_gram) * core::size_of(compute));
    align(), layout.grams = take(2 * layout.gram_bytes);
  }
  return layout;
}

namespace {

// The three products of an iteration; see orthogonalize().
struct Products {
  backend::Matmul gram, square, next;
};
Products products_of(std::int64_t rows, std::int64_t columns, core::DType type) {
  const bool is_tall = rows > columns;
  const std::int64_t side = std::min(rows, columns), other = std::max(rows, columns);
  Products p;
  p.gram = {.m = side, .n = side, .k = other, .transpose_a = is_tall, .transpose_b = !is_tall, .in = type, .out = type};
  p.square = {.m = side, .n = side, .k = side, .in = type, .out = type, .alpha = kC, .beta = kB};
  p.next = {.m = rows, .n = columns, .k = side, .in = type, .out = type, .beta = kA};
  return p;
}

}  // namespace

graph::OptimizerMemory optimizer_memory(const graph::Graph& graph, const OptimizerOptions& options, const backend::Backend& backend) {
  const Optimizer::Layout layout = Optimizer::lay_out(trained(graph), options, graph.compute);
  graph::OptimizerMemory memory{.bytes = layout.bytes};
  for (const Optimizer::Place& place : layout.places) {
    if (place.rule != Optimizer::Place::Rule::Muon) continue;
    const Products products = products_of(place.rows(), place.columns(), graph.compute);
    for (const backend::Matmul& product : {products.gram, products.square, products.next}) memory.matmul_bytes = std::max(memory.matmul_bytes, backend.matmul_workspace_bytes(product));
  }
  return memory;
}

Optimizer::Optimizer(graph::ParameterStore& store, const OptimizerOptions& options)
    : store_(store), options_(options), layout_(std::make_unique<Layout>(lay_out(store.parameters(), options, store.compute()))),
      memory_(static_cast<char*>(store.backend().allocate(layout_->bytes))) {
  store_.backend().zero(memory_, layout_->state_bytes);
  if (options_.kind != OptimizerKind::AdamW8bit) return;
  for (const bool is_signed : {true, false}) {
    const auto book = backend::dynamic_map(is_signed);
    store_.backend().upload(at(layout_->books) + (is_signed ? 0 : sizeof book), book.data(), sizeof book);
  }
}

Optimizer::~Optimizer() { store_.backend().release(memory_); }

double Optimizer::gradient_norm() {
  auto* squared_norm = reinterpret_cast<float*>(at(layout_->squared_norm));
  store_.backend().sum_of_squares(squared_norm, store_.gradients(), store_.count(), false);
  store_.backend().download(&squares_, squared_norm, sizeof squares_);
  return std::sqrt(static_cast<double>(squares_));
}

void Optimizer::update(std::int64_t step, double learning_rate) {
  const auto& places = layout_->places;
  const auto follows = [&](const Place& a, const Place& b) {
    return b.rule == Place::Rule::AdamW && a.parameter.decays == b.parameter.decays && a.parameter.offset + a.parameter.count == b.parameter.offset &&
           a.m + a.moment_bytes() == b.m && a.v + a.moment_bytes() == b.v;
  };
  for (std::size_t first = 0; first < places.size();) {
    std::size_t next = first + 1;
    if (places[first].rule == Place::Rule::AdamW) {
      while (next < places.size() && follows(places[next - 1], places[next])) ++next;
      update_adamw(first, next, step, learning_rate);
    } else if (places[first].rule == Place::Rule::AdamW8bit) {
      update_8bit(places[first], step, learning_rate);
    }
    first = next;
  }
  if (layout_->matrices > 0) update_muon(learning_rate);
}

template <class Call>
void Optimizer::fill(Call& call, const Place& place, std::int64_t step, double learning_rate) const {
  call.learning_rate = static_cast<float>(learning_rate);
  call.beta1 = static_cast<float>(options_.beta1), call.beta2 = static_cast<float>(options_.beta2);
  call.epsilon = static_cast<float>(options_.epsilon);
  const double taken = static_cast<double>(step + 1);
  call.correction1 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta1, taken)));
  call.correction2 = static_cast<float>(1.0 / (1.0 - std::pow(options_.beta2, taken)));
  call.clip = static_cast<float>(options_.gradient_clip);
  call.squared_norm = options_.gradient_clip > 0 ? reinterpret_cast<const float*>(at(layout_->squared_norm)) : nullptr;
  const std::int64_t begin = place.parameter.offset;
  call.parameter = store_.weights() != nullptr ? store_.weights() + begin : nullptr;
  call.halves = store_.halves(begin), call.gradient = store_.gradients() + begin;
  call.count = place.parameter.count;
  call.weight_decay = place.parameter.decays ? static_cast<float>(options_.weight_decay) : 0.0f;
}

void Optimizer::update_adamw(std::size_t first, std::size_t next, std::int64_t step, double learning_rate) {
  const Place &from = layout_->places[first], &last = layout_->places[next - 1];
  backend::AdamW call;
  fill(call, from, step, learning_rate);
  call.m = at(from.m), call.v = at(from.v), call.moments_type = from.moments;
  call.count = last.parameter.offset + last.parameter.count - from.parameter.offset;
  // A function of step and place, so that a run that goes on rounds as the whole one.
  call.chance = core::philox({static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(static_cast<std::uint64_t>(step) >> 32)},
                             {static_cast<std::uint32_t>(from.parameter.offset), static_cast<std::uint32_t>(static_cast<std::uint64_t>(from.parameter.offset) >> 32), 0, 0})[0];
  store_.backend().adamw(call);
}

void Optimizer::update_8bit(const Place& place, std::int64_t step, double learning_rate) {
  backend::AdamW8bit call;
  fill(call, place, step, learning_rate);
  call.m = reinterpret_cast<std::uint8_t*>(at(place.m)), call.v = reinterpret_cast<std::uint8_t*>(at(place.v));
  call.m_scale = reinterpret_cast<float*>(at(place.m_scale)), call.v_scale = reinterpret_cast<float*>(at(place.v_scale));
  call.m_book = reinterpret_cast<const float*>(at(layout_->books)), call.v_book = call.m_book + kBlock;
  store_.backend().adamw_8bit(call);
}

// First the momenta, so that their lengths come to the host at once: what is to be made orthogonal waits where the gradients were.
void Optimizer::update_muon(double learning_rate) {
  backend::Backend& device = store_.backend();
  const double norm = std::sqrt(static_cast<double>(squares_));
  const float clipped = options_.gradient_clip > 0 && norm > options_.gradient_clip ? static_cast<float>(options_.gradient_clip / norm) : 1.0f;
  const auto momentum = static_cast<float>(options_.muon_momentum);
  void* spare = at(layout_->spare);
  for (const Place& place : layout_->places) {
    if (place.rule != Place::Rule::Muon) continue;
    const std::int64_t count = place.parameter.count;
    float *gradient = store_.gradients() + place.parameter.offset, *m = reinterpret_cast<float*>(at(place.m));
    if (clipped != 1.0f) device.scale(core::DType::F32, gradient, clipped, count);
    device.scale(core::DType::F32, m, momentum, count);
    device.add(core::DType::F32, m, m, gradient, count);
    device.copy(spare, m, place.moment_bytes());
    device.scale(core::DType::F32, spare, momentum, count);
    device.add(core::DType::F32, gradient, gradient, spare, count);
    device.sum_of_squares(reinterpret_cast<float*>(at(place.norm)), gradient, count, false);
  }
  std::vector<float> squares(layout_->matrices);
  device.download(squares.data(), at(layout_->norms), squares.size() * sizeof(float));
  const core::DType type = store_.compute();
  std::size_t matrix = 0;
  for (const Place& place : layout_->places) {
    if (place.rule != Place::Rule::Muon) continue;
    const std::int64_t count = place.parameter.count, rows = place.rows(), columns = place.columns();
    float* x = store_.gradients() + place.parameter.offset;
    device.scale(core::DType::F32, x, 1.0f / (std::sqrt(squares[matrix++]) + 1e-7f), count);
    if (type == core::DType::F32) {
      orthogonalize(x, spare, rows, columns);
    } else {
      device.cast(type, spare, core::DType::F32, x, count);
      orthogonalize(spare, static_cast<core::Bf16*>(spare) + count, rows, columns);
      device.cast(core::DType::F32, x, type, spare, count);
    }
    const bool is_out_first = place.parameter.role == graph::Parameter::Role::OutIn;
    const double outputs = static_cast<double>(is_out_first ? rows : columns), inputs = static_cast<double>(is_out_first ? columns : rows);
    const double rate = learning_rate * options_.muon_rate_ratio, scale = std::sqrt(std::max(1.0, outputs / inputs));
    float* weights = store_.floats(place.parameter, static_cast<float*>(spare));
    if (place.parameter.decays && options_.weight_decay > 0) device.scale(core::DType::F32, weights, static_cast<float>(1.0 - rate * options_.weight_decay), count);
    device.scale(core::DType::F32, x, static_cast<float>(-rate * scale), count);
    device.add(core::DType::F32, weights, weights, x, count);
    store_.keep_floats(place.parameter, weights);
  }
}

// x becomes a x + (b A + c A A) x with A = x x', five times, on the shorter side: its singular values come near 1.
void Optimizer::orthogonalize(void* x, void* spare, std::int64_t rows, std::int64_t columns) {
  backend::Backend& device = store_.backend();
  const core::DType type = store_.compute();
  const Products products = products_of(rows, columns, type);
  const std::size_t x_bytes = static_cast<std::size_t>(rows * columns) * core::size_of(type), gram_bytes = static_cast<std::size_t>(products.gram.m * products.gram.n) * core::size_of(type);
  char *gram = at(layout_->grams), *mixed = gram + layout_->gram_bytes;
  for (int i = 0; i < kIterations; ++i) {
    backend::Matmul call = products.gram;
    call.a = x, call.b = x, call.c = gram;
    device.matmul(call);
    device.copy(mixed, gram, gram_bytes);
    call = products.square;
    call.a = gram, call.b = gram, call.c = mixed;
    device.matmul(call);
    device.copy(spare, x, x_bytes);
    call = products.next;
    call.a = rows > columns ? spare : mixed, call.b = rows > columns ? mixed : spare, call.c = x;
    device.matmul(call);
  }
}

std::vector<StateTensor> Optimizer::state() const {
  std::vector<StateTensor> out;
  for (const Place& place : layout_->places) {
    const std::string& name = place.parameter.name;
    const std::vector<std::uint64_t> shape(place.parameter.shape.begin(), place.parameter.shape.end());
    if (place.rule == Place::Rule::AdamW8bit) {
      const std::vector<std::uint64_t> codes = {place.moment_bytes()}, scales = {place.scale_bytes() / sizeof(float)};
      out.push_back({"first_moments/" + name, io::StoredType::U8, codes, at(place.m), place.moment_bytes()});
      out.push_back({"second_moments/" + name, io::StoredType::U8, codes, at(place.v), place.moment_bytes()});
      out.push_back({"first_scales/" + name, io::StoredType::F32, scales, at(place.m_scale), place.scale_bytes()});
      out.push_back({"second_scales/" + name, io::StoredType::F32, scales, at(place.v_scale), place.scale_bytes()});
      continue;
    }
    const io::StoredType type = place.moments == core::DType::Bf16 ? io::StoredType::BF16 : io::StoredType::F32;
    if (place.rule == Place::Rule::Muon) {
      out.push_back({"momenta/" + name, type, shape, at(place.m), place.moment_bytes()});
      continue;
    }
    out.push_back({"first_moments/" + name, type, shape, at(place.m), place.moment_bytes()});
    out.push_back({"second_moments/" + name, type, shape, at(place.v), place.moment_bytes()});
  }
  return out;
}

}  // namespace pgtrain::engine::train
