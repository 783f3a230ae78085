// Products by oneDNN. Float ones by its sgemm; bf16 ones by its matmul primitive: plain strided layouts, so that nothing is reordered by us, and one primitive
// kept for each shape. A product of K rows into float weight gradients adds by the sum post-op.
#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
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

 private:
  struct Product {
    dnnl::matmul primitive;
    std::unordered_map<int, dnnl::memory> arguments;
  };

  Product* prepare(const Matmul& a, int number) {
    Product& product = find(a, number);
    product.arguments.at(DNNL_ARG_SRC).set_data_handle(const_cast<void*>(a.a));
    product.arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<void*>(a.b));
    product.arguments.at(DNNL_ARG_DST).set_data_handle(a.c);
    if (a.bias != nullptr) product.arguments.at(DNNL_ARG_BIAS).set_data_handle(const_cast<void*>(a.bias));
    return &product;
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
    const dnnl::matmul::desc description = a.bias != nullptr ? dnnl::matmul::desc(source, weights, bias, target) : dnnl::matmul::desc(source, weights, target);
    Product product{dnnl::matmul(dnnl::matmul::primitive_desc(description, attributes, engine_)), {}};
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
