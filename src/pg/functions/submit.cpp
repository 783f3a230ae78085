// submit_run and plan_run. A submit is what a user waits for and what programs do in thousands, so it is a few statements here
// rather than many in SQL: what the server spends on starting each would be most of the time.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
}

#include <optional>
#include <string>
#include <string_view>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/submit/resolve.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/queue_events.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using call::Type;
using submit::ResolvedRun;

call::Statement key_statement{"select r.id from pgtrain.training_runs r where r.owner_id = $1 and r.idempotency_key = $2",
                              {Type::Int8, Type::Text}};

call::Statement image_group_statement{"select g.owner_id from pgtrain.image_groups g where g.id = $1", {Type::Int8}};

// All rows of a new run. A counter is moved as hold_usage does it, which is called afterwards for one that is missing, due to
// start again or full. The two one after the other, jobs first as everywhere: one update of both would lock them in any
// order, and two sessions would meet in a deadlock. No row of `run`: another session has committed the same key.
call::Statement enter_statement{
    "with new as materialized (select pg_catalog.nextval('pgtrain.training_runs_id_seq') as id),"
    " run as ("
    "  insert into pgtrain.training_runs (id, owner_id, training_id, image_group_id, name, description, config, config_hash, data_hash,"
    "         data_bytes, planned_steps, planned_tokens, peak_bytes_planned, parameters, idempotency_key, priority, max_attempts,"
    "         available_at, publish_as, metadata, base_model_id, base_model_hash, validation_hash)"
    "  overriding system value"
    "  select id, $1, $2, $3, coalesce($4, 'run ' || id), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, coalesce($19, '{}'), $24, $25, $27"
    "    from new on conflict (owner_id, idempotency_key) where idempotency_key is not null do nothing returning id),"
    " job as ("
    "  update pgtrain.user_usage_limits l set used_value = l.used_value + 1, held_value = l.held_value + 1, updated_at = pg_catalog.now() from run"
    "   where l.user_id = $1 and l.resource_type = 'training_jobs' and (l.reset_at is null or l.reset_at > pg_catalog.now())"
    "     and case when l.limit_value = -1 then 9223372036854775807 else l.limit_value end - l.used_value >= 1"
    "  returning l.resource_type, 1::bigint as amount, l.warned_at is null and l.limit_value > 0 and l.used_value >= l.limit_value * l.warn_share as is_near),"
    " tokens as ("
    "  update pgtrain.user_usage_limits l set used_value = l.used_value + $11, held_value = l.held_value + $11, updated_at = pg_catalog.now() from job"
    "   where l.user_id = $1 and l.resource_type = 'training_tokens' and (l.reset_at is null or l.reset_at > pg_catalog.now())"
    "     and case when l.limit_value = -1 then 9223372036854775807 else l.limit_value end - l.used_value >= $11"
    "  returning l.resource_type, $11 as amount, l.warned_at is null and l.limit_value > 0 and l.used_value >= l.limit_value * l.warn_share as is_near),"
    " booked as ("
    "  insert into pgtrain.usage_entries (user_id, resource_type, kind, amount, run_id)"
    "  select $1, h.resource_type, 'hold', h.amount, run.id from run, (select * from job union all select * from tokens) h),"
    " data as ("
    "  insert into pgtrain.training_run_datasets (training_run_id, owner_id, dataset_id, content_hash, sample_count, text_bytes, is_validation)"
    "  select run.id, $1, d.id, pg_catalog.decode(d.hash, 'hex'), d.samples, d.bytes, d.id is not distinct from $26"
    "    from run, rows from (pg_catalog.unnest($20::bigint[]), pg_catalog.unnest($21::text[]), pg_catalog.unnest($22::bigint[]),"
    "                         pg_catalog.unnest($23::bigint[])) d (id, hash, samples, bytes)),"
    " queued as ("
    "  insert into pgtrain_private.run_queue (run_id, owner_id, rank, memory_bytes, available_at) select run.id, $1, -$15, $12, $17 from run),"
    " told as (insert into pgtrain.training_statuses (training_run_id, owner_id, status) select run.id, $1, 'queued' from run),"
    " audited as ("
    "  insert into pgtrain.audit_log (title, actor_id, api_key_id, host, ip, subject)"
    "  select 'submit_run', $1, pgtrain.current_api_key_id(), pg_catalog.host(pg_catalog.inet_client_addr()), pg_catalog.inet_client_addr(),"
    "         pg_catalog.jsonb_build_object('run_id', run.id) from run)"
    " select run.id, exists (select from job), exists (select from tokens), exists (select from job where is_near),"
    "        exists (select from tokens where is_near),"
    "        exists (select from pgtrain.user_usage_limits l where l.user_id = $1 and l.resource_type = 'storage_bytes'"
    "                   and l.limit_value >= 0 and l.used_value >= l.limit_value)"
    "   from run",
    {Type::Int8, Type::Int8, Type::Int8, Type::Text, Type::Text, Type::Jsonb, Type::Bytea, Type::Bytea, Type::Int8, Type::Int8,
     Type::Int8, Type::Int8, Type::Int8, Type::Text, Type::Int4, Type::Int4, Type::TimestampTz, Type::Text, Type::Jsonb,
     Type::Int8Array, Type::TextArray, Type::Int8Array, Type::Int8Array, Type::Int8, Type::Bytea, Type::Int8, Type::Bytea}};

