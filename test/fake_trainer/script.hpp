// script.hpp: which fault a fake trainer commits at which point, and in which attempt. A script is words
// ACTION[:ARGUMENT]@POINT[#ATTEMPT] and settings NAME=NUMBER; docs/protocol.md lists them. It comes from the run's
// own configuration (sample_prompt or the prompt, beginning with "fake:") and from the file PROGRAM.script, whose
// lines begin with RUN, RUN.ATTEMPT or * and which is known before the job is.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace pgtrain::fake_trainer {

struct Fault {
  std::string action, argument, point;
  uint32_t attempt = 0;  ///< 0: any
};

struct Script {
  std::vector<Fault> faults;
  std::map<std::string, int64_t> settings;
  std::string error;  ///< a word that could not be read: the fake trainer says so and fails, so that no test passes by a typo

  int64_t setting(const std::string& name, int64_t otherwise) const;
  bool has(const std::string& action) const;
};

/// Adds the words of `text` to a script.
void parse_script(std::string_view text, Script& script);

/// Adds the first line of the file that fits the run; no file, no words.
void parse_script_file(const std::string& path, uint64_t run_id, uint32_t attempt, Script& script);

/// Reads run and attempt from a job folder's name: DATABASE_RUN_ATTEMPT. False when it is named otherwise.
bool run_of_folder(std::string_view folder, uint64_t& run_id, uint32_t& attempt);

}  // namespace pgtrain::fake_trainer
