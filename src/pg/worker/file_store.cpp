// See file_store.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "access/xact.h"
#include "miscadmin.h"
}

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "pg/worker/file.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/settings.hpp"

namespace pgtrain::pg::worker {
namespace {

namespace fs = std::filesystem;
using call::Type;

constexpr size_t chunk_bytes = 512 * 1024;
constexpr int64_t largest_value = 1000 * 1000 * 1000;  // a value of the server holds 1 GiB less its header

call::Statement next_id{"select nextval('pgtrain_private.stored_files_id_seq')"};
call::Statement add_file{"select pgtrain_private.add_stored_file($1, $2, $3, $4::text::pgtrain_private.storage_kind, $5, $6)",
                         {Type::Int8, Type::Int4, Type::Int8, Type::Text, Type::Int8, Type::Text}};
call::Statement add_chunk{"insert into pgtrain_private.file_chunks (file_id, ordinal, content) values ($1, $2, $3)",
                          {Type::Int8, Type::Int4, Type::Bytea}};
call::Statement find_file{"select storage::text, bytes, encode(sha256, 'hex') from pgtrain_private.stored_files where id = $1", {Type::Int8}};
call::Statement read_chunk{"select content from pgtrain_private.file_chunks where file_id = $1 and ordinal = $2", {Type::Int8, Type::Int4}};
call::Statement all_files{"select id from pgtrain_private.stored_files where storage = 'file'"};
call::Statement add_model_file{"select pgtrain_private.add_model_file($1, $2, $3, $4, $5::text::pgtrain_private.storage_kind, $6, $7)",
                               {Type::Int8, Type::Int8, Type::Int8, Type::Text, Type::Text, Type::Int8, Type::Text}};
call::Statement add_export_file{"select pgtrain_private.add_export_file($1, $2, $3, $4::text::pgtrain_private.storage_kind, $5, $6)",
                                {Type::Int8, Type::Int8, Type::Int8, Type::Text, Type::Int8, Type::Text}};
// The oldest transaction of others that has added or removed stored files and is still open: its begin in seconds, 0 where that is not
// known (a prepared one), null for none.
call::Statement oldest_writer{
    "select pg_catalog.min(coalesce(pg_catalog.floor(extract(epoch from a.xact_start)), 0))::bigint"
    "  from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid"
    " where l.locktype = 'relation' and l.relation = 'pgtrain_private.stored_files'::regclass and l.mode = 'RowExclusiveLock' and l.granted"
    "   and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())"
    "   and l.pid is distinct from pg_catalog.pg_backend_pid()"};

// Reads a file in chunks, hands each to `sink`, and checks size and hash against what was said. False when told not to go on.
bool read_checked(const FileClaim &claim, const std::function<void(std::string_view)> &sink, const GoOn &go_on = {}) {
  File file(claim.path, O_RDONLY);
  const std::string name = fs::path(claim.path).filename().string();
  if (file.size() != claim.bytes)
    throw Error(code::InvalidData, "\"" + name + "\" has " + std::to_string(file.size()) + " bytes, " + std::to_string(claim.bytes) + " were announced");
  const std::unique_ptr<char[]> buffer(new char[chunk_bytes]);
  Sha256 hash;
  for (size_t got; (got = file.read(buffer.get(), chunk_bytes)) > 0;) {
    hash.add({buffer.get(), got});
    sink({buffer.get(), got});
    call::guarded([] { CHECK_FOR_INTERRUPTS(); });
    if (go_on && !go_on()) return false;
  }
  if (hash.hex() != claim.sha256) throw Error(code::InvalidData, "the hash of \"" + name + "\" is not the announced one");
  return true;
}

std::string stored_path(int64_t file_id) { return artifacts_folder(MyDatabaseId) + "/" + std::to_string(file_id); }

void sync_path(const std::string &path, int flags) { File(path, flags).sync(); }

// A second name for the same file where the file system has that, else a copy; on the disk for good when it returns.
void put_file(const std::string &source, const std::string &target) {
  unlink(target.c_str());
  if (link(source.c_str(), target.c_str()) != 0) {
    std::error_code error;
    fs::copy_file(source, target, error);
    if (error) {
      // The half of it would take the room that may be missing.
      unlink(target.c_str());
      throw Error(code::Unavailable, "cannot copy to \"" + target + "\": " + error.message());
    }
  }
  sync_path(target, O_RDONLY);
  sync_path(fs::path(target).parent_path().string(), O_RDONLY | O_DIRECTORY);
}

void add_chunks(const call::Spi &spi, int64_t file_id, const FileClaim &claim) {
  int ordinal = 0;
  read_checked(claim, [&](std::string_view bytes) { add_chunk.execute(spi, {file_id, ordinal++, bytes}); });
}

// Files that this session has put on the disk and whose rows are not committed. The sweep finds what is left of them when the process
// dies, or where a savepoint is rolled back.
std::vector<int64_t> &uncommitted_files() {
  static std::vector<int64_t> files;
  return files;
}

void at_transaction_end(XactEvent event, void *) {
  std::vector<int64_t> &files = uncommitted_files();
  if (event == XACT_EVENT_ABORT)
    for (const int64_t file_id : files) remove_stored_file(file_id);
  if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE) files.clear();
}

void forget_file_at_rollback(int64_t file_id) {
  static bool is_registered = false;
  if (!is_registered) call::guarded([] { RegisterXactCallback(at_transaction_end, nullptr); });
  is_registered = true;
  uncommitted_files().push_back(file_id);
}

// Checked against what a trainer said.
void put_content(const call::Spi &spi, int64_t file_id, bool in_rows, const FileClaim &claim) {
  if (in_rows) return add_chunks(spi, file_id, claim);
  verify_file(claim);
  put_file(claim.path, stored_path(file_id));
}

struct Stored {
  bool is_in_rows;
  int64_t bytes;
  std::string sha256;
};

Stored look_up(const call::Spi &spi, int64_t file_id) {
  const call::Rows rows = find_file.execute(spi, {file_id});
  if (rows.empty()) throw Error(code::NotFound, "stored file " + std::to_string(file_id) + " does not exist any more");
  return Stored{rows[0].text(0) == "rows", rows[0].int64(1), rows[0].text(2)};
}

void stream_rows(const call::Spi &spi, int64_t file_id, int64_t bytes, const std::function<void(std::string_view)> &sink) {
  int64_t done = 0;
  for (int ordinal = 0; done < bytes; ++ordinal) {
    const call::Rows rows = read_chunk.execute(spi, {file_id, ordinal});
    if (rows.empty()) throw Error(code::InvalidData, "stored file " + std::to_string(file_id) + " lacks its part " + std::to_string(ordinal));
    sink(rows[0].text(0));
    done += static_cast<int64_t>(rows[0].text(0).size());
  }
}

FileClaim claim_on_disk(int64_t file_id, const Stored &stored) {
  const std::string path = stored_path(file_id);
  if (access(path.c_str(), F_OK) != 0)
    throw Error(code::Unavailable, "the bytes of stored file " + std::to_string(file_id) + " are not on this server",
                "Files above pgtrain.row_storage_limit lie in the data directory and are not replicated or dumped.",
                "Ask the server that made it, or copy its folder pgtrain/artifacts.");
  return FileClaim{path, static_cast<uint64_t>(stored.bytes), stored.sha256};
}

}  // namespace

