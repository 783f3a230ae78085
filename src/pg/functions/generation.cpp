// Text written by a model, a piece at a time: the trainer is a child of this backend, on the CPU, and each call for the next row waits
// for its next piece. It ends with the query, also when not all rows were asked for. What is asked for was checked and put together
// by pgtrain_private.generation_request. Called by generate, generate_many and generate_stream.
#include "pg/compat.hpp"

extern "C" {
#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
}

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/model_job.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement options_statement{
    "select ($1->>'is_chat')::boolean, ($1->>'max_tokens')::bigint, ($1->>'temperature')::float8, ($1->>'top_k')::bigint, ($1->>'top_p')::float8,"
    " ($1->>'min_p')::float8, ($1->>'repetition_penalty')::float8, ($1->>'seed')::bigint",
    {Type::Jsonb}};
call::Statement prompts_statement{"select p from pg_catalog.jsonb_array_elements_text($1->'prompts') p", {Type::Jsonb}};
call::Statement stop_statement{"select s from pg_catalog.jsonb_array_elements_text($1->'stop') s", {Type::Jsonb}};

// The folder goes after the trainer that works in it.
struct Stream {
  worker::JobFolder folder{MyDatabaseId, worker::session_folder_name()};
  std::optional<worker::Conversation> conversation;
  bool has_written = false;
};

std::unique_ptr<Stream> begin(const char *request) {
  auto stream = std::make_unique<Stream>();
  down::Job job = worker::session_job(JobKind::Generate, "cpu");
  job.threads = static_cast<uint32_t>(worker::worker_settings.trainer_threads);
  {
    const call::Spi spi;
    const call::Rows rows = options_statement.execute(spi, {request});
    const call::Row &row = rows[0];
    job.generate.kind = row.boolean(0) ? PromptKind::Messages : PromptKind::Text;
    job.generate.max_tokens = static_cast<uint32_t>(row.int64(1));
    job.generate.temperature = row.float64(2);
    job.generate.top_k = static_cast<uint32_t>(row.int64(3));
    job.generate.top_p = row.float64(4);
    job.generate.min_p = row.float64(5);
    job.generate.repetition_penalty = row.float64(6);
    job.generate.seed = static_cast<uint64_t>(row.int64(7));
    for (const call::Row &prompt : prompts_statement.execute(spi, {request})) job.generate.prompts.push_back(prompt.text(0));
    for (const call::Row &stop : stop_statement.execute(spi, {request})) job.generate.stop.push_back(stop.text(0));
    worker::add_model(spi, worker::read_choice(spi, request), stream->folder, job);
  }
  stream->conversation.emplace("pgtrain trainer of generate", stream->folder.path(), job);
  return stream;
}

void end_stream(void *stream) { delete static_cast<Stream *>(stream); }

// Server world. `stream` is owned by the query's memory from here.
void keep(FuncCallContext *context, Stream *stream) {
  auto *callback = static_cast<MemoryContextCallback *>(MemoryContextAlloc(context->multi_call_memory_ctx, sizeof(MemoryContextCallback)));
  callback->func = end_stream;
  callback->arg = stream;
  MemoryContextRegisterResetCallback(context->multi_call_memory_ctx, callback);
  context->user_fctx = stream;
}

Datum row_of(FuncCallContext *context, const up::Piece &piece) {
  return call::guarded([&] {
    Datum values[] = {Int32GetDatum(static_cast<int32>(piece.prompt) + 1),
                      PointerGetDatum(cstring_to_text_with_len(piece.text.data(), static_cast<int>(piece.text.size()))),
                      PointerGetDatum(cstring_to_text_with_len(piece.end_reason.data(), static_cast<int>(piece.end_reason.size()))),
                      Int32GetDatum(static_cast<int32>(piece.prompt_tokens)), Int32GetDatum(static_cast<int32>(piece.tokens))};
    bool nulls[] = {false, false, piece.end_reason.empty(), false, false};
    return HeapTupleGetDatum(heap_form_tuple(context->tuple_desc, values, nulls));
  });
}

}  // namespace

// generate_pieces(request) returns setof (prompt, text, end_reason, prompt_tokens, tokens)
PGTRAIN_FUNCTION(pgtrain_generate_pieces) {
  if (SRF_IS_FIRSTCALL()) {
    FuncCallContext *context = call::guarded([&] {
      FuncCallContext *made = SRF_FIRSTCALL_INIT();
      const MemoryContext before = MemoryContextSwitchTo(made->multi_call_memory_ctx);
      TupleDesc row;
      if (get_call_result_type(fcinfo, nullptr, &row) != TYPEFUNC_COMPOSITE) elog(ERROR, "pgtrain: generate_pieces must return rows");
      made->tuple_desc = BlessTupleDesc(row);
      MemoryContextSwitchTo(before);
      return made;
    });
    const char *request = call::guarded([&] {
      Jsonb *value = PG_GETARG_JSONB_P(0);
      return JsonbToCString(nullptr, &value->root, VARSIZE(value));
    });
    std::unique_ptr<Stream> stream = begin(request);
    call::guarded([&] { keep(context, stream.get()); });
    (void)stream.release();
  }
  FuncCallContext *context = call::guarded([&] { return SRF_PERCALL_SETUP(); });
  auto *stream = static_cast<Stream *>(context->user_fctx);
  while (const std::optional<UpMessage> message = stream->conversation->next()) {
    if (const auto *piece = std::get_if<up::Piece>(&*message)) {
      stream->has_written = true;
      const Datum row = row_of(context, *piece);
      SRF_RETURN_NEXT(context, row);
    }
    // About the prompts; what comes before the first word is about the trainer itself, and is in the server log.
    if (const auto *log = std::get_if<up::Log>(&*message); log != nullptr && log->level == LogLevel::Warning && stream->has_written)
      call::guarded([log] { ereport(NOTICE, errmsg("%s", log->text.c_str())); });
  }
  SRF_RETURN_DONE(context);
}
