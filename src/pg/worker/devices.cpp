// See devices.hpp.
#include "pg/compat.hpp"

extern "C" {
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
}

#include <unistd.h>

#include <sstream>
#include <string>
#include <vector>

#include "pg/worker/devices.hpp"
#include "pg/worker/job_folder.hpp"
#include "pg/worker/relay.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/trainer.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr long detection_timeout_ms = 60000;
constexpr size_t most_answer_bytes = 1 << 20;
constexpr int64_t turn_us = 100000;  // how long a waiting database has to take its turn

struct Found {
  std::string kind, selector, instance_id, name, note;
  int64_t memory_bytes = 0;
};

// Fixed-size copies made in the server's world; strings are made of them outside.
struct PlainField {
  char text[sizeof Shared::device_note];
  int64_t number;
};

void read_field(Jsonb *object, const char *name, PlainField *field) {
  JsonbValue found;
  field->text[0] = '\0';
  field->number = 0;
  const JsonbValue *value = getKeyJsonValueFromContainer(&object->root, name, static_cast<int>(strlen(name)), &found);
  if (value == nullptr) return;
  if (value->type == jbvString) {
    const size_t length = pg_mbcliplen(value->val.string.val, value->val.string.len, sizeof field->text - 1);
    memcpy(field->text, value->val.string.val, length);
    field->text[length] = '\0';
  } else if (value->type == jbvNumeric) {
    field->number = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value->val.numeric)));
  }
}

Found parse_line(const std::string &line) {
  PlainField fields[6];
  static constexpr const char *names[] = {"kind", "selector", "instance_id", "name", "note", "memory_bytes"};
  call::guarded([&] {
    auto *object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(line.c_str())));
    if (!JB_ROOT_IS_OBJECT(object)) ereport(ERROR, (errmsg("not a JSON object")));
    for (int i = 0; i < 6; ++i) read_field(object, names[i], &fields[i]);
  });
  return Found{fields[0].text, fields[1].text, fields[2].text, fields[3].text, fields[4].text, fields[5].number};
}

std::string host_name() {
  char name[256] = "localhost";
  gethostname(name, sizeof name - 1);
  return name;
}

std::vector<Found> ask_trainer() {
  std::vector<Found> found;
  std::istringstream lines(run_trainer_for_text({"devices"}, jobs_root(), detection_timeout_ms, most_answer_bytes));
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) found.push_back(parse_line(line));
  if (found.empty() || found[0].kind.empty())
    throw Error(code::TrainerFailed, "the trainer program's list of devices is not understood", lines.str().substr(0, 200),
                "Is pgtrain.trainer_program of the same version as the module?");
  return found;
}

// The devices that get workers: the CUDA devices; CPU shares where there are none, or as many as the setting says.
std::vector<Found> choose(const std::vector<Found> &found) {
  std::vector<Found> chosen;
  const Found *cpu = nullptr;
  for (const Found &device : found) {
    if (device.kind == "cuda") chosen.push_back(device);
    if (device.kind == "cpu") cpu = &device;
  }
  const int shares = worker_settings.cpu_workers >= 0 ? worker_settings.cpu_workers : chosen.empty() ? 1 : 0;
  for (int i = 0; cpu != nullptr && i < shares; ++i) {
    Found share = *cpu;
    share.instance_id = host_name() + "/cpu" + std::to_string(i);
    share.memory_bytes = cpu->memory_bytes / shares;
    chosen.push_back(share);
  }
  if (chosen.size() > max_devices) chosen.resize(max_devices);
  return chosen;
}

template <size_t Size>
void copy(char (&target)[Size], const std::string &source) {
  strlcpy(target, source.c_str(), Size);
}

