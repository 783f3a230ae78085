// GGUF: what is written is read back; whatever else is in a file gives model_invalid with file, field and reason.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "../temporary_folder.hpp"
#include "engine/core/error.hpp"
#include "engine/io/gguf.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::io {
namespace {

// A file put together field by field, so that each field can be wrong.
struct Maker {
  std::string bytes = "GGUF";
  template <typename T>
  Maker& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Maker& u32(std::uint32_t value) { return put(value); }
  Maker& u64(std::uint64_t value) { return put(value); }
  Maker& text(std::string_view value) {
    u64(value.size());
    bytes += value;
    return *this;
  }
  Maker& head(std::uint64_t tensors, std::uint64_t pairs, std::uint32_t version = 3) { return u32(version).u64(tensors).u64(pairs); }
  Maker& tensor(std::string_view name, std::vector<std::uint64_t> extents, std::uint32_t type, std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(extents.size()));
    for (const std::uint64_t extent : extents) u64(extent);
    return u32(type).u64(offset);
  }
  Maker& data(std::size_t size) {
    bytes.resize((bytes.size() + 31) / 32 * 32);
    bytes.append(size, '\1');
    return *this;
  }
};

std::string refusal(const std::string& file) {
  try {
    GgufHeader::parse(file, "hostile.gguf");
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "model_invalid");
    EXPECT_NE(error.message.find("hostile.gguf"), std::string::npos) << error.message;
    EXPECT_FALSE(error.hint.empty());
    return error.message;
  }
  return "";
}

TEST(Gguf, WritesAndReadsBack) {
  const TemporaryFolder folder;
  std::mt19937 random(test::seed());
  std::vector<float> weights(70 * 1024);
  for (float& value : weights) value = std::normal_distribution<float>(0, 0.1f)(random);
  const std::vector<float> small = {1.5f, -2.0f, 0.25f};
  const std::vector<std::string_view> tokens = {"a", "", "\xFF\xFE", "\xC3\xA4"};
  GgufWriter writer(folder.path("a.gguf"));
  writer.set_text("general.architecture", "llama");
  writer.set_u32("llama.block_count", 7);
  writer.set_f32("llama.rope.freq_base", 1e6f);
  writer.set_boolean("tokenizer.ggml.add_bos_token", true);
  writer.set_texts("tokenizer.ggml.tokens", tokens);
  writer.set_i32s("tokenizer.ggml.token_type", {1, -3, 6});
  writer.set_f32s("tokenizer.ggml.scores", {0.5f, -1.0f});
  writer.declare("w.f32", {70, 1024}, BlockType::F32);
  writer.declare("small", {3}, BlockType::F16);
  writer.declare("w.q8", {70, 1024}, BlockType::Q8_0);
  writer.declare("w.q4", {70, 1024}, BlockType::Q4_K);
  writer.write(weights.data(), 1000), writer.write(weights.data() + 1000, weights.size() - 1000);
  writer.write(small.data(), small.size());
  writer.write(weights.data(), weights.size());
  for (std::size_t row = 0; row < 70; ++row) writer.write(weights.data() + 1024 * row, 1024);
  writer.commit();

  const GgufFile file(folder.path("a.gguf"));
  const GgufHeader& header = file.header();
  EXPECT_EQ(header.find_text("general.architecture"), "llama");
  EXPECT_EQ(header.find_unsigned("llama.block_count"), 7u);
  EXPECT_EQ(header.find_number("llama.rope.freq_base"), 1e6);
  EXPECT_EQ(header.find_boolean("tokenizer.ggml.add_bos_token"), true);
  EXPECT_EQ(header.find_texts("tokenizer.ggml.tokens"), tokens);
  EXPECT_EQ(header.find_integers("tokenizer.ggml.token_type"), (std::vector<std::int64_t>{1, -3, 6}));
  EXPECT_EQ(header.find_numbers("tokenizer.ggml.scores"), (std::vector<float>{0.5f, -1.0f}));
  EXPECT_EQ(header.find_unsigned("absent"), std::nullopt);
  EXPECT_TRUE(header.find_texts("absent").empty());
  EXPECT_THROW(header.find_unsigned("general.architecture"), core::Error);
  EXPECT_THROW(header.find_text("llama.block_count"), core::Error);
  EXPECT_THROW(header.find_integers("tokenizer.ggml.tokens"), core::Error);
  ASSERT_EQ(header.tensors().size(), 4u);
  EXPECT_EQ(header.find_tensor("nothing"), nullptr);
  EXPECT_EQ(header.find_tensor("w.q4")->shape, (std::vector<std::uint64_t>{70, 1024}));

  std::vector<float> read(weights.size());
  file.read_f32(*header.find_tensor("w.f32"), 0, read.size(), read.data());
  EXPECT_EQ(read, weights);
  std::vector<float> three(3);
  file.read_f32(*header.find_tensor("small"), 0, 3, three.data());
  EXPECT_EQ(three, small);
  for (const char* name : {"w.q8", "w.q4"}) {
    const GgufTensor& tensor = *header.find_tensor(name);
    std::vector<unsigned char> blocks(tensor.end - tensor.begin);
    quantize(tensor.type, weights.data(), weights.size(), blocks.data());
    EXPECT_EQ(0, std::memcmp(file.data(tensor).data(), blocks.data(), blocks.size())) << name;
    std::vector<float> part(2048);
    file.read_f32(tensor, 512, 2048, part.data());
    file.read_f32(tensor, 0, read.size(), read.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), read.begin() + 512)) << name;
  }
  EXPECT_THROW(file.read_f32(*header.find_tensor("w.q4"), 32, 256, read.data()), std::logic_error);

  GgufWriter second(folder.path("b.gguf"));
  for (const auto& [key, value] : header.metadata()) second.copy(key, value);
  second.commit();
  const GgufFile copied(folder.path("b.gguf"));
  EXPECT_EQ(copied.header().find_texts("tokenizer.ggml.tokens"), tokens);
  EXPECT_EQ(copied.header().metadata().size(), header.metadata().size());
}

