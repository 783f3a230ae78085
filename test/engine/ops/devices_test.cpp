// Devices as the CPU side shows them: what is listed and why not more, refusals with numbers, memory that is given back,
// workers, and the same bits twice.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/backend/cpu/matmul.hpp"
#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "support/seed.hpp"

namespace pgtrain::engine::backend {
namespace {

core::Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const core::Error& error) {
    return error;
  }
  return {"none", "nothing was raised"};
}

TEST(Devices, TheCpuIsLastAndTheAbsenceOfMoreIsExplained) {
  const DeviceList list = list_devices();
  ASSERT_FALSE(list.devices.empty());
  const DeviceInfo& cpu = list.devices.back();
  EXPECT_EQ(cpu.name, "cpu");
  EXPECT_FALSE(cpu.description.empty());
  EXPECT_EQ(cpu.isa.rfind("x86-64-v", 0), 0u);
  EXPECT_GT(cpu.memory_bytes, std::uint64_t{64} << 20);
  EXPECT_GE(cpu.units, 1);
  EXPECT_TRUE(list.devices.size() > 1 || !list.cuda_reason.empty());
}

TEST(Devices, UnknownNamesAreRefused) {
  for (const char* name : {"", "gpu", "cuda", "cpu:0"}) EXPECT_EQ(error_of([&] { open(name); }).code, "config_invalid") << name;
  const core::Error error = error_of([] { open("cuda:99"); });
  EXPECT_EQ(error.code, "device_fault");
  EXPECT_NE(error.message.find("cuda:99"), std::string::npos);
  EXPECT_EQ(error_of([] { open("cpu", {.threads = 1, .instruction_set = "sparc"}); }).code, "config_invalid");
}

TEST(Devices, MemoryIsRefusedWithNumbersAndGivenBack) {
  const auto cpu = open("cpu", {.threads = 1, .memory_limit_bytes = 10 << 20});
  for (int round = 0; round < 5; ++round) {
    void* first = cpu->allocate(6 << 20);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % 256, 0u);
    const core::Error error = error_of([&] { cpu->allocate(6 << 20); });
    EXPECT_EQ(error.code, "out_of_memory");
    EXPECT_NE((error.message + error.detail).find(std::to_string(6 << 20)), std::string::npos);
    EXPECT_NE(error.detail.find(std::to_string(10 << 20)), std::string::npos);
    EXPECT_FALSE(error.hint.empty());
    cpu->release(first);
  }
  cpu->release(nullptr);
}

TEST(Workers, AllRunEachTimeAndTheirFailuresArrive) {
  for (int count : {1, 2, 5}) {
    cpu::Workers workers(count);
    ASSERT_EQ(workers.count(), count);
    std::vector<int> runs(static_cast<std::size_t>(count));
    for (int round = 0; round < 2000; ++round) workers.run([&](int number) { ++runs[static_cast<std::size_t>(number)]; });
    EXPECT_EQ(runs, std::vector<int>(static_cast<std::size_t>(count), 2000));
    EXPECT_THROW(workers.run([&](int number) { if (number == count - 1) throw std::runtime_error("one failed"); }), std::runtime_error);
    std::atomic<int> after{0};
    workers.run([&](int) { ++after; });
    EXPECT_EQ(after, count);
  }
}

// Whatever the shape and the number of workers, the parts cover each element of C once and A, B and bias move along.
TEST(Matmul, PartsCoverTheProductOnce) {
  std::mt19937 random(test::seed());
  const float a = 0, b = 0, bias = 0;
  float c = 0;
  for (int round = 0; round < 3000; ++round) {
    Matmul whole;
    whole.m = 1 + random() % 700, whole.n = 1 + random() % 700, whole.k = 1 + random() % 700;
    whole.transpose_a = random() % 2, whole.transpose_b = random() % 2;
    whole.a_pitch = 1000, whole.b_pitch = 2000, whole.c_pitch = 3000;
    whole.a = &a, whole.b = &b, whole.c = &c, whole.bias = &bias;
    const int parts = 1 + static_cast<int>(random() % 9);
    std::int64_t rows = 0, columns = 0;
    for (int number = 0; number < parts; ++number) {
      const Matmul part = cpu::part_of(whole, number, parts);
      if (part.m == 0 || part.n == 0) continue;
      const bool by_rows = part.n == whole.n && (part.m < whole.m || columns == 0);
      const std::int64_t row = by_rows ? rows : 0, column = by_rows ? 0 : columns;
      ASSERT_EQ(static_cast<float*>(part.c) - &c, row * 3000 + column);
      ASSERT_EQ(static_cast<const float*>(part.a) - &a, whole.transpose_a ? row : row * 1000);
      ASSERT_EQ(static_cast<const float*>(part.b) - &b, whole.transpose_b ? column * 2000 : column);
      ASSERT_EQ(static_cast<const float*>(part.bias) - &bias, column);
      (by_rows ? rows : columns) += by_rows ? part.m : part.n;
    }
    EXPECT_TRUE((rows == whole.m && columns == 0) || (columns == whole.n && rows == 0)) << rows << " rows, " << columns << " columns";
  }
}

// What is long enough for several workers: memory is zeroed to its ends and no further, and sums have the same bits for any number.
TEST(Workers, ShareLongSumsAndZeroes) {
  constexpr std::size_t kCount = 3'000'017;
  std::mt19937 random(test::seed());
  std::vector<float> values(kCount);
  double total = 0, squares = 0;
  for (float& v : values) {
    v = std::normal_distribution<float>(0.5f)(random);
    total += v, squares += static_cast<double>(v) * v;
  }
  std::vector<float> found;
  for (const int threads : {1, 2, 3}) {
    const auto cpu = open("cpu", {.threads = threads});
    auto* memory = static_cast<float*>(cpu->allocate((kCount + 2) * sizeof(float)));
    cpu->upload(memory, values.data(), kCount * sizeof(float));
    float sums[2];
    cpu->sum(sums, memory, kCount, false);
    cpu->sum_of_squares(sums + 1, memory, kCount, false);
    EXPECT_NEAR(sums[0] / total, 1, 1e-6);
    EXPECT_NEAR(sums[1] / squares, 1, 1e-6);
    if (found.empty()) found.assign(sums, sums + 2);
    EXPECT_EQ(found[0], sums[0]) << threads << " threads";
    EXPECT_EQ(found[1], sums[1]) << threads << " threads";
    memory[0] = memory[kCount - 1] = memory[kCount] = 7;
    cpu->zero(memory + 1, (kCount - 1) * sizeof(float));
    EXPECT_EQ(memory[0], 7);
    EXPECT_EQ(memory[kCount], 7);
    for (std::size_t i = 1; i < kCount; ++i) ASSERT_EQ(memory[i], 0) << i;
  }
}

}  // namespace
}  // namespace pgtrain::engine::backend