call::Statement hold_statement{"select pgtrain_private.hold_usage($1, $2, $3, $4)", {Type::Int8, Type::Text, Type::Int8, Type::Int8}};

call::Statement warn_statement{"select pgtrain_private.warn_usage($1, $2::pgtrain.resource_type)", {Type::Int8, Type::Text}};

// Where there is no room for what a run will store, it is not begun.
call::Statement full_statement{
    "select pgtrain_private.refuse_usage(l, 1) from pgtrain.user_usage_limits l where l.user_id = $1 and l.resource_type = 'storage_bytes'",
    {Type::Int8}};

call::Statement describe_statement{
    "select p.plan || pg_catalog.jsonb_build_object('device_kind', $2, 'fits', (p.plan->>'peak_bytes')::bigint <= $4, 'largest_device_bytes', $4,"
    " 'steps', $5, 'planned_tokens', $6, 'data_bytes', $7, 'config', $8,"
    " 'datasets', f.training, 'validation_dataset', f.validation,"
    " 'base_model', (select pg_catalog.jsonb_build_object('id', m.id, 'name', m.name, 'hash', pg_catalog.encode($15, 'hex')) from pgtrain.models m where m.id = $14))"
    " || pgtrain_private.estimate_run($16, $8, $15, $17, (p.plan->>'parameters')::bigint, $5, $6, $7, coalesce((f.validation->>'bytes')::bigint, 0), $18, (p.plan->>'peak_bytes')::bigint <= $4)"
    " from (select coalesce($13, (select c.plan from pgtrain_private.plan_cache c"
    "                              where c.config_hash = $1 and c.device_kind = $2::pgtrain.device_kind and c.data_bytes = $3)) as plan) p,"
    "      (select pg_catalog.jsonb_agg(x.frozen order by x.n) filter (where not x.is_validation) as training,"
    "              pg_catalog.jsonb_agg(x.frozen) filter (where x.is_validation) -> 0 as validation"
    "         from (select pg_catalog.jsonb_build_object('id', d.id, 'hash', d.hash, 'samples', d.samples, 'bytes', d.bytes) as frozen, d.n,"
    "                      d.id is not distinct from $19 as is_validation"
    "                 from rows from (pg_catalog.unnest($9::bigint[]), pg_catalog.unnest($10::text[]), pg_catalog.unnest($11::bigint[]),"
    "                                 pg_catalog.unnest($12::bigint[])) with ordinality d (id, hash, samples, bytes, n)) x) f",
    {Type::Bytea, Type::Text, Type::Int8, Type::Int8, Type::Int8, Type::Int8, Type::Int8, Type::Jsonb, Type::Int8Array, Type::TextArray,
     Type::Int8Array, Type::Int8Array, Type::Jsonb, Type::Int8, Type::Bytea, Type::Int8, Type::Text, Type::Int8, Type::Int8}};

// ---------------------------------------------------------------- arguments

std::optional<int64_t> optional_int64(FunctionCallInfo fcinfo, int index) {
  return PG_ARGISNULL(index) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(index));
}

std::optional<std::string_view> optional_text(FunctionCallInfo fcinfo, int index) {
  return PG_ARGISNULL(index) ? std::nullopt : std::optional(boundary::text_argument(fcinfo, index));
}

Jsonb *optional_jsonb(FunctionCallInfo fcinfo, int index) { return PG_ARGISNULL(index) ? nullptr : PG_GETARG_JSONB_P(index); }

// The array, or else the single one.
submit::DatasetList dataset_list(FunctionCallInfo fcinfo, int array_index, int single_index) {
  submit::DatasetList list;
  if (PG_ARGISNULL(array_index)) {
    list.ids.push_back(optional_int64(fcinfo, single_index));
    return list;
  }
  Datum *values = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  list.dimensions = call::guarded([&] {
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(array_index);
    deconstruct_array(array, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values, &nulls, &count);
    return ARR_NDIM(array);
  });
  for (int i = 0; i < count; ++i) list.ids.push_back(nulls[i] ? std::nullopt : std::optional<int64_t>(DatumGetInt64(values[i])));
  return list;
}

