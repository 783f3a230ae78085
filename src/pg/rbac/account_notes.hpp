// What logins and uses of a session leave in the tables of accounts. It is written right before the commit, because the locks on
// those rows would otherwise last as long as the caller likes: an open transaction with a failed login would keep the account's
// owner from logging in, one with a used session would keep others with the same token waiting.
#pragma once

#include <cstdint>
#include <string_view>

namespace pgtrain::pg::rbac {

// Installs the callback. Called from init().
void init_account_notes();

// At commit: the user has logged in, or somebody failed to as him.
void note_login(int64_t user_id, bool has_succeeded, std::string_view address);

// At commit: the session or key was used. Approximate: left out where it would have to wait or could fail; of a session shared memory
// keeps it whatever becomes of the transaction.
void note_session_used(int64_t session_id);
void note_key_used(int64_t api_key_id);

// At commit: a refresh token of the session that was exchanged already was shown again. Ends the session.
void note_replay(int64_t session_id);

}  // namespace pgtrain::pg::rbac
