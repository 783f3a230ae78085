// Finds and opens devices. The CUDA backend is a shared object beside this program (or on the loader's path), opened when
// first asked for, so that one build runs with and without CUDA and can say in plain words why there is none.
#include "engine/backend/devices.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <array>

#include "engine/core/error.hpp"

namespace pgtrain::engine::backend {
namespace {

constexpr const char* kLibrary = "libpgtrain_cuda.so";

struct CudaLibrary {
  decltype(&pgtrain_cuda_open_6) open = nullptr;
  decltype(&pgtrain_cuda_count) count = nullptr;
  decltype(&pgtrain_cuda_describe) describe = nullptr;
  std::string reason;
};

std::string folder_of_this_program() {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (length <= 0) return "";
  const std::string whole(path.data(), static_cast<std::size_t>(length));
  return whole.substr(0, whole.rfind('/') + 1);
}

CudaLibrary load() {
  CudaLibrary library;
  const std::string beside = folder_of_this_program() + kLibrary;
  const bool is_beside = access(beside.c_str(), R_OK) == 0;
  void* handle = dlopen(is_beside ? beside.c_str() : kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    library.reason = is_beside ? std::string(kLibrary) + " cannot be loaded: " + (error != nullptr ? error : "unknown reason")
                               : std::string(kLibrary) + " is not installed (it is built where the CUDA toolkit is found)";
    return library;
  }
  library.open = reinterpret_cast<decltype(library.open)>(dlsym(handle, "pgtrain_cuda_open_6"));
  library.count = reinterpret_cast<decltype(library.count)>(dlsym(handle, "pgtrain_cuda_count"));
  library.describe = reinterpret_cast<decltype(library.describe)>(dlsym(handle, "pgtrain_cuda_describe"));
  if (library.open == nullptr || library.count == nullptr || library.describe == nullptr) library.reason = std::string(kLibrary) + " is of another version than this program";
  return library;
}

const CudaLibrary& cuda() {
  static const CudaLibrary library = load();
  return library;
}

std::unique_ptr<Backend> open_cuda(const std::string& name, std::uint64_t memory_limit_bytes) {
  if (!cuda().reason.empty()) throw core::Error("device_fault", "device " + name + " cannot be used: " + cuda().reason);
  const std::string number = name.substr(5);
  if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos)
    throw core::Error("config_invalid", "\"" + name + "\" is no device", "", "Devices are \"cpu\" and \"cuda:0\", \"cuda:1\", ...");
  std::array<char, 1024> error{};
  std::unique_ptr<Backend> backend(cuda().open(std::stoi(number), memory_limit_bytes, error.data(), error.size()));
  if (backend == nullptr) throw core::Error("device_fault", "device " + name + " cannot be used: " + error.data());
  return backend;
}

}  // namespace

DeviceList list_devices() {
  DeviceList list;
  list.cuda_reason = cuda().reason;
  if (list.cuda_reason.empty()) {
    std::array<char, 1024> error{};
    const int count = cuda().count(error.data(), error.size());
    if (count <= 0) list.cuda_reason = error.data();
    for (int device = 0; device < count; ++device) {
      DeviceInfo info;
      if (cuda().describe(device, &info, error.data(), error.size()))
        list.devices.push_back(info);
      else
        list.cuda_reason += (list.cuda_reason.empty() ? "" : "; ") + std::string(error.data());
    }
  }
  list.devices.push_back(open_cpu({})->info());
  return list;
}

std::unique_ptr<Backend> open(const std::string& name, const OpenOptions& options) {
  if (name == "cpu") return open_cpu(options);
  if (name.starts_with("cuda:")) return open_cuda(name, options.memory_limit_bytes);
  throw core::Error("config_invalid", "\"" + name + "\" is no device", "", "Devices are \"cpu\" and \"cuda:0\", \"cuda:1\", ...");
}

}  // namespace pgtrain::engine::backend
