// SSH public keys: what ssh-keygen made and how it names it; keys of security keys built by hand; every other thing that people
// paste; thousands of damaged keys, none of which may crash, run on, or be taken with another content than it shows.
#include "pg/pure/ssh_key.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "pg/errors.hpp"
#include "support/seed.hpp"

namespace pgtrain::pg::pure {
namespace {

struct Made {
  const char *type, *base64, *fingerprint;
};

// Keys and fingerprints as OpenSSH's ssh-keygen printed them.
const Made made[] = {
    {"ssh-ed25519",
     "AAAAC3NzaC1lZDI1NTE5AAAAIITP1uD1HE3IkBWK/i2xiO2+696QcrHfEBQ9gNeSxQHB",
     "SHA256:n3eDPgCsBf3rWsu76QTIiprtaxUzLY7KZECiRiJ1oU8"},
    {"ecdsa-sha2-nistp256",
     "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBjS1h0rLywF/e2DzLhkx7Nj1Na16s3JE+5tJR1tfVEw9SK80WGwj8HyAn"
     "yA5GMLsC+0Dg6MRSZGnG6bJkpy3bE=",
     "SHA256:nb4AvDkrhE6jXvx++jnLLYowuLm5p7IeSurlAyLgYOw"},
    {"ecdsa-sha2-nistp384",
     "AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBC1XaHk/w6G7DRPICXHwyGK9FsM7uLyL99yQoe+2X5H47HQWz0MPjvetro"
     "vRGAlhwDL8g6ZrrcKz2Qr7yQkNjqBUHnW/YWoBtVDaPIfY0ffecD7aAy7x8N5inahr59WXWA==",
     "SHA256:z8oZ3ieWNjaeOoBYjk7Amw8KZe0davhVKhLWImsLLMw"},
    {"ecdsa-sha2-nistp521",
     "AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBACwsdyYipcl+qTU/WH11PxkLz9nwuNiQnp0PDP3XAVae4t0tBQB6tMxJQ"
     "uneJbmw6wnvdqycuBwj3IEvX46PUz2XQEty/YFdrWoahJ6kS+Pq02eeP1XLgE1cvVsJT22SpVY1WbdjXVfxrjOA0dabnUIFTnwQxMt6V6iBp2J"
     "5VvGFy+ALg==",
     "SHA256:BHZ+rF1eNPcIAguDTBvLlD8deP7k1JdQjWjpGoa2drI"},
    {"ssh-rsa",
     "AAAAB3NzaC1yc2EAAAADAQABAAABAQCeNRbCmjAe9q2/gW6RWaxJtu7Q55Ra5VsQ1/8pWAWUNbcbcMIMwN5nV45ESjPrT2ZHTWqdh1q44/kArN"
     "6teyOolIfYnNiPpGeleIkzGkN+R3AoOfemdFNMzGyfddUsKArJUkbD/sI8dqXZPMP2+Q+z3u1s6PNW53FZx+NjE5WVYmn4G/05ljT+uxXVMzhy"
     "RikwPDt79h3eC1cahVkrCb5aVMFqswAKxRL9p9KGh2DKvbXHCSM+c67W2nN7+0qhYZ0wdNHagplsCtw3Z/yNQDBM72ANJVnr8wR+V4U8yblj9b"
     "u8zMo1mxq3Ui/v+gjGMiOsHsN1dUoKZ5Lr01LSWdH9",
     "SHA256:PdC5ca8F0dgW/9bl5d4rbVw3FFne2AHcOVxOZJJgDtA"},
    {"ssh-rsa",
     "AAAAB3NzaC1yc2EAAAADAQABAAABgQCvKwI4yQa5Q9iAqfAozxGtn5t/JlsaHHTaNQwc5eeHdgwfExM0GTtA7f0SzTenMUxZiUEipILwNe6Dhs"
     "nbGlA4uaTMb8mfVEHceSfm/Wt6GFBuk+JOnjjLAdUN9TPQxQLOzJx6Dp71QdHEeWuCo+2oTk9kPxwQQJboZkOVWucchKB6jqSghgZFAYlQMeTH"
     "NTMfxOIcTBjfSoT98UbQcqXdSy4d5bCDqM1h+/gOwuN7JURZJtghzsz93ZZ0umBTiH1zoFZRFOTfOCLo9p2AYkNj/BUH0nsQhR+YwUmeE07DX6"
     "KaYIQHEx4/c2/KukwZ5aXTwcMjir9v1eyNoFeqjHnW8Pd2Y46GePmuvZXaUI/GeRY/+Uz03qHd66qMzm+pMgbN+8e7kXgILXNnG2kjJHs7bEEe"
     "qLmShh+2Gk4XldSpU04KPQ7FTBA6BeKJATihlwpYTyv491Tjm8heGHSouwWNcOvldVRnMpNcNFRbdSGv/tDNdBVAHpxybD5CzdSHzT8=",
     "SHA256:juD+49Uag6lXuuC2hmxp6CWjIWAHdLs2AEZR0gKhRcM"},
};
const char weak_rsa[] =
    "ssh-rsa "
    "AAAAB3NzaC1yc2EAAAADAQABAAAAgQC2mcsPC28HHGKN+AFy2NJylfM4TSqTzqL1G5MbLRkeOaKCgVqESrACqUedvREJnXuxIXwvApzYFuiuGf"
    "+DsLzUjW1KiTZwnnzgSyDyQxGLsl3qWDE05W4XFSYUw8TQgNj/TjfyTLlOcQ0OPW08gdZDoF9UlWrXIi64Bf6dZwueNw==";
const char dsa[] =
    "ssh-dss "
    "AAAAB3NzaC1kc3MAAACBALhLV4naJTUdnPboXuVliUBYVYKHaa4QKqsyP5pdn5Xj9pBWkHJigj/vGTBed+EFKf6gPUvrOwvKxkRY5NGUWpbQ4L"
    "LvI9RmL9dkZLaXNrJhheDdqQlR8pCwNxk9HHQRJ9T9yK9yr5dHpgAwHWCe+q4I6Bd0dgMpaVhH3v3hadUTAAAAFQD/HigUOkiTbHZwMj+YndiE"
    "jyuTCQAAAIEAiGVvGI+QRYxtCH3cxqPJhqOL2U3lar0GpDTXFoVMsBNvjkgF+vsHvBAfXgPyycduIq5FYgMnuAr5cWxIpWAAY7cxF+y6oDgOQz"
    "NlaBnCfxaha/mkm6rNigarOY2bv0WgV52NDQqTIet8jWd5wqxwmuQ08N6JnnmWGlDvt4Fwj4UAAACBAJ7lUN67IjOrKB4nDx/2xHOJ1+jsGttV"
    "51sHdj3DJY4eEebcakx+QBaOXQq3klt2EjGC6Ha0z5FJcSTynwxH5Gd6+MyARH4NyE2M7MobO7ECVzAaAnlGQrEG2c0p30YbTHJigmQi9weLhi"
    "swhjouTFbM4tzFXj5rQaNC+Z5dr/LP";

std::string line_of(const Made& key) { return std::string(key.type) + " " + key.base64; }

// The detail of the refusal; empty when it was accepted.
std::string refusal(const std::string& text) {
  try {
    parse_ssh_key(text);
  } catch (const Error& error) {
    EXPECT_STREQ(error.sqlstate(), "22023");
    EXPECT_FALSE(error.hint().empty());
    return error.detail();
  }
  return "";
}

std::string base64(const std::string& bytes) {
  static constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : alphabet[group >> (18 - 6 * k) & 63];
  }
  return text;
}

std::string part(const std::string& bytes) {
  std::string length;
  for (int shift = 24; shift >= 0; shift -= 8) length += static_cast<char>(bytes.size() >> shift);
  return length + bytes;
}

std::string line(const std::string& type, const std::vector<std::string>& parts) {
  std::string blob = part(type);
  for (const std::string& one : parts) blob += part(one);
  return type + " " + base64(blob);
}

std::string point(size_t coordinate) { return std::string(1, '\x04') + std::string(2 * coordinate, '\x5a'); }

// A modulus of so many bits (a multiple of 8), with the zero byte that keeps it positive.
std::string modulus(size_t bits) { return std::string(1, '\0') + std::string(bits / 8 - 1, '\xc1') + std::string(1, '\x05'); }

const std::string exponent("\x01\x00\x01", 3);

TEST(SshKey, TakesWhatSshKeygenMakesAndNamesItAlike) {
  for (const Made& key : made) {
    for (const std::string& text : {line_of(key), line_of(key) + " anna@example.org", "  " + line_of(key) + "\t a comment of words \r\n"}) {
      const SshKey parsed = parse_ssh_key(text);
      EXPECT_EQ(parsed.type, key.type);
      EXPECT_EQ(parsed.line, line_of(key));
      EXPECT_EQ(parsed.fingerprint, key.fingerprint);
    }
    EXPECT_EQ(parse_ssh_key(line_of(key) + " anna@example.org").comment, "anna@example.org");
  }
}

TEST(SshKey, TakesSecurityKeys) {
  const std::string ed = line("sk-ssh-ed25519@openssh.com", {std::string(32, 'k'), "ssh:"});
  EXPECT_EQ(parse_ssh_key(ed).type, "sk-ssh-ed25519@openssh.com");
  const std::string ec = line("sk-ecdsa-sha2-nistp256@openssh.com", {"nistp256", point(32), "ssh:work"});
  EXPECT_EQ(parse_ssh_key(ec).line, ec);
  EXPECT_NE(refusal(line("sk-ssh-ed25519@openssh.com", {std::string(32, 'k')})).find("application"), std::string::npos);
  EXPECT_NE(refusal(line("sk-ssh-ed25519@openssh.com", {std::string(32, 'k'), ""})).find("application"), std::string::npos);
  EXPECT_NE(refusal(line("sk-ssh-ed25519@openssh.com", {std::string(32, 'k'), "a\nb"})).find("application"), std::string::npos);
}

TEST(SshKey, RefusesWeakKeys) {
  EXPECT_NE(refusal(weak_rsa).find("1024 bits"), std::string::npos);
  EXPECT_NE(refusal(dsa).find("DSA"), std::string::npos);
  EXPECT_EQ(refusal(line("ssh-rsa", {exponent, modulus(2048)})), "");
  EXPECT_EQ(refusal(line("ssh-rsa", {exponent, modulus(16384)})), "");
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, modulus(2040)})).find("2040 bits"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, modulus(16392)})), "");
  std::string even = modulus(2048);
  even.back() = 4;
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, even})), "");
  EXPECT_NE(refusal(line("ssh-rsa", {"\x01", modulus(2048)})).find("exponent"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {"\x04", modulus(2048)})).find("exponent"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {std::string(9, '\x11'), modulus(2048)})).find("exponent"), std::string::npos);
}

