# What the demos share: telling what is done, the throwaway server, a run watched to its end. Sourced by demo.sh and demo_finetune.sh, which
# have sourced progress_bar.sh.

part_began=$SECONDS
begin() { printf '%-10s' "$1"; part_began=$SECONDS; }
finish() { printf '%s  (%d s)\n' "$1" $((SECONDS - part_began)); }
bold() { if [ "$progress_is_live" = 1 ]; then printf '\033[1m%s\033[0m\n' "$1"; else printf '%s\n' "$1"; fi; }

# A preparation whose output matters only when it fails.
prepare() { # log, command...
  "${@:2}" >"$1" 2>&1 </dev/null || { echo failed; tail -n 40 "$1" >&2; exit 1; }
}

start_server() { # builds first; sets address and client
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
}
# Values travel on standard input, never on the command line, where others could read them.
sql() { "$client" "$address" -X -q -A -t -F '|' -v ON_ERROR_STOP=1 "$@"; }

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
watch_run() { # of run_id, user and token; sets status and interrupted
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
    # The pace at which the bar is drawn anew; Ctrl-C ends the sleep, and the loop goes on to cancel.
    is_ended "$status" || sleep 0.4 || true
  done
  end_progress
}

result() { # an expression over the run r
  sql <<<"select $1 from pgtrain.training_runs r where r.id = $run_id"
}