TEST(Gguf, WritesNoValueThatTheTypeCannotHold) {
  const TemporaryFolder folder;
  GgufWriter writer(folder.path("a.gguf"));
  writer.declare("blk.0.ffn_up.weight", {32}, BlockType::F16);
  std::vector<float> values(32, 1.0f);
  values[5] = 70000.0f;
  try {
    writer.write(values.data(), 32);
    FAIL();
  } catch (const core::Error& error) {
    EXPECT_EQ(error.code, "model_invalid");
    EXPECT_NE(error.message.find("blk.0.ffn_up.weight"), std::string::npos);
    EXPECT_NE(error.message.find("F16"), std::string::npos);
  }
  EXPECT_FALSE(GgufWriter::fits(BlockType::Q4_K, {4, 576}));
  EXPECT_TRUE(GgufWriter::fits(BlockType::Q8_0, {4, 576}));
}

TEST(Gguf, RefusesByFieldAndReason) {
  const auto pair = [](std::uint32_t kind) { return Maker().head(0, 1).text("k").u32(kind); };
  ASSERT_EQ(refusal(Maker().head(1, 0).tensor("a", {8}, 0, 0).data(32).bytes), "");
  ASSERT_EQ(refusal(Maker().head(1, 0, 2).tensor("a", {8}, 0, 0).data(32).bytes), "");
  ASSERT_EQ(refusal(Maker().head(0, 0).bytes), "");
  const struct {
    std::string file;
    const char* reason;
  } cases[] = {
      {"GGU", "does not begin with GGUF"},
      {"FUGG", "big-endian"},
      {Maker().head(0, 0, 0x03000000).bytes, "big-endian"},
      {Maker().head(0, 0, 1).bytes, "version: 1 is not read"},
      {Maker().head(0, 0, 4).bytes, "4 is not known"},
      {"tjgg" + std::string(16, '\0'), "before GGUF"},
      {std::string("PK\x03\x04") + std::string(16, '\0'), "pickle"},
      {Maker().u32(3).bytes, "number of tensors"},
      {Maker().head(~0ull, 0).bytes, "more than the 1000000"},
      {Maker().head(0, ~0ull).bytes, "more than the 1000000"},
      {Maker().head(0, 1).u64(~0ull).bytes, "65535 are allowed"},
      {Maker().head(0, 1).u64(9).bytes, "past the end"},
      {Maker().head(0, 1).text("").u32(4).u32(1).bytes, "is empty"},
      {Maker().head(0, 1).text("\xFF").u32(4).u32(1).bytes, "UTF-8"},
      {pair(13).bytes, "kind 13 is not known"},
      {pair(8).u64(~0ull - 3).bytes, "past the end"},
      {pair(7).put<char>(2).bytes, "neither 0 nor 1"},
      {pair(9).u32(7).u64(1).put<char>(5).bytes, "neither 0 nor 1"},
      {pair(9).u32(9).u64(0).bytes, "array of arrays"},
      {pair(9).u32(4).u64(1ull << 62).bytes, "overflow"},
      {pair(9).u32(4).u64(1000).bytes, "past the end"},
      {pair(9).u32(8).u64(~0ull).bytes, "past the end"},
      {Maker().head(0, 2).text("k").u32(0).put<char>(1).text("k").u32(0).put<char>(1).bytes, "appears twice"},
      {Maker().head(0, 1).text("general.alignment").u32(4).u32(24).bytes, "power of two"},
      {Maker().head(0, 1).text("general.alignment").u32(4).u32(0).bytes, "power of two"},
      {Maker().head(0, 1).text("general.alignment").u32(6).put(32.0f).bytes, "whole number"},
      {Maker().head(1, 0).tensor("a", {}, 0, 0).data(32).bytes, "0 dimensions"},
      {Maker().head(1, 0).tensor("a", {1, 1, 1, 1, 1}, 0, 0).data(32).bytes, "5 dimensions"},
      {Maker().head(1, 0).tensor("a", {0}, 0, 0).data(32).bytes, "extent of 0"},
      {Maker().head(1, 0).tensor("a", {8}, 17, 0).data(32).bytes, "IQ2_XS is not supported; supported are F32"},
      {Maker().head(1, 0).tensor("a", {8}, 77, 0).data(32).bytes, "type 77 is not supported"},
      {Maker().head(1, 0).tensor("a", {48}, 8, 0).data(64).bytes, "not whole blocks of 32"},
      {Maker().head(1, 0).tensor("a", {1ull << 32, 1ull << 32}, 0, 0).data(32).bytes, "shape overflows"},
      {Maker().head(1, 0).tensor("a", {1ull << 62}, 0, 0).data(32).bytes, "shape overflows"},
      {Maker().head(1, 0).tensor("a", {8}, 0, 8).data(64).bytes, "multiple of the alignment"},
      {Maker().head(1, 0).tensor("a", {8}, 0, ~31ull).data(64).bytes, "overflows"},
      {Maker().head(1, 0).tensor("a", {8}, 0, 32).data(64).bytes, "leaves a hole"},
      {Maker().head(1, 0).tensor("a", {9}, 0, 0).data(32).bytes, "ends at byte 36"},
      {Maker().head(2, 0).tensor("a", {9}, 0, 0).tensor("b", {8}, 0, 32).data(64).bytes, "overlaps"},
      {Maker().head(2, 0).tensor("a", {8}, 0, 0).tensor("a", {8}, 0, 32).data(64).bytes, "appears twice"},
      {Maker().head(1, 0).tensor("a", {8}, 0, 0).bytes, "ends at byte 32"},
  };
  for (const auto& test : cases) {
    const std::string message = refusal(test.file);
    EXPECT_NE(message.find(test.reason), std::string::npos) << test.reason << "\n-> " << message;
  }
}

}  // namespace
}  // namespace pgtrain::engine::io