TEST(SshKey, RefusesWrongParts) {
  EXPECT_NE(refusal(line("ssh-ed25519", {std::string(31, 'k')})).find("31 bytes"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-ed25519", {std::string(33, 'k')})).find("33 bytes"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-ed25519", {std::string(32, 'k'), "x"})).find("follow"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-ed25519", {})).find("ends before"), std::string::npos);
  EXPECT_NE(refusal(line("ecdsa-sha2-nistp256", {"nistp384", point(48)})).find("curve"), std::string::npos);
  EXPECT_NE(refusal(line("ecdsa-sha2-nistp384", {"nistp384", point(32)})).find("point"), std::string::npos);
  EXPECT_NE(refusal(line("ecdsa-sha2-nistp256", {"nistp256", std::string(33, '\x02')})).find("point"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, std::string(1, '\0') + modulus(2048)})).find("shortest"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, std::string(256, '\xc1')})).find("positive"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {exponent, ""})).find("positive"), std::string::npos);
  EXPECT_NE(refusal(line("ssh-rsa", {std::string(1, '\0'), modulus(2048)})).find("shortest"), std::string::npos);
  EXPECT_NE(refusal(std::string("ssh-rsa ") + made[0].base64).find("another type"), std::string::npos);
  const std::string huge = std::string("\xff\xff\xff\xff", 4) + "ssh-ed25519";
  EXPECT_NE(refusal("ssh-ed25519 " + base64(huge)).find("4294967295"), std::string::npos);
}

