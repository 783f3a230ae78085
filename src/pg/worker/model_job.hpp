// What a job needs to use a model: the files that a run has made, its configuration, and the base that it started from; or an imported
// model alone. Called by the functions of sessions that generate and evaluate.
#pragma once

#include <cstdint>
#include <optional>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"
#include "pg/worker/job_folder.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// One of both.
struct ModelChoice {
  std::optional<int64_t> run_id;    // a run that has succeeded
  std::optional<int64_t> model_id;  // an imported model
};

// Puts the files into the job's folder and names them in the job. Throws NotFound where there are none, Unavailable where their bytes
// are not on this server.
void add_model(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job);

}  // namespace pgtrain::pg::worker
