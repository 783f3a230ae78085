// frame_test.cpp: every cut of every frame, random bytes, broken fields. Nothing may crash, and nothing may be
// allocated beyond what arrived plus the cap of the type: operator new is watched here.
#include <gtest/gtest.h>

#include "protocol/allocation_watch.hpp"
#include "protocol/messages.hpp"

namespace pgtrain::protocol::test {
namespace {

template <class Variant>
Direction direction_of() {
  return std::is_same_v<Variant, DownMessage> ? Direction::Down : Direction::Up;
}

// Reads all frames of `stream`, fed in pieces that end at the given places.
template <class Variant>
std::vector<std::string> read_in_pieces(const std::string& stream, const std::vector<size_t>& ends) {
  FrameReader reader(direction_of<Variant>());
  std::vector<std::string> frames;
  size_t start = 0;
  const auto feed = [&](size_t end) {
    reader.feed(std::string_view(stream).substr(start, end - start));
    start = end;
    Frame frame;
    while (reader.next(frame) == FrameReader::Status::Ready) frames.push_back(encode_frame(frame.type, frame.payload));
  };
  for (const size_t end : ends) feed(end);
  feed(stream.size());
  EXPECT_EQ(reader.error(), "");
  EXPECT_FALSE(reader.is_inside_frame());
  return frames;
}

template <class Variant>
void expect_any_cut(const std::vector<Variant>& messages) {
  std::string stream;
  std::vector<std::string> frames;
  for (const Variant& message : messages) {
    frames.push_back(frame_of(message));
    stream += frames.back();
  }
  for (size_t end = 0; end <= stream.size(); ++end) ASSERT_EQ(read_in_pieces<Variant>(stream, {end}), frames) << "cut at " << end;
  std::vector<size_t> every_byte;
  for (size_t end = 1; end < stream.size(); ++end) every_byte.push_back(end);
  EXPECT_EQ(read_in_pieces<Variant>(stream, every_byte), frames);
  Fresh fresh;
  for (int round = 0; round < 200; ++round) {
    std::vector<size_t> ends;
    for (size_t end = 0; end < stream.size(); end += fresh.below(40)) ends.push_back(end);
    ASSERT_EQ(read_in_pieces<Variant>(stream, ends), frames) << "seed " << fresh.seed;
  }
}

TEST(Frame, EveryCutGivesTheSameFrames) {
  expect_any_cut(down_examples());
  expect_any_cut(up_examples());
}

template <class Variant>
void expect_short_payloads_refused(const std::vector<Variant>& messages) {
  for (const Variant& message : messages) {
    const Frame whole = cut(frame_of(message));
    for (size_t length = 0; length < whole.payload.size(); ++length) {
      Variant read;
      std::string error;
      EXPECT_FALSE(decode({whole.type, whole.payload.substr(0, length)}, read, error)) << whole.type << " at " << length;
      EXPECT_NE(error, "");
    }
    Variant read;
    std::string error;
    EXPECT_FALSE(decode({whole.type, whole.payload + '\0'}, read, error));
    EXPECT_NE(error.find("left over"), std::string::npos) << error;
  }
}

TEST(Frame, MissingAndLeftOverBytesAreRefused) {
  expect_short_payloads_refused(down_examples());
  expect_short_payloads_refused(up_examples());
}

TEST(Frame, EndInsideAFrameIsSeen) {
  const std::string bytes = encode(up::Heartbeat{1, 2});
  FrameReader reader(Direction::Up);
  reader.feed(bytes.substr(0, bytes.size() - 1));
  Frame frame;
  EXPECT_EQ(reader.next(frame), FrameReader::Status::NeedMore);
  EXPECT_TRUE(reader.is_inside_frame());
}

TEST(Frame, HugeLengthIsRefusedBeforeItIsStored) {
  FrameReader reader(Direction::Up);
  reader.feed(std::string("l\xff\xff\xff\xff", 5));
  Frame frame;
  largest_allocation = 0;
  EXPECT_EQ(reader.next(frame), FrameReader::Status::Broken);
  EXPECT_NE(reader.error().find("4294967295"), std::string::npos) << reader.error();
  EXPECT_NE(reader.error().find(std::to_string(up::Log::cap)), std::string::npos) << reader.error();
  EXPECT_LT(largest_allocation.load(), 4096u);
  reader.feed(encode(up::Heartbeat{}));
  EXPECT_EQ(reader.next(frame), FrameReader::Status::Broken) << "broken is final";
}

TEST(Frame, TheOtherDirectionsMessagesAreUnknown) {
  for (const auto& message : down_examples()) {
    FrameReader reader(Direction::Up);
    reader.feed(frame_of(message));
    Frame frame;
    EXPECT_EQ(reader.next(frame), FrameReader::Status::Broken);
    EXPECT_NE(reader.error().find("unknown message type"), std::string::npos);
  }
}

TEST(Frame, RandomBytesNeverCrashNorAllocateBeyondTheCaps) {
  Fresh fresh;
  largest_allocation = 0;
  for (int round = 0; round < 20000; ++round) {
    FrameReader reader(round % 2 ? Direction::Up : Direction::Down);
    std::string bytes(fresh.below(200), '\0');
    for (char& c : bytes) c = static_cast<char>(fresh.engine());
    // Half of the rounds begin with a known type and a small length, so that decoding is reached.
    static const std::string types = "HJCPAhptrmesfblxd";
    if (bytes.size() > frame_header_bytes && round % 4 < 2) {
      bytes[0] = types[fresh.below(types.size())];
      bytes[1] = bytes[2] = bytes[3] = 0;
      bytes[4] = static_cast<char>(bytes.size() - frame_header_bytes);
    }
    reader.feed(bytes);
    Frame frame;
    while (reader.next(frame) == FrameReader::Status::Ready) {
      DownMessage down;
      UpMessage up;
      std::string error;
      decode(frame, down, error);
      decode(frame, up, error);
    }
  }
  EXPECT_LT(largest_allocation.load(), 64u * 1024) << "seed " << fresh.seed;
}

TEST(Frame, ChangedBytesOfRealMessagesNeverCrash) {
  Fresh fresh;
  largest_allocation = 0;
  for (int round = 0; round < 20000; ++round) {
    const auto downs = down_examples();
    const auto ups = up_examples();
    const size_t pick = fresh.below(downs.size() + ups.size());
    Frame frame = cut(pick < downs.size() ? frame_of(downs[pick]) : frame_of(ups[pick - downs.size()]));
    for (uint64_t change = fresh.below(4); change > 0 && !frame.payload.empty(); --change)
      frame.payload[fresh.below(frame.payload.size())] = static_cast<char>(fresh.engine());
    DownMessage down;
    UpMessage up;
    std::string error;
    if (pick < downs.size())
      decode(frame, down, error);
    else
      decode(frame, up, error);
  }
  EXPECT_LT(largest_allocation.load(), 256u * 1024) << "seed " << fresh.seed;
}

template <class Message>
std::string refusal(const Message& message) {
  UpMessage up;
  DownMessage down;
  std::string error;
  const Frame frame = cut(encode(message));
  const bool fine = payload_cap(Direction::Up, frame.type) >= 0 ? decode(frame, up, error) : decode(frame, down, error);
  return fine ? "" : error;
}

TEST(Frame, UnsafeFilesAreRefused) {
  for (const char* name : {"", "../evil", "a/b", ".hidden", "..", "a b", "/etc/passwd", "ä"}) {
    EXPECT_NE(refusal(up::File{FileKind::Artifact, name, 1, 1, sha_of('0')}), "") << name;
    EXPECT_NE(refusal(down::Ack{name}), "") << name;
  }
  EXPECT_NE(refusal(up::File{FileKind::Artifact, std::string(129, 'a'), 1, 1, sha_of('0')}), "");
  EXPECT_EQ(refusal(up::File{FileKind::Artifact, std::string(128, 'a'), 1, 1, sha_of('0')}), "");
  EXPECT_NE(refusal(up::File{FileKind::Artifact, "a", 1, 1, sha_of('A')}), "");
  EXPECT_NE(refusal(up::File{FileKind::Artifact, "a", 1, 1, ""}), "");
  down::Job job;
  job.data.name = "../../base/1";
  EXPECT_NE(refusal(job), "");
  job.data.name.clear(), job.validation.name = "../1";
  EXPECT_NE(refusal(job), "");
}

TEST(Frame, EnumerationsOutOfRangeAndBadTextAreRefused) {
  UpMessage up;
  std::string error;
  Frame frame = cut(encode(up::Failed{}));
  frame.payload[0] = 10;
  EXPECT_FALSE(decode(frame, up, error));
  EXPECT_NE(error.find("field 1"), std::string::npos) << error;
  for (const std::string& bad : {std::string("\xff"), std::string("\xc0\x80"), std::string("\xed\xa0\x80"), std::string(1, '\0'),
                                std::string("\xf4\x90\x80\x80"), std::string("\xe2\x82")}) {
    Frame log = cut(encode(up::Log{LogLevel::Info, std::string(bad.size(), 'x')}));
    log.payload.replace(5, bad.size(), bad);
    EXPECT_FALSE(decode(log, up, error));
    EXPECT_NE(error.find("UTF-8"), std::string::npos) << error;
    EXPECT_EQ(refusal(up::Log{LogLevel::Info, bad}), "") << "the sender cleans its text";
  }
}

TEST(Frame, HugeListCountIsRefusedBeforeItAllocates) {
  down::Job job;
  Frame frame = cut(encode(job));
  const size_t config_count = 8 + 4 + 1 + 4 + 4 + 8 + 4 + 4;  // the fields before the list, device being empty
  frame.payload.replace(config_count, 4, "\xff\xff\xff\xff");
  DownMessage down;
  std::string error;
  largest_allocation = 0;
  EXPECT_FALSE(decode(frame, down, error));
  EXPECT_NE(error.find("4294967295 items"), std::string::npos) << error;
  EXPECT_LT(largest_allocation.load(), 4096u);
}

TEST(Frame, AnotherVersionsHelloIsReadWhateverFollows) {
  Frame frame = cut(encode(up::Hello{99, "new", "gpu"}));
  for (const std::string& payload : {frame.payload, frame.payload + "more fields", frame.payload.substr(0, 4)}) {
    UpMessage up;
    std::string error;
    ASSERT_TRUE(decode({'h', payload}, up, error)) << error;
    EXPECT_EQ(std::get<up::Hello>(up).version, 99u);
  }
  EXPECT_NE(version_mismatch_text(1, 99, "new").find("version 99 (build new)"), std::string::npos);
}

TEST(Frame, TextOverTheCapIsCutAndStaysValid) {
  std::string text;
  while (text.size() < 3 * up::Log::cap) text += "snow ☃ ";
  const std::string frame = encode(up::Log{LogLevel::Info, text});
  EXPECT_LE(frame.size(), frame_header_bytes + up::Log::cap);
  EXPECT_GT(frame.size(), up::Log::cap - 16);
  UpMessage up;
  std::string error;
  ASSERT_TRUE(decode(cut(frame), up, error)) << error;
  EXPECT_TRUE(std::get<up::Log>(up).text.ends_with("…"));
  const std::string failed = encode(up::Failed{FailureCode::IoError, text, text, text});
  ASSERT_TRUE(decode(cut(failed), up, error)) << error;
  EXPECT_LE(failed.size(), frame_header_bytes + up::Failed::cap);
  down::Job job;
  job.generate.prompts.emplace_back(down::Job::cap, 'x');
  EXPECT_EQ(encode(job), "") << "a job is never cut";
}

}  // namespace
}  // namespace pgtrain::protocol::test
