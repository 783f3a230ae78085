// job_file.cpp: reading hand-written jobs.
#include "trainer/job_file.hpp"

#include <charconv>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>

#include "engine/core/error.hpp"
#include "protocol/run_config.hpp"
#include "trainer/options.hpp"

namespace pgtrain::trainer {

using namespace protocol;
using engine::core::Error;
namespace fs = std::filesystem;

namespace {

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

template <class Number>
bool read_number(const std::string& text, Number& number) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

InputFile input_file(const std::string& path) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) throw Error("io_error", "cannot read " + path, error.message());
  return {fs::absolute(path), bytes, ""};
}

// One sample per line that is not empty.
std::string write_samples(const std::string& text_path, const std::string& work_folder, const char* name) {
  std::ifstream in(text_path, std::ios::binary);
  if (!in) throw Error("io_error", "cannot read " + text_path);
  const std::string path = work_folder + "/" + name;
  std::ofstream out(path, std::ios::binary);
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    if (line.size() > UINT32_MAX) throw Error("data_invalid", text_path + ": a line has more than 4 GiB", "", "Part it into samples.");
    const auto length = static_cast<uint32_t>(line.size());
    const char header[4] = {static_cast<char>(length), static_cast<char>(length >> 8), static_cast<char>(length >> 16),
                            static_cast<char>(length >> 24)};
    out.write(header, 4).write(line.data(), static_cast<std::streamsize>(line.size()));
  }
  if (!out.flush()) throw Error("io_error", "cannot write " + path);
  return path;
}

// The folder `base` of the working folder leads to the base model, which is a folder or a GGUF file.
std::vector<InputFile> link_base(const std::string& path, const std::string& work_folder) {
  const fs::path link = fs::path(work_folder) / kBaseFolder;
  std::error_code error;
  fs::remove_all(link, error);
  if (fs::is_directory(path)) {
    fs::create_directory_symlink(fs::absolute(path), link, error);
  } else {
    fs::create_directory(link, error);
    if (!error) fs::create_symlink(fs::absolute(path), link / fs::path(path).filename(), error);
  }
  if (error) throw Error("io_error", "cannot link " + path + " into " + work_folder, error.message());
  std::vector<InputFile> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(link, error))
    if (entry.is_regular_file()) files.push_back({entry.path().filename().string(), entry.file_size(), ""});
  if (files.empty()) throw Error("io_error", "there are no files in " + path, error ? error.message() : "");
  return files;
}

class Lines {
 public:
  explicit Lines(const std::string& path) : path_(path) {
    std::ifstream in(path);
    if (!in) throw Error("io_error", "cannot read the job file " + path);
    for (std::string line; std::getline(in, line);) {
      ++number_;
      line = trimmed(line);
      if (line.empty() || line[0] == '#') continue;
      const size_t equals = line.find('=');
      if (equals == std::string::npos) refuse("has no '='");
      take(trimmed(line.substr(0, equals)), trimmed(line.substr(equals + 1)));
    }
  }

  JobFile finish() {
    if (result_.work_folder.empty()) throw Error("config_invalid", path_ + " names no work_folder", "", "Add a line work_folder = FOLDER.");
    std::error_code error;
    fs::create_directories(result_.work_folder, error);
    if (error) throw Error("io_error", "cannot create " + result_.work_folder, error.message());
    result_.work_folder = fs::absolute(result_.work_folder);
    down::Job& job = result_.job;
    if (!text_.empty()) data_ = write_samples(text_, result_.work_folder, "data.samples");
    if (!text_.empty() && !validation_.empty()) validation_ = write_samples(validation_, result_.work_folder, "validation.samples");
    if (!data_.empty()) job.data = input_file(data_);
    if (!validation_.empty()) job.validation = input_file(validation_);
    if (!resume_.empty()) job.resume = input_file(resume_);
    if (!base_.empty()) {
      job.base = link_base(base_, result_.work_folder);
      job.base_name = base_;
      job.config.emplace_back("base_model", fs::path(base_).filename().string());
    }
    if (!model_.empty()) {
      for (const char* name : {"model.safetensors", "config.json", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"})
        if (fs::exists(model_ + "/" + name)) job.model.push_back(input_file(model_ + "/" + name));
      if (job.model.empty()) throw Error("io_error", "there is no model in " + model_, "", "Give the working folder of a run that has completed.");
    }
    if (job.kind == JobKind::Train && data_.empty())
      throw Error("config_invalid", path_ + " names no data", "", "Add a line text = FILE or data = FILE.");
    return result_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error("config_invalid", path_ + " line " + std::to_string(number_) + " " + what, "", "Write key = value.");
  }

  template <class Number>
  void take_number(const std::string& key, const std::string& value, Number& number) {
    if (!read_number(value, number)) refuse("gives " + key + " the value \"" + value + "\", which is not a number in its range");
  }

  void take(const std::string& key, const std::string& value) {
    down::Job& job = result_.job;
    if (key == "kind") return take_kind(value);
    if (key == "device")
      job.device = value;
    else if (key == "threads")
      take_number(key, value, job.threads);
    else if (key == "memory_limit_bytes")
      take_number(key, value, job.memory_limit_bytes);
    else if (key == "work_folder")
      result_.work_folder = value;
    else if (key == "data")
      data_ = value;
    else if (key == "text")
      text_ = value;
    else if (key == "validation")
      validation_ = value;
    else if (key == "resume")
      resume_ = value;
    else if (key == "model")
      model_ = value;
    else if (key == "base")
      base_ = value;
    else if (key == "prompt")
      job.generate.prompts.push_back(value);
    else if (key == "messages") {
      job.generate.prompts.push_back(value);
      job.generate.kind = PromptKind::Messages;
    } else if (key == "stop")
      job.generate.stop.push_back(value);
    else if (key == "min_p")
      take_number(key, value, job.generate.min_p);
    else if (key == "repetition_penalty")
      take_number(key, value, job.generate.repetition_penalty);
    else if (key == "max_tokens")
      take_number(key, value, job.generate.max_tokens);
    else if (key == "temperature")
      take_number(key, value, job.generate.temperature);
    else if (key == "top_k")
      take_number(key, value, job.generate.top_k);
    else if (key == "top_p")
      take_number(key, value, job.generate.top_p);
    else {
      // The seed belongs to both kinds of job; what else is unknown here is refused with the configuration.
      if (key == "seed") take_number(key, value, job.generate.seed);
      job.config.emplace_back(key, value);
    }
  }

  void take_kind(const std::string& value) {
    for (const JobKind kind : {JobKind::Train, JobKind::Plan, JobKind::Generate, JobKind::Evaluate, JobKind::Import, JobKind::Measure, JobKind::Export}) {
      if (value != name_of(kind)) continue;
      result_.job.kind = kind;
      return;
    }
    refuse("gives kind the value \"" + value + "\"; it is train, plan, generate, evaluate, import, measure or export");
  }

  std::string path_, data_, text_, validation_, resume_, model_, base_;
  int number_ = 0;
  JobFile result_;
};

}  // namespace

JobFile read_job_file(const std::string& path) {
  Lines lines(path);
  JobFile file = lines.finish();
  down::Job& job = file.job;
  if (job.device.empty()) job.device = "cpu";
  if (job.generate.max_tokens == 0) job.generate.max_tokens = 64;
  return file;
}

}  // namespace pgtrain::trainer
