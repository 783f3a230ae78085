#!/usr/bin/env bash
# Claims a second: pgtrain's claim (fair order, lease with epoch, event) against the plain SKIP LOCKED statement on a plain
# table, in turn in the same sitting: fresh at several depths and with finished runs around, then sustained, then with an old
# snapshot held by another session, when dead index entries pile up in front of the queue. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
queue=$ROOT/bench/queue

# No scheduler in this database: it would take the leases of pgbench's ended sessions back while we measure.
start_server "pgtrain.databases = 'postgres'
autovacuum_naptime = 10s"
make_users 1
# A real run, so that configuration and data are those of a real one; it is taken out of the queue again.
sql >/dev/null <<'END'
select token, dataset_id from bench.tokens where n = 1 \gset
select pgtrain.authenticate(:'token', session => true);
select pgtrain.submit_run(dataset_id => :dataset_id, config => '{"size": "nano", "steps": 100}') as run_id \gset
create table bench.model_run as select * from pgtrain.training_runs where id = :run_id;
select pgtrain.cancel_run(:run_id);
END

empty_ours() { sql -c "truncate pgtrain.training_runs cascade" -c "vacuum" >/dev/null 2>&1; }
fill_ours() { sql -v rows="$1" -v state="$2" -f "$queue/fill.sql" >/dev/null; } # N queued|succeeded
fill_plain() { # N queued|done
  plain_sql -v rows="$1" -v state="$2" <<'END'
insert into runs (user_id, state, payload, started_at) select g % 100, :'state', '{"size": "nano", "steps": 100, "learning_rate": 0.001}', case when :'state' = 'done' then now() end from generate_series(1, :rows) g;
END
}
settle() { sql -c 'vacuum analyze pgtrain.training_runs, pgtrain.run_attempts, pgtrain_private.run_queue' -c checkpoint; plain_sql -c 'vacuum analyze runs'; }
prepare() { # queued, finished
  empty_ours; plain_sql -q -f "$queue/plain.sql" 2>/dev/null
  if [ "$2" -gt 0 ]; then fill_ours "$2" succeeded; fill_plain "$2" done; fi
  fill_ours "$1" queued; fill_plain "$1" queued
  settle
}
ours() { settled_rate "$@"; }
plain() { PGDATABASE=plain settled_rate "$@"; }

compare() { # script, clients, pgbench's length arguments; the rates go to $server_folder/{ours,plain}
  local script=$1 clients=$2; shift 2
  ours -c "$clients" -j 2 -f "$queue/our_$script.sql" "$@" >>"$server_folder/ours"
  plain -c "$clients" -j 2 -f "$queue/plain_$script.sql" "$@" >>"$server_folder/plain"
}
report() { # label
  local a b
  a=$(median <"$server_folder/ours"); b=$(median <"$server_folder/plain")
  printf '%-58s ours %-34s plain %-34s plain/ours %s\n' "$1" "$a" "$b" "$(ratio "$b" "$a")"
  rm -f "$server_folder/ours" "$server_folder/plain"
}

rounds=$(full 7 3)
say "## fresh, per second (goal: plain/ours at most 1.5, flat in depth)"
while read -r depth finished; do
  [ -n "$depth" ] || continue
  prepare "$depth" "$finished"
  # What was claimed is put back in.
  claims=$((depth * 9 / 10)); [ "$claims" -le 6000 ] || claims=6000
  for script in claim cycle; do
    for _ in $(seq "$rounds"); do
      compare "$script" 1 -t "$claims"
      fill_ours "$claims" queued; fill_plain "$claims" queued
    done
    report "$script, 1 client, $depth queued, $finished finished"
  done
done <<END
1000 0
100000 0
$(full '1000000 0' '')
1000 $(full 1000000 100000)
100000 $(full 1000000 100000)
END

prepare 200000 0
each=$(full 10000 3000) # transactions of each of 4 clients
for _ in $(seq "$rounds"); do
  compare cycle 4 -t "$each"
  fill_ours $((4 * each)) queued; fill_plain $((4 * each)) queued
done
report "cycle, 4 clients, 200000 queued"

# Rate in each of several windows of one long run.
windows() { # seconds, window, script, database
  PGDATABASE=$4 "$pg_bin/pgbench" -n -M prepared -T "$1" -P "$2" -c 1 -f "$3" 2>&1 | awk '/^progress/ { printf "%s%d", n++ ? " " : "", $4 } END { print "" }'
}
long=$(full 90 24) window=$(full 15 6) many=$(full 2000000 400000)
last_of_first() { awk '{ printf "%.2f", $NF / $1 }' <<<"$1"; }

say "## sustained: claim and finish for $long s, per second in windows of $window s (goal: ours keeps at least half)"
prepare "$many" 0
a=$(windows "$long" "$window" "$queue/our_cycle.sql" pgtrain); b=$(windows "$long" "$window" "$queue/plain_cycle.sql" plain)
printf 'ours   %s   last/first %s\nplain  %s   last/first %s\n' "$a" "$(last_of_first "$a")" "$b" "$(last_of_first "$b")"

say "## the same with an old snapshot held by another session, so that nothing can be vacuumed"
prepare "$many" 0
for database in pgtrain plain; do
  PGDATABASE=$database "$pg_bin/psql" -X -q -c 'begin isolation level repeatable read' -c 'select 1' -c "select pg_sleep($((long * 3)))" >/dev/null 2>&1 &
done
until [ "$(sql -c "select count(*) from pg_stat_activity where wait_event = 'PgSleep'")" = 2 ]; do sleep 0.1; done
a=$(windows "$long" "$window" "$queue/our_cycle.sql" pgtrain); b=$(windows "$long" "$window" "$queue/plain_cycle.sql" plain)
printf 'ours   %s   last/first %s\nplain  %s   last/first %s\n' "$a" "$(last_of_first "$a")" "$b" "$(last_of_first "$b")"
sql -c "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'" >/dev/null
wait
