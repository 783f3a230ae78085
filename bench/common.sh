# What every benchmark shares: where things lie, a throwaway server, medians and ratios. Sourced, never run.
#
# The server is our own: the staged programs of scripts/stage.sh, a data folder on a memory file system where there is one
# (then a flush costs nothing and the disk's drift is out of the figures), default settings but for those named in
# start_server. It is removed when the script ends, however it ends.
# Outside: BENCH FULL; functions describe_machine start_server sql pgbench_rate settled_rate median quantiles ratio peer_python.

. "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"
BENCH=$BUILD/bench
FULL=${FULL:-0}
mkdir -p "$BENCH"

# full A B: A with FULL=1, else B.
full() { if [ "$FULL" = 1 ]; then printf '%s' "$1"; else printf '%s' "$2"; fi; }

describe_machine() {
  printf 'machine: %s, %s cores (%s), %s GiB memory\n' "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)" "$(nproc)" \
    "$(grep -m 1 '^flags' /proc/cpuinfo | grep -oE 'amx_bf16|avx512_bf16|avx512f|avx2' | sort -u | paste -sd ' ')" \
    "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)"
  printf 'versions: %s, Linux %s, %s, pgtrain %s\n' "$("$PG_CONFIG" --version)" "$(uname -r | cut -d - -f 1)" "$(g++ --version | head -n 1)" \
    "$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo '(no git)')"
  printf 'load before: %s; priority of this measurement: nice %s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)" "$(nice)"
}

# ---------------------------------------------------------------- the server

server_folder=
stop_server() {
  [ -n "$server_folder" ] || return 0
  (cd / && as_server "$pg_bin/pg_ctl" -D "$server_folder/data" -m immediate -w stop >/dev/null 2>&1) || true
  rm -rf "$server_folder"
  server_folder=
}

control_server() { (cd / && as_server "$pg_bin/pg_ctl" -D "$server_folder/data" -w -t 60 "$@" >/dev/null); }

start_server() { # lines for postgresql.conf
  pg_bin=$(bash "$ROOT/scripts/stage.sh" | tail -n 1)
  local place=${BENCH_TMP:-/dev/shm}
  { [ -d "$place" ] && [ -w "$place" ]; } || place=/tmp
  server_folder=$(mktemp -d "$place/pgtrain-bench.XXXXXX")
  trap stop_server EXIT
  trap 'exit 130' INT TERM
  chmod 755 "$server_folder"
  if [ "$(id -u)" = 0 ]; then chown "$server_owner" "$server_folder"; fi
  (cd / && as_server "$pg_bin/initdb" -D "$server_folder/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$server_folder/initdb.log")
  as_server tee -a "$server_folder/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$server_folder'
shared_preload_libraries = 'pgtrain'
max_worker_processes = 32
max_wal_size = 8GB
pgtrain.databases = 'pgtrain'
$*
CONF
  export PGHOST=$server_folder PGUSER=postgres PGDATABASE=pgtrain PGPORT=5432
  unset PGPASSWORD PGSSLMODE PGOPTIONS PGSERVICE
  control_server -l "$server_folder/server.log" start || { tail -n 20 "$server_folder/server.log" >&2; die "the server did not start"; }
  PGDATABASE=postgres sql -c 'create database pgtrain' -c 'create database plain'
  sql -c 'create extension pgtrain' -c 'create role app login' -c "select pgtrain.grant_application('app')" >/dev/null
  printf 'server: data on %s, %s\n' "$(stat -f -c %T "$server_folder")" "$(sql -c "select string_agg(name || '=' || current_setting(name), ' ')
    from pg_settings where name in ('fsync', 'synchronous_commit', 'shared_buffers', 'full_page_writes')")"
}

