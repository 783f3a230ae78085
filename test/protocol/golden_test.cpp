// golden_test.cpp: the bytes of every message, written out by hand from docs/protocol.md. A change here is a change of
// the protocol and needs a new protocol_version.
#include <gtest/gtest.h>

#include "protocol/messages.hpp"

namespace pgtrain::protocol::test {
namespace {

std::string bytes(std::string_view hex) {
  std::string out;
  int high = -1;
  for (const char c : hex) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) continue;
    if (high < 0) {
      high = digit;
    } else {
      out.push_back(static_cast<char>(high << 4 | digit));
      high = -1;
    }
  }
  return out;
}

std::string hex(const std::string& data) {
  static const char digits[] = "0123456789abcdef";
  std::string out;
  for (const char c : data) out += {digits[static_cast<unsigned char>(c) >> 4], digits[c & 15]};
  return out;
}

std::string repeated(const char* pair, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += pair;
  return out;
}

TEST(Golden, EveryDownMessage) {
  const std::vector<std::string> expected = {
      "48 0000000a 00000004 00000002 6231",
      "4a 000001c0"
      " 0102030405060708000000020200000003637075000000030000000000100000000000fa000001f4000000020000000473697a6500000004"
      " 6e616e6f00000005737465707300000001370000000c646174612e73616d706c6573000000000000000900000040" +
          repeated("61", 64) +
      " 00000009762e73616d706c6573000000000000000f00000000"
      " 00000016636865636b706f696e742e7361666574656e736f7273000000000000000a00000000000000010000000b636f6e6669672e6a736f"
      " 6e000000000000000b00000040" +
          repeated("62", 64) +
      " 000000010000000a6d6f64656c2e67677566000000000000000c00000000000000027b7d0000000462617365000000000000000e00000001"
      " 00000006486920e2988301000000053fe0000000000000000000283fd00000000000003fc00000000000003ff80000000000000000000100"
      " 0000010a000000000000004d",
      "43 00000000",
      "50 00000000",
      "41 00000015 00000011 6d6f64656c2e7361666574656e736f7273",
  };
  const auto messages = down_examples();
  ASSERT_EQ(messages.size(), expected.size());
  ASSERT_EQ(messages.size(), std::variant_size_v<DownMessage>);
  for (size_t i = 0; i < messages.size(); ++i) EXPECT_EQ(hex(frame_of(messages[i])), hex(bytes(expected[i]))) << "message " << i;
}

TEST(Golden, EveryUpMessage) {
  const std::vector<std::string> expected = {
      "68 0000001a 00000004 00000002 6232 0000000c 6370753a203220636f726573",
      "70 00000083"
      " 0000000000000001000000000000000200000000000000030000000000000004000000000000000500000000000000060000000000000007"
      " 00000000000000080000000000000009000000000000000a000000000000000b000000056120435055000000046266313600000006626c6f"
      " 636b73000000000000000c000000000000000d",
      "61 00000040"
      " 0000000000000001000000000000000200000000000000030000000000000004000000000000000500000000000000060000000000000007"
      " 0000000000000008",
      "77 00000020"
      " 0000000300000008736e6f7720e298830000000473746f700000000400000005",
      "69 00000006"
      " 000000027b7d",
      "76 00000014 3fd0000000000000 3fe0000000000000 00000003",
      "74 0000000e 00000009 726561645f64617461 01",
      "72 00000050"
      " 00000000000000010000000000000002400c0000000000003f50624dd2f1a9fc3fe000000000000000000000000000044016000000000000"
      " 401a00000000000000000000000000073fe8000000000000",
      "6d 00000029"
      " 00000000000000030000000d6772616469656e745f6e6f726dbff80000000000000000000000000006",
      "65 00000029"
      " 020000000000000009400400000000000000000000000003e83fe00000000000000000000000000014",
      "73 0000001f 0000000000000004 00000004 4f6e6365 0000000b 75706f6e09612074696d65",
      "66 0000006a 01 00000011 6d6f64656c2e7361666574656e736f7273 0000000000000007 0000001cbe991a14 00000040 " + repeated("30", 64),
      "62 00000010 000000000000002a 0000000040000000",
      "6c 0000000c 02 00000007 6361726566756c",
      "78 00000010 02 00000001 6d 00000001 64 00000001 68",
      "64 00000039 02 4012000000000000 400c000000000000 000000000000000a 0000000000000014 3ff8000000000000 402a800000000000 "
      "000000000000001e",
  };
  const auto messages = up_examples();
  ASSERT_EQ(messages.size(), expected.size());
  ASSERT_EQ(messages.size(), std::variant_size_v<UpMessage>);
  for (size_t i = 0; i < messages.size(); ++i) EXPECT_EQ(hex(frame_of(messages[i])), hex(bytes(expected[i]))) << "message " << i;
}

template <class Variant>
void expect_round_trip(const std::vector<Variant>& messages) {
  for (const Variant& message : messages) {
    const std::string sent = frame_of(message);
    Variant read;
    std::string error;
    ASSERT_TRUE(decode(cut(sent), read, error)) << error;
    EXPECT_EQ(read.index(), message.index());
    EXPECT_EQ(hex(frame_of(read)), hex(sent));
  }
}

TEST(Golden, WhatIsReadIsWhatWasSent) {
  expect_round_trip(down_examples());
  expect_round_trip(up_examples());
}

TEST(Golden, NotMeasuredStaysNotMeasured) {
  UpMessage read;
  std::string error;
  ASSERT_TRUE(decode(cut(encode(up::Done{})), read, error)) << error;
  EXPECT_TRUE(std::isnan(std::get<up::Done>(read).loss_after));
}

TEST(Golden, EveryEnumeratorHasItsLabel) {
  EXPECT_STREQ(name_of(FailureCode::ConfigInvalid), "config_invalid");
  EXPECT_STREQ(name_of(FailureCode::InternalError), "internal_error");
  EXPECT_STREQ(name_of(DoneStatus::Paused), "paused");
  EXPECT_STREQ(name_of(JobKind::Generate), "generate");
  EXPECT_STREQ(name_of(JobKind::Import), "import");
  EXPECT_STREQ(name_of(JobKind::Export), "export");
  EXPECT_STREQ(name_of(PromptKind::Messages), "messages");
  EXPECT_STREQ(name_of(LogLevel::Warning), "warning");
  EXPECT_STREQ(name_of(FileKind::Artifact), "artifact");
  EXPECT_STREQ(name_of(EvaluationPhase::After), "after");
  EXPECT_STREQ(name_of(TaskState::Failed), "failed");
}

}  // namespace
}  // namespace pgtrain::protocol::test
