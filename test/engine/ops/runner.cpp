// Runs every registered case on the backend under test: PROGRAM [PART OF A NAME]. Ends with a line that the check runner
// counts; exit status 1 when a case failed, 2 when there is no backend.
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "engine/core/error.hpp"
#include "cases.hpp"
#include "support/seed.hpp"

namespace pgtrain::test {
std::vector<Case>& all_cases() {
  static std::vector<Case> cases;
  return cases;
}
std::mt19937_64& random_source() {
  static std::mt19937_64 source(seed());
  return source;
}

// Each case starts from the seed, so that one alone repeats what it did among the others.
bool run_case(Backend& backend, const Case& c) {
  random_source().seed(seed());
  try {
    c.run(backend);
    backend.synchronize();
    return true;
  } catch (const engine::core::Error& e) {
    std::printf("[  FAILED  ] %s: %s (%s)\n", c.name.c_str(), e.message.c_str(), e.detail.c_str());
  } catch (const std::exception& e) {
    std::printf("[  FAILED  ] %s: %s\n", c.name.c_str(), e.what());
  }
  return false;
}

int run_all(const char* part) {
  std::unique_ptr<Backend> backend;
  try {
    backend = open_backend_under_test();
  } catch (const std::exception& e) {
    std::printf("no backend to test: %s\n", e.what());
    return 2;
  }
  std::printf("backend %s (%s, %s), seed %u\n", backend->info().name.c_str(), backend->info().description.c_str(), backend->info().isa.c_str(),
              seed());
  int passed = 0, failed = 0;
  const bool show_times = std::getenv("PGTRAIN_TEST_TIMES") != nullptr;
  for (const Case& c : all_cases()) {
    if (part && c.name.find(part) == std::string::npos) continue;
    const auto start = std::chrono::steady_clock::now();
    (run_case(*backend, c) ? passed : failed)++;
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (show_times) std::printf("%8.3f s  %s\n", took.count(), c.name.c_str());
  }
  if (failed) std::printf("[  FAILED  ] %d tests (PGTRAIN_TEST_SEED=%u repeats)\n", failed, seed());
  std::printf("[  PASSED  ] %d tests.\n", passed);
  return failed || !passed;
}
}  // namespace pgtrain::test

int main(int argc, char** argv) { return pgtrain::test::run_all(argc > 1 ? argv[1] : nullptr); }
