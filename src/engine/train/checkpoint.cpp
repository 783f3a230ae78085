// Writes and reads checkpoints.
#include "engine/train/checkpoint.hpp"

#include <algorithm>
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
const std::string kWeights = "weights/";

constexpr std::uint64_t kElementsAtOnce = std::uint64_t{1} << 20;

std::string name_of_weight(const graph::Parameter& parameter) { return kWeights + parameter.name; }
std::vector<std::uint64_t> shape_of(const graph::Parameter& parameter) { return {parameter.shape.begin(), parameter.shape.end()}; }

[[noreturn]] void refuse(const std::string& path, const std::string& reason) {
  throw core::Error("model_invalid", path + ": " + reason, "", "Resume from a checkpoint that this run wrote.");
}

std::string require_text(const io::SafetensorsFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) refuse(file.path(), "metadata field \"" + key + "\" is missing");
  return found->second;
}

bool is_finite(std::string_view bytes, io::StoredType type) {
  if (type == io::StoredType::U8) return true;
  const std::size_t wide = io::stored_type_bytes(type);
  for (std::size_t at = 0; at < bytes.size(); at += wide) {
    // The exponent's bits of F32, or of BF16 that is its upper half.
    std::uint16_t upper = 0;
    std::memcpy(&upper, bytes.data() + at + wide - sizeof upper, sizeof upper);
    if ((upper & 0x7f80) == 0x7f80) return false;
  }
  return true;
}

// A one-dimensional tensor of values of the given kind.
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

io::WrittenFile write_checkpoint(const std::string& path, const RunIdentity& identity, const RunState& state, graph::ParameterStore& store, const Optimizer& optimizer) {
  std::vector<io::TensorToWrite> tensors;
  for (const StateTensor& part : optimizer.state())
    tensors.push_back({part.name, part.type, part.shape, nullptr, [&store, part](std::uint64_t first, std::size_t bytes, void* to) {
                         store.backend().download(to, static_cast<const char*>(part.memory) + first, bytes);
                       }});
  for (const graph::Parameter& parameter : store.parameters())
    tensors.push_back({name_of_weight(parameter), io::StoredType::F32, shape_of(parameter), nullptr, [&store, &parameter](std::uint64_t first, std::size_t bytes, void* to) {
                         store.download_weight(parameter, static_cast<std::int64_t>(first / sizeof(float)), static_cast<std::int64_t>(bytes / sizeof(float)), static_cast<float*>(to));
                       }});
  const std::vector<std::int64_t> counts = {state.step, static_cast<std::int64_t>(state.tokens), state.has_loss_before ? 1 : 0,
                                            state.evaluations_without_gain, state.evaluated_step};
  const std::vector<double> losses = {state.loss_before, state.last_loss, state.lowest_loss};
  tensors.push_back({"state/counts", io::StoredType::I64, {counts.size()}, counts.data()});
  tensors.push_back({"state/notes", io::StoredType::F32, {state.notes.size()}, state.notes.data()});
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
  if (counts.size() != 5 || *std::min_element(counts.begin(), counts.end()) < 0) refuse(path, "tensor \"state/counts\" does not hold five counts");
  if (losses.size() != 3 || !std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); }))
    refuse(path, "tensor \"state/losses\" does not hold three losses");
  state_.step = counts[0];
  state_.tokens = static_cast<std::uint64_t>(counts[1]);
  state_.has_loss_before = counts[2] != 0;
  state_.evaluations_without_gain = counts[3], state_.evaluated_step = counts[4];
  state_.loss_before = losses[0], state_.last_loss = losses[1], state_.lowest_loss = losses[2];
  state_.notes = read_numbers<float>(file->tensors, "state/notes", io::StoredType::F32);
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

void CheckpointReader::load(graph::ParameterStore& store, const Optimizer& optimizer) const {
  const io::SafetensorsFile& file = file_->tensors;
  // All of it is looked at before any of it is taken.
  const auto look = [&](const std::string& name, const std::vector<std::uint64_t>& shape, io::StoredType type) {
    const io::StoredTensor& tensor = file.require(name, shape);
    if (tensor.type != type)
      refuse(file.path(), "tensor \"" + name + "\" is of type " + io::stored_type_name(tensor.type) + ", this run has " + io::stored_type_name(type));
    if (!is_finite(file.data(tensor), type)) refuse(file.path(), "tensor \"" + name + "\" holds a value that is not finite");
    file.forget(tensor);
  };
  const std::vector<StateTensor> parts = optimizer.state();
  for (const StateTensor& part : parts) look(part.name, part.shape, part.type);
  for (const graph::Parameter& parameter : store.parameters()) look(name_of_weight(parameter), shape_of(parameter), io::StoredType::F32);
  for (const StateTensor& part : parts) {
    const io::StoredTensor& tensor = *file.find(part.name);
    store.backend().upload(part.memory, file.data(tensor).data(), part.bytes);
    file.forget(tensor);
  }
  std::vector<float> values;
  for (const graph::Parameter& parameter : store.parameters()) {
    const io::StoredTensor& tensor = *file.find(name_of_weight(parameter));
    for (std::uint64_t first = 0; first < tensor.elements(); first += values.size()) {
      values.resize(std::min(kElementsAtOnce, tensor.elements() - first));
      file.read_f32(tensor, first, values.size(), values.data());
      store.upload_weight(parameter, static_cast<std::int64_t>(first), static_cast<std::int64_t>(values.size()), values.data());
    }
  }
}

void CheckpointReader::load_weights(graph::ParameterStore& store, bool are_all, const std::function<void()>& poll) const {
  std::vector<float> values;
  const auto read = [&](const graph::Parameter& parameter) {
    const io::StoredTensor& tensor = file_->tensors.require(name_of_weight(parameter), shape_of(parameter));
    const std::string_view bytes = file_->tensors.data(tensor);
    if (tensor.type != io::StoredType::F32) refuse(file_->tensors.path(), "tensor \"" + tensor.name + "\" is of type " + io::stored_type_name(tensor.type) + ", weights are of type F32");
    if (!is_finite(bytes, tensor.type)) refuse(file_->tensors.path(), "tensor \"" + tensor.name + "\" holds a value that is not finite");
    values.resize(static_cast<std::size_t>(parameter.count));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    file_->tensors.forget(tensor);
    if (poll) poll();
    return values.data();
  };
  for (const graph::Parameter& parameter : store.parameters()) store.upload_weight(parameter, read(parameter));
  if (!are_all) return;
  for (const graph::Parameter& parameter : store.frozen()) store.upload_frozen(parameter, read(parameter));
}

}  // namespace pgtrain::engine::train
