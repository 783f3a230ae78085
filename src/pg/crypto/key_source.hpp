// Where root keys are read from: a file that only the server's user can read, or the output of a command. What is read goes straight
// into locked memory. System calls and libsodium only; throws pg::Error. Called by secrets/root_keys.cpp.
#pragma once

#include <string>

#include "pg/crypto/locked.hpp"

namespace pgtrain::pg::crypto {

inline constexpr size_t key_text_max = 16384;

// Refuses a file of another user, one that others may read or write, and what is no regular file.
LockedBytes read_key_file(const std::string &path);

// What `command` prints when /bin/sh runs it. Refuses one that fails, or takes longer than `limit_ms`, which is killed with its children.
LockedBytes read_key_command(const std::string &command, int limit_ms);

}  // namespace pgtrain::pg::crypto
