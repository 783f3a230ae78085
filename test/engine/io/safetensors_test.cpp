// safetensors: what is written is read back; whatever else is in a file gives model_invalid with file and reason.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "engine/core/error.hpp"
#include "engine/io/safetensors.hpp"
#include "../temporary_folder.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::io {
namespace {

std::string with_header(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), 8);
  return file + header + std::string(data_bytes, '\1');
}

std::string refusal(const std::string& file) {
  try {
    SafetensorsHeader::parse(file, "hostile.safetensors");
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "model_invalid");
    EXPECT_NE(error.message.find("hostile.safetensors"), std::string::npos) << error.message;
    EXPECT_FALSE(error.hint.empty());
    return error.message;
  }
  return "";
}

// Kilobytes of files that this process has mapped and read.
long mapped_kilobytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("RssFile:")) return std::stol(line.substr(8));
  return -1;
}

TEST(Safetensors, LeavesNoCopyOfWhatWasReadInMemory) {
  const TemporaryFolder folder;
  constexpr std::uint64_t count = std::uint64_t{24} << 20;
  std::vector<float> values(count);
  std::mt19937 random(test::seed());
  for (float& value : values) value = static_cast<float>(random());
  write_safetensors(folder.path() + "/large.safetensors", {{"w", StoredType::F32, {count}, values.data()}});
  const SafetensorsFile file(folder.path() + "/large.safetensors");
  std::vector<float> read(count);
  const long before = mapped_kilobytes();
  file.read_f32(*file.find("w"), read.data());
  EXPECT_LT(mapped_kilobytes() - before, 8 << 10) << "of 96 MiB";
  EXPECT_EQ(std::memcmp(read.data(), values.data(), count * sizeof(float)), 0);
}

TEST(Safetensors, WritesAndReadsBack) {
  const TemporaryFolder folder;
  std::mt19937 random(test::seed());
  std::vector<float> weights(35);
  for (float& value : weights) value = std::normal_distribution<float>()(random);
  const std::vector<std::uint16_t> halves = {0x3F80, 0xC000, 0x0000};
  const std::int64_t step = 77;
  const auto written = write_safetensors(folder.path("a.safetensors"),
                                         {{"b", StoredType::BF16, {3}, halves.data()},
                                          {"w", StoredType::F32, {5, 7}, weights.data()},
                                          {"step", StoredType::I64, {}, &step},
                                          {"none", StoredType::F32, {0, 4}, nullptr}},
                                         {{"format", "pt"}, {"odd \"key\"\n", "\xC3\xA4"}});
  const SafetensorsFile file(folder.path("a.safetensors"));
  EXPECT_EQ(written.bytes, std::filesystem::file_size(folder.path("a.safetensors")));
  EXPECT_EQ(file.metadata().at("odd \"key\"\n"), "\xC3\xA4");
  std::vector<float> read(35);
  file.read_f32(file.require("w", {5, 7}), read.data());
  EXPECT_EQ(read, weights);
  std::vector<float> wide(3);
  file.read_f32(file.require("b", {3}), wide.data());
  EXPECT_EQ(wide, (std::vector<float>{1.0f, -2.0f, 0.0f}));
  EXPECT_EQ(0, std::memcmp(file.data(file.require("step", {})).data(), &step, 8));
  EXPECT_EQ(file.require("none", {0, 4}).elements(), 0u);
  EXPECT_EQ(file.tensors()[0].name, "step");  // widest type first
  EXPECT_THROW(file.require("w", {7, 5}), core::Error);
  EXPECT_THROW(file.require("v", {5, 7}), core::Error);
  EXPECT_THROW(file.read_f32(file.require("step", {}), read.data()), core::Error);
}

TEST(Safetensors, ReadsHalfPrecisionExactly) {
  const TemporaryFolder folder;
  // One, the largest, the smallest normal, the smallest subnormal, minus zero, infinity.
  const std::vector<std::uint16_t> halves = {0x3C00, 0x7BFF, 0x0400, 0x0001, 0x8000, 0x7C00};
  write_safetensors(folder.path("h"), {{"h", StoredType::F16, {6}, halves.data()}});
  const SafetensorsFile file(folder.path("h"));
  std::vector<float> read(6);
  file.read_f32(*file.find("h"), read.data());
  EXPECT_EQ(read[0], 1.0f);
  EXPECT_EQ(read[1], 65504.0f);
  EXPECT_EQ(read[2], 0x1p-14f);
  EXPECT_EQ(read[3], 0x1p-24f);
  EXPECT_TRUE(read[4] == 0 && std::signbit(read[4]));
  EXPECT_EQ(read[5], std::numeric_limits<float>::infinity());
}