void require_writable(const char *what) {
  PreventCommandDuringRecovery(what);
  PreventCommandIfReadOnly(what);
}

void check_length(std::optional<std::string_view> text, const char *name) {
  if (!text) return;
  const int length = call::guarded([&text] { return pg_mbstrlen_with_len(text->data(), static_cast<int>(text->size())); });
  if (length < 1 || length > 200)
    throw Error(code::InvalidParameter, std::string(name) + " has " + std::to_string(length) + " characters", "Names and keys have 1 to 200.");
}

// What submit_run was called with, beside what a plan needs too. Views of the server's memory.
struct Options {
  std::optional<std::string_view> name, idempotency_key, publish_as, description;
  std::optional<int64_t> priority, image_group_id;
  std::optional<TimestampTz> start_at;
  int64_t max_attempts = 0;
  Jsonb *metadata = nullptr;
};

// The order of the arguments of pgtrain.submit_run.
enum SubmitArgument { kTraining, kDataset, kConfig, kName, kPriority, kKey, kDatasets, kStartAt, kMaxAttempts, kPublishAs, kDescription, kImageGroup, kMetadata, kValidation };

Options read_options(FunctionCallInfo fcinfo) {
  Options options;
  options.name = optional_text(fcinfo, kName);
  options.idempotency_key = optional_text(fcinfo, kKey);
  options.publish_as = optional_text(fcinfo, kPublishAs);
  options.description = optional_text(fcinfo, kDescription);
  if (!PG_ARGISNULL(kPriority)) options.priority = PG_GETARG_INT32(kPriority);
  options.image_group_id = optional_int64(fcinfo, kImageGroup);
  // A time that has passed already is no reason to wait.
  if (!PG_ARGISNULL(kStartAt) && PG_GETARG_TIMESTAMPTZ(kStartAt) > GetCurrentTimestamp()) options.start_at = PG_GETARG_TIMESTAMPTZ(kStartAt);
  options.max_attempts = PG_ARGISNULL(kMaxAttempts) ? worker::worker_settings.max_attempts : PG_GETARG_INT32(kMaxAttempts);
  options.metadata = optional_jsonb(fcinfo, kMetadata);
  return options;
}

void check_options(const call::Spi &spi, const Options &options) {
  if (!options.priority || *options.priority < -30 || *options.priority > 30)
    throw Error(code::InvalidParameter, "priority " + (options.priority ? std::to_string(*options.priority) : "null") + " is not between -30 and 30");
  if (options.max_attempts < 1 || options.max_attempts > 100)
    throw Error(code::InvalidParameter, "max_attempts " + std::to_string(options.max_attempts) + " is not between 1 and 100");
  if (options.start_at && TIMESTAMP_NOT_FINITE(*options.start_at))
    throw Error(code::InvalidParameter, "start_at is infinity", "Such a run would never start.", "Leave start_at out, or give a time.");
  check_length(options.name, "name");
  check_length(options.publish_as, "publish_as");
  check_length(options.idempotency_key, "idempotency_key");
  if (options.metadata != nullptr && !JB_ROOT_IS_OBJECT(options.metadata))
    throw Error(code::InvalidParameter, "metadata must be a JSON object, not " + submit::jsonb_kind(options.metadata));
  if (!options.image_group_id) return;
  // A reference to somebody else's row would tell that it exists, and tie a run to it.
  const call::Rows group = image_group_statement.execute(spi, {*options.image_group_id});
  if (group.empty() || !rbac::may_access(group[0].int64(0), "read", "training"))
    throw Error(code::NotFound, "image group " + std::to_string(*options.image_group_id) + " does not exist or you may not read it");
}

// ---------------------------------------------------------------- the submit

std::optional<int64_t> run_of_key(const call::Spi &spi, int64_t owner_id, std::string_view key) {
  const call::Rows rows = key_statement.execute(spi, {owner_id, key});
  return rows.empty() ? std::nullopt : std::optional(rows[0].int64(0));
}

