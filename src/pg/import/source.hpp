// Where a model is imported from on the server's disk, opened so that the path of a user leads nowhere but into
// pgtrain.import_folder, and so that nothing but plain files is ever opened. Called by functions/import.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pg/compat.hpp"

struct stat;

namespace pgtrain::pg::import {

// What is brought in: a whole model, or an adapter on one that is here.
enum class Kind { Model, Adapter };

inline constexpr char adapter_name[] = "adapter_model.safetensors", adapter_config_name[] = "adapter_config.json";
inline constexpr char adapter_hint[] = "Give an adapter as PEFT saves it (adapter_config.json and adapter_model.safetensors), or leave base_model out to import a whole model.";

// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor();
  Descriptor(Descriptor &&other) noexcept : number_(other.number_) { other.number_ = -1; }
  Descriptor &operator=(Descriptor &&other) noexcept;
  int number() const { return number_; }

 private:
  int number_;
};

struct SourceFile {
  std::string name;  // that it gets in the model
  std::string path;
  uint64_t bytes = 0;
};

class Source {
 public:
  // Of what stands in files.
  struct Readers {
    std::function<std::vector<std::string>(const std::string &index)> shards_of;         // names of shards
    std::function<std::string(const std::string &adapter_config)> base_of;  // how an adapter calls its base, empty where it does not say
  };
  // The files of the model at `path`: those of a folder that belong to a model, or one GGUF file; or those of an adapter's folder.
  // Refuses pickles, the other kind, what is no plain file, and what lies elsewhere than the caller may point.
  Source(const std::string &path, Kind kind, const Readers &readers);

  const std::vector<SourceFile> &files() const { return files_; }
  // Copies a file to a new one and returns its SHA-256 in hexadecimal. Interrupts are honoured.
  std::string copy(const SourceFile &file, const std::string &target) const;

 private:
  // Nothing there: a descriptor below 0. What is there but may not be reached is an error, and so is what is no file or folder.
  Descriptor find(const std::string &path, struct stat &about) const;
  [[noreturn]] void refuse_outside() const;
  void refuse_own_files(int place) const;
  bool has(const std::string &path) const;
  bool take(const std::string &folder, const std::string &name, uint64_t most);
  std::string read_beginning(const SourceFile &file, size_t most) const;
  void open_folder(const std::string &folder, const Readers &readers);
  void open_shards(const std::string &folder, const Readers &readers);
  void open_adapter(const std::string &folder);
  [[noreturn]] void refuse_folder(const std::string &folder, const Readers &readers);

  bool is_bound_;      // to pgtrain.import_folder
  std::string path_;   // below that folder where it is
  Descriptor folder_;
  std::vector<SourceFile> files_;
};

// Refuses a name that is no part of a model as Hugging Face's tools save it, or of an adapter as PEFT does. False: it lies beside
// adapters, but the base model's is used.
bool check_file_name(const std::string &name, Kind kind);
// Refuses what does not begin like GGUF; pickles with the reason.
void check_gguf(std::string_view beginning, const std::string &name);

}  // namespace pgtrain::pg::import
