// One-time codes against the vectors of RFC 4226 (appendix D), RFC 6238 (appendix B), RFC 2202 and RFC 4231 (HMAC), RFC 4648 (base32).
#include "pg/pure/totp.hpp"

#include <gtest/gtest.h>

#include <random>

#include "pg/errors.hpp"
#include "support/seed.hpp"

namespace pgtrain::pg::pure {
namespace {

std::string hex(const std::string& bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += digits[static_cast<unsigned char>(byte) >> 4];
    text += digits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

const std::string key20 = "12345678901234567890";
const std::string key32 = "12345678901234567890123456789012";
const std::string key64 = "1234567890123456789012345678901234567890123456789012345678901234";

TEST(Hmac, VectorsOfTheRfcs) {
  using crypto::Hash;
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha1, std::string(20, '\x0b'), "Hi There")), "b617318655057264e28bc0b6fb378c8ef146be00");
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha1, "Jefe", "what do ya want for nothing?")), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha1, std::string(80, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")),
            "aa4ae5e15272d00e95705637ce8a3b55ed402112");
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha1, std::string(80, '\xaa'), "Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data")),
            "e8e99d0f45237d786d6bbaa7965c7808bbff1a91");
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha256, "Jefe", "what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(hex(crypto::hmac(Hash::Sha512, "Jefe", "what do ya want for nothing?")),
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737");
}

TEST(Totp, CountersOfRfc4226) {
  const char* codes[] = {"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"};
  const TotpForm form = totp_form("SHA1", 6, 30, "0123456789");
  for (int step = 0; step < 10; ++step) EXPECT_EQ(totp_code(form, key20, step), codes[step]);
}

TEST(Totp, TimesOfRfc6238) {
  struct Vector {
    int64_t time;
    const char *sha1, *sha256, *sha512;
  };
  const Vector vectors[] = {{59, "94287082", "46119246", "90693936"},          {1111111109, "07081804", "68084774", "25091201"},
                            {1111111111, "14050471", "67062674", "99943326"},  {1234567890, "89005924", "91819424", "93441116"},
                            {2000000000, "69279037", "90698825", "38618901"},  {20000000000, "65353130", "77737706", "47863826"}};
  for (const Vector& vector : vectors) {
    const auto code = [&](const char* algorithm, const std::string& key) {
      const TotpForm form = totp_form(algorithm, 8, 30, "0123456789");
      return totp_code(form, key, totp_step(form, vector.time));
    };
    EXPECT_EQ(code("SHA1", key20), vector.sha1);
    EXPECT_EQ(code("SHA256", key32), vector.sha256);
    EXPECT_EQ(code("SHA512", key64), vector.sha512);
  }
}

TEST(Totp, DriftOfOneStepAndEachCodeOnce) {
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 200; ++round) {
    const int period = 1 + static_cast<int>(random() % 86400);
    const TotpForm form = totp_form("SHA256", 6, period, "BCDFGHJKMNPQRSTVWXYZ23456789");
    const std::string key = std::to_string(random());
    const int64_t now = static_cast<int64_t>(random() % 4000000000u), step = totp_step(form, now);
    for (int64_t drift = -3; drift <= 3; ++drift) {
      if (step + drift < 0) continue;
      const std::string code = totp_code(form, key, step + drift);
      const auto found = matching_step(form, key, code, now, -1);
      if (drift >= -1 && drift <= 1) {
        ASSERT_TRUE(found.has_value());
        EXPECT_LE(std::abs(*found - step), 1);
        EXPECT_EQ(totp_code(form, key, *found), code);
        EXPECT_FALSE(matching_step(form, key, code, now, step + 1).has_value()) << "a code was taken twice";
      } else if (found) {
        EXPECT_EQ(totp_code(form, key, *found), code);  // two steps with the same code: rare, and no drift
      }
    }
    EXPECT_FALSE(matching_step(form, key, "", now, -1).has_value());
    EXPECT_FALSE(matching_step(form, key, totp_code(form, key, step) + "B", now, -1).has_value());
  }
}

TEST(Totp, CharacterSetReachesEveryPlace) {
  const TotpForm form = totp_form("SHA1", 6, 30, "0123456789ABCDEF");
  EXPECT_EQ(totp_code(form, key20, 0), "93CF18");  // RFC 4226: 0x4C93CF18 truncated at counter 0
  const TotpForm binary = totp_form("SHA1", 8, 30, "01");
  EXPECT_EQ(totp_code(binary, key20, 0), "00011000");  // 0x18
}

TEST(Totp, RefusesFormsThatMakeNoSense) {
  const auto refused = [](std::string_view algorithm, int digits, int period, std::string_view char_set) {
    try {
      totp_form(algorithm, digits, period, char_set);
    } catch (const Error& error) {
      return std::string(error.sqlstate()) == "22023" && !error.hint().empty();
    }
    return false;
  };
  EXPECT_TRUE(refused("MD5", 6, 30, "0123456789"));
  EXPECT_TRUE(refused("sha1", 6, 30, "0123456789"));
  EXPECT_TRUE(refused("SHA1", 5, 30, "0123456789"));
  EXPECT_TRUE(refused("SHA1", 9, 30, "0123456789"));
  EXPECT_TRUE(refused("SHA1", 6, 0, "0123456789"));
  EXPECT_TRUE(refused("SHA1", 6, 86401, "0123456789"));
  EXPECT_TRUE(refused("SHA1", 6, 30, "0"));
  EXPECT_TRUE(refused("SHA1", 6, 30, "00"));
  EXPECT_TRUE(refused("SHA1", 6, 30, "01 "));
  EXPECT_TRUE(refused("SHA1", 6, 30, "01\xc3\xa4"));
  EXPECT_TRUE(refused("SHA1", 8, 30, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"));
  EXPECT_FALSE(refused("SHA1", 6, 30, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"));
}

TEST(Totp, Base32OfRfc4648) {
  const char* pairs[][2] = {{"", ""}, {"f", "MY"}, {"fo", "MZXQ"}, {"foo", "MZXW6"}, {"foob", "MZXW6YQ"}, {"fooba", "MZXW6YTB"}, {"foobar", "MZXW6YTBOI"}};
  for (const auto& pair : pairs) EXPECT_EQ(base32(pair[0]), pair[1]);
}

TEST(Totp, Uri) {
  const TotpForm form = totp_form("SHA256", 8, 60, "0123456789");
  EXPECT_EQ(otpauth_uri(form, "foobar", "My shop", "anna@example.org"),
            "otpauth://totp/My%20shop:anna%40example.org?secret=MZXW6YTBOI&issuer=My%20shop&algorithm=SHA256&digits=8&period=60");
  EXPECT_NE(otpauth_uri(totp_form("SHA1", 6, 30, "ab&"), "k", "i", "a").find("&charSet=ab%26"), std::string::npos);
}

}  // namespace
}  // namespace pgtrain::pg::pure
