// See source.hpp. A place is first found (O_PATH, which opens no pipe and no device), then looked at, then opened through the
// descriptor that was looked at, so that nobody can put something else there in between.
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/acl.h"
}

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <memory>
#include <utility>

#include "pg/call/guard.hpp"
#include "pg/import/source.hpp"
#include "pg/rbac/rbac.hpp"
#include "pg/worker/file_store.hpp"
#include "pg/worker/settings.hpp"
#include "protocol/message.hpp"

namespace pgtrain::pg::import {
namespace {

constexpr char whole_name[] = "model.safetensors", index_name[] = "model.safetensors.index.json", gguf_name[] = "model.gguf";
constexpr std::array small_names{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
// Of an adapter; for its chat template, which older saves keep in the second.
constexpr std::array template_names{"chat_template.jinja", "tokenizer_config.json"};
constexpr uint64_t most_small_bytes = 64 << 20;
constexpr size_t most_shards = 1024;
constexpr size_t chunk_bytes = 1 << 20;

bool ends_with(const std::string &text, std::string_view end) { return text.size() >= end.size() && text.ends_with(end); }

bool is_pickle_name(const std::string &name) {
  constexpr std::array ends{".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin.index.json"};
  return std::any_of(ends.begin(), ends.end(), [&name](const char *end) { return ends_with(name, end); });
}

[[noreturn]] void refuse(const std::string &path, const std::string &reason, const std::string &hint) {
  throw Error(code::InvalidData, "\"" + path + "\": " + reason, {}, hint);
}

[[noreturn]] void refuse_pickle(const std::string &path) {
  refuse(path, "pickled weights are not read",
         "A pickle runs code of its author when it is opened. Take the model's safetensors, or make them: load it where you trust it and call save_pretrained.");
}

// `base`: as adapter_config.json has it, where it was read.
[[noreturn]] void refuse_adapter(const std::string &path, const std::string &base) {
  refuse(path, "holds an adapter, not a model",
         "Import the model first that it was trained on, which " + (base.empty() ? "adapter_config.json names" : "it calls \"" + base + "\"") + ", and give that one's id or name here as base_model.");
}

// transformers takes such a folder for the adapter, over the base that adapter_config.json names.
void tell_of_adapter(const std::string &folder) {
  call::guarded([&folder] {
    ereport(NOTICE, errmsg("\"%s\": the model is imported without the adapter that lies beside it", folder.c_str()),
            errhint("If the adapter was trained on this model, import it afterwards, with this model as base_model."));
  });
}

// The server's administrator, and roles that may read the server's files by SQL anyway. A superuser who acts for a user is bound as that
// user is; and nobody may within a restricted operation (ANALYZE, REFRESH), where functions of a table's owner run.
bool may_read_server_files() {
  if (rbac::is_server_administrator()) return true;
  return call::guarded([] { return !InSecurityRestrictedOperation() && is_member_of_role_nosuper(GetOuterUserId(), ROLE_PG_READ_SERVER_FILES); });
}

Descriptor open_for_reading(const Descriptor &place, const std::string &path) {
  Descriptor file(open(("/proc/self/fd/" + std::to_string(place.number())).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.number() < 0) throw Error(code::InvalidData, worker::text_of_system_error("cannot open", path), {}, "The server's user must be able to read it.");
  return file;
}

size_t read_some(const Descriptor &file, char *buffer, size_t most, const std::string &path) {
  for (;;) {
    const ssize_t got = read(file.number(), buffer, most);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw Error(code::Unavailable, worker::text_of_system_error("cannot read", path));
  }
}

}  // namespace

Descriptor::~Descriptor() {
  if (number_ >= 0) close(number_);
}

Descriptor &Descriptor::operator=(Descriptor &&other) noexcept {
  std::swap(number_, other.number_);
  return *this;
}

bool check_file_name(const std::string &name, Kind kind) {
  if (is_pickle_name(name)) refuse_pickle(name);
  const auto is_one_of = [&name](const auto &names) { return std::any_of(names.begin(), names.end(), [&name](const char *known) { return name == known; }); };
  if (kind == Kind::Adapter) {
    if (name == adapter_name || name == adapter_config_name || is_one_of(template_names)) return true;
    if (is_one_of(small_names)) return false;
    throw Error(code::InvalidData, "\"" + protocol::clean_utf8(name) + "\" is no file of an adapter", {}, adapter_hint);
  }
  if (name == adapter_config_name || name == adapter_name) refuse_adapter(name, "");
  const bool is_known = name == index_name || is_one_of(small_names);
  if (!protocol::is_safe_file_name(name) || !(is_known || ends_with(name, ".safetensors")))
    throw Error(code::InvalidData, "\"" + protocol::clean_utf8(name) + "\" is no file of a model", {},
                "Files: config.json, generation_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja, model.safetensors or its shards and their index.");
  return true;
}

void check_gguf(std::string_view beginning, const std::string &name) {
  if (beginning.starts_with("GGUF")) return;
  constexpr std::string_view archive{"PK\3\4", 4};
  const bool is_pickle = beginning.starts_with(archive) || (beginning.size() > 1 && beginning[0] == '\x80' && beginning[1] >= 2 && beginning[1] <= 5);
  if (is_pickle || is_pickle_name(name)) refuse_pickle(name);
  if (ends_with(name, ".safetensors"))
    refuse(name, "a safetensors file alone has weights but no configuration", "Give its folder, with config.json and the tokenizer in it.");
  refuse(name, "is no GGUF file", "Give a GGUF file, or the folder of a model as Hugging Face's tools save it.");
}

Source::Source(const std::string &path, Kind kind, const Readers &readers) : is_bound_(!may_read_server_files()), path_(path) {
  if (is_bound_) {
    std::string folder = worker::worker_settings.import_folder == nullptr ? "" : worker::worker_settings.import_folder;
    while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
    if (folder.empty())
      throw Error(code::PermissionDenied, "permission denied to import from the server's disk", "pgtrain.import_folder is not set.",
                  "Give the model's bytes, or ask the server's administrator for that folder, or to import it for you.");
    // Also by its whole path.
    if (path_.starts_with(folder + "/")) path_.erase(0, folder.size() + 1);
    if (path_.empty() || path_[0] == '/') refuse_outside();
    folder_ = Descriptor(open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (folder_.number() < 0) throw Error(code::Unavailable, std::string("pgtrain.import_folder cannot be opened: ") + std::strerror(errno));
  } else if (path_.empty() || path_[0] != '/') {
    throw Error(code::InvalidParameter, "\"" + path_ + "\" is not an absolute path");
  }
  struct stat about;
  const Descriptor place = find(path_, about);
  if (place.number() < 0) throw Error(code::NotFound, "\"" + path_ + "\" does not exist on the server");
  if (S_ISDIR(about.st_mode)) {
    if (kind == Kind::Adapter) open_adapter(path_);
    else open_folder(path_, readers);
  } else if (kind == Kind::Adapter) {
    refuse(path_, "is no folder of an adapter", adapter_hint);
  } else if (S_ISREG(about.st_mode)) {
    files_.push_back(SourceFile{gguf_name, path_, static_cast<uint64_t>(about.st_size)});
    check_gguf(read_beginning(files_.back(), 8), path_);
  } else {
    refuse(path_, "is neither a folder nor a plain file", "Give the folder of a model, or a GGUF file.");
  }
}

Descriptor Source::find(const std::string &path, struct stat &about) const {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  Descriptor place(is_bound_ ? static_cast<int>(syscall(SYS_openat2, folder_.number(), path.c_str(), &how, sizeof how)) : open(path.c_str(), O_PATH | O_CLOEXEC));
  if (place.number() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return place;
    if (is_bound_ && (errno == EXDEV || errno == ELOOP)) refuse_outside();
    if (is_bound_ && (errno == ENOSYS || errno == EPERM))
      throw Error(code::Unavailable, "this system cannot keep a path within pgtrain.import_folder", "It lacks openat2 (Linux 5.6).",
                  "Give the model's bytes, or have the server's administrator import it.");
    throw Error(code::InvalidData, worker::text_of_system_error("cannot open", path), {}, "The server's user must be able to read it.");
  }
  if (fstat(place.number(), &about) != 0) throw Error(code::Unavailable, worker::text_of_system_error("cannot look at", path));
  if (is_bound_) refuse_own_files(place.number());
  return place;
}

void Source::refuse_outside() const {
  throw Error(code::PermissionDenied, "\"" + path_ + "\" does not lie within pgtrain.import_folder", {},
              "Name it from that folder on. Links that lead out of it are not followed.");
}

// An import folder that holds the data directory would show what the server keeps for others.
void Source::refuse_own_files(int place) const {
  char found[PATH_MAX], data[PATH_MAX];
  const ssize_t length = readlink(("/proc/self/fd/" + std::to_string(place)).c_str(), found, sizeof found);
  if (length < 0 || realpath(DataDir, data) == nullptr) throw Error(code::Unavailable, "cannot tell where \"" + path_ + "\" lies");
  const std::string at(found, static_cast<size_t>(length)), kept(data);
  if (at == kept || at.starts_with(kept + "/")) refuse_outside();
}

std::string Source::read_beginning(const SourceFile &source, size_t most) const {
  struct stat about;
  const Descriptor file = open_for_reading(find(source.path, about), source.path);
  std::string text(std::min<uint64_t>(most, source.bytes), '\0');
  size_t total = 0;
  for (size_t got; total < text.size() && (got = read_some(file, text.data() + total, text.size() - total, source.path)) > 0;) total += got;
  text.resize(total);
  return text;
}

bool Source::has(const std::string &path) const {
  struct stat about;
  return find(path, about).number() >= 0;
}

bool Source::take(const std::string &folder, const std::string &name, uint64_t most) {
  struct stat about;
  const std::string path = folder + "/" + name;
  if (find(path, about).number() < 0) return false;
  if (!S_ISREG(about.st_mode)) refuse(path, "is no plain file", "Give the folder of a model as Hugging Face's tools save it.");
  const auto bytes = static_cast<uint64_t>(about.st_size);
  if (bytes > most) refuse(path, "has " + std::to_string(bytes) + " bytes, more than such a file ever has", "Look at what it is.");
  files_.push_back(SourceFile{name, path, bytes});
  return true;
}

void Source::refuse_folder(const std::string &folder, const Readers &readers) {
  files_.clear();
  if (take(folder, adapter_config_name, most_small_bytes)) refuse_adapter(folder, readers.base_of(read_beginning(files_.back(), chunk_bytes)));
  for (const char *name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.ckpt"})
    if (has(folder + "/" + name)) refuse_pickle(folder + "/" + name);
  refuse(folder, has(folder + "/config.json") ? "has neither model.safetensors nor its shards" : "config.json is missing",
         "Give the folder of a model as Hugging Face's tools save it, or the path of a GGUF file.");
}

// The tokenizer is the base model's, also where a copy lies here.
void Source::open_adapter(const std::string &folder) {
  if (!take(folder, adapter_config_name, most_small_bytes)) refuse(folder, "holds no adapter: adapter_config.json is missing", adapter_hint);
  if (!take(folder, adapter_name, UINT64_MAX)) {
    if (has(folder + "/adapter_model.bin")) refuse_pickle(folder + "/adapter_model.bin");
    refuse(folder, "adapter_model.safetensors is missing", adapter_hint);
  }
  for (const char *name : template_names) take(folder, name, most_small_bytes);
}

void Source::open_folder(const std::string &folder, const Readers &readers) {
  if (!has(folder + "/config.json")) refuse_folder(folder, readers);
  for (const char *name : small_names) take(folder, name, most_small_bytes);
  // As transformers chooses where both are there.
  if (!take(folder, whole_name, UINT64_MAX)) open_shards(folder, readers);
  if (has(folder + "/" + adapter_config_name)) tell_of_adapter(folder);
}

void Source::open_shards(const std::string &folder, const Readers &readers) {
  if (!take(folder, index_name, most_small_bytes)) refuse_folder(folder, readers);
  const std::string index = folder + "/" + index_name;
  const std::vector<std::string> shards = readers.shards_of(read_beginning(files_.back(), most_small_bytes));
  if (shards.empty() || shards.size() > most_shards)
    refuse(index, "names " + std::to_string(shards.size()) + " files, 1 to " + std::to_string(most_shards) + " are allowed", "Get the folder again.");
  for (const std::string &shard : shards) {
    if (!protocol::is_safe_file_name(shard) || !ends_with(shard, ".safetensors"))
      refuse(index, "\"" + protocol::clean_utf8(shard) + "\" is not the name of a safetensors file in this folder", "Get the folder again.");
    if (!take(folder, shard, UINT64_MAX)) refuse(folder + "/" + shard, std::string("is missing, but ") + index_name + " names it", "The download is not complete; get the folder again.");
  }
}

std::string Source::copy(const SourceFile &source, const std::string &target) const {
  struct stat about;
  const Descriptor place = find(source.path, about);
  const auto refuse_changed = [&source] {
    throw Error(code::InvalidData, "\"" + source.path + "\" changed while it was read", {}, "Import it again when nobody writes it any more.");
  };
  if (place.number() < 0 || !S_ISREG(about.st_mode)) refuse_changed();
  const Descriptor file = open_for_reading(place, source.path);
  worker::File copy(target, O_WRONLY | O_CREAT | O_EXCL);
  worker::Sha256 hash;
  uint64_t copied = 0;
  const std::unique_ptr<char[]> buffer(new char[chunk_bytes]);
  for (size_t got; copied <= source.bytes && (got = read_some(file, buffer.get(), chunk_bytes, source.path)) > 0; copied += got) {
    copy.write({buffer.get(), got});
    hash.add({buffer.get(), got});
    call::guarded([] { CHECK_FOR_INTERRUPTS(); });
  }
  if (copied != source.bytes) refuse_changed();
  return hash.hex();
}

}  // namespace pgtrain::pg::import
