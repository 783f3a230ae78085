#!/usr/bin/env bash
# The measured claims, each beside its peer in the same sitting. Called by `make bench`, which has built everything.
#   make bench                          all of them, short
#   make bench ONLY="claims engine"     some of: latency submit claims limits security secrets identity engine finetune adapters generate
#   make bench FULL=1                   a million runs, 90 s sustained: about 40 minutes
# Prints medians and ratios; what was printed is kept in BUILD/bench/results, and with KEEP=1 also in bench/results.
# Figures of different machines or sittings say nothing about one another: compare within one output only.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

known='latency submit claims limits security secrets identity engine finetune adapters generate'
only=${ONLY:-$known}
for name in $only; do
  case " $known " in *" $name "*) ;; *) die "there is no benchmark \"$name\"; there are: $known" ;; esac
done

results=$BENCH/results
mkdir -p "$results"
failed=
for name in $only; do
  {
    printf '# %s, %s\n' "$name" "$(date -u +%F)"
    describe_machine
    bash "$ROOT/bench/$name.sh" || { printf 'FAILED: bench/%s.sh, exit %s\n' "$name" "$?"; : >"$results/$name.failed"; }
  } 2>&1 | tee "$results/$name.txt"
  if [ -e "$results/$name.failed" ]; then failed="$failed $name"; rm -f "$results/$name.failed"
  elif [ "${KEEP:-0}" = 1 ]; then cp "$results/$name.txt" "$ROOT/bench/results/$name.txt"; fi
  printf '\n'
done
[ -z "$failed" ] || die "failed:$failed"
say "results: $results"
