// Products by oneDNN. Float ones by its sgemm; bf16 ones by its matmul primitive: plain strided layouts, so that nothing is reordered by us, and one primitive
// kept for each shape. Products into float weight gradients add by the sum post-op, or are made transposed and then added.
#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/backend/cpu/matmul.hpp"
#include "engine/core/error.hpp"

namespace pgtrain::engine::backend::cpu {
namespace {

using Key = std::array<std::int64_t, 10>;
using Type = dnnl::memory::data_type;

class DnnlProducts : public Bf16Products {
 public:
  explicit DnnlProducts(Workers& workers) : workers_(workers) {
    workers_.run([](int) { omp_set_num_threads(1); });  // oneDNN asks OpenMP, whose answer belongs to the thread
  }

  void run(const Matmul& a) override {
    if (is_worth_turning(a)) run_turned(a);
    else run_panels(a);
  }

  std::uint64_t workspace_bytes(const Matmul& a) const override {
    if (is_worth_turning(a)) return turned_bytes(a) + workspace_bytes(turned(a));
    return columns_at_once(a.n) < a.n ? static_cast<std::uint64_t>(a.m * columns_at_once(a.n)) * sizeof(float) : 0;
  }

 private:
  struct Product {
    dnnl::matmul primitive;
    std::unordered_map<int, dnnl::memory> arguments;
    std::size_t scratch = 0;
  };

  // The gradient of an adapter's weights [many, rank] reads a tall matrix by columns, for which oneDNN copies it around first; as the right
  // side of the transposed product it is read as it lies, in half the time for a rank of 16.
  static bool is_worth_turning(const Matmul& a) {
    constexpr std::int64_t kMostColumns = 64;
    return a.transpose_a && a.out == DType::F32 && a.bias == nullptr && a.n <= kMostColumns && a.m > a.n;
  }
  static std::uint64_t turned_bytes(const Matmul& a) { return static_cast<std::uint64_t>(a.m * a.n) * sizeof(float); }

  static Matmul turned(const Matmul& a) {
    return {.m = a.n, .n = a.m, .k = a.k, .transpose_a = !a.transpose_b, .a = a.b, .b = a.a, .a_pitch = a.b_pitch, .b_pitch = a.a_pitch, .c_pitch = a.m, .in = a.in, .out = a.out,
            .alpha = a.alpha};
  }

  void run_turned(const Matmul& a) {
    Matmul other = turned(a);
    other.c = reserve(turned_, turned_bytes(a));
    run_panels(other);
    workers_.run([&](int number) {
      constexpr std::int64_t kTile = 16;  // rows whose results stay in the cache while the columns pass
      const std::int64_t tiles = (a.m + kTile - 1) / kTile, end = tiles * (number + 1) / workers_.count();
      for (std::int64_t tile = tiles * number / workers_.count(); tile < end; ++tile)
        for (std::int64_t column = 0; column < a.n; ++column)
          for (std::int64_t row = tile * kTile; row < std::min(a.m, (tile + 1) * kTile); ++row) {
            float& c = static_cast<float*>(a.c)[row * a.c_pitch + column];
            const float product = static_cast<const float*>(other.c)[column * a.m + row];
            c = a.beta == 0.0f ? product : product + a.beta * c;
          }
    });
  }

  void run_panels(const Matmul& a) {
    const std::int64_t width = columns_at_once(a.n);
    for (std::int64_t begin = 0; begin < a.n; begin += width) run_panel(columns_of(a, begin, std::min(a.n, begin + width)));
  }

  void run_panel(const Matmul& a) {
    try {
      // Primitives are looked up here, by one thread; the workers only execute.
      parts_.clear();
      for (int number = 0; number < workers_.count(); ++number) {
        const Matmul part = part_of(a, number, workers_.count());
        parts_.push_back(part.m > 0 && part.n > 0 ? prepare(part, number) : nullptr);
      }
      const auto execute = [&](int number) {
        Product* product = parts_[static_cast<std::size_t>(number)];
        if (product != nullptr) product->primitive.execute(stream_, product->arguments);
      };
      if (std::count(parts_.begin(), parts_.end(), nullptr) == workers_.count() - 1 && parts_.back() != nullptr)
        execute(workers_.count() - 1);  // not worth waking anybody
      else
        workers_.run(execute);
    } catch (const dnnl::error& error) {
      throw core::Error("device_fault", std::string("a oneDNN matrix product failed: ") + error.what());
    }
  }

  Product* prepare(const Matmul& a, int number) {
    Product& product = find(a, number);
    product.arguments.at(DNNL_ARG_SRC).set_data_handle(const_cast<void*>(a.a));
    product.arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<void*>(a.b));
    product.arguments.at(DNNL_ARG_DST).set_data_handle(a.c);
    if (a.bias != nullptr) product.arguments.at(DNNL_ARG_BIAS).set_data_handle(const_cast<void*>(a.bias));
    product.arguments.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch_of(number, product.scratch));
    return &product;
  }

