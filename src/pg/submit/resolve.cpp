// See resolve.hpp. Four statements in the common case (training, base model, datasets, plan), because a user waits for a submit.
#include "pg/submit/resolve.hpp"

extern "C" {
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
}

#include <algorithm>
#include <cstdio>

#include "pg/call/guard.hpp"
#include "pg/crypto/digest.hpp"
#include "pg/errors.hpp"
#include "pg/rbac/rbac.hpp"

namespace pgtrain::pg::submit {
namespace {

using call::Type;

// The base model of a training is the default of its runs; its id says more than its name.
call::Statement training_statement{
    "select t.name, pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('base_model', coalesce(t.base_model ->> 'id', t.base_model ->> 'name'))) || t.config || coalesce($4, '{}')"
    "  from pgtrain.trainings t where t.id = $1 and (t.owner_id = $2 or $3)",
    {Type::Int8, Type::Int8, Type::Bool, Type::Jsonb}};

call::Statement base_statement{"select b.model_id, b.content_hash, b.architecture::text, b.title, coalesce(b.context_length, 0), b.template_problem from pgtrain_private.find_base($1) b", {Type::Text}};

// The first sample of a dataset that is written with a chat template.
call::Statement conversation_statement{
    "select s.ordinal from pgtrain.dataset_samples s where s.dataset_id = $1"
    "   and (s.content ? 'messages' or pg_catalog.jsonb_typeof(s.content -> 'completion') = 'array' or pg_catalog.jsonb_typeof(s.content -> 'chosen') = 'array')"
    " order by s.ordinal limit 1",
    {Type::Int8}};

call::Statement datasets_statement{
    "select d.owner_id, d.is_public, d.name, d.content_hash, d.sample_count, d.size_bytes, d.longest_bytes, d.kinds"
    " from pgtrain.datasets d where d.id = $1",
    {Type::Int8}};

// The cached plan of a configuration for the best device there is, and the memory of the largest.
call::Statement plan_statement{
    "select best.kind, best.selector, best.largest, p.peak_bytes, p.parameters, p.device_memory_bytes, best.id"
    " from (select d.id, coalesce(d.kind, 'cpu') as kind, coalesce(d.selector, 'cpu') as selector,"
    "              (select max(m.memory_bytes) from pgtrain.devices m where m.status <> 'gone') as largest"
    "         from (select 1) one left join (select id, kind, selector from pgtrain.devices where status <> 'gone'"
    "                                         order by kind desc, memory_bytes desc limit 1) d on true) best"
    " left join pgtrain_private.plan_cache p on p.config_hash = $1 and p.device_kind = best.kind and p.data_bytes = $2",
    {Type::Bytea, Type::Int8}};

call::Statement make_plan_statement{
    "select p.peak_bytes, p.parameters, p.device_memory_bytes, p.plan::text"
    " from pgtrain_private.make_plan($1, $2, $3::pgtrain.device_kind, $4, $5, $6) p",
    {Type::Jsonb, Type::Bytea, Type::Text, Type::Text, Type::Int8, Type::Text}};

std::string hex(std::string_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    text.push_back(digits[static_cast<unsigned char>(c) >> 4]);
    text.push_back(digits[static_cast<unsigned char>(c) & 15]);
  }
  return text;
}

std::string pretty(int64_t bytes) {
  const char *pretty_text = call::guarded([bytes] { return text_to_cstring(DatumGetTextPP(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes)))); });
  return pretty_text;
}

Jsonb *jsonb_of(const std::string &text) {
  return call::guarded([&text] { return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text.c_str()))); });
}

const char *text_of(Jsonb *value) {
  return value == nullptr ? nullptr : call::guarded([value] { return JsonbToCString(nullptr, &value->root, VARSIZE(value)); });
}

// With a training, its name and the configuration over its own.
Jsonb *config_over_training(const call::Spi &spi, ResolvedRun &run, std::optional<int64_t> training_id, bool sees_all, Jsonb *config) {
  if (config != nullptr && !JB_ROOT_IS_OBJECT(config))
    throw Error(code::InvalidParameter, "config must be a JSON object, not " + jsonb_kind(config));
  if (!training_id) return config != nullptr ? config : jsonb_of("{}");
  const char *given = text_of(config);
  const call::Rows rows =
      training_statement.execute(spi, {*training_id, run.owner_id, sees_all, given == nullptr ? call::Parameter(nullptr) : call::Parameter(given)});
  if (rows.empty()) throw Error(code::NotFound, "training " + std::to_string(*training_id) + " does not exist or is not yours");
  run.training_name = rows[0].text(0);
  return jsonb_of(rows[0].text(1));
}

std::vector<int64_t> check_list(const DatasetList &list) {
  const bool is_given = std::any_of(list.ids.begin(), list.ids.end(), [](const auto &id) { return id.has_value(); }) || list.ids.size() > 1;
  if (!is_given)
    throw Error(code::NullNotAllowed, "a run needs a dataset", {}, "Give dataset_id; pgtrain.create_dataset and pgtrain.dataset_from_query make one.");
  if (list.dimensions != 1) throw Error(code::InvalidParameter, "dataset_ids must be a plain array, not one of arrays");
  std::vector<int64_t> ids;
  for (const std::optional<int64_t> &id : list.ids) {
    if (!id) throw Error(code::NullNotAllowed, "dataset_ids may not contain null");
    if (std::find(ids.begin(), ids.end(), *id) != ids.end())
      throw Error(code::InvalidParameter, "dataset " + std::to_string(*id) + " is given twice");
    ids.push_back(*id);
  }
  return ids;
}

