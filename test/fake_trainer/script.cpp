// script.cpp: reading fault scripts.
#include "fake_trainer/script.hpp"

#include <charconv>
#include <fstream>
#include <set>
#include <sstream>

namespace pgtrain::fake_trainer {

namespace {

const std::set<std::string> actions = {"segv",    "kill", "abort",   "exit",   "hang",     "deaf",      "closeout", "garbage",
                                       "flood",   "huge", "partial", "badsha", "badbytes", "traversal", "missing", "pipe", "badstate",
                                       "badutf8", "fork", "noise",   "fail",   "quit",     "slow",      "version",
                                       "badcheckpoint", "hold"};
const std::set<std::string> points = {"start", "hello", "job", "plan", "data", "checkpoint", "publish", "done"};
const std::set<std::string> settings = {"step_ms", "files", "artifact_bytes", "peak_bytes", "true_steps", "pieces", "echo"};

template <class Number>
bool read_number(std::string_view text, Number& number) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool is_point(const std::string& point) {
  uint64_t step = 0;
  return points.count(point) > 0 || (point.starts_with("step") && read_number(std::string_view(point).substr(4), step));
}

bool parse_word(const std::string& word, Script& script) {
  const size_t equals = word.find('=');
  if (equals != std::string::npos) {
    const std::string name = word.substr(0, equals);
    return settings.count(name) > 0 && read_number(std::string_view(word).substr(equals + 1), script.settings[name]);
  }
  const size_t at = word.find('@');
  if (at == std::string::npos) return false;
  Fault fault;
  fault.action = word.substr(0, at);
  fault.point = word.substr(at + 1);
  const size_t hash = fault.point.find('#');
  if (hash != std::string::npos) {
    if (!read_number(std::string_view(fault.point).substr(hash + 1), fault.attempt)) return false;
    fault.point.resize(hash);
  }
  const size_t colon = fault.action.find(':');
  if (colon != std::string::npos) {
    fault.argument = fault.action.substr(colon + 1);
    fault.action.resize(colon);
  } else if (fault.action.starts_with("exit")) {
    fault.argument = fault.action.substr(4);
    fault.action = "exit";
  }
  if (actions.count(fault.action) == 0 || !is_point(fault.point)) return false;
  script.faults.push_back(fault);
  return true;
}

}  // namespace

int64_t Script::setting(const std::string& name, int64_t otherwise) const {
  const auto found = settings.find(name);
  return found == settings.end() ? otherwise : found->second;
}

bool Script::has(const std::string& action) const {
  for (const Fault& fault : faults)
    if (fault.action == action) return true;
  return false;
}

void parse_script(std::string_view text, Script& script) {
  std::istringstream words{std::string(text)};
  for (std::string word; words >> word;)
    if (!parse_word(word, script) && script.error.empty()) script.error = "the fake trainer does not know \"" + word + "\"";
}

void parse_script_file(const std::string& path, uint64_t run_id, uint32_t attempt, Script& script) {
  std::ifstream file(path);
  const std::string run = std::to_string(run_id);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string who, rest;
    words >> who;
    if (who != "*" && who != run && who != run + "." + std::to_string(attempt)) continue;
    std::getline(words, rest);
    return parse_script(rest, script);
  }
}

bool run_of_folder(std::string_view folder, uint64_t& run_id, uint32_t& attempt) {
  const size_t last = folder.rfind('_');
  if (last == std::string_view::npos || last == 0) return false;
  const size_t before = folder.rfind('_', last - 1);
  if (before == std::string_view::npos) return false;
  return read_number(folder.substr(before + 1, last - before - 1), run_id) && read_number(folder.substr(last + 1), attempt);
}

}  // namespace pgtrain::fake_trainer
