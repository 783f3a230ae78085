// libFuzzer target of the reader of SSH public keys: whatever the text, a key that reads the same again or pg::Error.
//
// `make fuzz` runs it. The ordinary suite runs some thousands of mutations of its own (test/pg/ssh_key_test.cpp).
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "pg/errors.hpp"
#include "pg/pure/ssh_key.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace pgtrain::pg;
  try {
    const pure::SshKey key = pure::parse_ssh_key({reinterpret_cast<const char*>(data), size});
    if (pure::parse_ssh_key(key.line).fingerprint != key.fingerprint) __builtin_trap();
  } catch (const Error& error) {
    if (std::string_view(error.sqlstate()) != "22023" || error.hint().empty()) __builtin_trap();
  }
  return 0;
}
