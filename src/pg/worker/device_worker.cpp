// The device worker: one for each device in each database with the extension. It waits on its latch, takes the device, claims a
// run, carries the attempt out (attempt.hpp), gives the device back, and looks again.
//
//   Starting -> Idle -> Claiming -> (attempt: Preparing ... Cleaning) -> Idle
//
// Asked to leave (SIGTERM, or through its slot) while it trains, it has a checkpoint written first; the run is queued again.
#include "pg/compat.hpp"

extern "C" {
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"
}

#include <optional>

#include "pg/boundary/function.hpp"
#include "pg/worker/attempt.hpp"
#include "pg/worker/devices.hpp"
#include "pg/worker/queue.hpp"
#include "pg/worker/settings.hpp"
#include "pg/worker/shared.hpp"
#include "pg/worker/transaction.hpp"
#include "pg/worker/worker.hpp"

namespace pgtrain::pg::worker {
namespace {

constexpr long turn_ms = 20;  // until a device that somebody else has a right to is asked for again

call::Statement device_statement{"select id from pgtrain.devices where instance_id = $1 and status <> 'gone'", {call::Type::Text}};

class DeviceWorker {
 public:
  explicit DeviceWorker(int device) : device_(device) {}
  void run();

 private:
  void find_device();
  std::optional<Claim> claim();
  void look_for_strangers();

  int device_;
  int64_t device_id_ = 0;
  std::string instance_id_;
  TimestampTz rediscover_at_ = 0;
};

// The device's row in this database; written by whoever needs it first.
void DeviceWorker::find_device() {
  {
    Guard lock(shared()->lock);
    const DeviceSlot &slot = shared()->devices[device_];
    if (instance_id_ == slot.instance_id && device_id_ != 0) return;
    instance_id_ = slot.instance_id;
  }
  in_transaction("finding the device", [this](const call::Spi &spi) {
    call::Rows rows = device_statement.execute(spi, {instance_id_});
    if (rows.empty()) {
      sync_devices(spi);
      rows = device_statement.execute(spi, {instance_id_});
    }
    if (rows.empty()) throw Error(code::Unavailable, "device \"" + instance_id_ + "\" is not among the devices of this database");
    device_id_ = rows[0].int64(0);
  });
}

// Runs whose wake-up was lost (a prepared transaction, a full table of shares) are found by looking now and then.
void DeviceWorker::look_for_strangers() {
  const TimestampTz now = GetCurrentTimestamp();
  if (now < rediscover_at_) return;
  in_transaction("looking for queued runs", [](const call::Spi &spi) { rediscover(spi); });
  // However long that takes where dead entries pile up, it shall not take more than a twentieth of the time.
  const TimestampTz after = GetCurrentTimestamp();
  rediscover_at_ = after + std::max<int64_t>(worker_settings.poll_interval_ms * int64_t{1000}, (after - now) * 20);
}

std::optional<Claim> DeviceWorker::claim() {
  set_state(WorkerState::Claiming, 0);
  std::optional<Claim> claimed;
  ClaimRequest request{device_id_, MyProcPid, 0, are_devices_alike()};
  {
    Guard lock(shared()->lock);
    request.memory_bytes = shared()->devices[device_].memory_bytes;
  }
  in_transaction("claiming", [&](const call::Spi &spi) { claimed = claim_next(spi, request); });
  return claimed;
}

void DeviceWorker::run() {
  bool found_nothing = false;
  while (!must_stop()) {
    (void)reload_settings_if_asked();
    set_state(WorkerState::Idle, 0);
    find_device();
    // Also when runs are known of that may not or cannot start here: others must not wait for those.
    if (found_nothing || !has_queued_runs()) look_for_strangers();
    found_nothing = false;
    long wait_ms = worker_settings.poll_interval_ms;
    if (has_queued_runs()) {
      if (acquire_device(device_)) {
        const std::optional<Claim> claimed = claim();
        if (claimed) Attempt(*claimed, device_, device_id_).run();
        set_state(WorkerState::Idle, 0);
        release_device(device_);
        if (claimed) continue;
        found_nothing = true;
      } else {
        wait_ms = turn_ms;
      }
    }
    if (!must_stop()) wait_for_work(wait_ms);
  }
}

}  // namespace
}  // namespace pgtrain::pg::worker

extern "C" PGDLLEXPORT void pgtrain_device_worker_main(Datum argument);

void pgtrain_device_worker_main(Datum argument) {
  using namespace pgtrain::pg;
  const worker::WorkerSlot *slot = worker::take_slot(argument);
  const Oid database = slot->database;
  const int device = slot->device;
  worker::connect_worker(database);
  boundary::run_protected([device] { worker::DeviceWorker(device).run(); });
  proc_exit(worker::exit_finished);
}
