// Sealing: what was sealed opens for its row under its key, and for nothing else; every changed bit, every cut and any garbage is
// refused by a clear error; keys are recognised by their ids.
#include "pg/crypto/seal.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "pg/crypto/key_ring.hpp"
#include "pg/errors.hpp"
#include "support/seed.hpp"

namespace pgtrain::pg::crypto {
namespace {

std::mt19937_64 &generator() {
  static std::mt19937_64 random{test::seed()};
  return random;
}

std::string random_bytes(size_t size) {
  std::string text(size, '\0');
  for (char &byte : text) byte = static_cast<char>(generator()());
  return text;
}

std::string random_key() {
  static const char digits[] = "0123456789abcdefABCDEF";
  std::string key(64, '0');
  for (char &digit : key) digit = digits[generator()() % (sizeof digits - 1)];
  return key;
}

KeyRing ring;

void use_keys(const std::string &text) {
  ring = KeyRing(text, "the test");
  set_key_ring_source([]() -> const KeyRing & { return ring; });
}

// SQLSTATE and detail of the error that `body` throws.
template <class Body>
std::pair<std::string, std::string> refusal(Body &&body) {
  try {
    body();
  } catch (const Error &error) {
    EXPECT_FALSE(error.hint().empty()) << error.what();
    return {error.sqlstate(), error.detail()};
  }
  return {"nothing was thrown", ""};
}

class Seal : public testing::Test {
 protected:
  void SetUp() override { use_keys(random_key()); }
};

TEST_F(Seal, OpensForItsRowOnly) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{31}, size_t{64}, size_t{4096}, plain_bytes_max}) {
    const std::string plain = random_bytes(size);
    const std::string sealed = seal(plain, "secrets/value/7");
    EXPECT_EQ(sealed.size(), size + sealed_overhead);
    EXPECT_EQ(open(sealed, "secrets/value/7").view(), plain);
    for (const char *other : {"secrets/value/8", "secrets/value/70", "secrets/value/", "", "verifications/secret/7"})
      EXPECT_EQ(refusal([&] { open(sealed, other); }).first, "PT422") << other;
  }
}

TEST_F(Seal, IsNeverTheSameTwice) {
  EXPECT_NE(seal("the same text", "a"), seal("the same text", "a"));
  const std::string sealed = seal(std::string(100, 'x'), "a");
  EXPECT_EQ(sealed.find("xxxx"), std::string::npos);
}

TEST_F(Seal, EveryChangedBitIsRefused) {
  const std::string sealed = seal(random_bytes(40), "a");
  for (size_t bit = 0; bit < 8 * sealed.size(); ++bit) {
    std::string changed = sealed;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << bit % 8));
    const std::string state = refusal([&] { open(changed, "a"); }).first;
    // A bit of the key's id names a key that is not there.
    EXPECT_EQ(state, bit / 8 >= 1 && bit / 8 <= 8 ? "PT503" : "PT422") << "bit " << bit;
  }
}

TEST_F(Seal, EveryCutIsRefused) {
  const std::string sealed = seal(random_bytes(40), "a");
  for (size_t size = 0; size < sealed.size(); ++size) EXPECT_EQ(refusal([&] { open(sealed.substr(0, size), "a"); }).first, "PT422") << size;
  EXPECT_EQ(refusal([&] { open(sealed + '\0', "a"); }).first, "PT422");
}

TEST_F(Seal, GarbageIsRefused) {
  for (int round = 0; round < 20000; ++round) {
    std::string garbage = random_bytes(generator()() % 200);
    // Half of them get further than the version and the id of the key.
    if (round % 2 == 0 && garbage.size() > 9) {
      garbage[0] = 1;
      std::memcpy(garbage.data() + 1, ring.current_id().data(), 8);
    }
    const std::string state = refusal([&] { open(garbage, "a"); }).first;
    EXPECT_TRUE(state == "PT422" || state == "PT503") << state;
  }
  EXPECT_EQ(refusal([&] { open(random_bytes(1 << 20), "a"); }).first, "PT422");
}

TEST_F(Seal, TooLongIsRefusedBeforeAnythingIsDone) {
  EXPECT_EQ(refusal([] { seal(std::string(plain_bytes_max + 1, 'x'), "a"); }).first, "22023");
}

