// The operation tests and the training comparison on a real card: device PGTRAIN_DEVICE, or the first one.
#include <cstdlib>

#include "cases.hpp"
#include "engine/backend/devices.hpp"

std::unique_ptr<pgtrain::engine::backend::Backend> pgtrain::test::open_backend_under_test() {
  const char* device = std::getenv("PGTRAIN_DEVICE");
  return engine::backend::open(device ? device : "cuda:0");
}
