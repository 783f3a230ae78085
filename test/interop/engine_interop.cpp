// Makes what check_artifacts.py holds against Hugging Face's libraries: engine_interop FOLDER
//
// Reads FOLDER/texts.samples, trains a small model on it with each tokenizer into FOLDER/byte and FOLDER/bpe, and writes
// beside each model ids.json (tokens of every text) and logits.json (of the first tokens of the first text).
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/data/documents.hpp"
#include "engine/io/file.hpp"
#include "engine/models/decoder.hpp"
#include "engine/train/open_model.hpp"
#include "engine/train/training.hpp"

namespace {

using namespace pgtrain::engine;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

template <typename Range, typename Text>
std::string list(const Range& range, Text text) {
  std::string out = "[";
  for (const auto& value : range) out += (out.size() > 1 ? "," : "") + text(value);
  return out + "]";
}

void make(const std::string& folder, const std::string& tokenizer, backend::Backend& device) {
  const std::string model_folder = folder + "/" + tokenizer;
  std::filesystem::create_directories(model_folder);
  train::TrainingOptions options;
  options.size = "nano";
  options.tokenizer = tokenizer;
  if (tokenizer == "bpe") options.vocab_size = 1200;
  options.precision = "fp32";
  options.steps = 60;
  train::Observer silent;
  train::train(options, folder + "/texts.samples", "", model_folder, device, silent);

  const train::OpenModel model = train::open_model({model_folder, ""}, "", "fp32", 1, 1, device);
  const io::MappedFile file(folder + "/texts.samples");
  const data::Documents documents(file.bytes());
  std::string ids = "[";
  std::vector<std::int32_t> first;
  documents.for_each([&](std::size_t i, std::string_view text) {
    std::vector<std::int32_t> tokens;
    model.tokenizer.encode(text, tokens);
    if (i == 0) first = tokens;
    ids += (i > 0 ? ",\n" : "\n") + list(tokens, [](std::int32_t id) { return std::to_string(id); });
  });
  io::write_file(model_folder + "/ids.json", ids + "]\n");

  first.resize(std::min<std::size_t>(first.size(), static_cast<std::size_t>(model.config.context)));
  models::Decoder decoder(model.config, {}, *model.store, {});
  std::string rows = "[";
  for (const std::int32_t token : first) {
    std::vector<float> logits;
    decoder.accept({{0, {token}}}, &logits);
    rows += (rows.size() > 1 ? ",\n" : "\n") + list(logits, [](float logit) { return number(logit); });
  }
  io::write_file(model_folder + "/logits.json", rows + "]\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: engine_interop FOLDER\n");
    return 2;
  }
  try {
    const auto device = backend::open("cpu");
    make(argv[1], "byte", *device);
    make(argv[1], "bpe", *device);
  } catch (const core::Error& error) {
    std::fprintf(stderr, "%s: %s\n%s\n%s\n", error.code.c_str(), error.message.c_str(), error.detail.c_str(), error.hint.c_str());
    return 1;
  }
  return 0;
}
