// Makes what check_records.py holds against the rules of transformers and TRL: records_interop TOKENIZER CONFIG TEMPLATE SAMPLES LOSS_ON OUT
//
// Reads the records in SAMPLES with tokenizer.json, tokenizer_config.json and chat template, and writes a JSON list with the
// tokens of each and which of them are learned.
#include <cstdio>
#include <string>

#include "engine/core/error.hpp"
#include "engine/data/documents.hpp"
#include "engine/data/records.hpp"
#include "engine/io/file.hpp"

namespace {

using namespace pgtrain::engine;

constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 26;
constexpr std::time_t kNow = 1'700'000'000;

std::string show(const data::Sequence& sequence) {
  std::string ids, learned;
  for (std::size_t i = 0; i < sequence.tokens.size(); ++i) {
    ids += (i > 0 ? "," : "") + std::to_string(sequence.tokens[i]);
    learned += i > 0 ? (sequence.learned[i] ? ",1" : ",0") : (sequence.learned[i] ? "1" : "0");
  }
  return "{\"ids\":[" + ids + "],\"learned\":[" + learned + "]}";
}

void run(char** arguments) {
  auto tokenizer = tokenizers::Tokenizer::from_json(io::read_small_file(arguments[1], kMaxBytes), "tokenizer.json");
  tokenizer.take_config(io::read_small_file(arguments[2], kMaxBytes), "tokenizer_config.json");
  const auto chat = templates::ChatTemplate::parse(io::read_small_file(arguments[3], kMaxBytes), "template");
  const io::MappedFile file(arguments[4]);
  const data::RecordReader reader(tokenizer, chat, {data::parse_loss_on(arguments[5]), kNow});
  data::Record record;
  std::string out;
  data::Documents(file.bytes()).for_each([&](std::size_t index, std::string_view json) {
    reader.read(json, index, record);
    out += (index > 0 ? ",\n{\"sequence\":" : "{\"sequence\":") + show(record.sequence);
    if (record.kind == data::RecordKind::Preference) out += ",\"rejected\":" + show(record.rejected);
    out += "}";
  });
  io::write_file(arguments[6], "[" + out + "]\n");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 7) return std::fprintf(stderr, "usage: records_interop TOKENIZER CONFIG TEMPLATE SAMPLES LOSS_ON OUT\n"), 2;
  try {
    run(arguments);
  } catch (const core::Error& error) {
    std::fprintf(stderr, "%s: %s\n%s\n%s\n", error.code.c_str(), error.message.c_str(), error.detail.c_str(), error.hint.c_str());
    return 1;
  }
  return 0;
}
