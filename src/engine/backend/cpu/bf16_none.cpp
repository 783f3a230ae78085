// Without oneDNN there are no bf16 products of a library; backend.cpp then widens to float and narrows again.
#include "engine/backend/cpu/matmul.hpp"

namespace pgtrain::engine::backend::cpu {

std::unique_ptr<Bf16Products> open_bf16_products(Workers&) { return nullptr; }

}  // namespace pgtrain::engine::backend::cpu
