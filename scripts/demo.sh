#!/usr/bin/env bash
# From nothing to a trained model: packages, build, a throwaway server, a user, a dataset, a run watched to its end.
# TEXT=path trains on that file (its paragraphs) instead of the English that PostgreSQL carries; CONFIG='{"steps":100}'
# changes the run's settings. The last line is one JSON object read from the tables. Ctrl-C cancels the run politely.
# Fails when the run did not succeed or the held-out loss did not fall. Called by `make demo`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$here/progress_bar.sh"

# What a machine with two cores trains in less than three minutes; CONFIG is laid over it.
default_config='{"size": "micro", "steps": 500, "max_seconds": 150, "samples": 3, "sample_tokens": 120}'
config=${CONFIG:-'{}'} text=${TEXT:-}

part_began=$SECONDS
begin() { printf '%-10s' "$1"; part_began=$SECONDS; }
finish() { printf '%s  (%d s)\n' "$1" $((SECONDS - part_began)); }
bold() { if [ "$progress_is_live" = 1 ]; then printf '\033[1m%s\033[0m\n' "$1"; else printf '%s\n' "$1"; fi; }

# A preparation whose output matters only when it fails.
prepare() { # log, command...
  "${@:2}" >"$1" 2>&1 </dev/null || { echo failed; tail -n 40 "$1" >&2; exit 1; }
}

# Before minutes are spent on packages and the build.
if [ -n "$text" ]; then bash "$here/paragraphs.sh" "$text" >/dev/null || exit 1; fi

bold "pgtrain: a model trained inside PostgreSQL, from one SQL call"
# Not hidden: it may ask for a password, and says what it installs.
bash "$here/deps.sh"
# Only now is it known which PostgreSQL there is and which user runs it.
. "$here/environment.sh"
mkdir -p "$BUILD"
begin build
prepare "$BUILD/demo-build.log" make -C "$ROOT" all
finish "module, engine and trainer"
begin server
prepare "$BUILD/demo-server.log" bash "$ROOT/scripts/cluster.sh" start
address=$(tail -n 1 "$BUILD/demo-server.log")
finish "$address"

export LC_ALL=C.UTF-8 PGCLIENTENCODING=UTF8 PGOPTIONS='-c client_min_messages=warning'
client=$RUN/pg$("$PG_CONFIG" --bindir)/psql
# Values travel on standard input, never on the command line, where others could read them.
sql() { "$client" "$address" -X -q -A -t -F '|' -v ON_ERROR_STOP=1 "$@"; }

begin data
config=$(sql <<<"select jsonb '$default_config' || jsonb '${config//\'/\'\'}'") || die "CONFIG is not a JSON object: $config"
user=demo-$(date +%Y%m%d-%H%M%S)-$$
setup=$(mktemp)
trap 'rm -f "$setup"' EXIT
{
  printf '\\set username %s\n\\set password %s\n' "$user" "$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')"
  escaped=${config//\\/\\\\}
  printf "\\\\set config '%s'\n" "${escaped//\'/\'\'}"
  if [ -n "$text" ]; then printf '\\set from_input yes\n'; fi
  cat "$ROOT/scripts/demo_setup.sql"
} >"$setup"
if [ -n "$text" ]; then row=$(bash "$here/paragraphs.sh" "$text" | sql -f "$setup"); else row=$(sql -f "$setup" </dev/null); fi
IFS='|' read -r token run_id samples text_bytes source <<<"$row"
finish "$samples $source, $((text_bytes / 1000)) kB, frozen for the run"

state() { # of the run, for draw_progress
  sql <<<"select status, step, steps, loss, tokens_per_second, extract(epoch from time_left)::integer, device from pgtrain.run_progress where run_id = $run_id"
}
is_ended() { case $1 in queued | running) return 1 ;; *) return 0 ;; esac; }

