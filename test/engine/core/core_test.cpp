// The engine's small parts against published answers and against arithmetic done another way: random words, bf16 and halves, SHA-256,
// JSON from hostile hands.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/core/dtype.hpp"
#include "engine/core/error.hpp"
#include "engine/core/json.hpp"
#include "engine/core/philox.hpp"
#include "engine/core/sha256.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::core {
namespace {

// The three known answers of philox4x32-10 that its authors publish with it.
TEST(Philox, GivesThePublishedWords) {
  EXPECT_EQ(philox({0, 0}, {0, 0, 0, 0}), (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}), (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0xa4093822, 0x299f31d0}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
            (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Bf16, EveryValueSurvivesAndRoundingIsToTheNearestEven) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(Bf16{static_cast<std::uint16_t>(bits)});
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(to_float(to_bf16(value)))) << bits;
    else
      ASSERT_EQ(to_bf16(value).bits, bits);
  }
  std::mt19937 random(test::seed());
  for (int round = 0; round < 200000; ++round) {
    const std::uint32_t low = random() & 0xFFFF, bits = (random() & 0x7EFF0000) | (round % 8 == 0 ? 0x8000 : low);  // an eighth lie half-way
    const float value = std::bit_cast<float>(bits), down = std::bit_cast<float>(bits & 0xFFFF0000), up = std::bit_cast<float>((bits & 0xFFFF0000) + 0x10000);
    const double below = static_cast<double>(value) - down, above = static_cast<double>(up) - value;
    const bool down_is_even = (bits >> 16 & 1) == 0;
    const float want = below < above || (below == above && down_is_even) ? down : up;
    ASSERT_EQ(to_float(to_bf16(value)), want) << std::hex << bits;
    ASSERT_EQ(to_float(to_bf16(-value)), -want) << std::hex << bits;
  }
}

// Every bf16 with every distance from it that a float can have at a boundary, and some by chance.
TEST(Halves, ComeBackAsTheFloatThatTheyWere) {
  std::mt19937 random(test::seed());
  const auto bits_of = [](float value) { return std::bit_cast<std::uint32_t>(value); };
  for (std::uint32_t high = 0; high < 0x10000; ++high)
    for (const std::uint32_t low : {0u, 1u, 0x7FFEu, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFEu, 0xFFFFu, static_cast<std::uint32_t>(random() & 0xFFFF)}) {
      const float value = std::bit_cast<float>(high << 16 | low);
      const Halves halves = split(value);
      const float back = join(halves);
      ASSERT_EQ(halves.high.bits, to_bf16(value).bits) << high << " " << low;
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(back)) << high << " " << low;
        continue;
      }
      // Halfway to an even bf16 from below, which has no code of its own.
      const bool moves = low == 0x8000 && (high & 1) == 1;
      ASSERT_EQ(bits_of(back), bits_of(value) + (moves ? 1 : 0)) << high << " " << low;
      const Halves again = split(back);
      ASSERT_TRUE(again.high.bits == halves.high.bits && again.low == halves.low) << high << " " << low;
    }
}

TEST(Sha256, GivesTheStandardsAnswersHoweverTheBytesAreCut) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1000000, 'a');
  std::mt19937 random(test::seed());
  Sha256 hash;
  for (std::size_t at = 0; at < million.size();) {
    const std::size_t count = std::min<std::size_t>(random() % 200, million.size() - at);
    hash.update(million.data() + at, count);
    at += count;
  }
  EXPECT_EQ(hash.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

std::string refusal(const std::string& text) {
  try {
    JsonValue::parse(text, "the document");
  } catch (const Error& error) {
    return error.message;
  }
  return "";
}

TEST(Json, ReadsWhatTheStandardAllows) {
  const JsonValue value = JsonValue::parse("\n{\"a\" : [1, -2.5e3, true, null, \"\\u00e9\\uD83D\\uDE00\\n\"], \"b\":{}}\t", "the document");
  EXPECT_EQ(value.at("a").elements()[0].as_integer(), 1);
  EXPECT_EQ(value.at("a").elements()[1].as_number(), -2500.0);
  EXPECT_TRUE(value.at("a").elements()[2].as_boolean());
  EXPECT_TRUE(value.at("a").elements()[3].is_null());
  EXPECT_EQ(value.at("a").elements()[4].as_string(), "\xC3\xA9\xF0\x9F\x98\x80\n");
  EXPECT_EQ(value.find("c"), nullptr);
  EXPECT_THROW(value.at("c"), Error);
  EXPECT_THROW(value.at("b").as_string(), Error);
}

TEST(Json, RefusesTheRestByNameAndWithoutGrowing) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "[01]", "[1.]", "[+1]", "[nul]", "\"\\x\"", "\"\\uD800\"", "\"\xFF\"", "\"\n\"", "[1] 2", "{a:1}", "[1e]", "NaN"}) {
    const std::string message = refusal(text);
    EXPECT_NE(message.find("the document"), std::string::npos) << text << " gave: " << message;
  }
  EXPECT_NE(refusal(std::string(5000000, '[')), "");
  std::string deep_objects;
  for (int i = 0; i < 100000; ++i) deep_objects += "{\"a\":";
  EXPECT_NE(refusal(deep_objects), "");
}

TEST(Json, SurvivesMutations) {
  const std::string good = "{\"layers\": 4, \"names\": [\"a\", \"b\\n\"], \"rate\": 1.5e-3, \"nested\": {\"x\": [true, false, null]}}";
  std::mt19937 random(test::seed());
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (unsigned changes = 1 + random() % 3; changes > 0; --changes) text[random() % text.size()] = static_cast<char>(random());
    refused += refusal(text).empty() ? 0 : 1;
  }
  EXPECT_GT(refused, 10000);
}

TEST(Json, QuotesSoThatItReadsItselfBack) {
  const std::string text = std::string("q\"b\\c/\n\t\x01 \xC3\xA9", 12) + std::string(1, '\0');
  EXPECT_EQ(JsonValue::parse(json_quote(text), "quoted").as_string(), text);
}

}  // namespace
}  // namespace pgtrain::engine::core