bool may_read(const call::Row &dataset) {
  const bool is_public = dataset.is_null(0) || dataset.boolean(1);
  return is_public || rbac::may_access(dataset.int64(0), "read", "datasets");
}

// `kinds` as the server writes an array of plain labels.
void check_kinds(const FrozenConfig &config, const std::string &title, const std::string &kinds) {
  const auto has = [&](std::string_view kind) { return kinds.find(kind) != std::string::npos; };
  const bool is_dpo = config.config.text("objective") == "dpo";
  const char *hint = nullptr;
  if (is_dpo && kinds != "{preference}") hint = "Objective dpo learns from samples with chosen and rejected; for others set objective to supervised.";
  else if (!is_dpo && has("preference")) hint = "Set objective to dpo, with a base_model, to learn from preferences.";
  else if (!config.config.has_base_model() && has("messages")) hint = "Set base_model: a conversation is written down by the chat template of a model.";
  if (hint != nullptr)
    throw Error(code::InvalidData, "dataset " + title + " has samples that this run cannot learn from", "It has samples of the formats " + kinds + ".", hint);
}

// The labels of an array as the server writes it.
std::vector<std::string> labels_of(const std::string &kinds) {
  std::vector<std::string> labels;
  for (size_t at = 1; at + 1 < kinds.size();) {
    const size_t end = std::min(kinds.find(',', at), kinds.size() - 1);
    labels.push_back(kinds.substr(at, end - at));
    at = end + 1;
  }
  return labels;
}

// What is evaluated on is of the kind that is learned, or the numbers say nothing of the training.
void check_validation_kinds(const FrozenData &data, const std::string &title, const std::string &kinds) {
  for (const std::string &kind : labels_of(kinds)) {
    if (std::find(data.kinds.begin(), data.kinds.end(), kind) != data.kinds.end()) continue;
    std::string trained;
    for (const std::string &known : data.kinds) trained += (trained.empty() ? "" : ", ") + known;
    throw Error(code::InvalidData, "validation dataset " + title + " has samples of the format " + kind + ", which the run does not train on",
                "It trains on samples of the formats: " + trained + ".", "Give a validation dataset of the same format.");
  }
}

// Asked only where it matters, because all samples may have to be looked at.
void require_template(const call::Spi &spi, int64_t dataset_id, const std::string &title, const ResolvedRun &run) {
  if (!run.base || !run.base->template_problem || !run.config.config.text("chat_template").empty()) return;
  const call::Rows found = conversation_statement.execute(spi, {dataset_id});
  if (found.empty()) return;
  throw Error(code::InvalidData, "sample " + std::to_string(found[0].int64(0)) + " of dataset " + title + " is a conversation, and model \"" + run.base->title +
                  "\" has no chat template that can be used", *run.base->template_problem,
              "Give chat_template in the configuration, or samples with prompt and completion as texts.");
}

void freeze_dataset(const call::Spi &spi, int64_t id, bool is_validation, ResolvedRun &run) {
  const FrozenConfig &config = run.config;
  FrozenData &data = run.data;
  const call::Rows rows = datasets_statement.execute(spi, {id});
  if (rows.empty() || !may_read(rows[0]))
    throw Error(code::NotFound, "dataset " + std::to_string(id) + " does not exist or you may not read it");
  const call::Row &dataset = rows[0];
  const std::string title = std::to_string(id) + " (\"" + dataset.text(2) + "\")";
  if (dataset.int64(4) == 0)
    throw Error(code::InvalidData, "dataset " + title + " is empty", {}, "Add samples with pgtrain.append_samples first.");
  if (is_validation) check_validation_kinds(data, title, dataset.text(7));
  else check_kinds(config, title, dataset.text(7));
  require_template(spi, id, title, run);
  if (config.sample_bytes > 0 && dataset.int64(6) > config.sample_bytes)
    throw Error(code::InvalidData, "a sample of dataset " + title + " is longer than the context",
                "The longest has " + std::to_string(dataset.int64(6)) + " bytes, the context " + std::to_string(config.sample_bytes) + " tokens.",
                "Raise context, or set long_samples to split or truncate.");
  // Its JSON is longer still; what the text says already need not wait for a device.
  if (config.config.has_base_model() && dataset.int64(6) > protocol::longest_record_bytes)
    throw Error(code::InvalidData, "a sample of dataset " + title + " is too long for a run with a base model",
                "The longest has " + std::to_string(dataset.int64(6)) + " bytes, at most " + std::to_string(protocol::longest_record_bytes) +
                    " are read: a sample is held in memory whole while it becomes tokens.",
                "Cut it into several samples; together they may be as long as the disk allows.");
  data.ids.push_back(id);
  data.content_hashes.push_back(hex(dataset.text(3)));
  data.sample_counts.push_back(dataset.int64(4));
  data.text_bytes.push_back(dataset.int64(5));
  if (is_validation) {
    data.validation_id = id;
    data.validation_hash = dataset.text(3);
    return;
  }
  const crypto::Digest hash = crypto::sha256(data.hash, dataset.text(3));
  data.hash.assign(reinterpret_cast<const char *>(hash.data()), hash.size());
  data.bytes += dataset.int64(5);
  for (const std::string &kind : labels_of(dataset.text(7)))
    if (std::find(data.kinds.begin(), data.kinds.end(), kind) == data.kinds.end()) data.kinds.push_back(kind);
}

