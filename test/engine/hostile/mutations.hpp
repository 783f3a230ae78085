// Damage to valid files as storage, networks and ill-will do it, and what every reader must keep to: it ends in time, it asks for
// no memory that the file does not pay for, and what it refuses it refuses by core::Error with a code that users can act on.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>

#include "engine/core/error.hpp"
#include "protocol/allocation_watch.hpp"

namespace pgtrain::engine {

// Changes fall into the first `front` bytes half of the time: headers are small beside their data.
inline std::string mutated(std::mt19937& random, std::string file, std::size_t front) {
  static constexpr const char* kNumbers[] = {"0", "-1", "4294967296", "9223372036854775807", "18446744073709551615", "1e308", "99999999999999999999"};
  for (unsigned changes = 1 + random() % 3; changes > 0 && !file.empty(); --changes) {
    const std::size_t reach = random() % 2 == 0 ? std::min(front, file.size()) : file.size(), at = random() % reach;
    switch (random() % 8) {
      case 0: file[at] = static_cast<char>(random()); break;
      case 1: file[at] ^= static_cast<char>(1 << random() % 8); break;
      case 2: file.erase(at, 1 + random() % 16); break;
      case 3: file.insert(at, file.substr(random() % file.size(), random() % 64)); break;
      case 4: file.resize(at); break;
      case 5: file.insert(at, 1, "0123456789[]{},:\"\\"[random() % 18]); break;
      case 6: {  // a huge or senseless number as text
        const std::size_t digit = file.find_first_of("0123456789", at);
        if (digit == std::string::npos) break;
        const std::size_t end = std::min(file.find_first_not_of("0123456789", digit), file.size());
        file.replace(digit, end - digit, kNumbers[random() % std::size(kNumbers)]);
        break;
      }
      default: {  // and as bytes
        const std::size_t bytes = std::min<std::size_t>(random() % 2 == 0 ? 4 : 8, file.size() - at);
        std::memset(file.data() + at, random() % 2 == 0 ? 0xFF : 0x7F, bytes);
      }
    }
  }
  return file;
}

struct Outcome {
  int accepted = 0, refused = 0;
};

// Runs `read` and holds it to the promises above; `most_bytes` is the largest single piece of memory it may ask for.
inline void expect_well_behaved(const std::string& what, const std::set<std::string>& codes, std::size_t most_bytes, Outcome& outcome, const std::function<void()>& read) {
  protocol::test::largest_allocation = 0;
  const auto began = std::chrono::steady_clock::now();
  try {
    read();
    ++outcome.accepted;
  } catch (const core::Error& error) {
    ++outcome.refused;
    EXPECT_EQ(codes.count(error.code), 1u) << what << ": " << error.code << ": " << error.message;
    EXPECT_FALSE(error.message.empty()) << what;
  } catch (const std::exception& error) {
    ADD_FAILURE() << what << " let out " << error.what();
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  EXPECT_LT(took.count(), 20) << what << " took too long";
  EXPECT_LE(protocol::test::largest_allocation.load(), most_bytes) << what;
}

}  // namespace pgtrain::engine