// By its code: the class of an exception does not outlive the transaction it was thrown in.
bool is_mismatch(const Error &error) { return std::string_view(error.sqlstate()) == code::InvalidData.sqlstate; }

bool is_stored_here(const call::Spi &spi, int64_t file_id) {
  return look_up(spi, file_id).is_in_rows || access(stored_path(file_id).c_str(), F_OK) == 0;
}

bool verify_file(const FileClaim &claim, const GoOn &go_on) {
  return read_checked(claim, [](std::string_view) {}, go_on);
}

int64_t store_file(const call::Spi &spi, int64_t run_id, int32_t attempt, const FileClaim &claim) {
  const int64_t file_id = next_id.execute(spi)[0].int64(0);
  const bool in_rows = claim.bytes <= static_cast<uint64_t>(worker_settings.row_storage_limit_kb) * 1024;
  add_file.execute(spi, {run_id, attempt, file_id, in_rows ? "rows" : "file", static_cast<int64_t>(claim.bytes), claim.sha256});
  put_content(spi, file_id, in_rows, claim);
  return file_id;
}

int64_t store_export(const call::Spi &spi, int64_t run_id, int64_t owner_id, const FileClaim &claim) {
  const int64_t file_id = next_id.execute(spi)[0].int64(0);
  const bool in_rows = claim.bytes <= static_cast<uint64_t>(worker_settings.row_storage_limit_kb) * 1024;
  add_export_file.execute(spi, {run_id, owner_id, file_id, in_rows ? "rows" : "file", static_cast<int64_t>(claim.bytes), claim.sha256});
  if (!in_rows) forget_file_at_rollback(file_id);
  put_content(spi, file_id, in_rows, claim);
  return file_id;
}

int64_t store_model_file(const call::Spi &spi, const ModelFile &file) {
  const int64_t file_id = next_id.execute(spi)[0].int64(0);
  const bool in_rows = file.claim.bytes <= static_cast<uint64_t>(worker_settings.row_storage_limit_kb) * 1024;
  add_model_file.execute(spi, {file.model_id, file.owner_id, file_id, file.name, in_rows ? "rows" : "file",
                               static_cast<int64_t>(file.claim.bytes), file.claim.sha256});
  if (in_rows) {
    add_chunks(spi, file_id, file.claim);
  } else {
    forget_file_at_rollback(file_id);
    put_file(file.claim.path, stored_path(file_id));
  }
  return file_id;
}

