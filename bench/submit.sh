#!/usr/bin/env bash
# submit_run a second with 1, 4 and 16 clients: rights, limits held, configuration and data frozen, event, audit row, queue row.
# Beside it in turn: one bare INSERT into a plain queue table, and what the Python queues' own SQL does to enqueue a job
# (procrastinate, pgqueuer), all through pgbench, so that no client's language counts. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
queue=$ROOT/bench/queue

start_server "pgtrain.databases = 'postgres'"
make_users 16
plain_sql -f "$queue/plain.sql" 2>/dev/null
# The plan of this configuration comes from the cache from now on, as for every second run of a kind.
first=$(date +%s%N)
"$pg_bin/pgbench" -n -M prepared -U app -D ready=0 -D users=1 -t 1 -f "$queue/our_submit.sql" >"$server_folder/first.log" 2>&1 || { cat "$server_folder/first.log" >&2; exit 1; }
say "first submit of a configuration, with its plan computed by the trainer: $(( ($(date +%s%N) - first) / 1000000 )) ms"

peers=
if python=$(peer_python queue procrastinate pgqueuer 'psycopg[binary,pool]' asyncpg); then
  if "$python" "$ROOT/bench/queue/peers.py" install "$server_folder"; then peers='procrastinate pgqueuer'; fi
fi

rounds=$(full 7 3) seconds=$(full 5 2)
rate() { # who, clients
  case $1 in
    ours) pgbench_rate -U app -D ready=0 -D users=16 -c "$2" -j 2 -T "$seconds" -f "$queue/our_submit.sql" ;;
    ours_one_user) pgbench_rate -U app -D ready=0 -D users=1 -c "$2" -j 2 -T "$seconds" -f "$queue/our_submit.sql" ;;
    ours_transaction) pgbench_rate -U app -D ready=0 -D users=16 -c "$2" -j 2 -T "$seconds" -f "$queue/our_submit_transaction.sql" ;;
    insert) PGDATABASE=plain pgbench_rate -c "$2" -j 2 -T "$seconds" -f "$queue/plain_insert.sql" ;;
    *) PGDATABASE=$1 pgbench_rate -c "$2" -j 2 -T "$seconds" -f "$server_folder/$1.sql" ;;
  esac
}
for clients in 1 4 16; do
  say "## $clients client(s), per second"
  for _ in $(seq "$rounds"); do
    for who in ours ours_one_user ours_transaction insert $peers; do rate "$who" "$clients" >>"$server_folder/rate.$who"; done
  done
  ours=$(median <"$server_folder/rate.ours")
  for who in ours ours_one_user ours_transaction insert $peers; do
    m=$(median <"$server_folder/rate.$who")
    case $who in
      ours) label='submit_run, a user per client' ;;
      ours_one_user) label='submit_run, one user in all clients' ;;
      ours_transaction) label='authenticate + submit_run in one transaction' ;;
      insert) label='bare INSERT' ;;
      *) label="$who, its enqueue statement" ;;
    esac
    printf '%-48s %-40s ours/this %s\n' "$label" "$m" "$(ratio "$ours" "$m")"
  done
  rm -f "$server_folder"/rate.*
done
say "(measured elsewhere, not here: graphile-worker's add_job 1.1k to 2.4k a second with one client)"
