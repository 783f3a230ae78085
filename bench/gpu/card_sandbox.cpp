// Does CUDA start where runs work: inside the trainer's sandbox? Confines itself as the trainer does, opens the device
// PGTRAIN_DEVICE (cuda:0) and has it multiply two small matrices. PGTRAIN_SANDBOX (files, calls, off) leaves parts out, so
// that run.sh can say which part is in a driver's way. Ends with 0, or 1 with the reason on its output.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "trainer/sandbox.hpp"

namespace {
using namespace pgtrain;

// The trainer's way: file rules, then the program once more, then the call filter.
int start_inside(char** arguments) {
  char folder[] = "/tmp/pgtrain_sandbox_XXXXXX";
  if (mkdtemp(folder) == nullptr || chdir(folder) != 0) return std::printf("no temporary folder\n"), 1;
  rmdir(folder);
  std::string outcome = "inside" + trainer::enter_file_rules(), name = arguments[0];
  char* again[] = {name.data(), outcome.data(), nullptr};
  execv("/proc/self/exe", again);
  return std::printf("cannot start again: %s\n", std::strerror(errno)), 1;
}

int multiply(engine::backend::Backend& device) {
  constexpr int side = 64;
  const std::vector<float> ones(side * side, 1.0f);
  std::vector<float> product(side * side);
  void *a = device.allocate(ones.size() * 4), *c = device.allocate(ones.size() * 4);
  device.upload(a, ones.data(), ones.size() * 4);
  engine::backend::Matmul m;
  m.m = m.n = m.k = side;
  m.a = m.b = a, m.c = c;
  device.matmul(m);
  device.download(product.data(), c, product.size() * 4);
  for (float value : product)
    if (value != side) return std::printf("a product is %g and not %d\n", double(value), side), 1;
  return std::printf("%s works in it\n", device.info().description.c_str()), 0;
}
}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return start_inside(arguments);
  std::printf("%s\n", trainer::enter_sandbox(arguments[1] + std::strlen("inside")).text().c_str());
  try {
    const char* name = std::getenv("PGTRAIN_DEVICE");
    return multiply(*engine::backend::open(name != nullptr ? name : "cuda:0"));
  } catch (const engine::core::Error& e) {
    return std::printf("%s: %s\n", e.message.c_str(), e.detail.c_str()), 1;
  }
}
