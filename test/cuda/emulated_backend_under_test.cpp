// The operation tests on the CUDA backend, its sources compiled against the emulation.
#include "../engine/ops/cases.hpp"

std::unique_ptr<pgtrain::engine::backend::Backend> pgtrain::test::open_backend_under_test() {
    char error[512] = "";
    std::unique_ptr<engine::backend::Backend> backend(pgtrain_cuda_open_6(0, 0, error, sizeof error));
    if (!backend) throw std::runtime_error(error);
    return backend;
}
