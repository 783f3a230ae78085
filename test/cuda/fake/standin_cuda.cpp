// A stand-in for the driver's libcuda.so.1 that says yes to everything, for cudnn_plans_test: cuDNN loads the kernels of a plan when it
// finalises one, which without a driver would fail. Only what is asked about a device gets an answer, that of an H200; export tables are
// not found, so that the runtime inside cuDNN does without them.
#include <dlfcn.h>

#include <cstddef>
#include <cstring>
#include <string>

namespace {
constexpr int kNotFound = 500, kVersion = 13000;
enum Asked { kThreadsPerBlock = 1, kSharedPerBlock = 8, kWarp = 10, kProcessors = 16, kThreadsPerProcessor = 39, kMajor = 75, kMinor = 76, kSharedOptIn = 97 };
char something;
int answer(void **to) { return *to = &something, 0; }
}  // namespace

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = kVersion, 0; }
int cuGetExportTable(const void **table, const void *) { return *table = nullptr, kNotFound; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int) { return *device = 0, 0; }
int cuDeviceGetName(char *name, int bytes, int) { return std::strncpy(name, "a device that is only described", size_t(bytes)), 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t(140) << 30, 0; }
int cuDeviceGetAttribute(int *value, int asked, int) {
    switch (asked) {
        case kThreadsPerBlock: *value = 1024; break;
        case kSharedPerBlock: *value = 49152; break;
        case kWarp: *value = 32; break;
        case kProcessors: *value = 132; break;
        case kThreadsPerProcessor: *value = 2048; break;
        case kMajor: *value = 9; break;
        case kMinor: *value = 0; break;
        case kSharedOptIn: *value = 232448; break;
        default: *value = 1;
    }
    return 0;
}
int cuCtxGetCurrent(void **context) { return answer(context); }
int cuCtxGetDevice(int *device) { return *device = 0, 0; }
int cuDevicePrimaryCtxRetain(void **context, int) { return answer(context); }
int cuModuleLoadData(void **module, const void *) { return answer(module); }
int cuModuleLoadDataEx(void **module, const void *, unsigned, void *, void *) { return answer(module); }
int cuModuleLoadFatBinary(void **module, const void *) { return answer(module); }
int cuModuleGetFunction(void **function, void *, const char *) { return answer(function); }
int cuLibraryLoadData(void **library, const void *, void *, void *, unsigned, void *, void *, unsigned) { return answer(library); }
int cuLibraryGetKernel(void **kernel, void *, const char *) { return answer(kernel); }
int cuLibraryGetModule(void **module, void *) { return answer(module); }
int cuKernelGetFunction(void **function, void *) { return answer(function); }
int cuFuncGetAttribute(int *value, int, void *) { return *value = 0, 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int, size_t) { return *blocks = 1, 0; }
#define YES(name) \
    int name() { return 0; }
YES(cuLaunchKernel) YES(cuLaunchKernelEx) YES(cuLaunchCooperativeKernel) YES(cuLinkCreate) YES(cuLinkCreate_v2) YES(cuLinkAddData) YES(cuLinkAddData_v2)
YES(cuLinkAddFile_v2) YES(cuLinkComplete) YES(cuLinkDestroy) YES(cuGetErrorName) YES(cuGetErrorString) YES(cuCtxPushCurrent) YES(cuCtxPopCurrent)
YES(cuCtxGetLimit) YES(cuStreamGetCtx) YES(cuStreamSynchronize) YES(cuOccupancyMaxPotentialClusterSize) YES(cuLibraryUnload) YES(cuLibraryLoadFromFile)
YES(cuKernelSetAttribute) YES(cuKernelGetAttribute) YES(cuTensorMapEncodeTiled) YES(cuModuleUnload) YES(cuModuleGetGlobal_v2) YES(cuMemcpyDtoH_v2)
YES(cuFuncSetAttribute) YES(cuDevicePrimaryCtxReset) YES(cuDevicePrimaryCtxRelease)
#undef YES
static int any_other() { return 0; }

int cuGetProcAddress_v2(const char *symbol, void **function, int, unsigned long long, int *status) {
    void *found = dlsym(RTLD_DEFAULT, symbol);
    if (!found) found = dlsym(RTLD_DEFAULT, (std::string(symbol) + "_v2").c_str());
    *function = found ? found : reinterpret_cast<void *>(&any_other);
    if (status) *status = 0;
    return 0;
}
int cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}
}
