// Without oneDNN: float products are the other library's, and bf16 ones have none; backend.cpp then widens to float and narrows again.
#include "engine/backend/cpu/matmul.hpp"

namespace pgtrain::engine::backend::cpu {

bool float_product_by_dnnl(const Matmul&) { return false; }

std::unique_ptr<Bf16Products> open_bf16_products(Workers&) { return nullptr; }

}  // namespace pgtrain::engine::backend::cpu