TEST(SshKey, RefusesWhatIsNoLineOfAuthorizedKeys) {
  const std::string good = line_of(made[0]);
  EXPECT_NE(refusal("").find("empty"), std::string::npos);
  EXPECT_NE(refusal(" \n").find("empty"), std::string::npos);
  EXPECT_NE(refusal("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n").find("private"), std::string::npos);
  EXPECT_NE(refusal("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n").find("private"), std::string::npos);
  EXPECT_NE(refusal("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----").find("another format"), std::string::npos);
  EXPECT_NE(refusal("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----").find("another format"), std::string::npos);
  EXPECT_NE(refusal(good + "\n" + good).find("more than one line"), std::string::npos);
  EXPECT_NE(refusal("no-pty,command=\"/bin/true\" " + good).find("options"), std::string::npos);
  EXPECT_NE(refusal("restrict " + good).find("options"), std::string::npos);
  EXPECT_NE(refusal("ssh-ed25519-cert-v01@openssh.com AAAA").find("certificate"), std::string::npos);
  EXPECT_NE(refusal("ssh-ed448 AAAA").find("type"), std::string::npos);
  EXPECT_NE(refusal("ssh-ed25519").find("base64"), std::string::npos);
  EXPECT_NE(refusal("ssh-ed25519 " + std::string(made[0].base64).substr(0, 50)).find("base64"), std::string::npos);
  EXPECT_NE(refusal("ssh-ed25519 A-_A").find("base64"), std::string::npos);
  EXPECT_NE(refusal(good + " a\x01").find("control"), std::string::npos);
  EXPECT_NE(refusal(good + " " + std::string(16384, 'x')).find("16384"), std::string::npos);
}

