// libFuzzer target of a model's files as a whole: a tiny model as a Hugging Face folder and as a GGUF file, and an adapter beside it, of
// which one file is the fuzzer's. It is opened for use and asked for two tokens: an answer, or core::Error.
//
// The first byte chooses the file. Files of text are what follows it; in the others pairs of bytes are changed: each four bytes that
// follow are a place (two, little end first) and what is put there. `make fuzz` runs it, starting from test/fuzz/seeds/model.
#include <stdlib.h>  // mkdtemp

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/models/model.hpp"
#include "engine/train/exports.hpp"
#include "engine/train/generation.hpp"

namespace {

using namespace pgtrain::engine;

struct Target {
  char letter;
  const char* file;  // below the folder
  bool is_text;
};
// Of the folder, of the adapter, of the GGUF file.
constexpr Target kTargets[] = {{'c', "base/config.json", true},
                               {'g', "base/generation_config.json", true},
                               {'t', "base/tokenizer_config.json", true},
                               {'v', "base/tokenizer.json", true},
                               {'j', "base/chat_template.jinja", true},
                               {'i', "sharded/model.safetensors.index.json", true},
                               {'w', "base/model.safetensors", false},
                               {'a', "adapter/adapter_config.json", true},
                               {'b', "adapter/adapter_model.safetensors", false},
                               {'q', "gguf/model-f16.gguf", false}};

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
// Without waiting for the disk, which io::write_file does.
void write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size())); }

class Files {
 public:
  Files() {
    char name[] = "/tmp/pgtrain-fuzz-XXXXXX";
    if (mkdtemp(name) == nullptr) std::abort();
    folder_ = name;
    for (const char* part : {"base", "sharded", "adapter", "gguf"}) std::filesystem::create_directory(path(part));
    models::ModelConfig config;
    config.model_type = "llama", config.layers = 1, config.width = 8, config.heads = 2, config.kv_heads = 1, config.head_width = 4, config.inner_width = 12;
    config.context = 16, config.vocab_size = 257, config.eos = {256}, config.stored_type = "float32";
    const models::Tuning whole;
    models::Tuning adapted;
    adapted.adapters.emplace().rank = 2, adapted.adapters->targets = {"all-linear"};
    make(config, whole, nullptr, "base", train::ExportKind::Merged);
    make(config, whole, nullptr, "gguf", train::ExportKind::GgufF16);
    make(config, adapted, models::CheckpointSource::open(path("base")).get(), "adapter", train::ExportKind::Peft);
    for (const auto& entry : std::filesystem::directory_iterator(path("base")))
      if (entry.path().filename() != "model.safetensors") std::filesystem::copy_file(entry.path(), path("sharded") / entry.path().filename());
    std::filesystem::copy_file(path("base") / "model.safetensors", path("sharded") / "model-00001-of-00001.safetensors");
    for (const Target& target : kTargets) good_.push_back(std::filesystem::exists(path(target.file)) ? read(path(target.file)) : std::string());
  }
  ~Files() { std::filesystem::remove_all(folder_); }

  void use(std::string_view input) {
    std::size_t chosen = 0;
    while (chosen < std::size(kTargets) && kTargets[chosen].letter != input[0]) ++chosen;
    if (chosen == std::size(kTargets)) return;
    const Target& target = kTargets[chosen];
    input.remove_prefix(1);
    std::string bytes = target.is_text ? std::string(input) : good_[chosen];
    for (; !target.is_text && input.size() >= 4; input.remove_prefix(4)) {
      const auto byte = [&](int i) { return static_cast<unsigned char>(input[static_cast<std::size_t>(i)]); };
      const std::size_t place = static_cast<std::size_t>(byte(0) + 256 * byte(1)) % (bytes.size() - 1);
      bytes[place] = input[2], bytes[place + 1] = input[3];
    }
    write(path(target.file), bytes);
    ask(target.letter);
    if (good_[chosen].empty()) std::filesystem::remove(path(target.file));
    else write(path(target.file), good_[chosen]);
  }

 private:
  std::filesystem::path path(const char* part) const { return std::filesystem::path(folder_) / part; }

  void make(const models::ModelConfig& config, const models::Tuning& tuning, const models::CheckpointSource* base, const char* part, train::ExportKind kind) {
    const graph::Graph graph = models::build_model(config, tuning, graph::DType::F32, 1, config.context);
    graph::ParameterStore store(graph, *device_, graph::Mode::Evaluate);
    std::mt19937 random(7);
    std::vector<float> weights(static_cast<std::size_t>(store.count()));
    for (float& weight : weights) weight = static_cast<float>(random() % 1000) / 5000 - 0.1f;
    store.upload_weights(weights.data());
    const tokenizers::Tokenizer tokenizer = tokenizers::Tokenizer::bytes();
    train::write_exports({.folder = path(part), .config = config, .tuning = tuning, .base = base, .store = store, .tokenizer = tokenizer, .kinds = {kind}});
  }

  void ask(char letter) {
    train::ModelFiles files{path("base"), ""};
    if (letter == 'a' || letter == 'b') files = {path("adapter"), path("base")};
    if (letter == 'q') files.folder = path("gguf");
    if (letter == 'i') files.folder = path("sharded");
    train::GenerateOptions options;
    options.max_tokens = 2;
    try {
      for (const train::GenerateResult& answer : train::generate(files, {"ab"}, options, *device_))
        if (answer.tokens > 2) __builtin_trap();
    } catch (const core::Error& error) {
      if ((error.code != "model_invalid" && error.code != "out_of_memory" && error.code != "config_invalid") || error.message.empty()) {
        std::fprintf(stderr, "%s: %s\n", error.code.c_str(), error.message.c_str());
        __builtin_trap();
      }
    }
  }

  std::string folder_;
  std::unique_ptr<backend::Backend> device_ = backend::open("cpu", {.threads = 1, .memory_limit_bytes = std::uint64_t{64} << 20});
  std::vector<std::string> good_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Files files;
  if (size > 0) files.use({reinterpret_cast<const char*>(data), size});
  return 0;
}
