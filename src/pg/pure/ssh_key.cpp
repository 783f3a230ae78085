// Public keys, see ssh_key.hpp. The parts are those of RFC 4253 (6.6), RFC 5656 (3.1), RFC 8709 (4) and OpenSSH's PROTOCOL.u2f.
#include "pg/pure/ssh_key.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "pg/crypto/digest.hpp"
#include "pg/errors.hpp"

namespace pgtrain::pg::pure {
namespace {

constexpr size_t most_bytes = 16384;
constexpr size_t least_rsa_bits = 2048, most_rsa_bits = 16384;
constexpr std::string_view accepted =
    "Accepted are ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521, ssh-rsa of at least 2048 bits, "
    "sk-ssh-ed25519@openssh.com and sk-ecdsa-sha2-nistp256@openssh.com.";
constexpr std::array<std::string_view, 7> types{
    "ssh-ed25519",         "ecdsa-sha2-nistp256",        "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521", "ssh-rsa",                    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com"};

[[noreturn]] void refuse(std::string detail, std::string hint = "Give one line of authorized_keys, as in the file id_ed25519.pub.") {
  throw Error(code::InvalidParameter, "the SSH key is not acceptable", std::move(detail), std::move(hint));
}

bool is_accepted(std::string_view type) {
  for (const std::string_view known : types)
    if (known == type) return true;
  return false;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n";
  const size_t begin = text.find_first_not_of(blank);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find_last_not_of(blank) - begin + 1);
}

std::string_view take_word(std::string_view &text) {
  const size_t end = std::min(text.find_first_of(" \t"), text.size());
  const std::string_view word = text.substr(0, end);
  text = trimmed(text.substr(end));
  return word;
}

constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(std::string_view bytes) {
  std::string text;
  uint32_t buffer = 0;
  int bits = 0;
  for (const char byte : bytes) {
    buffer = (buffer << 8 | static_cast<unsigned char>(byte)) & 0xFFFF;
    for (bits += 8; bits >= 6; bits -= 6) text += alphabet[buffer >> (bits - 6) & 63];
  }
  if (bits > 0) text += alphabet[buffer << (6 - bits) & 63];
  return text;
}

// Only the one spelling that base64 with padding gives, so that equal keys are equal texts.
std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  text.remove_suffix(padding);
  std::string bytes;
  uint32_t buffer = 0;
  int bits = 0;
  for (const char character : text) {
    const size_t value = alphabet.find(character);
    if (value == std::string_view::npos) return std::nullopt;
    buffer = (buffer << 6 | static_cast<uint32_t>(value)) & 0xFFFF;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes += static_cast<char>(buffer >> bits);
    }
  }
  if ((buffer & ((1u << bits) - 1)) != 0) return std::nullopt;
  return bytes;
}

// Reads the parts of a key one after the other. Every length is compared with what is left before it is used.
class Parts {
 public:
  explicit Parts(std::string_view bytes) : rest_(bytes) {}

  std::string_view text(const char *what) {
    if (rest_.size() < 4) refuse(std::string("It ends before its ") + what + ".");
    uint32_t length = 0;
    for (size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(rest_[i]);
    rest_.remove_prefix(4);
    if (length > rest_.size())
      refuse(std::string("Its ") + what + " is said to have " + std::to_string(length) + " bytes, but " + std::to_string(rest_.size()) + " are left.");
    const std::string_view part = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return part;
  }

  // A positive integer without its sign byte; must be written in the shortest way.
  std::string_view number(const char *what) {
    std::string_view part = text(what);
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(part[at]); };
    if (part.empty() || byte(0) >= 0x80) refuse(std::string("Its ") + what + " is not positive.");
    if (byte(0) == 0) {
      if (part.size() == 1 || byte(1) < 0x80) refuse(std::string("Its ") + what + " is not written in the shortest way.");
      part.remove_prefix(1);
    }
    return part;
  }

  void end() const {
    if (!rest_.empty()) refuse(std::to_string(rest_.size()) + " bytes follow its last part.");
  }

 private:
  std::string_view rest_;
};

size_t bit_length(std::string_view number) {
  size_t bits = number.size() * 8;
  for (auto first = static_cast<unsigned char>(number[0]); first < 0x80; first = static_cast<unsigned char>(first << 1)) --bits;
  return bits;
}

bool is_odd(std::string_view number) { return (static_cast<unsigned char>(number.back()) & 1) != 0; }

void check_ed25519(Parts &parts) {
  if (const size_t size = parts.text("public key").size(); size != 32)
    refuse("Its public key has " + std::to_string(size) + " bytes instead of 32.");
}

