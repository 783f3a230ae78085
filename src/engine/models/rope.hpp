// How llama-type models turn queries and keys by their positions: the kinds of scaling that transformers knows by these names, with the
// same numbers for the same configuration.
//
// Called by both readers of configurations, by the graph and the decoder (through rope_table), and by exports.
#pragma once

#include <cstdint>
#include <vector>

namespace pgtrain::engine::models {

enum class RopeKind { None, Default, Linear, Dynamic, Yarn, Llama3 };
const char* rope_kind_name(RopeKind kind);  // as config.json has it

struct Rope {
  RopeKind kind = RopeKind::Default;
  double base = 10000;
  double factor = 1;                                           // but for default
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  int original_context = 0;                                    // dynamic, yarn and llama3: what the model saw before it was stretched
  double fast_turns = 32, slow_turns = 1;                      // yarn: pairs that turn more often in that context are left as they are, less often divided
  bool rounds_turns = true;                                    // yarn: the pairs between whom it blends are whole ones
  double attention_factor = 1;                                 // yarn: what turned queries and keys are multiplied by
};

// Radians that each pair of a head's elements turns per position, computed in float and in the order of transformers. A dynamic rotation
// depends on how many positions there are; up to its original context it is the default one.
std::vector<float> rope_frequencies(const Rope& rope, int head_width, std::int64_t positions);
// yarn's, where a configuration leaves it open.
double yarn_attention_factor(double factor, double weight = 1);

}  // namespace pgtrain::engine::models