// Plans grow with the data only in steps of two, so that few are computed; a larger step plans for more, never for less.
int64_t size_class_of(int64_t bytes) {
  int64_t size = 65536;
  while (size < bytes) size *= 2;
  return size;
}

// By what it is: the name may stand for another model tomorrow, and then the plan is another one too.
void freeze_base(const call::Spi &spi, ResolvedRun &run, Jsonb *given) {
  const std::string reference = run.config.config.text("base_model");
  if (reference.empty()) return;
  const call::Rows rows = base_statement.execute(spi, {reference});
  FrozenBase base{rows[0].int64(0), rows[0].text(1), rows[0].optional_text(2).value_or("{}"), rows[0].text(3), rows[0].int64(4), rows[0].optional_text(5)};
  // Again with what the model sees, where it matters: its context is the default, or the one that was asked for is refused.
  if (base.context_length > 0 && run.config.config.integer("context") > base.context_length) run.config = freeze_config(given, {base.context_length, run.config.facts.has_validation});
  const crypto::Digest hash = crypto::sha256(run.config.hash, base.content_hash);
  run.config.hash.assign(reinterpret_cast<const char *>(hash.data()), hash.size());
  run.base = std::move(base);
}

Plan find_plan(const call::Spi &spi, const FrozenConfig &config, const std::optional<FrozenBase> &base, int64_t data_bytes) {
  Plan plan;
  plan.size_class = size_class_of(data_bytes);
  const call::Rows cached = plan_statement.execute(spi, {config.hash, plan.size_class});
  const call::Row &best = cached[0];
  const auto take = [&](const call::Row &row, size_t first) {
    plan.peak_bytes = row.int64(first);
    plan.parameters = row.int64(first + 1);
    plan.largest_device_bytes = best.is_null(2) ? row.int64(first + 2) : best.int64(2);
  };
  plan.device_kind = best.text(0);
  plan.device_id = best.optional_int64(6);
  if (best.is_null(3)) {
    const call::Rows made = make_plan_statement.execute(spi, {config.json, config.hash, best.text(0), best.text(1), plan.size_class,
                                                              base ? call::Parameter(base->architecture) : call::Parameter(nullptr)});
    take(made[0], 0);
    plan.made = made[0].text(3);
  } else {
    take(best, 3);
  }
  return plan;
}

}  // namespace

ResolvedRun resolve_run(const call::Spi &spi, std::optional<int64_t> training_id, const DatasetList &datasets, std::optional<int64_t> validation_id, Jsonb *config) {
  ResolvedRun run;
  const rbac::Reach reach = rbac::require_permission("create", "training");
  run.owner_id = rbac::require_user();
  Jsonb *given = config_over_training(spi, run, training_id, reach == rbac::Reach::Any, config);
  run.config = freeze_config(given, {0, validation_id.has_value()});
  freeze_base(spi, run, given);
  for (const int64_t id : check_list(datasets)) freeze_dataset(spi, id, false, run);
  if (validation_id && std::find(run.data.ids.begin(), run.data.ids.end(), *validation_id) != run.data.ids.end())
    throw Error(code::InvalidParameter, "dataset " + std::to_string(*validation_id) + " cannot be trained on and validated on at once", {},
                "Give another validation_dataset_id, or leave it out: held_out_fraction keeps a part of the samples apart.");
  if (validation_id) freeze_dataset(spi, *validation_id, true, run);
  run.steps = run.config.config.planned_steps(static_cast<uint64_t>(run.data.bytes));
  run.tokens = static_cast<int64_t>(run.config.config.planned_tokens(static_cast<uint64_t>(run.data.bytes)));
  run.plan = find_plan(spi, run.config, run.base, run.data.bytes);
  return run;
}

void require_fit(const Plan &plan) {
  if (plan.peak_bytes <= plan.largest_device_bytes) return;
  throw Error(code::InvalidData, "the run does not fit into the memory of any device",
              "It needs " + pretty(plan.peak_bytes) + " (" + std::to_string(plan.peak_bytes) + " bytes) for " + std::to_string(plan.parameters) +
                  " parameters; the largest device has " + pretty(plan.largest_device_bytes) + " (" + std::to_string(plan.largest_device_bytes) + " bytes).",
              "Choose a smaller size, context or batch_size; gradient_accumulation keeps the effective batch. pgtrain.plan_run shows what needs how much.");
}

}  // namespace pgtrain::pg::submit
