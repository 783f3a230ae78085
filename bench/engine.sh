#!/usr/bin/env bash
# The engine on the CPU: tokens a second and peak memory of our training step beside PyTorch's, same model (GPT-2's
# architecture, bytes as tokens), initial weights, batches, optimiser and threads, in turn; the loss curves compared; and the
# share of what oneDNN's bf16 product alone does. Called by run.sh. PyTorch comes from PyPI into BUILD (several GB, once);
# PGTRAIN_BENCH_PYTHON_TORCH names a Python that has it.
# Times are given twice: by the clock, and in processor seconds, which a machine busy with other things disturbs less.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source=$ROOT/bench/engine
layers=4 width=256 heads=8 context=256 batch=16
threads=${THREADS:-$(nproc)}
steps=$(full 30 10) rounds=$(full 5 2) curve=$(full 200 30)
work=$BENCH/engine
mkdir -p "$work"

library=$BUILD/cmake/src/engine/libpgtrain_engine.a
[ -f "$library" ] || die "the engine is not built: make all"
has_dnnl=
if [ -e /usr/include/oneapi/dnnl/dnnl.hpp ]; then has_dnnl=1; fi
g++ -std=c++20 -O2 -Wall -Wextra -I "$ROOT/src" "$source/step_loop.cpp" "$library" -o "$work/step_loop" -lopenblas ${has_dnnl:+-ldnnl} -fopenmp -ldl -lpthread
if [ -n "$has_dnnl" ]; then g++ -std=c++20 -O2 -Wall -Wextra "$source/product.cpp" -o "$work/product" -ldnnl -fopenmp; fi

python=$(peer_python torch torch numpy) || die "without PyTorch there is nothing to compare with"
say "peer: PyTorch $("$python" -c 'import torch; print(torch.__version__)'), $threads threads each"
# Prose and SQL; a table of numbers among it would be a batch unlike all others, after which equal curves part.
cat "$ROOT"/docs/*.md "$ROOT"/sql/*/*.sql >"$work/text"
"$python" "$source/torch_loop.py" case "$work/case.safetensors" "$work/text" $layers $width $heads $context $batch 200
say "model: $layers layers, width $width, $heads heads, context $context, batch $batch; data: this checkout's own text"

export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads MKL_NUM_THREADS=$threads
run() { # who, mode, steps
  if [ "$1" = ours ]; then "$work/step_loop" "$work/case.safetensors" "$2" "$threads" "$3"
  else "$python" "$source/torch_loop.py" train "$work/case.safetensors" "$2" "$threads" "$3"; fi
}
modes=(ours:fp32 ours:bf16 torch:fp32 torch:bf16)
# Compiling takes a minute each time.
if [ "$FULL" = 1 ]; then modes+=(torch:fp32-compiled torch:bf16-compiled); fi
# Autocast and compile need what a machine may not have; what fails is named and left out.
usable=()
for mode in "${modes[@]}"; do
  if run "${mode%%:*}" "${mode#*:}" 3 >"$work/try" 2>"$work/error"; then usable+=("$mode"); else say "left out: $mode ($(tail -n 1 "$work/error"))"; fi
