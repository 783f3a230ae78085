// devices.cpp: what the backends found, as lines of JSON.
#include "trainer/devices.hpp"

#include <thread>

#include "engine/backend/devices.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::trainer {

std::string devices_text() {
  using engine::core::json_quote;
  const auto list = engine::backend::list_devices();
  std::string text;
  for (const auto& device : list.devices) {
    const bool is_cpu = device.name == "cpu";
    text += std::string("{\"kind\":") + (is_cpu ? "\"cpu\"" : "\"cuda\"") + ",\"selector\":" + json_quote(device.name) +
            ",\"instance_id\":" + json_quote(device.uuid) + ",\"name\":" + json_quote(device.description) +
            ",\"memory_bytes\":" + std::to_string(device.memory_bytes) + ",\"isa\":" + json_quote(device.isa) +
            ",\"units\":" + std::to_string(device.units) + ",\"note\":" + json_quote(is_cpu ? list.cuda_reason : "") + "}\n";
  }
  return text;
}

std::string machine_text() { return "cpu with " + std::to_string(std::thread::hardware_concurrency()) + " threads"; }

}  // namespace pgtrain::trainer
