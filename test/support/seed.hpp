// The seed of what tests draw by chance: the same in each check, so that a red one tells about the change.
// PGTRAIN_TEST_SEED=n draws other values and repeats a failure.
#pragma once

#include <cstdlib>

namespace pgtrain::test {

inline unsigned seed() {
  const char* given = std::getenv("PGTRAIN_TEST_SEED");
  return given ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : 1;
}

}  // namespace pgtrain::test
