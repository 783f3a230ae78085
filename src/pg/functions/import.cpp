// SQL's door to imports (sql/api/imports.sql): the files of a model are copied into a job folder and hashed on the way, checked by
// the trainer in its sandbox, and stored; those of an adapter beside the base model that its row names. Nothing of them is parsed in the
// server but the names of shards and, for a refusal, of an adapter's base, as JSON by the server itself.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
}

#include <fcntl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "pg/boundary/arguments.hpp"
#include "pg/boundary/function.hpp"
#include "pg/call/spi.hpp"
#include "pg/import/source.hpp"
#include "pg/worker/base_files.hpp"
#include "pg/worker/conversation.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/model_job.hpp"
#include "pg/worker/settings.hpp"

namespace {

using namespace pgtrain::pg;
using namespace pgtrain::protocol;
using call::Type;

call::Statement room_statement{"select pgtrain_private.require_storage($1, $2)", {Type::Int8, Type::Int8}};
call::Statement shards_statement{
    "select distinct s.value from pg_catalog.jsonb_each_text(pg_catalog.convert_from($1, 'UTF8')::pg_catalog.jsonb -> 'weight_map') s order by 1",
    {Type::Bytea}};

call::Statement base_name_statement{
    "select pg_catalog.regexp_replace(pg_catalog.left(pg_catalog.convert_from($1, 'UTF8')::pg_catalog.jsonb ->> 'base_model_name_or_path', 200), '[[:cntrl:]]', '?', 'g')",
    {Type::Bytea}};

constexpr size_t write_at_once = 1 << 20;

std::vector<std::string> shard_names(const call::Spi &spi, const std::string &index) {
  std::vector<std::string> names;
  try {
    call::Rows rows;
    call::subtransaction([&] { rows = shards_statement.execute(spi, {index}); });
    for (const call::Row &row : rows)
      if (!row.is_null(0)) names.push_back(row.text(0));
  } catch (const call::ServerError &error) {
    throw Error(code::InvalidData, "model.safetensors.index.json cannot be read: " + error.message(), {}, "The download is not complete or damaged; get the folder again.");
  }
  return names;
}

// Empty where it names none, or is no JSON.
std::string base_name(const call::Spi &spi, const std::string &adapter_config) {
  std::string name;
  try {
    call::Rows rows;
    call::subtransaction([&] { rows = base_name_statement.execute(spi, {adapter_config}); });
    name = rows[0].optional_text(0).value_or("");
  } catch (const call::ServerError &) {
  }
  return name;
}

// A view of one of the caller's values.
struct Given {
  std::string name;
  std::string_view bytes;
};

std::vector<Given> given_files(FunctionCallInfo fcinfo, int names_index, int contents_index, import::Kind kind) {
  struct List {
    Datum *values = nullptr;
    bool *nulls = nullptr;
    int count = 0;
  } names, contents;
  const auto take = [&](int index, Oid type, List &list) {
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(index);
    deconstruct_array(array, type, -1, false, TYPALIGN_INT, &list.values, &list.nulls, &list.count);
  };
  call::guarded([&] { take(names_index, TEXTOID, names), take(contents_index, BYTEAOID, contents); });
  if (names.count != contents.count || names.count == 0)
    throw Error(code::InvalidParameter, std::to_string(names.count) + " names and " + std::to_string(contents.count) + " contents were given", {}, "Give one of each for every file.");
  std::vector<Given> files;
  for (int i = 0; i < names.count; ++i) {
    if (names.nulls[i] || contents.nulls[i]) throw Error(code::NullNotAllowed, "files and contents may not contain null");
    const auto bytes = [](Datum value) { return call::guarded([value] { return boundary::bytes_of(PG_DETOAST_DATUM_PACKED(value)); }); };
    files.push_back(Given{std::string(bytes(names.values[i])), bytes(contents.values[i])});
    if (!import::check_file_name(files.back().name, kind)) {
      files.pop_back();
      continue;
    }
    if (std::any_of(files.begin(), files.end() - 1, [&files](const Given &other) { return other.name == files.back().name; }))
      throw Error(code::InvalidParameter, "file \"" + files.back().name + "\" is given twice");
  }
  for (const char *needed : {import::adapter_name, import::adapter_config_name})
    if (kind == import::Kind::Adapter && std::none_of(files.begin(), files.end(), [needed](const Given &file) { return file.name == needed; }))
      throw Error(code::InvalidData, std::string(needed) + " is missing", {}, import::adapter_hint);
  return files;
}

worker::FileClaim write_given(const Given &file, const std::string &target) {
  worker::File copy(target, O_WRONLY | O_CREAT | O_EXCL);
  worker::Sha256 hash;
  for (size_t done = 0; done < file.bytes.size(); done += write_at_once) {
    const std::string_view part = file.bytes.substr(done, write_at_once);
    copy.write(part);
    hash.add(part);
    call::guarded([] { CHECK_FOR_INTERRUPTS(); });
  }
  return worker::FileClaim{target, file.bytes.size(), hash.hex()};
}

// The model while it is brought in.
class Import {
 public:
  Import(const call::Spi &spi, int64_t model_id, std::optional<int64_t> owner_id)
      : model_id_(model_id), owner_id_(owner_id), folder_(MyDatabaseId, worker::session_folder_name()), base_(worker::find_base_of_adapter(spi, model_id)) {
    if (!base_.problem.empty()) throw Error(code::NotFound, base_.message, base_.detail, base_.hint);
    if (kind() == import::Kind::Model) folder_.make_base();
  }

