// Merged models as transformers saves them, and the files of the tokenizer.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/io/safetensors.hpp"
#include "engine/train/export_parts.hpp"

namespace pgtrain::engine::train {
namespace {

constexpr std::uint64_t kMostTokenizerBytes = std::uint64_t{64} << 20, kMostConfigBytes = std::uint64_t{1} << 20;

std::string path_in(const ExportRequest& request, const std::string& name) { return request.folder + "/" + name; }

io::StoredType stored_type(const ExportRequest& request) {
  const std::string& precision = request.stored_precision;
  if (precision == "fp32") return io::StoredType::F32;
  if (precision == "bf16") return io::StoredType::BF16;
  if (precision == "fp16") return io::StoredType::F16;
  if (precision != "auto")
    throw core::Error("config_invalid", "artifact_precision: \"" + core::printable(precision) + "\" is not known", "",
                      "Choose of auto, fp32, bf16, fp16.");
  if (request.base == nullptr) return io::StoredType::F32;
  const std::string& base = request.base->config().stored_type;
  if (request.base->gguf() != nullptr || base == "bfloat16") return io::StoredType::BF16;
  return base == "float16" ? io::StoredType::F16 : io::StoredType::F32;
}

models::ModelConfig stored_config(const ExportRequest& request) {
  models::ModelConfig out = request.config;
  const io::StoredType type = stored_type(request);
  out.stored_type = type == io::StoredType::F32 ? "float32" : type == io::StoredType::BF16 ? "bfloat16" : "float16";
  return out;
}

// The bytes of values in a type, in place of what out held.
void store(io::StoredType type, const std::vector<float>& values, const std::string& name, std::string& out) {
  out.resize(values.size() * io::stored_type_bytes(type));
  store_values(type, values.data(), values.size(), name, "artifact_precision", out.data());
}

// Tensors of each file, filled in the model's order; one that is larger than a shard has its own.
std::vector<std::vector<std::size_t>> shards_of(const std::vector<std::uint64_t>& sizes, std::uint64_t most) {
  std::vector<std::vector<std::size_t>> out(1);
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (!out.back().empty() && bytes + sizes[i] > most) out.emplace_back(), bytes = 0;
    out.back().push_back(i);
    bytes += sizes[i];
  }
  return out;
}

std::string shard_name(std::size_t index, std::size_t count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

std::string generation_config(const models::ModelConfig& config) {
  std::string out = "{\n";
  const auto id = [](const std::optional<int>& token) { return token ? std::to_string(*token) : std::string("null"); };
  std::string eos;
  for (const int token : config.eos) eos += (eos.empty() ? "" : ", ") + std::to_string(token);
  out += "  \"bos_token_id\": " + id(config.bos) + ",\n  \"eos_token_id\": " +
         (config.eos.empty()       ? "null"
          : config.eos.size() == 1 ? eos
                                   : "[" + eos + "]");
  return out + ",\n  \"pad_token_id\": " + id(config.pad) + "\n}\n";
}

}  // namespace

void store_values(io::StoredType type, const float* values, std::size_t count, const std::string& name, const char* setting, char* to) {
  if (type == io::StoredType::F32) {
    std::memcpy(to, values, count * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t bits = type == io::StoredType::BF16 ? core::to_bf16(values[i]).bits : core::float_to_half(values[i]);
    if (type == io::StoredType::F16 && (bits & 0x7C00u) == 0x7C00u)
      throw core::Error("model_invalid", "weight " + name + " has a value that fp16 cannot hold", "", "Choose " + std::string(setting) + " => bf16 or fp32.");
    std::memcpy(to + 2 * i, &bits, 2);
  }
}

void write_merged(const ExportRequest& request, const MergedWeights& weights, std::vector<Artifact>& out) {
  const io::StoredType type = stored_type(request);
  std::vector<std::uint64_t> sizes;
  std::uint64_t total = 0;
  for (const models::ParameterShape& shape : weights.shapes()) {
    sizes.push_back(io::stored_type_bytes(type));
    for (const std::uint64_t extent : shape.shape) sizes.back() *= extent;
    total += sizes.back();
  }
  const auto shards = shards_of(sizes, request.shard_bytes);
  const auto add = [&](const std::string& name, const io::WrittenFile& file) {
    out.push_back({name, path_in(request, name), file.bytes, file.sha256});
  };
  std::string map, bytes;  // bytes: those of the tensor that is being written
  for (std::size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string name = shards.size() == 1 ? kModelFile : shard_name(shard, shards.size());
    std::vector<io::TensorToWrite> tensors;
    for (const std::size_t index : shards[shard]) {
      const models::ParameterShape& shape = weights.shapes()[index];
      map += (map.empty() ? "    " : ",\n    ") + core::json_quote(shape.name) + ": \"" + name + "\"";
      const auto fetch = [&request, &weights, &bytes, &shape, type, index](std::uint64_t first, std::size_t count, void* to) {
        if (first == 0) {
          poll_export(request);
          store(type, weights.read(index), shape.name, bytes);
        }
        std::memcpy(to, bytes.data() + first, count);
      };
      tensors.push_back({shape.name, type, shape.shape, nullptr, fetch});
    }
    add(name, io::write_safetensors(path_in(request, name), std::move(tensors)));
  }
  if (shards.size() > 1)
    add(kIndexFile, io::write_file(path_in(request, kIndexFile), "{\n  \"metadata\": {\"total_size\": " + std::to_string(total) +
                                                                     "},\n  \"weight_map\": {\n" + map + "\n  }\n}\n"));
  add(kConfigFile, io::write_file(path_in(request, kConfigFile), stored_config(request).to_json()));
  add(kGenerationConfigFile, io::write_file(path_in(request, kGenerationConfigFile), generation_config(request.config)));
}

void check_merged(const ExportRequest& request, const MergedWeights& weights) {
  // Opening compares all names and shapes with the configuration.
  const auto source = models::CheckpointSource::open(request.folder);
  if (source->config().to_json() != stored_config(request).to_json()) fail_export_check(path_in(request, kConfigFile), "a field differs");
  if (io::read_small_file(path_in(request, kGenerationConfigFile), kMostConfigBytes) != generation_config(request.config))
    fail_export_check(path_in(request, kGenerationConfigFile), "it differs");
  const io::StoredType type = stored_type(request);
  std::string wanted, found;
  std::vector<float> read;
  for (std::size_t i = 0; i < weights.shapes().size(); ++i) {
    poll_export(request);
    const std::string& name = weights.shapes()[i].name;
    const std::size_t index = source->index_of(name);
    if (source->tensors()[index].stored_type != io::stored_type_name(type))
      fail_export_check(request.folder, "tensor " + name + " is of another type");
    store(type, weights.read(i), name, wanted);
    read.resize(source->tensors()[index].elements);
    source->read_f32(index, read.data());
    store(type, read, name, found);
    if (found != wanted) fail_export_check(request.folder, "tensor " + name + " differs");
  }
}

namespace {

// The members of a JSON object as they are written, without one of them.
std::string members_without(const std::string& text, const std::string& name, const std::string& left_out) {
  core::JsonReader reader(text, name);
  std::string out, key;
  reader.begin_object();
  while (reader.next_member(key)) {
    reader.peek();
    const std::size_t begin = reader.position();
    reader.skip();
    if (key != left_out)
      out += (out.empty() ? "\n  " : ",\n  ") + core::json_quote(key) + ": " + text.substr(begin, reader.position() - begin);
  }
  return out;
}

// For a tokenizer that came without one: what transformers needs to know besides tokenizer.json.
std::string fresh_members(const ExportRequest& request) {
  const tokenizers::Tokenizer::SpecialIds& ids = request.tokenizer.special_ids();
  std::string out =
      "\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": " +
      std::to_string(request.config.context);
  const auto add = [&](const char* key, tokenizers::Tokenizer::Id id) {
    if (id >= 0) out += std::string(",\n  \"") + key + "\": " + core::json_quote(request.tokenizer.token_text(id));
  };
  add("bos_token", ids.bos), add("eos_token", ids.eos), add("pad_token", ids.pad), add("unk_token", ids.unknown);
  return out;
}

// The base's own, with the run's template in it: older versions of transformers look for it only here.
std::string tokenizer_config(const ExportRequest& request) {
  const std::string base = request.base == nullptr ? std::string() : request.base->tokenizer_config_json();
  std::string members = base.empty() ? fresh_members(request) : members_without(base, kTokenizerConfigFile, "chat_template");
  if (!request.chat_template.empty())
    members += (members.empty() ? "\n  " : ",\n  ") + ("\"chat_template\": " + core::json_quote(request.chat_template));
  return "{" + members + "\n}\n";
}

}  // namespace

void write_tokenizer(const ExportRequest& request, std::vector<Artifact>& out) {
  const auto write = [&](const char* name, const std::string& text) {
    const io::WrittenFile file = io::write_file(path_in(request, name), text);
    out.push_back({name, path_in(request, name), file.bytes, file.sha256});
  };
  write(kTokenizerFile, request.tokenizer.to_json());
  write(kTokenizerConfigFile, tokenizer_config(request));
  if (!request.chat_template.empty()) write(kChatTemplateFile, request.chat_template);
}

void check_tokenizer(const ExportRequest& request) {
  const auto read = [&](const char* name) { return io::read_small_file(path_in(request, name), kMostTokenizerBytes); };
  auto tokenizer = tokenizers::Tokenizer::from_json(read(kTokenizerFile), path_in(request, kTokenizerFile));
  if (tokenizer.to_json() != request.tokenizer.to_json()) fail_export_check(path_in(request, kTokenizerFile), "its tokens differ");
  const std::string config = read(kTokenizerConfigFile), path = path_in(request, kTokenizerConfigFile);
  tokenizer.take_config(config, path);
  const tokenizers::Tokenizer::SpecialIds &found = tokenizer.special_ids(), &wanted = request.tokenizer.special_ids();
  // What the run does not know, a reader may guess.
  const auto differs = [](tokenizers::Tokenizer::Id was, tokenizers::Tokenizer::Id is) { return was >= 0 && was != is; };
  if (differs(wanted.bos, found.bos) || differs(wanted.eos, found.eos) || differs(wanted.pad, found.pad) ||
      differs(wanted.unknown, found.unknown))
    fail_export_check(path, "its special tokens differ");
  const core::JsonValue root = core::JsonValue::parse(config, path);
  const core::JsonValue* said = root.find("chat_template");
  if ((said == nullptr ? std::string() : said->as_string()) != request.chat_template) fail_export_check(path, "the chat template differs");
  if (!request.chat_template.empty() && read(kChatTemplateFile) != request.chat_template)
    fail_export_check(path_in(request, kChatTemplateFile), "the chat template differs");
}

}  // namespace pgtrain::engine::train
