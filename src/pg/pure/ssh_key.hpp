// Public keys as they stand in authorized_keys: type, base64 of the key's parts, comment. The parts are read to the last byte;
// what is not exactly a key of an accepted type is refused with the reason. No server. Throws pg::Error (22023). Called by
// functions/verifications.cpp.
#pragma once

#include <string>
#include <string_view>

namespace pgtrain::pg::pure {

struct SshKey {
  std::string type;
  std::string line;         // type and base64, without the comment
  std::string comment;      // what stood behind
  std::string fingerprint;  // SHA256:..., as ssh-keygen -l prints it
};

// Accepts ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa of 2048 to 16384 bits, and the two sk-* types of security keys.
// Refuses private keys, DSA, certificates, other formats, options before the type, more than one line.
SshKey parse_ssh_key(std::string_view text);

}  // namespace pgtrain::pg::pure
