// sandbox_parts.hpp: the two big parts of the sandbox, called by sandbox.cpp only.
#pragma once

#include <string>

namespace pgtrain::trainer {

/// Puts Landlock rules in place. Empty: done. Begins with '+': done, but not all of it. Else: why not.
std::string restrict_files();

/// Puts the seccomp filter in place for all threads to come. Empty: done. Else: why not.
std::string filter_calls();

}  // namespace pgtrain::trainer
