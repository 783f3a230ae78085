// One-time codes of the time (RFC 6238 over RFC 4226): any period, 6 to 8 places, a character set of one's own, drift of one step
// either way. No server, no clock: the time comes as an argument. Throws pg::Error. Called by functions/verifications.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pg/crypto/hmac.hpp"

namespace pgtrain::pg::pure {

struct TotpForm {
  crypto::Hash hash = crypto::Hash::Sha1;
  int digits = 6;
  int period_seconds = 30;
  std::string char_set = "0123456789";
};

// The form from its parts, or an Error (22023) that says which part is wrong and what is allowed: SHA1, SHA256, SHA512; 6 to 8
// places; a period of 1 second to a day; at least two different printable characters, few enough that the 31 bits which the RFC
// takes from the hash reach every code.
TotpForm totp_form(std::string_view algorithm, int digits, int period_seconds, std::string_view char_set);

// The code of one step (the moving factor of RFC 4226).
std::string totp_code(const TotpForm &form, std::string_view key, int64_t step);

// The step a moment lies in. Before 1970 there is none: step 0.
int64_t totp_step(const TotpForm &form, int64_t unix_seconds);

// The step whose code this is: that of the moment, the one before or the one after, and later than `last_step`, so that a code
// is taken once. Takes the same time whatever the code.
std::optional<int64_t> matching_step(const TotpForm &form, std::string_view key, std::string_view code, int64_t unix_seconds,
                                     int64_t last_step);

// RFC 4648 base32 without padding, as authenticator programs want a key to be typed.
std::string base32(std::string_view bytes);

// otpauth://totp/ISSUER:ACCOUNT?secret=...: what becomes the picture to scan. A character set of one's own is added as `charSet`.
std::string otpauth_uri(const TotpForm &form, std::string_view key, std::string_view issuer, std::string_view account);

}  // namespace pgtrain::pg::pure