TEST_F(Seal, NeedsTheKeyItWasSealedUnder) {
  const std::string old_key = random_key(), new_key = random_key();
  use_keys(old_key);
  const std::string sealed = seal("text", "a");
  const KeyId old_id = ring.current_id();
  use_keys(old_key + "\n" + new_key + "\n");
  EXPECT_NE(ring.current_id(), old_id);
  EXPECT_EQ(open(sealed, "a").view(), "text");
  const std::string again = seal_again(sealed, "a");
  EXPECT_EQ(key_of(again), ring.current_id());
  EXPECT_EQ(key_of(sealed), old_id);
  use_keys(new_key);
  EXPECT_EQ(open(again, "a").view(), "text");
  const auto [state, detail] = refusal([&] { open(sealed, "a"); });
  EXPECT_EQ(state, "PT503");
  set_key_ring_source(nullptr);
  EXPECT_EQ(refusal([&] { open(again, "a"); }).first, "PT503");
  EXPECT_EQ(refusal([&] { seal("text", "a"); }).first, "PT503");
}

TEST(KeyRing, ReadsLinesCommentsAndTheMark) {
  const std::string first = random_key(), second = random_key(), third = random_key();
  const KeyRing plain("# keys of the server\n\n  " + first + "\r\n" + second + " # of May\n" + third, "the test");
  ASSERT_EQ(plain.ids().size(), 3u);
  EXPECT_EQ(plain.current_id(), plain.ids()[2]);
  const KeyRing marked(first + " current\n" + second, "the test");
  EXPECT_EQ(marked.current_id(), plain.ids()[0]);
  EXPECT_EQ(KeyRing(first, "the test").current_id(), plain.ids()[0]);  // the id follows from the key alone
}

TEST(KeyRing, ItsOwnLinesMakeItAgain) {
  const KeyRing before(random_key() + "\n" + random_key() + " current\n" + random_key(), "the test");
  const LockedBytes lines = before.to_lines();
  const KeyRing after(lines.view(), "itself");
  EXPECT_EQ(after.ids(), before.ids());
  EXPECT_EQ(after.current_id(), before.current_id());
  for (const KeyId &id : before.ids()) {
    const RootKey a = before.key(id), b = after.key(id);
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin()));
  }
}

TEST(KeyRing, RefusesWhatIsNoKeyAndNeverQuotesIt) {
  const std::string key = random_key();
  const std::string cases[] = {"", "# nothing\n", key.substr(1), key + "0", key + " curent", "x" + key.substr(1), key + "\n" + key,
                               std::string(64, '0'), key + " current\n" + random_key() + " current", std::string(64, '\0'),
                               random_key() + "\n" + random_bytes(64)};
  for (const std::string &text : cases) {
    const auto [state, detail] = refusal([&] { KeyRing(text, "the test"); });
    EXPECT_EQ(state, "PT422") << text;
    EXPECT_EQ(detail.find(key.substr(2, 20)), std::string::npos);
  }
  std::string many;
  for (size_t i = 0; i < keys_max; ++i) many += random_key() + "\n";
  EXPECT_EQ(KeyRing(many, "the test").ids().size(), keys_max);
  EXPECT_EQ(refusal([&] { KeyRing(many + random_key(), "the test"); }).first, "PT422");
}

TEST(LockedBytes, KeepsItsBytesWhenMovedAndForgetsWhatIsCutOff) {
  LockedBytes bytes(8);
  std::memcpy(bytes.data(), "12345678", 8);
  LockedBytes moved(std::move(bytes));
  EXPECT_EQ(moved.view(), "12345678");
  moved.truncate(3);
  EXPECT_EQ(moved.view(), "123");
  EXPECT_EQ(std::memcmp(moved.data() + 3, "\0\0\0\0\0", 5), 0);
  EXPECT_TRUE(moved.lock());
}

TEST(LockedBytes, AreWipedWhenGivenBackAndNeverShared) {
  std::vector<LockedBytes> held;
  for (int i = 0; i < 40; ++i) {
    held.emplace_back(1 + generator()() % 20000);
    EXPECT_EQ(held.back().view().find_first_not_of('\0'), std::string_view::npos);
    std::memset(held.back().data(), i + 1, held.back().size());
  }
  for (int i = 0; i < 40; ++i)
    EXPECT_EQ(held[i].view().find_first_not_of(static_cast<char>(i + 1)), std::string_view::npos);
  const unsigned char *slot;
  held.clear();
  {
    LockedBytes bytes(32);
    slot = bytes.data();
    std::memset(bytes.data(), 'x', bytes.size());
  }
  EXPECT_EQ(std::string_view(reinterpret_cast<const char *>(slot), 32), std::string(32, '\0'));
}

}  // namespace
}  // namespace pgtrain::pg::crypto
