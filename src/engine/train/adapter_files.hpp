// LoRA adapters as the PEFT library keeps them: adapter_model.safetensors and adapter_config.json in a folder.
//
// Writing makes what PEFT 0.10 and later, and vLLM, load. Reading takes what PEFT saves: plain LoRA, rsLoRA, DoRA and modules_to_save of
// the models here; every option that would compute something else is refused by name (model_invalid). Called by exports, by decoding
// with an adapter and by runs that go on from one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/graph/executor.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/models/adapters.hpp"
#include "engine/train/training.hpp"

namespace pgtrain::engine::train {

inline constexpr const char* kAdapterFile = "adapter_model.safetensors";
inline constexpr const char* kAdapterConfigFile = "adapter_config.json";

// base_name: what PEFT is to load the base model by; may be empty. type: F32, BF16 or F16.
std::vector<Artifact> write_adapter(const std::string& folder, const models::ModelConfig& config, const models::AdapterOptions& options,
                                    const std::string& base_name, const graph::ParameterStore& store, io::StoredType type = io::StoredType::F32);

class AdapterFolder {
 public:
  // Everything is checked but values: configuration, names, shapes, types.
  AdapterFolder(const std::string& folder, const models::ModelConfig& config);

  // Targets are whole paths of modules, those that have tensors in the file.
  const models::AdapterOptions& options() const { return options_; }
  const std::string& base_name() const { return base_name_; }  // empty when it says none
  // Into a store of build_model's graph with options(); its other weights stay as they are.
  void load(graph::ParameterStore& store) const;
  // Each parameter of that graph that the file has, with its values.
  void visit(const std::function<void(const std::string& parameter, const std::vector<float>& values)>& visitor) const;

 private:
  struct Place {
    std::string parameter;  // in the graph
    std::vector<std::string> tensors;
  };
  void read_names();
  void check_shapes();

  const models::ModelConfig& config_;
  io::SafetensorsFile file_;
  models::AdapterOptions options_;
  std::string base_name_;
  std::vector<Place> places_;
};

}  // namespace pgtrain::engine::train
