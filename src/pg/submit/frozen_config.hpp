// Freezing a configuration: the user's JSON object becomes the full configuration with every default, its hash and what it plans.
#pragma once

#include <cstdint>
#include <string>

#include "pg/compat.hpp"

extern "C" {
#include "utils/jsonb.h"
}

#include "protocol/run_config.hpp"

namespace pgtrain::pg::submit {

struct FrozenConfig {
  std::string given;         // the bytes of the jsonb it was made of
  std::string json;          // the frozen configuration as JSON text
  std::string hash;          // SHA-256 of its canonical text, 32 raw bytes
  protocol::RunConfig config;
  int64_t sample_bytes = 0;  // samples may have at most so many bytes, 0 = any: longer ones are split or cut
  protocol::RunFacts facts;  // what it was frozen with
};

// Throws InvalidData naming the key and what to do. The result lives until the next call: programs submit the same
// configuration again and again.
const FrozenConfig &freeze_config(Jsonb *object, const protocol::RunFacts &facts = {});

// The name of what a jsonb holds: object, array, string ...
std::string jsonb_kind(Jsonb *value);

}  // namespace pgtrain::pg::submit