void check_ecdsa(Parts &parts, std::string_view curve) {
  if (parts.text("name of the curve") != curve) refuse("Its curve is not " + std::string(curve) + ".");
  const size_t coordinate = curve == "nistp256" ? 32 : curve == "nistp384" ? 48 : 66;
  const std::string_view point = parts.text("point");
  if (point.size() != 1 + 2 * coordinate || point[0] != 4)
    refuse("Its point is not an uncompressed one of " + std::to_string(1 + 2 * coordinate) + " bytes.");
}

void check_rsa(Parts &parts) {
  const std::string_view exponent = parts.number("exponent");
  if (bit_length(exponent) > 64 || bit_length(exponent) < 2 || !is_odd(exponent)) refuse("Its exponent is not an odd number from 3 to 64 bits.");
  const std::string_view modulus = parts.number("modulus");
  const size_t bits = bit_length(modulus);
  if (bits < least_rsa_bits)
    refuse("Its modulus has " + std::to_string(bits) + " bits, which is too short to be safe.", "Make a new one: ssh-keygen -t ed25519.");
  if (bits > most_rsa_bits || !is_odd(modulus)) refuse("Its modulus is not an odd number of at most 16384 bits.");
}

void check_application(Parts &parts) {
  const std::string_view application = parts.text("application");
  if (application.empty() || application.size() > 255) refuse("Its application is not a text of 1 to 255 bytes.");
  for (const char character : application)
    if (character < ' ' || character > '~') refuse("Its application has characters that are not printable ASCII.");
}

void check_parts(std::string_view type, std::string_view blob) {
  Parts parts(blob);
  if (parts.text("type") != type) refuse("Its base64 part is of another type than the line says.");
  if (type == "ssh-ed25519") {
    check_ed25519(parts);
  } else if (type == "sk-ssh-ed25519@openssh.com") {
    check_ed25519(parts);
    check_application(parts);
  } else if (type == "sk-ecdsa-sha2-nistp256@openssh.com") {
    check_ecdsa(parts, "nistp256");
    check_application(parts);
  } else if (type == "ssh-rsa") {
    check_rsa(parts);
  } else {
    check_ecdsa(parts, type.substr(type.rfind('-') + 1));
  }
  parts.end();
}

// What people paste instead of a public key, told apart so that the answer helps.
void refuse_other_formats(std::string_view text) {
  if (text.find("PRIVATE KEY") != std::string_view::npos || text.find("PuTTY-User-Key-File") != std::string_view::npos ||
      text.find("SSH PRIVATE KEY FILE FORMAT") != std::string_view::npos)
    refuse("It is a private key.", "Never give it to anybody. It has been sent now: make a new pair, and give the file that ends in .pub.");
  if (text.starts_with("----"))
    refuse("It is in another format.", "Convert it: ssh-keygen -i -f FILE, or -i -m PKCS8 -f FILE.");
  if (text.find_first_of("\r\n") != std::string_view::npos) refuse("It has more than one line.", "Add one key at a time.");
  for (const char character : text)
    if (static_cast<unsigned char>(character) < ' ' && character != '\t') refuse("It has control characters.");
}

}  // namespace

SshKey parse_ssh_key(std::string_view text) {
  if (text.size() > most_bytes) refuse("It has " + std::to_string(text.size()) + " bytes, more than 16384.");
  std::string_view rest = trimmed(text);
  if (rest.empty()) refuse("It is empty.");
  refuse_other_formats(rest);
  const std::string type(take_word(rest));
  if (type == "ssh-dss") refuse("DSA keys are not safe any more.", "Make a new one: ssh-keygen -t ed25519.");
  if (type.find("-cert-v0") != std::string::npos) refuse("It is a certificate.", "Give the public key that was certified.");
  if (!is_accepted(type)) {
    for (std::string_view words = rest; !words.empty();)
      if (is_accepted(take_word(words))) refuse("Something stands before its type; options are not accepted.");
    refuse("It does not begin with a type that is known.", std::string(accepted));
  }
  const std::string_view encoded = take_word(rest);
  const std::optional<std::string> blob = from_base64(encoded);
  if (!blob) refuse("The part after its type is not base64, or was cut off.");
  check_parts(type, *blob);
  const crypto::Digest digest = crypto::sha256(*blob);
  return {type, type + " " + std::string(encoded), std::string(rest),
          "SHA256:" + base64({reinterpret_cast<const char *>(digest.data()), digest.size()})};
}

}  // namespace pgtrain::pg::pure
