// oneDNN's bf16 matrix product alone, at the shapes of the benchmark's model: what the engine's arithmetic is measured against.
// Prints a line per shape and "GFLOPS RATE" over all of them, from the fastest run of each. Operands are random, laid out
// as oneDNN likes them best, primitives are made once. Called by bench/engine.sh: product THREADS TOKENS WIDTH SECONDS
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

struct Shape {
  const char* name;
  std::int64_t m, k, n;
};

void fill(dnnl::memory& memory, std::mt19937& random) {
  auto* bits = static_cast<std::uint16_t*>(memory.get_data_handle());
  // Sign and fraction random, exponent near one: ordinary numbers.
  for (std::size_t i = 0; i < memory.get_desc().get_size() / 2; ++i) bits[i] = static_cast<std::uint16_t>((random() & 0x80FF) | 0x3F00);
}

double least_seconds(const Shape& shape, double seconds) {
  dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const dnnl::memory::desc a({shape.m, shape.k}, Type::bf16, Tag::any), b({shape.k, shape.n}, Type::bf16, Tag::any), c({shape.m, shape.n}, Type::bf16, Tag::any);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), engine);
  dnnl::memory x(description.src_desc(), engine), y(description.weights_desc(), engine), z(description.dst_desc(), engine);
  std::mt19937 random{std::random_device{}()};
  fill(x, random);
  fill(y, random);
  dnnl::matmul product(description);
  std::vector<double> times;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  for (int i = 0; i < 5 || Clock::now() < end; ++i) {
    const auto begin = Clock::now();
    product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, y}, {DNNL_ARG_DST, z}});
    stream.wait();
    if (i >= 2) times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  // The fastest: oneDNN's barriers suffer most from a busy machine, and the bar shall not be low for that.
  return *std::min_element(times.begin(), times.end());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: product THREADS TOKENS WIDTH SECONDS\n");
    return 2;
  }
  omp_set_num_threads(std::atoi(arguments[1]));
  const std::int64_t tokens = std::atoll(arguments[2]), width = std::atoll(arguments[3]);
  const Shape shapes[] = {{"qkv", tokens, width, 3 * width},
                          {"projection", tokens, width, width},
                          {"up", tokens, width, 4 * width},
                          {"down", tokens, 4 * width, width},
                          {"gradient of up", width, tokens, 4 * width}};
  try {
    double operations = 0, seconds = 0;
    for (const Shape& shape : shapes) {
      const double flop = 2.0 * static_cast<double>(shape.m * shape.k * shape.n);
      const double taken = least_seconds(shape, std::atof(arguments[4]));
      std::printf("%-16s %5lld x %5lld x %5lld  %.0f GFLOP/s\n", shape.name, static_cast<long long>(shape.m), static_cast<long long>(shape.k),
                  static_cast<long long>(shape.n), flop / taken / 1e9);
      operations += flop, seconds += taken;
    }
    std::printf("GFLOPS %.1f\n", operations / seconds / 1e9);
  } catch (const dnnl::error& error) {
    std::fprintf(stderr, "product: oneDNN: %s\n", error.what());
    return 1;
  }
  return 0;
}