  // One stretch for all products of a thread, where the library would keep one for each; its pages are touched as they are needed.
  void* scratch_of(int number, std::size_t bytes) { return reserve(scratch_[static_cast<std::size_t>(number)], bytes); }

  struct Release {
    void operator()(char* memory) const { std::free(memory); }
  };
  struct Room {
    std::unique_ptr<char, Release> room;
    std::size_t bytes = 0;
  };
  static void* reserve(Room& memory, std::size_t bytes) {
    constexpr std::size_t kLine = 64;
    if (bytes > memory.bytes) {
      memory.room.reset(static_cast<char*>(std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine)));
      if (memory.room == nullptr) throw core::Error("out_of_memory", "the system refused " + std::to_string(bytes) + " bytes for a matrix product");
      memory.bytes = bytes;
    }
    return memory.room.get();
  }

  Product& find(const Matmul& a, int number) {
    const std::int64_t flags = (a.transpose_a ? 1 : 0) | (a.transpose_b ? 2 : 0) | (a.bias != nullptr ? 4 : 0) | (a.out == DType::F32 ? 8 : 0);
    const Key key{a.m, a.n, a.k, a.a_pitch, a.b_pitch, a.c_pitch, flags, static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(a.alpha)),
                  static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(a.beta)), number};
    const auto found = products_.find(key);
    if (found != products_.end()) return found->second;
    return products_.emplace(key, make(a)).first->second;
  }

  Product make(const Matmul& a) {
    using Dims = dnnl::memory::dims;
    const dnnl::memory::desc source({a.m, a.k}, Type::bf16, a.transpose_a ? Dims{1, a.a_pitch} : Dims{a.a_pitch, 1});
    const dnnl::memory::desc weights({a.k, a.n}, Type::bf16, a.transpose_b ? Dims{1, a.b_pitch} : Dims{a.b_pitch, 1});
    const dnnl::memory::desc target({a.m, a.n}, a.out == DType::F32 ? Type::f32 : Type::bf16, Dims{a.c_pitch, 1});
    const dnnl::memory::desc bias({1, a.n}, Type::bf16, Dims{a.n, 1});
    dnnl::primitive_attr attributes;
    if (a.alpha != 1.0f) attributes.set_output_scales(0, {a.alpha});
    if (a.beta != 0.0f) {
      dnnl::post_ops operations;
      operations.append_sum(a.beta);
      attributes.set_post_ops(operations);
    }
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::desc description = a.bias != nullptr ? dnnl::matmul::desc(source, weights, bias, target) : dnnl::matmul::desc(source, weights, target);
    const dnnl::matmul::primitive_desc chosen(description, attributes, engine_);
    Product product{dnnl::matmul(chosen), {}, chosen.scratchpad_desc().get_size()};
    product.arguments.emplace(DNNL_ARG_SCRATCHPAD, dnnl::memory(chosen.scratchpad_desc(), engine_, nullptr));
    product.arguments.emplace(DNNL_ARG_SRC, dnnl::memory(source, engine_, nullptr));
    product.arguments.emplace(DNNL_ARG_WEIGHTS, dnnl::memory(weights, engine_, nullptr));
    product.arguments.emplace(DNNL_ARG_DST, dnnl::memory(target, engine_, nullptr));
    if (a.bias != nullptr) product.arguments.emplace(DNNL_ARG_BIAS, dnnl::memory(bias, engine_, nullptr));
    return product;
  }

  Workers& workers_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Key, Product> products_;
  std::vector<Product*> parts_;
  std::vector<Room> scratch_{static_cast<std::size_t>(workers_.count())};
  Room turned_;
};

}  // namespace

bool float_product_by_dnnl(const Matmul& a) {
  static const bool is_wide = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & static_cast<unsigned>(dnnl::cpu_isa::avx512_core)) == static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  constexpr std::int64_t kFewest = 4;  // rows or columns; a vector's product waits for memory, not for arithmetic
  if (!is_wide || a.m < kFewest || a.n < kFewest) return false;
  omp_set_num_threads(1);
  const dnnl::status status =
      dnnl::sgemm(a.transpose_a ? 'T' : 'N', a.transpose_b ? 'T' : 'N', a.m, a.n, a.k, a.alpha, static_cast<const float*>(a.a), a.a_pitch,
                  static_cast<const float*>(a.b), a.b_pitch, a.beta, static_cast<float*>(a.c), a.c_pitch);
  if (status != dnnl::status::success) throw core::Error("device_fault", "a oneDNN float product failed", "status " + std::to_string(static_cast<int>(status)));
  return true;
}

std::unique_ptr<Bf16Products> open_bf16_products(Workers& workers) {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  const bool is_capable = isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
  return is_capable ? std::make_unique<DnnlProducts>(workers) : nullptr;
}

}  // namespace pgtrain::engine::backend::cpu
