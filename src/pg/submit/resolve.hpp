// What a run to be would freeze and need: rights, configuration, data and memory plan. Writes nothing but the cache of plans.
// Called by functions/submit.cpp for submit_run and plan_run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pg/compat.hpp"

extern "C" {
#include "utils/jsonb.h"
}

#include "pg/call/spi.hpp"
#include "pg/submit/frozen_config.hpp"

namespace pgtrain::pg::submit {

// The datasets as the caller gave them.
struct DatasetList {
  std::vector<std::optional<int64_t>> ids;
  int dimensions = 1;
};

// The datasets as a run freezes them: their first `sample_counts` samples never change. The one to validate on is the last.
struct FrozenData {
  std::vector<int64_t> ids, sample_counts, text_bytes;
  std::vector<std::string> content_hashes;  // in hexadecimal
  std::string hash;                         // over all that are trained on, 32 raw bytes
  int64_t bytes = 0;                        // of text, over all that are trained on
  std::vector<std::string> kinds;           // formats of samples that are trained on
  std::optional<int64_t> validation_id;
  std::string validation_hash;              // 32 raw bytes
};

// The model that a run starts from, as it is now.
struct FrozenBase {
  int64_t model_id = 0;
  std::string content_hash;  // 32 raw bytes
  std::string architecture;  // its configuration as JSON
  std::string title;
  int64_t context_length = 0;  // 0: not known
  std::optional<std::string> template_problem;  // why conversations cannot be put to it
};

struct Plan {
  std::string device_kind;  // kind of the best device there is
  std::optional<int64_t> device_id;  // that device; none where none is known yet
  int64_t size_class = 0;   // bytes of data it was computed for
  int64_t peak_bytes = 0;   // device memory needed
  int64_t parameters = 0;
  int64_t largest_device_bytes = 0;
  std::string made;         // JSON of a plan made just now, empty for one that was kept
};

struct ResolvedRun {
  int64_t owner_id = 0;
  std::optional<std::string> training_name;
  FrozenConfig config;        // its hash covers the content of the base model too
  std::optional<FrozenBase> base;
  FrozenData data;
  Plan plan;
  int64_t steps = 0, tokens = 0;  // planned, from the bytes of the data where epochs count
};

// `config` may be null for none. Throws NotAuthenticated, PermissionDenied, InvalidParameter, NotFound or InvalidData.
ResolvedRun resolve_run(const call::Spi &spi, std::optional<int64_t> training_id, const DatasetList &datasets, std::optional<int64_t> validation_id, Jsonb *config);

// Throws InvalidData with the numbers when no device has the memory.
void require_fit(const Plan &plan);

}  // namespace pgtrain::pg::submit