TEST(Safetensors, RefusesByFieldAndReason) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  ASSERT_EQ(refusal(with_header(good, 8)), "");
  ASSERT_EQ(refusal(with_header(good + "    ", 8)), "");
  const struct {
    const char *header, *reason;
    std::size_t bytes;
  } cases[] = {
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "belong to no tensor", 9},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "data_offsets ends at 8", 7},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "need 12 bytes", 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "backwards", 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", "fewer than 2", 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", "more than 2", 8},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}})", "overflows", 8},
      {R"({"a":{"dtype":"F32","shape":[0,18446744073709551615,18446744073709551615],"data_offsets":[0,8]}})", "overflows", 8},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}})", "64 bits", 8},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "at least 0", 8},
      {R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", "whole number", 8},
      {R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}})", "not supported", 8},
      {R"({"a":{"dtype":"FLOAT","shape":[2],"data_offsets":[0,8]}})", "not known", 8},
      {R"({"a":{"shape":[2],"data_offsets":[0,8]}})", "dtype is missing", 8},
      {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", "shape is missing", 8},
      {R"({"a":{"dtype":"F32","shape":[2]}})", "data_offsets is missing", 8},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "twice", 8},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", "unknown field", 8},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", "twice", 8},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})", "hole", 9},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", "overlap", 12},
      {R"({"__metadata__":{"a":1}})", "not a string", 0},
      {R"({"__metadata__":{},"__metadata__":{}})", "twice", 0},
      {R"({} x)", "follows", 0},
      {R"([1])", "does not start with '{'", 0},
      {R"({"a":{"dtype":"F32")", "ends in the middle", 0},
      {"{\"\xff\":{}}", "UTF-8", 0},
  };
  for (const auto& test : cases) {
    const std::string message = refusal(with_header(test.header, test.bytes));
    EXPECT_NE(message.find(test.reason), std::string::npos) << test.header << "\n-> " << message;
  }
  EXPECT_NE(refusal("1234567").find("7 bytes"), std::string::npos);
  EXPECT_NE(refusal(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)).find("100000000"), std::string::npos);
  EXPECT_NE(refusal(std::string("\x50\0\0\0\0\0\0\0{}", 10)).find("past the end"), std::string::npos);
  EXPECT_NE(refusal(std::string("PK\x03\x04 and more", 13)).find("pickle"), std::string::npos);
  const std::string deep(200, '[');
  EXPECT_NE(refusal(with_header("{\"a\":{\"dtype\":\"F32\",\"shape\":" + deep, 0)).size(), 0u);
}

// Every single-byte change and cut of a small file either parses to a header that satisfies the promises, or is refused.
TEST(Safetensors, SurvivesMutations) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";
  const std::string good = with_header(header, 32);
  ASSERT_EQ(refusal(good), "");
  std::mt19937 random(20240229);
  int accepted = 0, refused = 0;
  const auto check = [&](const std::string& file) {
    try {
      const SafetensorsHeader parsed = SafetensorsHeader::parse(file, "mutated");
      std::uint64_t covered = 0;
      for (const StoredTensor& tensor : parsed.tensors) {
        ASSERT_EQ(tensor.begin, covered);
        std::uint64_t elements = 1;
        for (const std::uint64_t extent : tensor.shape) elements *= extent;
        ASSERT_EQ(elements, tensor.elements());
        covered = tensor.end;
      }
      ASSERT_EQ(parsed.data_begin + covered, file.size());
      ++accepted;
    } catch (const core::Error& error) {
      ASSERT_EQ(error.code, "model_invalid");
      ++refused;
    }
  };
  for (std::size_t cut = 0; cut < good.size(); ++cut) check(good.substr(0, cut));
  for (int round = 0; round < 20000; ++round) {
    std::string file = good;
    const int changes = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < changes; ++i) {
      const std::size_t at = random() % file.size();
      switch (random() % 5) {
        case 0: file[at] = static_cast<char>(random()); break;
        case 1: file.erase(at, 1 + random() % 8); break;
        case 2: file.insert(at, 1, "0123456789[]{},:\""[random() % 17]); break;
        case 3: file[at] ^= static_cast<char>(1 << random() % 8); break;
        default: file.insert(at, file.substr(random() % file.size(), random() % 16)); break;
      }
    }
    check(file);
  }
  // A length that was not touched together with its text makes most of them fail; both kinds must occur.
  EXPECT_GT(accepted, 0);
  EXPECT_GT(refused, 10000);
}

}  // namespace
}  // namespace pgtrain::engine::io
