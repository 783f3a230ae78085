// What check_formats.py holds against other people's packages: formats_interop COMMAND ARGUMENTS
//
//   source PATH                   a model's configuration and, for each tensor, name, type, shape and SHA-256 of its floats
//   config FILE                   a config.json as we would write it
//   dequantize TYPE COUNT IN OUT  blocks to floats        quantize TYPE COUNT IN OUT  floats to blocks
//   gguf FOLDER TYPE OUT          a folder's model as GGUF, with matrices of this type where their rows are whole blocks
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/core/error.hpp"
#include "engine/core/sha256.hpp"
#include "engine/io/file.hpp"
#include "engine/models/checkpoint_source.hpp"

namespace {

using namespace pgtrain::engine;

io::BlockType type_of(const std::string& name) {
  for (std::uint32_t type = 0; type < 64; ++type)
    if (const io::BlockFormat* format = io::find_block_format(type); format != nullptr && name == format->name) return format->type;
  throw std::invalid_argument("no type " + name);
}

std::vector<float> read(const models::CheckpointSource& source, std::size_t index) {
  std::vector<float> values(source.tensors()[index].elements);
  source.read_f32(index, values.data());
  return values;
}

// Opens the object that the caller closes.
void print_config(const models::ModelConfig& config) {
  std::printf("{\"config\": %s, \"frequencies\": [", config.to_json().c_str());
  const auto frequencies = models::rope_frequencies(config.rope, config.head_width, 0);
  for (std::size_t i = 0; i < frequencies.size(); ++i) std::printf("%s%.9g", i > 0 ? "," : "", static_cast<double>(frequencies[i]));
  std::printf("]");
}

void print_source(const std::string& path) {
  const auto source = models::CheckpointSource::open(path);
  print_config(source->config());
  std::printf(", \"tensors\": {");
  for (std::size_t i = 0; i < source->tensors().size(); ++i) {
    const models::SourceTensor& tensor = source->tensors()[i];
    const std::vector<float> values = read(*source, i);
    const std::string digest = core::sha256_hex({reinterpret_cast<const char*>(values.data()), 4 * values.size()});
    std::printf("%s\n\"%s\": [\"%s\", %llu, \"%s\"]", i > 0 ? "," : "", tensor.name.c_str(), tensor.stored_type.c_str(),
                static_cast<unsigned long long>(tensor.shape[0]), digest.c_str());
  }
  std::printf("}}\n");
}

void convert(bool is_reading, io::BlockType type, std::uint64_t count, const std::string& in, const std::string& out) {
  const io::MappedFile file(in);
  const io::BlockFormat& format = io::block_format(type);
  const std::uint64_t blocks = count / format.elements * format.bytes;
  if (file.bytes().size() < (is_reading ? blocks : 4 * count)) throw std::invalid_argument("the file is too short");
  std::string result(is_reading ? 4 * count : blocks, '\0');
  if (is_reading)
    io::dequantize(type, file.bytes().data(), count, reinterpret_cast<float*>(result.data()));
  else
    io::quantize(type, reinterpret_cast<const float*>(file.bytes().data()), count, result.data());
  io::write_file(out, result);
}

void write_gguf(const std::string& folder, io::BlockType type, const std::string& out) {
  const auto source = models::CheckpointSource::open(folder);
  const models::ModelConfig& config = source->config();
  io::GgufWriter writer(out);
  models::write_gguf_metadata(writer, config, "interop");
  std::vector<models::GgufPlace> places;
  for (const models::SourceTensor& tensor : source->tensors()) {
    places.push_back(models::gguf_place(config, {tensor.name, tensor.shape}));
    const bool fits = places.back().shape.size() == 2 && io::GgufWriter::fits(type, places.back().shape);
    writer.declare(places.back().name, places.back().shape, fits ? type : io::BlockType::F32);
  }
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::vector<float> values = read(*source, i);
    std::vector<float> there(values.size());
    models::to_gguf_layout(places[i], config.head_width, values.data(), there.data());
    writer.write(there.data(), there.size());
  }
  writer.commit();
}

}  // namespace

int main(int count, char** arguments) {
  const std::vector<std::string> given(arguments + 1, arguments + count);
  try {
    if (given.size() == 2 && given[0] == "source")
      print_source(given[1]);
    else if (given.size() == 2 && given[0] == "config")
      print_config(models::ModelConfig::from_json(io::read_small_file(given[1], 1 << 20), given[1])), std::printf("}\n");
    else if (given.size() == 5 && (given[0] == "dequantize" || given[0] == "quantize"))
      convert(given[0] == "dequantize", type_of(given[1]), std::stoull(given[2]), given[3], given[4]);
    else if (given.size() == 4 && given[0] == "gguf")
      write_gguf(given[1], type_of(given[2]), given[3]);
    else
      return std::fprintf(stderr, "usage: see the head of formats_interop.cpp\n"), 2;
  } catch (const core::Error& error) {
    return std::fprintf(stderr, "%s: %s\n", error.code.c_str(), error.message.c_str()), 1;
  }
  return 0;
}