// Writes the run, holds its usage and puts it into the queue.
int64_t enter_run(const call::Spi &spi, const ResolvedRun &run, std::optional<int64_t> training_id, const Options &options) {
  const char *metadata = options.metadata == nullptr ? nullptr : call::guarded([&] {
    return JsonbToCString(nullptr, &options.metadata->root, VARSIZE(options.metadata));
  });
  const std::optional<std::string_view> name = options.name || !run.training_name ? options.name : std::string_view(*run.training_name);
  const std::optional<int64_t> start_at = options.start_at;
  const call::Rows rows = enter_statement.execute(
      spi, {run.owner_id, training_id, options.image_group_id, name, options.description, run.config.json, run.config.hash, run.data.hash,
            run.data.bytes, run.steps, run.tokens, run.plan.peak_bytes, run.plan.parameters, options.idempotency_key,
            *options.priority, options.max_attempts, start_at, options.publish_as,
            metadata == nullptr ? call::Parameter(nullptr) : call::Parameter(metadata), std::span<const int64_t>(run.data.ids),
            std::span<const std::string>(run.data.content_hashes), std::span<const int64_t>(run.data.sample_counts),
            std::span<const int64_t>(run.data.text_bytes), run.base ? call::Parameter(run.base->model_id) : call::Parameter(nullptr),
            run.base ? call::Parameter(run.base->content_hash) : call::Parameter(nullptr), run.data.validation_id,
            run.data.validation_id ? call::Parameter(run.data.validation_hash) : call::Parameter(nullptr)});
  if (rows.empty()) {
    const std::optional<int64_t> theirs = run_of_key(spi, run.owner_id, options.idempotency_key.value_or(""));
    if (!theirs) throw Error(code::Internal, "a run was neither written nor there already");
    return *theirs;
  }
  const int64_t id = rows[0].int64(0);
  if (!rows[0].boolean(1)) hold_statement.execute(spi, {run.owner_id, "training_jobs", 1, id});
  if (!rows[0].boolean(2)) hold_statement.execute(spi, {run.owner_id, "training_tokens", run.tokens, id});
  if (rows[0].boolean(3)) warn_statement.execute(spi, {run.owner_id, "training_jobs"});
  if (rows[0].boolean(4)) warn_statement.execute(spi, {run.owner_id, "training_tokens"});
  if (rows[0].boolean(5)) full_statement.execute(spi, {run.owner_id});
  if (!options.start_at) worker::note_queued(run.owner_id, static_cast<int>(-*options.priority), false);
  return id;
}

}  // namespace

PGTRAIN_FUNCTION(pgtrain_submit_run) {
  require_writable("submit_run");
  const Options options = read_options(fcinfo);
  Jsonb *config = optional_jsonb(fcinfo, kConfig);
  const std::optional<int64_t> training_id = optional_int64(fcinfo, kTraining);
  const call::Spi spi;
  if (options.idempotency_key)
    if (const std::optional<int64_t> made = run_of_key(spi, rbac::require_user(), *options.idempotency_key)) PG_RETURN_INT64(*made);
  check_options(spi, options);
  const ResolvedRun run = submit::resolve_run(spi, training_id, dataset_list(fcinfo, kDatasets, kDataset), optional_int64(fcinfo, kValidation), config);
  submit::require_fit(run.plan);
  PG_RETURN_INT64(enter_run(spi, run, training_id, options));
}

// plan_run(training_id, dataset_id, config, dataset_ids, validation_dataset_id) returns jsonb
PGTRAIN_FUNCTION(pgtrain_plan_run) {
  require_writable("plan_run");
  Jsonb *config = optional_jsonb(fcinfo, 2);
  std::string description;
  {
    const call::Spi spi;
    const ResolvedRun run = submit::resolve_run(spi, optional_int64(fcinfo, 0), dataset_list(fcinfo, 3, 1), optional_int64(fcinfo, 4), config);
    const call::Rows rows = describe_statement.execute(
        spi, {run.config.hash, run.plan.device_kind, run.plan.size_class, run.plan.largest_device_bytes, run.steps, run.tokens,
              run.data.bytes, run.config.json, std::span<const int64_t>(run.data.ids), std::span<const std::string>(run.data.content_hashes),
              std::span<const int64_t>(run.data.sample_counts), std::span<const int64_t>(run.data.text_bytes),
              run.plan.made.empty() ? call::Parameter(nullptr) : call::Parameter(run.plan.made),
              run.base ? call::Parameter(run.base->model_id) : call::Parameter(nullptr),
              run.base ? call::Parameter(run.base->content_hash) : call::Parameter(nullptr), run.owner_id,
              run.base ? call::Parameter(run.base->architecture) : call::Parameter(nullptr), run.plan.device_id, run.data.validation_id});
    description = rows[0].text(0);
  }
  return call::guarded([&description] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(description.c_str())); });
}

// check_run_config(config) returns void
PGTRAIN_FUNCTION(pgtrain_check_run_config) {
  submit::freeze_config(PG_GETARG_JSONB_P(0), {0, std::nullopt});
  PG_RETURN_VOID();
}
