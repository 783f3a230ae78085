// Choosing modules, see adapters.hpp.

// A pattern is a stranger's: its states are matched by recursion, and so many fit on any stack.
#define _GLIBCXX_REGEX_STATE_LIMIT 5000

#include "engine/models/adapters.hpp"

#include <algorithm>
#include <cmath>
#include <regex>
#include <unordered_set>

#include "engine/core/error.hpp"
#include "engine/core/json.hpp"

namespace pgtrain::engine::models {
namespace {

constexpr std::size_t kLongestTarget = 512;

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

std::string list_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

constexpr const char* kSpecial = "\\^$*+?()[]{}|";  // of regular expressions, but for the point, which paths have

std::regex compile(const char* field, const std::string& text, const std::string& pattern, const std::string& hint) {
  try {
    // Matched in all ways at once: trying them one after the other, a short pattern can take longer than anybody waits.
    return std::regex(pattern, std::regex::ECMAScript | std::regex_constants::__polynomial);
  } catch (const std::regex_error& error) {
    const bool is_large = error.code() == std::regex_constants::error_space;
    throw core::Error("config_invalid", std::string(field) + ": \"" + core::printable(text) + "\" is " + (is_large ? "too large a pattern" : std::string("no regular expression: ") + error.what()), "",
                      hint);
  }
}

class Target {
 public:
  Target(const std::string& text, const ModelConfig& config) : text_(text) {
    if (text.empty() || text.size() > kLongestTarget)
      throw core::Error("config_invalid", "lora_targets: \"" + core::printable(text.substr(0, 64)) + "\" is no name of a module", "", hint(config));
    if (text.find_first_of(kSpecial) == std::string::npos) return;
    pattern_ = compile("lora_targets", text, text, hint(config));
  }
  bool matches(const std::string& module) const {
    if (text_ == "all-linear" || module == text_ || ends_with(module, "." + text_)) return true;
    return pattern_.has_value() && std::regex_match(module, *pattern_);
  }
  static std::string hint(const ModelConfig& config) {
    return "Adapters can be put beside: " + list_of(linear_modules(config)) + ". Give such names, whole paths, a pattern of a whole path, or all-linear.";
  }

 private:
  const std::string& text_;
  std::optional<std::regex> pattern_;
};

// What a pattern of PEFT gives each module. Adapters of ours name every module: those are compared without an expression.
template <typename T>
class Pattern {
 public:
  Pattern(const char* field, const std::vector<std::pair<std::string, T>>& entries) {
    const char* const hint = "Give ends of modules' paths, whole paths or regular expressions of such.";
    for (const auto& [text, value] : entries) {
      if (text.empty() || text.size() > kLongestTarget)
        throw core::Error("config_invalid", std::string(field) + ": \"" + core::printable(text.substr(0, 64)) + "\" names no module", "", hint);
      const bool is_plain = text.find_first_of(kSpecial) == std::string::npos;
      entries_.push_back({text, is_plain ? std::nullopt : std::optional<std::regex>(compile(field, text, "(.*\\.)?(" + text + ")", hint)), value});
    }
  }
  T of(const std::string& module, T otherwise) const {
    for (const Entry& entry : entries_)
      if (entry.pattern.has_value() ? std::regex_match(module, *entry.pattern) : is_end(module, entry.text)) return entry.value;
    return otherwise;
  }

