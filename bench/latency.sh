#!/usr/bin/env bash
# From submit to claimed, one run at a time on an idle server. Ours: from sending submit_run until the device worker's claim
# ran. Beside it: INSERT + NOTIFY to a waiting listener that claims by the plain statement (the floor of an outside worker,
# without rights, limits or a lease), and procrastinate and pgqueuer from their call to their task's begin. Called by run.sh.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
queue=$ROOT/bench/queue
includes=$("$PG_CONFIG" --includedir)

g++ -std=c++20 -O2 -Wall -Wextra -I "$includes" "$queue/wakeup.cpp" -o "$BENCH/wakeup" -L "$("$PG_CONFIG" --libdir)" -lpq -lpthread

# The trainer that is started for each run shall cost nothing: where the tests' fake trainer is built it stands in.
fake=$BUILD/cmake/bin/pgtrain-fake-trainer trainer=
if [ -x "$fake" ]; then
  mkdir -p "$RUN"
  cp "$fake" "$RUN/bench-fake-trainer"; chmod 755 "$RUN/bench-fake-trainer"
  trainer="pgtrain.trainer_program = '$RUN/bench-fake-trainer'"
fi
start_server "$trainer"
say "trainer: $([ -n "$trainer" ] && echo 'the fake one of the tests' || echo 'the real one')"
make_users 1
plain_sql -f "$queue/plain.sql" 2>/dev/null
count=$(full 1000 300)
token=$(sql -c 'select token from bench.tokens') dataset=$(sql -c 'select dataset_id from bench.tokens')

peers=
if python=$(peer_python queue procrastinate pgqueuer 'psycopg[binary,pool]' asyncpg); then
  if "$python" "$queue/peers.py" install "$server_folder"; then peers='procrastinate pgqueuer'; fi
fi

# In turn, so that a drift of the machine meets all of them.
for _ in 1 2 3; do
  "$BENCH/wakeup" ours $((count / 3)) "$token" "$dataset" >>"$server_folder/ours"
  "$BENCH/wakeup" floor $((count / 3)) >>"$server_folder/floor"
  for peer in $peers; do "$python" "$queue/peers.py" latency "$peer" $((count / 3)) >>"$server_folder/$peer"; done
done
say "## one at a time (goal for ours, submit to claimed: p50 at most 0.8 ms, p99 at most 3 ms)"
ours=$(sed -n 's/^claimed //p' "$server_folder/ours" | quantiles)
printf '%-58s %s\n' 'pgtrain, submit_run sent -> claimed' "$ours"
printf '%-58s %s\n' 'pgtrain, submit_run sent -> returned to the client' "$(sed -n 's/^returned //p' "$server_folder/ours" | quantiles)"
printf '%-58s %s\n' 'floor, INSERT + NOTIFY sent -> claimed by plain SQL' "$(sed -n 's/^claimed //p' "$server_folder/floor" | quantiles)"
for peer in $peers; do printf '%-58s %s\n' "$peer, enqueue called -> task begun (Python)" "$(quantiles <"$server_folder/$peer")"; done
say "(measured elsewhere, not here: graphile-worker p50 1.4 ms, p99 6 ms; pg-boss 2.8 and 9)"
rm -f "$RUN/bench-fake-trainer"
