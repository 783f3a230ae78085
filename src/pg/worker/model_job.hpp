// What a job needs to use a model: the files that a run has made or one of its checkpoints, its configuration, and the base that it
// started from; or that base by itself; or an imported model, an adapter with its base. Called by the
// functions of sessions that generate, evaluate, import and export.
#pragma once

#include <cstdint>
#include <optional>

#include "pg/compat.hpp"

#include "pg/call/spi.hpp"
#include "pg/worker/base_files.hpp"
#include "pg/worker/job_folder.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::worker {

// One of run and model, as pgtrain_private.choose_model says it.
struct ModelChoice {
  std::optional<int64_t> run_id = {};         // a run that has succeeded
  std::optional<int64_t> model_id = {};       // an imported model
  std::optional<int64_t> checkpoint_id = {};  // of the run, in place of what it has made
  bool is_base = false;                       // what the run started from, read with the run's configuration, or what the adapter lies over
  bool needs_base = false;                    // beside whole weights too
};

// The base model of an adapter into the folder `base`. Throws NotFound as add_model does.
void add_base(const call::Spi &spi, const Base &base, const JobFolder &folder, protocol::down::Job &job);

// From choose_model's answer as JSON.
ModelChoice read_choice(const call::Spi &spi, const char *choice);

// Puts the files into the job's folder and names them in the job. Throws NotFound where there are none, Unavailable where their bytes
// are not on this server.
void add_model(const call::Spi &spi, const ModelChoice &choice, const JobFolder &folder, protocol::down::Job &job);

}  // namespace pgtrain::pg::worker