 private:
  struct Entry {
    std::string text;
    std::optional<std::regex> pattern;
    T value;
  };
  static bool is_end(const std::string& module, const std::string& end) {
    if (end.size() > module.size()) return false;
    const std::size_t first = module.size() - end.size();
    const bool are_same = std::equal(end.begin(), end.end(), module.begin() + static_cast<std::ptrdiff_t>(first), [](char a, char b) { return a == '.' || a == b; });
    return are_same && (first == 0 || module[first - 1] == '.');
  }
  std::vector<Entry> entries_;
};

}  // namespace

std::vector<std::string> linear_modules(const ModelConfig& config) {
  std::vector<std::string> out;
  for (const ModelWeight& weight : model_weights(config))
    for (const TensorPart& part : weight.parts) {
      const std::string module = part.module(), last = module.substr(module.rfind('.') + 1);
      if (weight.is_linear && std::find(out.begin(), out.end(), last) == out.end()) out.push_back(last);
    }
  return out;
}

std::vector<AdapterSpec> adapter_specs(const ModelConfig& config, const AdapterOptions& options) {
  const std::vector<std::string> saved = saved_weights(config, options);
  const std::unordered_set<std::string> trains_whole(saved.begin(), saved.end());
  std::vector<AdapterSpec> out;
  std::vector<bool> is_used(options.targets.size(), false);
  const Pattern<int> ranks("rank_pattern", options.rank_pattern);
  const Pattern<double> alphas("alpha_pattern", options.alpha_pattern);
  std::vector<Target> targets;
  targets.reserve(options.targets.size());
  for (const std::string& text : options.targets) targets.emplace_back(text, config);
  for (const ModelWeight& weight : model_weights(config)) {
    if (!weight.is_linear || trains_whole.count(weight.name) > 0) continue;
    std::int64_t column = 0;
    for (const TensorPart& part : weight.parts) {
      const std::string module = part.module();
      bool is_chosen = false;
      for (std::size_t i = 0; i < targets.size(); ++i)
        if (targets[i].matches(module)) is_chosen = is_used[i] = true;
      const std::int64_t in = weight.shape[weight.is_in_out ? 0 : 1], width = weight.is_in_out ? weight.shape[1] : part.rows;
      if (is_chosen) {
        AdapterSpec spec{module, in, width, column, weight.name, weight.is_in_out, ranks.of(module, options.rank), alphas.of(module, options.alpha)};
        const auto rank = static_cast<double>(spec.rank);
        spec.scale = spec.alpha / (options.is_rank_stabilised ? std::sqrt(rank) : rank);
        out.push_back(std::move(spec));
      }
      column += width;
    }
  }
  for (std::size_t i = 0; i < is_used.size(); ++i)
    if (!is_used[i])
      throw core::Error("config_invalid", "lora_targets: \"" + core::printable(options.targets[i]) + "\" matches no linear layer of this " + config.model_type + " model", "",
                        Target::hint(config));
  if (out.empty()) throw core::Error("config_invalid", "lora_targets: no module is named", "", Target::hint(config));
  return out;
}

std::vector<std::string> saved_weights(const ModelConfig& config, const AdapterOptions& options) {
  std::vector<std::string> out;
  std::vector<bool> is_used(options.modules_to_save.size(), false);
  const auto refuse = [](const std::string& name, const std::string& reason, const std::string& hint) {
    throw core::Error("config_invalid", "modules_to_save: \"" + core::printable(name) + "\" " + reason, "", hint);
  };
  for (const ModelWeight& weight : model_weights(config)) {
    std::size_t chosen = 0;
    std::string chooser;
    for (const TensorPart& part : weight.parts) {
      bool is_chosen = false;
      for (std::size_t i = 0; i < is_used.size(); ++i)
        if (!options.modules_to_save[i].empty() && ends_with(part.module(), options.modules_to_save[i])) is_chosen = is_used[i] = true, chooser = options.modules_to_save[i];
      chosen += is_chosen;
    }
    if (chosen == 0) continue;
    if (chosen < weight.parts.size())
      refuse(chooser, "trains a part of " + weight.name + " alone, which is one matrix here", "Name all modules of that matrix, or give it adapters with lora_targets.");
    if (config.ties_head && weight.name == head_weight(config))
      refuse(chooser, "is the embedding and the head at once in this model", "Leave it frozen; what it would learn, adapters in the blocks learn.");
    out.push_back(weight.name);
  }
  for (std::size_t i = 0; i < is_used.size(); ++i) {
    const std::string& name = options.modules_to_save[i];
    if (is_used[i]) continue;
    if (config.ties_head && !name.empty() && ends_with("lm_head", name))
      refuse(name, "is tied to the embedding in this model and has no matrix of its own", "Leave it out; what it would learn, adapters in the blocks learn.");
    refuse(name, "names no module of this " + config.model_type + " model", "Give names such as lm_head, embed_tokens or a norm's.");
  }
  return out;
}

}  // namespace pgtrain::engine::models
