#!/usr/bin/env bash
# From nothing to a fine-tuned language model: a real one (SmolLM2-135M) is imported, asked, tuned on questions and answers that PostgreSQL
# knows of itself, and asked again. MODEL=path tunes that GGUF file or Hugging Face folder; CONFIG='{"epochs":1}' changes the run's settings;
# QUESTION= asks something else. The last line is one JSON object read from the tables. Ctrl-C cancels the run politely.
# Fails when the run did not succeed, when the held-out loss of the answers fell by less than 30 %, or the memory was not as planned within 5 %. Called by `make demo-finetune`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$here/progress_bar.sh"
. "$here/demo_parts.sh"

# Less than ten minutes for two cores; CONFIG is laid over it.
default_config='{"epochs": 2, "context": 256, "batch_size": 4, "max_seconds": 600}'
config=${CONFIG:-'{}'} question=${QUESTION:-'What does the PostgreSQL function pg_backend_pid do?'}

bold "pgtrain: a language model fine-tuned inside PostgreSQL, by SQL"
bash "$here/deps.sh"
start_server

begin model
source=$(bash "$here/small_model.sh")
# Where the server's account can read it.
model=$RUN/models/$(basename "$source")
mkdir -p "$RUN/models"
cp -r --reflink=auto "$source" "$RUN/models/"
chmod -R a+rX "$RUN/models"
# As an administrator: users may import from there.
sql <<<"alter system set pgtrain.import_folder = '$RUN/models'" && sql <<<"select from pg_reload_conf()"
finish "$(basename "$source"), $(($(du -sk "$model" | cut -f1) / 1000)) MB"

begin import
config=$(sql <<<"select jsonb '$default_config' || jsonb '${config//\'/\'\'}'") || die "CONFIG is not a JSON object: $config"
user=demo-$(date +%Y%m%d-%H%M%S)-$$
setup=$(mktemp)
trap 'rm -f "$setup"' EXIT
quoted() { local text=${1//\\/\\\\}; printf "'%s'" "${text//\'/\'\'}"; }
{
  printf '\\set username %s\n\\set password %s\n' "$user" "$(od -An -N 16 -tx1 /dev/urandom | tr -d ' \n')"
  printf '\\set config %s\n\\set model %s\n\\set question %s\n' "$(quoted "$config")" "$(quoted "$model")" "$(quoted "$question")"
  cat "$ROOT/scripts/demo_finetune_setup.sql"
} >"$setup"
row=$(sql -f "$setup" </dev/null)
IFS='|' read -r token run_id model_id samples text_bytes before <<<"$row"
finish "model $model_id; $samples questions and answers, $((text_bytes / 1000)) kB, frozen for the run"

watch_run

say ""
if [ "$status" = succeeded ]; then
  after=$(sql <<END
begin;
select from pgtrain.authenticate('$token');
select replace(pgtrain.generate(run_id => $run_id, messages => jsonb_build_array(jsonb_build_object('role', 'user', 'content', $(quoted "$question"))),
                                max_tokens => 48, temperature => 0), E'\n', ' ');
commit;
END
)
  result "'held-out loss  ' || round(loss_before::numeric, 3) || ' before, ' || round(loss_after::numeric, 3) || ' after: '
    || round((100 * (loss_before - loss_after) / loss_before)::numeric, 1) || ' % less'"
  result "'memory         ' || pg_size_pretty(peak_bytes_planned) || ' planned, ' || pg_size_pretty(peak_bytes) || ' used'"
  sql <<<"select 'artifact       ' || name || ', ' || pg_size_pretty(bytes) || ', sha256 ' || sha256 from pgtrain.artifacts where run_id = $run_id and name = 'adapter_model.safetensors'"
  say ""
  bold "$question"
  say "  before: $before"
  say "  after:  ${after##*$'\n'}"
  say ""
  say "a shell on it: make psql          e.g.  select pgtrain.fine_tuning_job($run_id);"
else
  result "'the run ended as ' || status || coalesce(' (' || end_reason || ')', '') || coalesce(E'\n' || error_message, '') || coalesce(E'\n' || error_detail, '') || coalesce(E'\n' || error_hint, '')"
fi

is_better=$(result "status = 'succeeded' and loss_after <= 0.7 * loss_before")
if [ "$status" = succeeded ] && [ "$is_better" != t ]; then say "The held-out loss fell by less than 30 %, which counts as a failure here." >&2; fi
is_as_planned=$(result "status = 'succeeded' and peak_bytes between 0.95 * peak_bytes_planned and peak_bytes_planned")
if [ "$status" = succeeded ] && [ "$is_as_planned" != t ]; then say "The memory used is not what was planned within 5 %, which counts as a failure here." >&2; fi
sql <<<"select json_build_object('run_id', run_id, 'status', p.status, 'device', concat_ws(' ', p.device_kind, p.device), 'parameters', p.parameters, 'steps', p.step,
  'loss_before', p.loss_before, 'loss_after', p.loss_after, 'tokens_per_second', p.tokens_per_second,
  'peak_bytes_planned', p.peak_bytes_planned, 'peak_bytes', p.peak_bytes,
  'artifact_sha256', (select sha256 from pgtrain.artifacts a where a.run_id = p.run_id and a.name = 'adapter_model.safetensors'),
  'seconds', p.device_seconds)
  from pgtrain.run_progress p where p.run_id = $run_id"
[ "$interrupted" = 0 ] || exit 130
[ "$is_better" = t ] && [ "$is_as_planned" = t ]