  import::Kind kind() const { return base_.files.empty() ? import::Kind::Model : import::Kind::Adapter; }

  void copy(const call::Spi &spi, const std::string &path) {
    const import::Source source(path, kind(), {[&spi](const std::string &index) { return shard_names(spi, index); },
                                               [&spi](const std::string &config) { return base_name(spi, config); }});
    uint64_t total = 0;
    for (const import::SourceFile &file : source.files()) total += file.bytes;
    require_room(spi, total);
    for (const import::SourceFile &file : source.files()) {
      const std::string target = place_of(file.name);
      const std::string sha256 = source.copy(file, target);
      add(file.name, worker::FileClaim{target, file.bytes, sha256});
    }
  }

  void write(const call::Spi &spi, const std::vector<Given> &files) {
    uint64_t total = 0;
    for (const Given &file : files) total += file.bytes.size();
    require_room(spi, total);
    for (const Given &file : files) add(file.name, write_given(file, place_of(file.name)));
  }

  // What the trainer found, as JSON. What it refuses leaves as an error.
  std::string check(const call::Spi &spi) const {
    down::Job job = worker::session_job(JobKind::Import, "cpu");
    // Without hashes: these are of the bytes that this process has just written, where nobody else can.
    for (const worker::ModelFile &file : files_) (kind() == import::Kind::Model ? job.base : job.model).push_back(InputFile{file.name, file.claim.bytes, {}});
    if (kind() == import::Kind::Adapter) worker::add_base(spi, base_, folder_, job);
    std::optional<std::string> found;
    worker::converse("pgtrain trainer of an import", folder_.path(), job, [&found](const UpMessage &message) {
      if (const auto *description = std::get_if<up::Description>(&message)) found = description->json;
    });
    if (!found) throw Error(code::TrainerFailed, "the trainer was done without having described the model");
    return *found;
  }

  void store(const call::Spi &spi) const {
    for (const worker::ModelFile &file : files_) worker::store_model_file(spi, file);
  }

 private:
  // What the trainer looks at lies in the folder of the base model, an adapter beside it.
  std::string place_of(const std::string &name) const { return kind() == import::Kind::Model ? folder_.base() + "/" + name : folder_.file(name); }
  void require_room(const call::Spi &spi, uint64_t bytes) const {
    if (owner_id_) room_statement.execute(spi, {*owner_id_, static_cast<int64_t>(bytes)});
  }
  void add(const std::string &name, worker::FileClaim claim) { files_.push_back(worker::ModelFile{model_id_, owner_id_, name, std::move(claim)}); }

  int64_t model_id_;
  std::optional<int64_t> owner_id_;
  worker::JobFolder folder_;
  worker::Base base_;  // of an adapter
  std::vector<worker::ModelFile> files_;
};

}  // namespace

// import_files(model_id, owner_id, path, content, names, contents) returns jsonb
PGTRAIN_FUNCTION(pgtrain_import_files) {
  std::string found;
  {
    const call::Spi spi;
    Import import(spi, PG_GETARG_INT64(0), PG_ARGISNULL(1) ? std::nullopt : std::optional<int64_t>(PG_GETARG_INT64(1)));
    if (!PG_ARGISNULL(2)) {
      import.copy(spi, std::string(call::guarded([&] { return boundary::text_argument(fcinfo, 2); })));
    } else if (!PG_ARGISNULL(3)) {
      const std::string_view content = call::guarded([&] { return boundary::bytes_of(PG_GETARG_BYTEA_PP(3)); });
      import::check_gguf(content, "content");
      import.write(spi, {Given{"model.gguf", content}});
    } else {
      import.write(spi, given_files(fcinfo, 4, 5, import.kind()));
    }
    found = import.check(spi);
    import.store(spi);
  }
  return call::guarded([&found] { return DirectFunctionCall1(jsonb_in, CStringGetDatum(found.c_str())); });
}
