// The operation tests on the CPU backend.
#include "cases.hpp"
#include "engine/backend/devices.hpp"

std::unique_ptr<pgtrain::engine::backend::Backend> pgtrain::test::open_backend_under_test() { return engine::backend::open("cpu"); }