sql() { "$pg_bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
plain_sql() { PGDATABASE=plain sql "$@"; }

# Makes N users without limits, with the tokens of their sessions in bench.tokens, and a dataset each in bench.datasets.
make_users() { # N
  sql -v n="$1" >/dev/null <<'END'
create schema bench;
grant usage on schema bench to app;
create table bench.tokens (n integer primary key, user_id bigint, token text, dataset_id bigint);
insert into bench.tokens (n, user_id)
select g, pgtrain.register_user('bench' || g, 'bench' || g || '@example.org', 'correct horse battery ' || g) from generate_series(1, :n) g;
update bench.tokens t set token = (select session_token from pgtrain.login('bench' || t.n, 'correct horse battery ' || t.n));
select pgtrain.set_usage_limit(user_id, resource, -1)
  from bench.tokens, unnest(array['training_jobs', 'training_tokens', 'concurrent_runs']) resource;
grant select on bench.tokens to app;
END
  local n
  for n in $(seq "$1"); do
    sql -v n="$n" >/dev/null <<'END'
select token from bench.tokens where n = :n \gset
select pgtrain.authenticate(:'token', session => true);
select pgtrain.create_dataset('bench') as dataset \gset
select pgtrain.append_samples(:dataset, array(select 'sample ' || g || ' of a small text' from generate_series(1, 50) g));
update bench.tokens set dataset_id = :dataset where n = :n;
END
  done
}

# ---------------------------------------------------------------- numbers

# Median, least and largest of the numbers on standard input.
median() {
  sort -g | awk '{ v[NR] = $1 } END { if (NR == 0) { print "nothing measured"; exit 1 }
    m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2; printf "%.6g [%.6g..%.6g] n=%d\n", m, v[1], v[NR], NR }'
}
quantiles() { # of milliseconds on standard input
  sort -g | awk '{ v[NR] = $1 } function q(p, i) { i = int(p * NR) + 1; return v[i > NR ? NR : i] }
    END { if (NR == 0) { print "nothing measured"; exit 1 } printf "p50=%.3f p90=%.3f p99=%.3f max=%.3f ms n=%d\n", q(.5), q(.9), q(.99), v[NR], NR }'
}
ratio() { awk -v a="${1%% *}" -v b="${2%% *}" 'BEGIN { if (b + 0 == 0) print "none"; else printf "%.2f\n", a / b }'; }

# Transactions a second of one pgbench run; failures are shown and end the script.
pgbench_rate() { # arguments
  local log=$server_folder/pgbench.log
  "$pg_bin/pgbench" -n -M prepared "$@" >"$log" 2>&1 || { tail -n 5 "$log" >&2; return 1; }
  if grep -q -e aborted -e 'ERROR:' "$log"; then tail -n 5 "$log" >&2; return 1; fi
  awk '/^tps/ { print $3 }' "$log"
}

# The same in a settled session: each client's first 200 transactions, in which a new session makes its plans and loads its
# caches, are left out. For what a process does that lives for days, such as a worker.
settled_rate() { # arguments
  local log=$server_folder/pgbench.log
  rm -f "$server_folder"/transactions.*
  "$pg_bin/pgbench" -n -M prepared -l --log-prefix="$server_folder/transactions" "$@" >"$log" 2>&1 || { tail -n 5 "$log" >&2; return 1; }
  if grep -q -e aborted -e 'ERROR:' "$log"; then tail -n 5 "$log" >&2; return 1; fi
  cat "$server_folder"/transactions.* | awk '$2 >= 200 { count[$1]++; time[$1] += $3 / 1e6 }
    END { for (c in count) rate += count[c] / time[c]; if (rate == 0) { print "no transactions after the first 200" > "/dev/stderr"; exit 1 } printf "%.1f\n", rate }'
}

# ---------------------------------------------------------------- peers from PyPI

# Prints the Python of a virtual environment NAME with the given packages, made once. PGTRAIN_BENCH_PYTHON_NAME overrides.
peer_python() { # NAME packages...
  local name=$1 folder=$BENCH/python-$1 given
  given=PGTRAIN_BENCH_PYTHON_$(printf '%s' "$name" | tr 'a-z-' 'A-Z_')
  shift
  if [ -n "${!given:-}" ]; then printf '%s\n' "${!given}"; return; fi
  if [ ! -e "$folder/.ready" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder" >"$BENCH/$name.log" 2>&1 && "$folder/bin/pip" install -q "$@" >>"$BENCH/$name.log" 2>&1 ||
      { printf 'peer %s cannot be installed: %s\n' "$name" "$(tail -n 1 "$BENCH/$name.log")" >&2; return 1; }
    : >"$folder/.ready"
  fi
  printf '%s\n' "$folder/bin/python"
}