FileClaim fetch_file(const call::Spi &spi, int64_t file_id, const std::string &target) {
  const Stored stored = look_up(spi, file_id);
  File file(target, O_WRONLY | O_CREAT | O_EXCL);
  const auto sink = [&file](std::string_view bytes) { file.write(bytes); };
  if (stored.is_in_rows) stream_rows(spi, file_id, stored.bytes, sink);
  else read_checked(claim_on_disk(file_id, stored), sink);
  return FileClaim{target, static_cast<uint64_t>(stored.bytes), stored.sha256};
}

std::optional<FileClaim> find_on_disk(const call::Spi &spi, int64_t file_id) {
  const Stored stored = look_up(spi, file_id);
  return stored.is_in_rows ? std::nullopt : std::optional(claim_on_disk(file_id, stored));
}

std::optional<FileClaim> copy_from_disk(const FileClaim &stored, const std::string &target, const GoOn &go_on) {
  File file(target, O_WRONLY | O_CREAT | O_EXCL);
  if (!read_checked(stored, [&file](std::string_view bytes) { file.write(bytes); }, go_on)) return std::nullopt;
  return FileClaim{target, stored.bytes, stored.sha256};
}

bool link_from_disk(const FileClaim &stored, const std::string &target, const GoOn &go_on) {
  return link(stored.path.c_str(), target.c_str()) == 0 || copy_from_disk(stored, target, go_on);
}

std::string read_stored_file(const call::Spi &spi, int64_t file_id) {
  const Stored stored = look_up(spi, file_id);
  if (stored.bytes > largest_value)
    throw Error(code::InvalidParameter, "the file has " + std::to_string(stored.bytes) + " bytes, more than one value can hold", {},
                "Ask for it in parts, with first_byte and bytes.");
  std::string content;
  content.reserve(static_cast<size_t>(stored.bytes));
  Sha256 hash;
  const auto sink = [&](std::string_view bytes) {
    hash.add(bytes);
    content.append(bytes);
  };
  if (stored.is_in_rows) stream_rows(spi, file_id, stored.bytes, sink);
  else read_checked(claim_on_disk(file_id, stored), sink);
  if (hash.hex() != stored.sha256) throw Error(code::InvalidData, "the stored bytes do not have the hash that was stored with them");
  return content;
}

std::string read_stored_part(const call::Spi &spi, int64_t file_id, int64_t position, int64_t bytes) {
  const Stored stored = look_up(spi, file_id);
  const int64_t end = std::min(stored.bytes, position + bytes);
  std::string content;
  if (position >= end) return content;
  if (!stored.is_in_rows) {
    const FileClaim claim = claim_on_disk(file_id, stored);
    File file(claim.path, O_RDONLY);
    if (file.size() != claim.bytes) throw Error(code::InvalidData, "stored file " + std::to_string(file_id) + " has not the length that was stored with it");
    file.seek(static_cast<uint64_t>(position));
    content.resize(static_cast<size_t>(end - position));
    size_t done = 0;
    for (size_t got; done < content.size() && (got = file.read(content.data() + done, std::min(chunk_bytes, content.size() - done))) > 0; done += got)
      call::guarded([] { CHECK_FOR_INTERRUPTS(); });
    content.resize(done);
    return content;
  }
  const auto chunk = static_cast<int64_t>(chunk_bytes);
  for (int64_t ordinal = position / chunk; ordinal * chunk < end; ++ordinal) {
    const call::Rows rows = read_chunk.execute(spi, {file_id, static_cast<int>(ordinal)});
    if (rows.empty()) throw Error(code::InvalidData, "stored file " + std::to_string(file_id) + " lacks its part " + std::to_string(ordinal));
    const std::string text = rows[0].text(0);
    const int64_t begin = std::max<int64_t>(0, position - ordinal * chunk);
    content.append(text, static_cast<size_t>(begin), static_cast<size_t>(end - ordinal * chunk - begin));
  }
  return content;
}

void remove_stored_file(int64_t file_id) { unlink(stored_path(file_id).c_str()); }

void sweep_artifacts(const call::Spi &spi) {
  // In this order: a file of the list was put there by a transaction that has ended when it is looked for among the open ones, and
  // then its row is seen, or there is none for ever; or that is still open.
  std::vector<int64_t> there;
  std::error_code error;
  for (const fs::directory_entry &entry : fs::directory_iterator(artifacts_folder(MyDatabaseId), error)) {
    const std::string name = entry.path().filename().string();
    int64_t file_id = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), file_id).ec == std::errc()) there.push_back(file_id);
  }
  const std::optional<int64_t> oldest = oldest_writer.execute(spi)[0].optional_int64(0);
  std::unordered_set<int64_t> known;
  for (const call::Row &row : all_files.execute(spi)) known.insert(row.int64(0));
  for (const int64_t file_id : there) {
    struct stat status;
    if (known.count(file_id) != 0 || stat(stored_path(file_id).c_str(), &status) != 0) continue;
    // Its change time is that of the link. The kernel's clock for it is coarser than the server's.
    if (!oldest || status.st_ctime < *oldest - 1) remove_stored_file(file_id);
  }
}

}  // namespace pgtrain::pg::worker
