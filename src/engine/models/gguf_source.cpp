// A GGUF file as a checkpoint source.
#include "engine/core/error.hpp"
#include "engine/core/utf8.hpp"
#include "engine/models/checkpoint_kinds.hpp"

namespace pgtrain::engine::models {
namespace {

class GgufSource final : public CheckpointSource {
 public:
  explicit GgufSource(const std::string& path) : file_(path) {
    config_ = config_from_gguf(file_);
    std::vector<Wanted> wanted;
    std::vector<GgufPlace> places;
    const auto parameters = parameter_shapes(config_);
    for (const ParameterShape& parameter : parameters) {
      places.push_back(gguf_place(config_, parameter));
      wanted.push_back({places.back().name, places.back().shape});
    }
    std::unordered_map<std::string, Found> found;
    for (const io::GgufTensor& tensor : file_.header().tensors())
      if (!carries_no_weights(tensor.name)) found.emplace(tensor.name, Found{tensor.name, tensor.shape});
    compare(path, config_.model_type, wanted, found);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const io::GgufTensor* tensor = file_.header().find_tensor(places[i].name);
      tensors_.push_back({parameters[i].name, parameters[i].shape, io::block_format(tensor->type).name});
      here_.push_back({tensor, {places[i].layout, tensor->shape[0], tensor->shape.size() == 2 ? tensor->shape[1] : 1}});
    }
    index_tensors();
  }

  std::string chat_template() const override {
    const std::string_view text = file_.header().find_text("tokenizer.chat_template").value_or("");
    if (core::first_invalid_utf8(text) != std::string_view::npos)
      throw core::Error("model_invalid", file_.header().name() + ": metadata field \"tokenizer.chat_template\": is not valid UTF-8", "",
                        "The file is damaged; get it again from where it was made.");
    return std::string(text);
  }
  const io::GgufHeader* gguf() const override { return &file_.header(); }

 private:
  struct Here {
    const io::GgufTensor* tensor;
    Layout layout;
  };

  // The factors of llama3's rotation are part of the configuration; old converters wrote frequencies that follow from it.
  bool carries_no_weights(const std::string& name) const {
    const std::string end = ".attn_rot_embd";
    const bool is_old = name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    return is_old || name == kRopeFactors || name == "rope.freqs" || (config_.ties_head && name == "output.weight");
  }

  Layout layout(std::size_t index) const override { return here_[index].layout; }
  std::uint64_t piece(std::size_t index) const override { return io::block_format(here_[index].tensor->type).elements; }
  void read(std::size_t index, std::uint64_t first, std::uint64_t count, float* out) const override {
    file_.read_f32(*here_[index].tensor, first, count, out);
  }

  io::GgufFile file_;
  std::vector<Here> here_;
};

}  // namespace

std::unique_ptr<CheckpointSource> open_gguf_file(const std::string& path) { return std::make_unique<GgufSource>(path); }

}  // namespace pgtrain::engine::models
