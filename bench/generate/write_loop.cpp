// Tokens a second of our generation, greedy, the prompt not counted: write_loop FOLDER fp32|bf16 THREADS TOKENS. Prints one figure, then
// the text. Called by bench/generate.sh.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "engine/backend/devices.hpp"
#include "engine/core/error.hpp"
#include "engine/train/generation.hpp"

int main(int argc, char** argv) {
  using namespace pgtrain::engine;
  if (argc != 5) return 2;
  try {
    const auto device = backend::open("cpu", {.threads = std::atoi(argv[3])});
    train::GenerateOptions options;
    options.temperature = 0, options.precision = argv[2], options.max_tokens = std::atoi(argv[4]);
    std::chrono::steady_clock::time_point first, last;
    int tokens = 0, before = 0;
    const auto results = train::generate({"", argv[1]}, {"The capital of France is"}, options, *device, {}, [&](std::size_t, const std::string&, const train::GenerateResult& so_far) {
      last = std::chrono::steady_clock::now();
      if (tokens == 0) first = last, before = so_far.tokens;
      tokens = so_far.tokens;
    });
    std::printf("%.1f\n%s\n", (tokens - before) / std::chrono::duration<double>(last - first).count(), results[0].text.c_str());
  } catch (const core::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.code.c_str(), error.message.c_str());
    return 1;
  }
  return 0;
}
