// sandbox.cpp: the order of the parts and the small ones among them; file rules are in sandbox_files.cpp, the call
// filter is in sandbox_calls.cpp.
#include "trainer/sandbox.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "trainer/sandbox_parts.hpp"

namespace pgtrain::trainer {

namespace {

bool entered = false;

bool is_part(const char* word) { return std::strcmp(word, "files") == 0 || std::strcmp(word, "calls") == 0; }

// Whether the administrator left this part ("files" or "calls") on.
bool is_wanted(const char* part) {
  const char* setting = getenv("PGTRAIN_SANDBOX");
  return setting == nullptr || (std::strcmp(setting, "off") != 0 && (std::strcmp(setting, part) == 0 || !is_part(setting)));
}

}  // namespace

bool is_in_sandbox() { return entered; }

std::string SandboxReport::text() const {
  std::string line = "sandbox:";
  if (has_file_rules) line += " files (Landlock),";
  if (has_call_filter) line += " system calls (seccomp),";
  if (has_no_new_privileges) line += " no new privileges,";
  line += " no core dumps";
  for (const std::string& gap : gaps) line += "; not in place: " + gap;
  return line;
}

std::string enter_file_rules() {
  if (!is_wanted("files")) return "file rules (PGTRAIN_SANDBOX leaves them out)";
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return "file rules (no new privileges: " + std::string(std::strerror(errno)) + ")";
  return restrict_files();
}

SandboxReport enter_sandbox(const std::string& file_rules_outcome) {
  SandboxReport report;
  const rlimit none = {0, 0};
  if (setrlimit(RLIMIT_CORE, &none) != 0) report.gaps.push_back("core limit (" + std::string(std::strerror(errno)) + ")");
  // Another process of the same account can then neither trace this one nor read its memory, where secrets are.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) report.gaps.push_back("not dumpable (" + std::string(std::strerror(errno)) + ")");
  report.has_no_new_privileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
  if (!report.has_no_new_privileges) {
    report.gaps.push_back("no new privileges (" + std::string(std::strerror(errno)) + "), which the rest needs");
    return report;
  }
  std::string gap = file_rules_outcome;
  report.has_file_rules = gap.empty() || gap.front() == '+';
  if (!gap.empty()) report.gaps.push_back(gap.front() == '+' ? gap.substr(1) : gap);
  gap = is_wanted("calls") ? filter_calls() : "call filter (PGTRAIN_SANDBOX leaves it out)";
  report.has_call_filter = gap.empty();
  if (!gap.empty()) report.gaps.push_back(gap);
  entered = report.has_file_rules || report.has_call_filter;
  return report;
}

}  // namespace pgtrain::trainer