cancel() {
  sql >/dev/null <<END
begin;
select pgtrain.authenticate('$token');
select pgtrain.cancel_run($run_id);
commit;
END
}
interrupted=0
trap 'interrupted=1' INT TERM

bold "run $run_id of user $user: $(sql <<<"select to_char(parameters, 'FM999,999,999,999') || ' parameters, ' || planned_steps || ' steps, ' || pg_size_pretty(peak_bytes_planned) || ' planned' from pgtrain.training_runs where id = $run_id")"
waiting_since=$SECONDS explained=0 status=queued
while ! is_ended "$status"; do
  if [ "$interrupted" = 1 ]; then
    interrupted=2
    end_progress
    say "cancelling the run; once more Ctrl-C leaves it to the server"
    trap - INT TERM
    cancel || say "the run could not be cancelled: it goes on, see make psql"
  fi
  row=$(state) || { [ "$interrupted" != 0 ] || die "the server does not answer; its log: $RUN/log/server.log"; continue; }
  IFS='|' read -r status step steps loss speed left device <<<"$row"
  draw_progress "$status" "$step" "$steps" "$loss" "$speed" "$left" "$device"
  if [ "$status" = queued ] && [ "$explained" = 0 ] && [ $((SECONDS - waiting_since)) -ge 5 ]; then
    explained=1
    end_progress
    sql <<<"select pgtrain.why_waiting($run_id)"
  fi
  is_ended "$status" || sleep 0.4 || true
done
end_progress

result() { # an expression over the run r
  sql <<<"select $1 from pgtrain.training_runs r where r.id = $run_id"
}
if [ "$status" = succeeded ]; then
  say ""
  result "'held-out loss  ' || round(loss_before::numeric, 3) || ' before, ' || round(loss_after::numeric, 3) || ' after: '
    || round((100 * abs(loss_before - loss_after) / loss_before)::numeric, 1) || case when loss_after < loss_before then ' % less' else ' % more' end"
  sql <<<"select 'artifact       ' || name || ', ' || pg_size_pretty(bytes) || ', sha256 ' || sha256 from pgtrain.artifacts where run_id = $run_id and name = 'model.safetensors'"
  say ""
  bold "what the model writes now"
  sql <<<"select '  ' || row_number() over (order by id) || '. ' || regexp_replace(prompt || content, '\s+', ' ', 'g') from (select * from pgtrain.run_samples where run_id = $run_id order by step desc, id limit 3) s"
else
  result "'the run ended as ' || status || coalesce(' (' || end_reason || ')', '') || coalesce(E'\n' || error_message, '') || coalesce(E'\n' || error_detail, '') || coalesce(E'\n' || error_hint, '')"
fi
say ""
say "a shell on it: make psql          e.g.  select * from pgtrain.run_progress;"
if [ "$status" = succeeded ]; then say "               select pgtrain.generate(run_id => $run_id, prompt => 'convert ', max_tokens => 80);"; fi

is_better=$(result "status = 'succeeded' and loss_after < loss_before")
if [ "$status" = succeeded ] && [ "$is_better" != t ]; then
  say "The held-out loss did not fall, which counts as a failure here: $((text_bytes / 1000)) kB of text may be too little to learn from." >&2
fi
sql <<<"select json_build_object('run_id', run_id, 'status', p.status, 'device', concat_ws(' ', p.device_kind, p.device), 'parameters', p.parameters, 'steps', p.step,
  'loss_before', p.loss_before, 'loss_after', p.loss_after, 'tokens_per_second', p.tokens_per_second,
  'peak_bytes_planned', p.peak_bytes_planned, 'peak_bytes', p.peak_bytes,
  'artifact_sha256', (select sha256 from pgtrain.artifacts a where a.run_id = p.run_id and a.name = 'model.safetensors'),
  'seconds', p.device_seconds)
  from pgtrain.run_progress p where p.run_id = $run_id"
[ "$interrupted" = 0 ] || exit 130
[ "$is_better" = t ]