done
rm -f "$work"/*.steps "$work"/*.memory "$work"/*.curve
for _ in $(seq "$rounds"); do
  for mode in "${usable[@]}"; do
    run "${mode%%:*}" "${mode#*:}" "$steps" >"$work/out" 2>/dev/null
    # The first steps set up: thread pools, primitives, compiled code.
    awk 'NF == 4 && $1 >= 3' "$work/out" >>"$work/$mode.steps"
    awk '$1 == "peak" { print $2 / 1048576 }' "$work/out" >>"$work/$mode.memory"
  done
done

tokens=$((batch * context))
clock() { awk -v t=$tokens '{ print t / $3 }' "$work/$1.steps" | median; }
processor() { awk -v t=$tokens -v n="$threads" '{ print t * n / $4 }' "$work/$1.steps" | median; }
best_clock=0 best_processor=0 best_memory=
say "## tokens a second, median step (goal: at least 2 times PyTorch's best), and peak memory of the process (goal: half)"
for mode in "${usable[@]}"; do
  c=$(clock "$mode") p=$(processor "$mode") m=$(median <"$work/$mode.memory")
  printf '%-22s by the clock %-38s by processor time %-12s peak %.0f MiB\n' "$mode" "$c" "${p%% *}" "${m%% *}"
  case $mode in torch:*)
    best_clock=$(awk -v a="$best_clock" -v b="${c%% *}" 'BEGIN { print (a > b ? a : b) }')
    best_processor=$(awk -v a="$best_processor" -v b="${p%% *}" 'BEGIN { print (a > b ? a : b) }')
    best_memory=$(awk -v a="${best_memory:-1e9}" -v b="${m%% *}" 'BEGIN { print (a < b ? a : b) }') ;;
  esac
done
for mode in ours:fp32 ours:bf16; do
  [ -e "$work/$mode.steps" ] || continue
  printf '%s / best of PyTorch: %s by the clock, %s by processor time; memory / least of PyTorch: %s\n' "$mode" \
    "$(ratio "$(clock $mode)" "$best_clock")" "$(ratio "$(processor $mode)" "$best_processor")" "$(ratio "$(median <"$work/$mode.memory")" "$best_memory")"
done

if [ -n "$has_dnnl" ] && [ -e "$work/ours:bf16.steps" ]; then
  say "## share of oneDNN's bf16 product alone (goal: at least 40 %)"
  "$work/product" "$threads" $tokens $width "$(full 2 0.5)" >"$work/product.out"
  sed '/^GFLOPS/d; s/^/  /' "$work/product.out"
  alone=$(sed -n 's/^GFLOPS //p' "$work/product.out")
  # Six operations for each matrix weight and token, attention besides; the vocabulary counts once.
  flop=$(awk -v l=$layers -v w=$width -v t=$context 'BEGIN { print 6 * (12 * l * w * w + 257 * w) + 12 * l * t * w }')
  awk -v f="$flop" -v r="$(clock ours:bf16)" -v a="$alone" 'BEGIN { split(r, v, " "); g = f * v[1] / 1e9
    printf "engine %.1f GFLOP/s (%.1f MFLOP a token), product alone %.1f GFLOP/s: %.0f %%\n", g, f / 1e6, a, 100 * g / a }'
fi

say "## loss curves from equal weights and batches, relative difference to PyTorch's (goals fp32: step 0 1e-5, first 10 1e-4, 100 1e-3; bf16: step 0 2e-3, mean of steps 150 to 200 0.5 %)"
for mode in "${usable[@]}"; do
  case $mode in *-compiled) continue ;; esac
  run "${mode%%:*}" "${mode#*:}" "$curve" 2>/dev/null | awk 'NF == 4' >"$work/$mode.curve"
done
compare_curves() { # ours, PyTorch's
  [ -e "$work/$1.curve" ] && [ -e "$work/$2.curve" ] || return 0
  paste -d ' ' "$work/$2.curve" "$work/$1.curve" | awk -v label="$1 against $2" '
    { d = ($6 - $2) / $2; d = d < 0 ? -d : d; if (NR == 1) first = d; if (NR <= 10 && d > ten) ten = d; if (NR <= 100 && d > hundred) hundred = d
      if (NR > 150) { theirs += $2; ours += $6; late++ } a = $2; b = $6 }
    END { printf "%-32s step 0 %.1e   first 10 %.1e   first %d %.1e   last losses %.4f and %.4f", label, first, ten, NR < 100 ? NR : 100, hundred, b, a
      if (late) printf "   mean of steps 150 to 200 %+.2f %%", 100 * (ours - theirs) / theirs
      printf "\n" }'
}
compare_curves ours:fp32 torch:fp32
compare_curves ours:bf16 torch:bf16
# How far bf16 leads away from fp32 here at all, in PyTorch itself.
compare_curves torch:bf16 torch:fp32
