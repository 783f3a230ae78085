// Writes and reads checkpoints.
#include "engine/train/checkpoint.hpp"

#include <cmath>
#include <cstring>
#include <memory>
#include <sstream>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr const char* kFormat = "pgtrain-checkpoint-1";
constexpr const char* kParts[] = {"weights/", "first_moments/", "second_moments/"};

std::vector<std::uint64_t> shape_of(const graph::Parameter& parameter) { return {parameter.shape.begin(), parameter.shape.end()}; }

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
  throw core::Error("model_invalid", path + ": " + reason, "", "Resume from a checkpoint that this run wrote.");
}

std::string require_text(const io::SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) refuse(file.path(), "metadata field \"" + key + "\" is missing");
  return found->second;
}

// A one-dimensional tensor of 64-bit values of the given kind.
template <typename T>
std::vector<T> read_numbers(const io::SafetensorsFile& file, const std::string& name, io::StoredType type) {
  const io::StoredTensor* tensor = file.find(name);
  if (tensor == nullptr) refuse(file.path(), "tensor \"" + name + "\" is missing");
  if (tensor->type != type || tensor->shape.size() != 1) refuse(file.path(), "tensor \"" + name + "\" is not a list of " + io::stored_type_name(type));
  std::vector<T> values(tensor->elements());
  if (!values.empty()) std::memcpy(values.data(), file.data(*tensor).data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

io::WrittenFile write_checkpoint(const std::string& path, const RunIdentity& identity, const RunState& state, const graph::ParameterStore& store) {
  const std::size_t count = static_cast<std::size_t>(store.count());
  std::vector<float> weights(count), m(count), v(count);
  store.download_weights(weights.data());
  store.download_moments(m.data(), v.data());
  const float* const parts[] = {weights.data(), m.data(), v.data()};
  std::vector<io::TensorToWrite> tensors;
  for (int part = 0; part < 3; ++part)
    for (const graph::Parameter& parameter : store.parameters())
      tensors.push_back({kParts[part] + parameter.name, io::StoredType::F32, shape_of(parameter), parts[part] + parameter.offset});
  const std::vector<std::int64_t> counts = {state.step, static_cast<std::int64_t>(state.tokens), state.has_loss_before ? 1 : 0};
  const std::vector<double> losses = {state.loss_before, state.last_loss};
  tensors.push_back({"state/counts", io::StoredType::I64, {counts.size()}, counts.data()});
  tensors.push_back({"state/losses", io::StoredType::F64, {losses.size()}, losses.data()});
  tensors.push_back({"state/cursor", io::StoredType::I64, {state.cursor.size()}, state.cursor.data()});
  tensors.push_back({"state/tokenizer", io::StoredType::U8, {state.tokenizer.size()}, state.tokenizer.data()});
  return io::write_safetensors(path, std::move(tensors),
                               {{"format", kFormat}, {"options", identity.options}, {"precision", identity.precision}, {"data_sha256", identity.data_sha256}});
}

struct CheckpointReader::File {
  explicit File(const std::string& path) : tensors(path) {}
  io::SafetensorsFile tensors;
};

CheckpointReader::CheckpointReader(const std::string& path) : file_(nullptr) {
  auto file = std::make_unique<File>(path);
  if (require_text(file->tensors, "format") != kFormat) refuse(path, "is not a checkpoint of a form that this version reads");
  precision_ = require_text(file->tensors, "precision");
  if (precision_ != "fp32" && precision_ != "bf16") refuse(path, "metadata field \"precision\" is not fp32 or bf16");
  const auto counts = read_numbers<std::int64_t>(file->tensors, "state/counts", io::StoredType::I64);
  const auto losses = read_numbers<double>(file->tensors, "state/losses", io::StoredType::F64);
  if (counts.size() != 3 || counts[0] < 0 || counts[1] < 0) refuse(path, "tensor \"state/counts\" does not hold three counts");
  if (losses.size() != 2 || !std::isfinite(losses[0]) || !std::isfinite(losses[1])) refuse(path, "tensor \"state/losses\" does not hold two losses");
  state_.step = counts[0];
  state_.tokens = static_cast<std::uint64_t>(counts[1]);
  state_.has_loss_before = counts[2] != 0;
  state_.loss_before = losses[0], state_.last_loss = losses[1];
  state_.cursor = read_numbers<std::int64_t>(file->tensors, "state/cursor", io::StoredType::I64);
  const auto tokenizer = read_numbers<char>(file->tensors, "state/tokenizer", io::StoredType::U8);
  state_.tokenizer.assign(tokenizer.begin(), tokenizer.end());
  file_ = file.release();
}

CheckpointReader::~CheckpointReader() { delete file_; }

void CheckpointReader::check(const RunIdentity& identity) const {
  std::istringstream ours(identity.options), theirs(require_text(file_->tensors, "options"));
  std::string our_line, their_line;
  while (std::getline(ours, our_line)) {
    if (!std::getline(theirs, their_line)) their_line.clear();
    if (our_line != their_line)
      throw core::Error("config_invalid", "the checkpoint was made with " + core::printable(their_line) + ", this run has " + our_line, file_->tensors.path(),
                        "Resume with the configuration that the run was started with, or start a new run.");
  }
  if (identity.precision != precision_)
    throw core::Error("config_invalid", "the checkpoint was made in " + precision_ + ", this run computes in " + identity.precision, file_->tensors.path(),
                      "Resume with precision => " + precision_ + " or auto.");
  if (identity.data_sha256 != require_text(file_->tensors, "data_sha256"))
    throw core::Error("data_invalid", "the checkpoint was made from other samples", file_->tensors.path(), "Resume with the dataset that the run was started with.");
}

void CheckpointReader::load(graph::ParameterStore& store) const {
  const std::size_t count = static_cast<std::size_t>(store.count());
  std::vector<float> weights(count), m(count), v(count);
  float* const parts[] = {weights.data(), m.data(), v.data()};
  for (int part = 0; part < 3; ++part)
    for (const graph::Parameter& parameter : store.parameters())
      file_->tensors.read_f32(file_->tensors.require(kParts[part] + parameter.name, shape_of(parameter)), parts[part] + parameter.offset);
  for (int part = 0; part < 3; ++part)
    for (std::size_t i = 0; i < count; ++i)
      if (!std::isfinite(parts[part][i])) refuse(file_->tensors.path(), std::string(kParts[part]) + " holds a value that is not finite");
  store.upload_weights(weights.data());
  store.upload_moments(m.data(), v.data());
}

}  // namespace pgtrain::engine::train