// Two texts of one key would be two keys to the unique index: base64 has one spelling only.
TEST(SshKey, OneSpellingOfAKey) {
  const std::string type = "ecdsa-sha2-nistp521", good = line_of(made[3]);
  ASSERT_TRUE(good.ends_with("=="));
  ASSERT_EQ(refusal(good), "");
  const size_t last = good.size() - 3;
  std::string twin = good;
  ++twin[last];
  EXPECT_NE(refusal(twin), "");
  EXPECT_NE(refusal(good.substr(0, good.size() - 1)), "");
  EXPECT_NE(refusal(good + "="), "");
}

TEST(SshKey, DamagedKeysAreRefusedOrShowTheirContent) {
  std::mt19937_64 random(test::seed());
  int accepted = 0, refused = 0;
  for (int round = 0; round < 20000; ++round) {
    const Made& key = made[random() % std::size(made)];
    std::string text = line_of(key) + (random() % 2 == 0 ? " comment" : "");
    for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % text.size();
      switch (random() % 6) {
        case 0: text[at] = static_cast<char>(1 + random() % 255); break;
        case 1: text.erase(at, 1 + random() % 8); break;
        case 2: text.insert(at, text.substr(random() % text.size(), random() % 40)); break;
        case 3: text.resize(at); break;
        case 4: text[at] = "AB+/=9"[random() % 6]; break;
        default: text.insert(at, 1, " \n\t,\"="[random() % 6]);
      }
      if (text.empty()) text = "x";
    }
    try {
      const SshKey parsed = parse_ssh_key(text);
      ++accepted;
      // What is kept is a part of what was given, and is a key by itself.
      EXPECT_NE(text.find(parsed.line.substr(parsed.line.find(' ') + 1)), std::string::npos);
      EXPECT_EQ(parse_ssh_key(parsed.line).fingerprint, parsed.fingerprint);
    } catch (const Error& error) {
      ++refused;
      EXPECT_STREQ(error.sqlstate(), "22023");
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(accepted, 0);  // changes of the comment or of random bytes leave a key
}

}  // namespace
}  // namespace pgtrain::pg::pure
