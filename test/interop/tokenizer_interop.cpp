// What check_tokenizers.py holds against the `tokenizers` package: tokenizer_interop SOURCE TEXTS MODE OUT
//
// SOURCE is a tokenizer.json, or a .gguf.json with the fields of tokenizer.ggml.*. TEXTS is samples
// (u32 length, bytes). MODE is content, template or special (template and what the file puts around a text). OUT gets for each text:
// u32 number of ids, the ids, then twice u32 length and the decoded text, without and with special tokens. OUT.json gets
// what to_json() says. Prints what loading and encoding cost in processor time.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/tokenizers/tokenizer.hpp"

namespace {

using namespace pgtrain::engine;
using core::JsonValue;
using tokenizers::Tokenizer;

constexpr std::uint64_t kMaxBytes = std::uint64_t{256} << 20;

double seconds_since(std::clock_t start) { return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC; }

tokenizers::GgufVocabulary read_gguf(const std::string& path) {
  const JsonValue root = JsonValue::parse(io::read_small_file(path, kMaxBytes), path);
  tokenizers::GgufVocabulary made;
  const auto id = [&](const char* field) {
    const JsonValue* value = root.find(field);
    return value == nullptr ? std::optional<std::int64_t>() : value->as_integer();
  };
  const auto flag = [&](const char* field) {
    const JsonValue* value = root.find(field);
    return value == nullptr ? std::optional<bool>() : value->as_boolean();
  };
  made.model = root.at("tokenizer.ggml.model").as_string();
  if (const JsonValue* pre = root.find("tokenizer.ggml.pre")) made.pre = pre->as_string();
  for (const JsonValue& token : root.at("tokenizer.ggml.tokens").elements()) made.tokens.push_back(token.as_string());
  for (const JsonValue& type : root.at("tokenizer.ggml.token_type").elements())
    made.token_types.push_back(static_cast<std::int32_t>(type.as_integer()));
  if (const JsonValue* merges = root.find("tokenizer.ggml.merges"))
    for (const JsonValue& merge : merges->elements()) made.merges.push_back(merge.as_string());
  if (const JsonValue* scores = root.find("tokenizer.ggml.scores"))
    for (const JsonValue& score : scores->elements()) made.scores.push_back(static_cast<float>(score.as_number()));
  made.bos = id("tokenizer.ggml.bos_token_id");
  made.eos = id("tokenizer.ggml.eos_token_id");
  made.pad = id("tokenizer.ggml.padding_token_id");
  made.unknown = id("tokenizer.ggml.unknown_token_id");
  made.adds_bos = flag("tokenizer.ggml.add_bos_token");
  made.adds_space_prefix = flag("tokenizer.ggml.add_space_prefix");
  return made;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

Tokenizer load(const std::string& source) {
  if (ends_with(source, ".gguf.json")) return Tokenizer::from_gguf(read_gguf(source), source);
  return Tokenizer::from_json(io::read_small_file(source, kMaxBytes), source);
}

void append_number(std::string& out, std::uint32_t number) { out.append(reinterpret_cast<const char*>(&number), sizeof number); }

void append_text(std::string& out, const std::string& text) {
  append_number(out, static_cast<std::uint32_t>(text.size()));
  out += text;
}

void run(const std::string& source, const std::string& texts, const std::string& mode, const std::string& out_path) {
  const auto start = std::clock();
  const Tokenizer tokenizer = load(source);
  const double load_seconds = seconds_since(start);
  const io::MappedFile file(texts);
  const data::Documents documents(file.bytes());
  std::string out;
  double encode_seconds = 0;
  std::size_t bytes = 0;
  documents.for_each([&](std::size_t, std::string_view text) {
    std::vector<Tokenizer::Id> ids;
    const auto begin = std::clock();
    if (mode == "content")
      tokenizer.encode(text, ids);
    else
      tokenizer.encode_template(text, mode == "special", ids);
    encode_seconds += seconds_since(begin);
    bytes += text.size();
    append_number(out, static_cast<std::uint32_t>(ids.size()));
    out.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(Tokenizer::Id));
    append_text(out, tokenizer.decode_text(ids, true));
    append_text(out, tokenizer.decode_text(ids, false));
  });
  io::write_file(out_path, out);
  io::write_file(out_path + ".json", tokenizer.to_json());
  std::printf("loaded %d tokens in %.3f s, encoded %.1f MB at %.1f MB/s\n", tokenizer.vocab_size(), load_seconds,
              static_cast<double>(bytes) / 1e6, static_cast<double>(bytes) / 1e6 / encode_seconds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: tokenizer_interop SOURCE TEXTS content|template|special OUT\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argv[4]);
  } catch (const core::Error& error) {
    std::fprintf(stderr, "%s: %s\n%s\n%s\n", error.code.c_str(), error.message.c_str(), error.detail.c_str(), error.hint.c_str());
    return 1;
  }
  return 0;
}
