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

. "$here/demo_parts.sh"

# Before minutes are spent on packages and the build.
if [ -n "$text" ]; then bash "$here/paragraphs.sh" "$text" >/dev/null || exit 1; fi

bold "pgtrain: a model trained inside PostgreSQL, from one SQL call"
# Not hidden: it may ask for a password, and says what it installs.
bash "$here/deps.sh"
start_server

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

watch_run

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
