// The operation tests on the CPU backend. PGTRAIN_TEST_INSTRUCTION_SET names older kernels to be tested on a newer processor.
#include <cstdlib>

#include "cases.hpp"
#include "engine/backend/devices.hpp"

std::unique_ptr<pgtrain::engine::backend::Backend> pgtrain::test::open_backend_under_test() {
  const char* instruction_set = std::getenv("PGTRAIN_TEST_INSTRUCTION_SET");
  return engine::backend::open_cpu({.threads = 2, .instruction_set = instruction_set != nullptr ? instruction_set : ""});
}
