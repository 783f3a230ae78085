// One-time codes, see totp.hpp.
#include "pg/pure/totp.hpp"

#include <array>

#include "pg/errors.hpp"

namespace pgtrain::pg::pure {
namespace {

constexpr std::string_view decimal = "0123456789";

std::string_view name_of(crypto::Hash hash) {
  return hash == crypto::Hash::Sha1 ? "SHA1" : hash == crypto::Hash::Sha256 ? "SHA256" : "SHA512";
}

[[noreturn]] void refuse(std::string what, std::string allowed) {
  throw Error(code::InvalidParameter, std::move(what), "", std::move(allowed));
}

std::string percent_encoded(std::string_view text) {
  static constexpr char hex[] = "0123456789ABCDEF";
  std::string encoded;
  for (const char character : text) {
    const auto byte = static_cast<unsigned char>(character);
    const bool is_plain = (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ||
                          byte == '-' || byte == '.' || byte == '_' || byte == '~';
    if (is_plain) {
      encoded += character;
    } else {
      encoded += '%';
      encoded += hex[byte >> 4];
      encoded += hex[byte & 15];
    }
  }
  return encoded;
}

}  // namespace

TotpForm totp_form(std::string_view algorithm, int digits, int period_seconds, std::string_view char_set) {
  TotpForm form;
  if (algorithm == "SHA1")
    form.hash = crypto::Hash::Sha1;
  else if (algorithm == "SHA256")
    form.hash = crypto::Hash::Sha256;
  else if (algorithm == "SHA512")
    form.hash = crypto::Hash::Sha512;
  else
    refuse("one-time codes know no algorithm \"" + std::string(algorithm.substr(0, 40)) + "\"", "Use SHA1, SHA256 or SHA512.");
  if (digits < 6 || digits > 8) refuse("a one-time code of " + std::to_string(digits) + " places is not acceptable", "Use 6 to 8.");
  if (period_seconds < 1 || period_seconds > 86400)
    refuse("a period of " + std::to_string(period_seconds) + " seconds is not acceptable", "Use 1 to 86400; programs expect 30.");
  if (char_set.size() < 2 || char_set.size() > 94) refuse("the character set of a code is not acceptable", "Use 2 to 94 characters.");
  std::array<bool, 256> is_taken{};
  for (const char character : char_set) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte <= ' ' || byte > '~' || is_taken[byte])
      refuse("the character set of a code is not acceptable", "Use printable ASCII characters, each once, and no blank.");
    is_taken[byte] = true;
  }
  uint64_t codes = 1;
  for (int i = 0; i < digits; ++i) codes *= char_set.size();
  if (codes > (uint64_t{1} << 31))
    refuse(std::to_string(char_set.size()) + " characters and " + std::to_string(digits) + " places make more codes than RFC 4226 reaches",
           "Use fewer characters or places: their power must be at most 2147483648.");
  form.digits = digits;
  form.period_seconds = period_seconds;
  form.char_set = char_set;
  return form;
}

std::string totp_code(const TotpForm &form, std::string_view key, int64_t step) {
  std::string counter;
  for (int shift = 56; shift >= 0; shift -= 8) counter += static_cast<char>(static_cast<uint64_t>(step) >> shift);
  const std::string mac = crypto::hmac(form.hash, key, counter);
  const auto byte = [&](size_t at) { return static_cast<uint32_t>(static_cast<unsigned char>(mac[at])); };
  const size_t offset = byte(mac.size() - 1) & 15;
  uint32_t number = (byte(offset) & 0x7F) << 24 | byte(offset + 1) << 16 | byte(offset + 2) << 8 | byte(offset + 3);
  std::string code(static_cast<size_t>(form.digits), form.char_set[0]);
  for (size_t place = code.size(); place > 0; --place) {
    code[place - 1] = form.char_set[number % form.char_set.size()];
    number /= static_cast<uint32_t>(form.char_set.size());
  }
  return code;
}

int64_t totp_step(const TotpForm &form, int64_t unix_seconds) { return unix_seconds < 0 ? 0 : unix_seconds / form.period_seconds; }

std::optional<int64_t> matching_step(const TotpForm &form, std::string_view key, std::string_view code, int64_t unix_seconds,
                                     int64_t last_step) {
  const int64_t now = totp_step(form, unix_seconds);
  std::optional<int64_t> matching;
  for (int64_t step = now - 1; step <= now + 1; ++step) {
    const bool is_equal = crypto::equal_in_constant_time(totp_code(form, key, step), code);
    if (is_equal && step >= 0 && step > last_step && !matching) matching = step;
  }
  return matching;
}

std::string base32(std::string_view bytes) {
  static constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  std::string text;
  uint32_t buffer = 0;
  int bits = 0;
  for (const char byte : bytes) {
    buffer = (buffer << 8 | static_cast<unsigned char>(byte)) & 0xFFF;
    for (bits += 8; bits >= 5; bits -= 5) text += alphabet[buffer >> (bits - 5) & 31];
  }
  if (bits > 0) text += alphabet[buffer << (5 - bits) & 31];
  return text;
}

std::string otpauth_uri(const TotpForm &form, std::string_view key, std::string_view issuer, std::string_view account) {
  std::string uri = "otpauth://totp/" + percent_encoded(issuer) + ":" + percent_encoded(account) + "?secret=" + base32(key) +
                    "&issuer=" + percent_encoded(issuer) + "&algorithm=" + std::string(name_of(form.hash)) +
                    "&digits=" + std::to_string(form.digits) + "&period=" + std::to_string(form.period_seconds);
  if (form.char_set != decimal) uri += "&charSet=" + percent_encoded(form.char_set);
  return uri;
}

}  // namespace pgtrain::pg::pure
