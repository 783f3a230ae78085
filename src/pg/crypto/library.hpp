// One-time start of libsodium. Called by every function of crypto/ before it uses the library.
#pragma once

namespace pgtrain::pg::crypto {

// Throws pg::Error when the system gives no randomness.
void initialise();

}  // namespace pgtrain::pg::crypto
