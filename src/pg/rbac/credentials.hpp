// What proves an identity: the row of a session, of an API key, or of a user whom the administrator mapped to a database role.
// Found by the hash of what the caller showed, and read again whenever something may have changed. Called by identity.cpp and
// functions/accounts.cpp. All may throw ServerError.
#pragma once

#include <string_view>

#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::rbac {

// What every API key begins with, and how long one is.
inline constexpr std::string_view api_key_mark = "pgt_";
inline constexpr size_t api_key_length = 47;

// Whether that looks like an API key rather than a session token.
inline bool is_api_key(std::string_view token) { return token.size() == api_key_length && token.starts_with(api_key_mark); }

// The identity, or why there is none.
struct Finding {
  Identity identity;
  const char *refusal = nullptr;
};

// The identity behind a session token or an API key.
Finding find_by_token(std::string_view token);

// Reads the row behind an identity again; returns why it no longer holds, or null.
const char *check_again(Identity &identity);

// The user that a database role stands for, 0 for none: role and name must both be those that were mapped.
int64_t find_mapped_user(unsigned role);

// Microseconds after which a use is written down again.
int64_t note_interval();

// Microseconds after which an unused session ends, 0 for never.
int64_t idle_timeout();

}  // namespace pgtrain::pg::rbac
