// run_config.hpp: the one table of everything a user can configure in a run, with the checks and the freezing.
// The module freezes the user's JSON object (flattened to pairs of text) at submit, hashes canonical_text(), and
// stores the frozen pairs; the trainer freezes what it gets again (freezing is idempotent) and maps it to the
// engine's options. docs/run-settings.md prints the table. Standard library only; errors come back as values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pgtrain::protocol {

enum class FieldKind : uint8_t { Integer, Unsigned64, Real, Choice, Text };

/// One configurable thing.
struct ConfigField {
  const char* name;
  FieldKind kind;
  const char* default_value;  ///< text; empty when it depends on other fields, then default_rule says how
  const char* default_rule;   ///< for people; empty when default_value is the whole truth
  double minimum, maximum;    ///< both inclusive; of Text the length in bytes; unused for Choice. Unsigned64: 0..2^63-1
  const char* choices;        ///< for Choice: names parted by '|'
  const char* unit;           ///< empty when it has none
  const char* description;
};

/// All fields in canonical order.
const std::vector<ConfigField>& config_fields();

/// What is wrong with which key, and what to do. `key` is as the user wrote it.
struct ConfigError {
  std::string key;
  std::string message;
  std::string hint;
};

using ConfigPairs = std::vector<std::pair<std::string, std::string>>;

/// Samples of runs with a base model, which are records, may have so many bytes of JSON.
inline constexpr int64_t longest_record_bytes = int64_t{32} << 20;

/// What freezing needs to know of what else the run is given.
struct RunFacts {
  int64_t base_context = 0;     ///< tokens that the base model sees; 0: not known, or frozen with it already
  /// Samples to evaluate on, so that none of the run's own are held out. Nothing: not asked, the configuration is of no run to be.
  std::optional<bool> has_validation = false;

  bool operator==(const RunFacts&) const = default;
};

/// A frozen configuration: every field has a concrete value and all cross-field rules hold.
class RunConfig {
 public:
  /// Every field in canonical order with its canonical text (shortest form that reads back the same).
  const ConfigPairs& pairs() const { return pairs_; }

  /// One "key=value\n" per field in canonical order: equal text means equal run. Input of the config hash.
  std::string canonical_text() const;

  /// Value of a field by its name in the table; an unknown name gives 0 or empty text (a programmer's error).
  int64_t integer(std::string_view name) const;
  uint64_t unsigned64(std::string_view name) const;
  double real(std::string_view name) const;
  const std::string& text(std::string_view name) const;

  /// Tokens that one step looks at: batch_size x gradient_accumulation x context.
  uint64_t tokens_per_step() const;

  bool has_base_model() const { return !text("base_model").empty(); }
  bool has_adapters() const { return text("method") == "lora" || text("method") == "qlora"; }

  /// The highest learning rate of the schedule. Both factors stay in the frozen configuration as they are.
  double learning_rate() const { return real("learning_rate") * real("learning_rate_multiplier"); }

  /// Steps of the whole run and the tokens that they look at. Where epochs count, an estimate from the bytes of the data.
  int64_t planned_steps(uint64_t data_bytes) const;
  uint64_t planned_tokens(uint64_t data_bytes) const;

 private:
  friend bool freeze_config(const ConfigPairs&, RunConfig&, ConfigError&, const RunFacts&);
  ConfigPairs pairs_;
};

/// Checks what the user gave, fills in every default and puts out the frozen configuration.
/// False: `error` is filled. A null in JSON means "the default": pass it as key with the empty text; "auto" means the same where
/// a rule gives the default.
bool freeze_config(const ConfigPairs& given, RunConfig& frozen, ConfigError& error, const RunFacts& facts = {});

/// Returns the known field nearest to a name (by meaning for names other tools use, else by edit distance),
/// or an empty text when nothing is near.
std::string nearest_config_field(std::string_view name);

}  // namespace pgtrain::protocol
