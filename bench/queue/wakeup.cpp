// Client of the latency benchmark, one run at a time over a socket. Prints a line "NAME MILLISECONDS" per measurement.
//   wakeup floor COUNT               plain queue: from sending INSERT + NOTIFY to the listener's claim having returned
//   wakeup ours COUNT TOKEN DATASET  from sending submit_run to the moment the worker's claim statement ran, which it
//                                    records itself (same machine, same clock); and how long submit_run itself took
// The server is idle before each measurement: the worker or listener sleeps, as it does when a user submits one run.
// Called by latency.sh; the connection comes from the environment.
#include <libpq-fe.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
}

class Connection {
 public:
  explicit Connection(const char* database) {
    const char* names[] = {"dbname", nullptr};
    const char* values[] = {database, nullptr};
    connection_ = PQconnectdbParams(names, values, 0);
    if (PQstatus(connection_) != CONNECTION_OK) fail();
  }
  ~Connection() { PQfinish(connection_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void prepare(const char* name, const char* query) { check(PQprepare(connection_, name, query, 0, nullptr)); }
  void run(const char* query) { check(PQexec(connection_, query)); }
  // First value of the first row, empty when there is no row.
  std::string execute(const char* name, const std::vector<std::string>& values = {}) {
    std::vector<const char*> pointers;
    for (const std::string& value : values) pointers.push_back(value.c_str());
    PGresult* result = PQexecPrepared(connection_, name, static_cast<int>(values.size()), pointers.data(), nullptr, nullptr, 0);
    check_status(result);
    std::string value = PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "";
    PQclear(result);
    return value;
  }
  // Sleeps in the kernel until a notification has come.
  void wait_for_notification() {
    for (;;) {
      PQconsumeInput(connection_);
      if (PGnotify* note = PQnotifies(connection_)) {
        PQfreemem(note);
        return;
      }
      pollfd descriptor{PQsocket(connection_), POLLIN, 0};
      if (poll(&descriptor, 1, 10000) < 0) fail();
    }
  }

 private:
  [[noreturn]] void fail() {
    std::fprintf(stderr, "wakeup: %s", PQerrorMessage(connection_));
    std::exit(1);
  }
  void check_status(PGresult* result) {
    const ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) fail();
  }
  void check(PGresult* result) {
    check_status(result);
    PQclear(result);
  }
  PGconn* connection_;
};

// Between two measurements, so that they do not fall into step with anything periodic.
void pause_a_little() {
  static std::mt19937 random{std::random_device{}()};
  usleep(std::uniform_int_distribution<useconds_t>(5000, 25000)(random));
}

constexpr int kWarmUp = 20;

int measure_floor(int count) {
  std::atomic<double> sent{0}, claimed{0};
  std::atomic<bool> ready{false};
  std::thread listener([&] {
    Connection connection("plain");
    connection.run("listen runs");
    connection.prepare("claim", "update runs set state = 'running', started_at = now() where id = (select id from runs where "
                                "state = 'queued' order by priority desc, id for update skip locked limit 1) returning id");
    ready = true;
    for (int i = 0; i < count + kWarmUp; ++i) {
      std::string id;
      while ((id = connection.execute("claim")).empty()) connection.wait_for_notification();
      claimed = now_ms();
    }
  });
  Connection client("plain");
  client.prepare("submit", "with made as (insert into runs (user_id, payload) values (1, '{\"steps\": 100}') returning id) "
                           "select pg_notify('runs', id::text) from made");
  while (!ready) usleep(100);
  for (int i = 0; i < count + kWarmUp; ++i) {
    pause_a_little();
    claimed = 0;
    sent = now_ms();
    client.execute("submit");
    while (claimed == 0) usleep(20);
    if (i >= kWarmUp) std::printf("claimed %.3f\n", claimed - sent);
  }
  listener.join();
  return 0;
}

int measure_ours(int count, const char* token, const char* dataset) {
  Connection client("pgtrain"), watcher("pgtrain");
  client.prepare("authenticate", "select pgtrain.authenticate($1, session => true)");
  client.prepare("submit", "select pgtrain.submit_run(dataset_id => $1, config => '{\"size\": \"nano\", \"steps\": 1}')");
  watcher.prepare("claimed", "select extract(epoch from started_at) * 1000 from pgtrain.run_attempts where run_id = $1 and attempt = 1");
  watcher.prepare("ended", "select status from pgtrain.training_runs where id = $1 and status not in ('queued', 'running')");
  client.execute("authenticate", {token});
  for (int i = 0; i < count + kWarmUp; ++i) {
    const double sent = now_ms();
    const std::string run = client.execute("submit", {dataset});
    const double returned = now_ms();
    std::string status;
    for (int tries = 0; (status = watcher.execute("ended", {run})).empty(); ++tries) {
      if (tries > 10000) {
        std::fprintf(stderr, "wakeup: run %s does not end\n", run.c_str());
        return 1;
      }
      usleep(2000);
    }
    if (status != "succeeded") {
      std::fprintf(stderr, "wakeup: run %s ended as %s\n", run.c_str(), status.c_str());
      return 1;
    }
    const double claimed = std::atof(watcher.execute("claimed", {run}).c_str());
    if (i >= kWarmUp) std::printf("claimed %.3f\nreturned %.3f\n", claimed - sent, returned - sent);
    pause_a_little();
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3 && std::strcmp(arguments[1], "floor") == 0) return measure_floor(std::atoi(arguments[2]));
  if (count == 5 && std::strcmp(arguments[1], "ours") == 0) return measure_ours(std::atoi(arguments[2]), arguments[3], arguments[4]);
  std::fprintf(stderr, "usage: wakeup floor COUNT | wakeup ours COUNT TOKEN DATASET\n");
  return 2;
}
