// Merged models as GGUF files.
//
// Types as llama.cpp's own converter and quantiser choose them: vectors and learnt positions stay F32, matrices get the wanted type, the
// head a better one than Q4_K. A matrix whose rows are no whole blocks of 256 becomes Q8_0, of 32 neither F16.
#include <cstring>

#include "engine/core/error.hpp"
#include "engine/train/export_parts.hpp"
#include "engine/train/model_tokenizer.hpp"

namespace pgtrain::engine::train {
namespace {

using io::BlockType;

constexpr const char* kTemplateKey = "tokenizer.chat_template";

struct Placed {
  models::GgufPlace place;
  BlockType type;
};

std::uint32_t file_type(ExportKind kind) { return kind == ExportKind::GgufF16 ? 1 : kind == ExportKind::GgufQ8_0 ? 7 : 15; }

BlockType type_of(ExportKind kind, const models::ModelConfig& config, const models::ParameterShape& parameter,
                  const models::GgufPlace& place) {
  if (place.shape.size() < 2 || parameter.name == "transformer.wpe.weight") return BlockType::F32;
  BlockType wanted = kind == ExportKind::GgufF16 ? BlockType::F16 : kind == ExportKind::GgufQ8_0 ? BlockType::Q8_0 : BlockType::Q4_K;
  if (wanted == BlockType::Q4_K && (parameter.name == models::head_weight(config) || !io::GgufWriter::fits(wanted, place.shape)))
    wanted = BlockType::Q8_0;
  return io::GgufWriter::fits(wanted, place.shape) ? wanted : BlockType::F16;
}

std::vector<Placed> places_of(const ExportRequest& request, const MergedWeights& weights, ExportKind kind) {
  std::vector<Placed> out;
  for (const models::ParameterShape& parameter : weights.shapes()) {
    const models::GgufPlace place = models::gguf_place(request.config, parameter);
    out.push_back({place, type_of(kind, request.config, parameter, place)});
  }
  return out;
}

std::string path_of(const ExportRequest& request, ExportKind kind) { return request.folder + "/" + gguf_file_name(kind); }

void write_vocabulary(io::GgufWriter& writer, const ExportRequest& request) {
  if (const io::GgufHeader* base = request.base == nullptr ? nullptr : request.base->gguf()) {
    for (const auto& [key, value] : base->metadata())
      if (key.rfind("tokenizer.", 0) == 0 && key != kTemplateKey) writer.copy(key, value);
  } else {
    tokenizers::GgufVocabulary vocabulary = request.tokenizer.to_gguf();
    const models::ModelConfig& config = request.config;
    if (config.bos) vocabulary.bos = *config.bos;
    if (!config.eos.empty()) vocabulary.eos = config.eos[0];
    if (config.pad) vocabulary.pad = *config.pad;
    // Rows of the embedding that no token has.
    constexpr std::int32_t kUnused = 5;
    while (vocabulary.tokens.size() < static_cast<std::size_t>(config.vocab_size)) {
      vocabulary.tokens.push_back("[PAD" + std::to_string(vocabulary.tokens.size()) + "]");
      vocabulary.token_types.push_back(kUnused);
      if (!vocabulary.scores.empty()) vocabulary.scores.push_back(vocabulary.scores.back());
    }
    writer.set_text("tokenizer.ggml.model", vocabulary.model);
    if (!vocabulary.pre.empty()) writer.set_text("tokenizer.ggml.pre", vocabulary.pre);
    writer.set_texts("tokenizer.ggml.tokens", {vocabulary.tokens.begin(), vocabulary.tokens.end()});
    writer.set_i32s("tokenizer.ggml.token_type", vocabulary.token_types);
    if (vocabulary.model == "gpt2")
      writer.set_texts("tokenizer.ggml.merges", {vocabulary.merges.begin(), vocabulary.merges.end()});
    else
      writer.set_f32s("tokenizer.ggml.scores", vocabulary.scores);
    const auto set_id = [&](const char* key, const std::optional<std::int64_t>& id) {
      if (id) writer.set_u32(key, static_cast<std::uint32_t>(*id));
    };
    set_id("tokenizer.ggml.bos_token_id", vocabulary.bos), set_id("tokenizer.ggml.eos_token_id", vocabulary.eos);
    set_id("tokenizer.ggml.padding_token_id", vocabulary.pad), set_id("tokenizer.ggml.unknown_token_id", vocabulary.unknown);
    if (config.eos.size() > 1) set_id("tokenizer.ggml.eot_token_id", config.eos[1]);
    if (config.eos.size() > 2) set_id("tokenizer.ggml.eom_token_id", config.eos[2]);
    writer.set_boolean("tokenizer.ggml.add_bos_token", vocabulary.adds_bos.value_or(false));
    writer.set_boolean("tokenizer.ggml.add_eos_token", vocabulary.adds_eos.value_or(false));
    if (vocabulary.adds_space_prefix) writer.set_boolean("tokenizer.ggml.add_space_prefix", *vocabulary.adds_space_prefix);
  }
  if (!request.chat_template.empty()) writer.set_text(kTemplateKey, request.chat_template);
}

std::vector<float> in_gguf_layout(const ExportRequest& request, const models::GgufPlace& place, const std::vector<float>& values) {
  std::vector<float> out(values.size());
  models::to_gguf_layout(place, request.config.head_width, values.data(), out.data());
  return out;
}

}  // namespace

void write_gguf(const ExportRequest& request, const MergedWeights& weights, ExportKind kind, std::vector<Artifact>& out) {
  const std::string path = path_of(request, kind);
  io::GgufWriter writer(path);
  models::write_gguf_metadata(writer, request.config, request.model_name.empty() ? "pgtrain" : request.model_name);
  writer.set_u32("general.file_type", file_type(kind));
  write_vocabulary(writer, request);
  const bool has_factors = request.config.rope.kind == models::RopeKind::Llama3;
  const std::vector<float> factors =
      has_factors ? models::rope_factors(request.config.rope, request.config.head_width) : std::vector<float>{};
  if (has_factors) writer.declare(models::kRopeFactors, {factors.size()}, BlockType::F32);
  const std::vector<Placed> places = places_of(request, weights, kind);
  for (const Placed& one : places) writer.declare(one.place.name, one.place.shape, one.type);
  if (has_factors) writer.write(factors.data(), factors.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    poll_export(request);
    const std::vector<float> values = in_gguf_layout(request, places[i].place, weights.read(i));
    writer.write(values.data(), values.size());
  }
  const io::WrittenFile file = writer.commit();
  out.push_back({gguf_file_name(kind), path, file.bytes, file.sha256});
}

void check_gguf(const ExportRequest& request, const MergedWeights& weights, ExportKind kind) {
  const std::string path = path_of(request, kind);
  // Opening compares all names and shapes with the configuration.
  const auto source = models::CheckpointSource::open(path);
  models::ModelConfig found = source->config(), wanted = models::gguf_config(request.config);
  // What GGUF has no words for.
  found.stored_type = wanted.stored_type, found.initializer_range = wanted.initializer_range;
  found.bos = wanted.bos, found.pad = wanted.pad;
  if (wanted.eos.size() > 3) wanted.eos.resize(3);
  // What the configuration leaves out the vocabulary says.
  if (wanted.eos.empty() && request.tokenizer.special_ids().eos >= 0) wanted.eos = {static_cast<int>(request.tokenizer.special_ids().eos)};
  if (request.base != nullptr && request.base->gguf() != nullptr) found.eos = wanted.eos;
  if (found.to_json() != wanted.to_json()) fail_export_check(path, "the configuration differs");
  if (source->chat_template() != request.chat_template) fail_export_check(path, "the chat template differs");
  const tokenizers::Tokenizer tokenizer = open_tokenizer(*source);
  for (int id = 0; id < request.tokenizer.vocab_size(); ++id)
    if (tokenizer.token_text(id) != request.tokenizer.token_text(id) || tokenizer.is_special(id) != request.tokenizer.is_special(id))
      fail_export_check(path, "token " + std::to_string(id) + " differs");

  const io::GgufFile file(path);
  const std::vector<Placed> places = places_of(request, weights, kind);
  std::vector<float> read, rounded;
  std::string blocks;
  for (std::size_t i = 0; i < places.size(); ++i) {
    poll_export(request);
    const io::GgufTensor& tensor = *file.header().find_tensor(places[i].place.name);
    const std::vector<float> values = in_gguf_layout(request, places[i].place, weights.read(i));
    const io::BlockFormat& format = io::block_format(places[i].type);
    blocks.resize(values.size() / format.elements * format.bytes);
    io::quantize(format.type, values.data(), values.size(), blocks.data());
    read.resize(values.size()), rounded.resize(values.size());
    io::dequantize(format.type, blocks.data(), values.size(), rounded.data());
    file.read_f32(tensor, 0, tensor.elements(), read.data());
    if (tensor.type != format.type || std::memcmp(read.data(), rounded.data(), 4 * read.size()) != 0)
      fail_export_check(path, "tensor " + tensor.name + " differs");
  }
}

}  // namespace pgtrain::engine::train