void store(const std::vector<Found> &found, const std::vector<Found> &chosen) {
  std::string note;
  int64_t memory = 0;
  for (const Found &device : found) {
    if (device.kind == "cpu") memory = device.memory_bytes;
    if (!device.note.empty()) note += (note.empty() ? "" : "; ") + device.note;
  }
  if (chosen.empty()) note += (note.empty() ? "" : "; ") + std::string("no device has a worker: pgtrain.cpu_workers is 0 and no CUDA device was found");
  Guard lock(shared()->lock);
  Shared &s = *shared();
  for (size_t i = 0; i < chosen.size(); ++i) {
    DeviceSlot &slot = s.devices[i];
    slot.is_cuda = chosen[i].kind == "cuda";
    copy(slot.instance_id, chosen[i].instance_id);
    copy(slot.selector, chosen[i].selector);
    copy(slot.name, chosen[i].name);
    copy(slot.detail, chosen[i].note);
    slot.memory_bytes = chosen[i].memory_bytes;
  }
  s.device_count = static_cast<int>(chosen.size());
  s.cpu_count = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  s.memory_bytes = memory;
  s.devices_known = true;
  copy(s.device_note, note);
}

call::Statement sync_statement{"select pgtrain_private.sync_devices($1, $2, $3, $4, $5)",
                               {call::Type::Text, call::Type::Text, call::Type::Int4, call::Type::Int8, call::Type::Jsonb}};

}  // namespace

bool detect_devices() {
  try {
    const std::vector<Found> found = ask_trainer();
    store(found, choose(found));
    return true;
  } catch (const Error &error) {
    {
      Guard lock(shared()->lock);
      copy(shared()->device_note, error.message() + (error.detail().empty() ? "" : ": " + error.detail()));
      copy(shared()->note, "the devices of this machine could not be listed: " + error.message());
    }
    ereport(LOG, (errmsg("pgtrain: the devices of this machine could not be listed: %s", error.what()),
                  error.detail().empty() ? 0 : errdetail_internal("%s", error.detail().c_str()), errhint("It is tried again every half minute.")));
    return false;
  }
}

void sync_devices(const call::Spi &spi) {
  std::string found = "[", note;
  int cpus = 0;
  int64_t memory = 0;
  {
    Guard lock(shared()->lock);
    const Shared &s = *shared();
    if (!s.devices_known) return;
    for (int i = 0; i < s.device_count; ++i) {
      const DeviceSlot &d = s.devices[i];
      found += std::string(i > 0 ? "," : "") + "{\"instance_id\":" + json_text(d.instance_id) + ",\"kind\":" + json_text(d.is_cuda ? "cuda" : "cpu") +
               ",\"selector\":" + json_text(d.selector) + ",\"name\":" + json_text(d.name) +
               ",\"memory_bytes\":" + std::to_string(d.memory_bytes) + ",\"detail\":" + json_text(d.detail) + "}";
    }
    note = s.device_note;
    cpus = s.cpu_count;
    memory = s.memory_bytes;
  }
  sync_statement.execute(spi, {host_name(), note, cpus > 0 ? cpus : 1, memory > 0 ? call::Parameter(memory) : call::Parameter(nullptr), found + "]"});
}

bool acquire_device(int device) {
  const TimestampTz now = GetCurrentTimestamp();
  Guard lock(shared()->lock);
  DeviceSlot &slot = shared()->devices[device];
  static TimestampTz waiting_since = 0;
  if (slot.holder == MyProcPid) return true;
  if (slot.holder != 0) {
    waiting_since = 0;
    slot.waiting = 1;
    return false;
  }
  // Whoever had the device last lets a waiting database go first, for the time a wake-up takes.
  if (slot.waiting != 0 && slot.last_database == MyDatabaseId) {
    if (waiting_since == 0) waiting_since = now;
    if (now - waiting_since < turn_us) return false;
  }
  waiting_since = 0;
  slot.waiting = 0;
  slot.holder = MyProcPid;
  slot.last_database = MyDatabaseId;
  return true;
}

void release_device(int device) {
  {
    Guard lock(shared()->lock);
    DeviceSlot &slot = shared()->devices[device];
    if (slot.holder != MyProcPid) return;
    slot.holder = 0;
  }
  wake_workers_of_device(device);
}

bool are_devices_alike() {
  Guard lock(shared()->lock);
  const Shared &s = *shared();
  for (int i = 1; i < s.device_count; ++i)
    if (s.devices[i].memory_bytes != s.devices[0].memory_bytes || s.devices[i].is_cuda != s.devices[0].is_cuda) return false;
  return true;
}

}  // namespace pgtrain::pg::worker
