#!/usr/bin/env bash
# Fine-tuning on the CPU: tokens a second and peak memory of our step beside transformers' and PEFT's: LoRA (rank 16, all linear layers)
# on SmolLM2-135M's shapes, and full training on GPT-2 124M's; the same weights, adapters, batches, optimiser and threads, in turn.
# Weights are drawn by chance: the work is that of learnt ones. Called by run.sh. PyTorch, transformers and PEFT come from PyPI into BUILD
# (several GB, once); PGTRAIN_BENCH_PYTHON_PEFT names a Python that has them.
# Times are given twice: by the clock, and in processor seconds, which a machine busy with other things disturbs less; both suffer when
# two threads wait for one another on a busy processor, so THREADS=1 is the fairer comparison there.
# CASES="gpt2": that one alone. LLMC=folder: a checkout of karpathy/llm.c, whose trainer for CPUs then takes part in full training.
# Goals: without AMX at least 1.3 times PyTorch's best, with AMX 2.5 times; at most half its memory.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source=$ROOT/bench/finetune
batch=4 length=256 batches=8
threads=${THREADS:-$(nproc)}
steps=${STEPS:-$(full 8 4)} rounds=${ROUNDS:-$(full 5 2)}
work=$BENCH/finetune
mkdir -p "$work"

library=$BUILD/cmake/src/engine/libpgtrain_engine.a
[ -f "$library" ] || die "the engine is not built: make all"
has_dnnl=
if [ -e /usr/include/oneapi/dnnl/dnnl.hpp ]; then has_dnnl=1; fi
g++ -std=c++20 -O2 -Wall -Wextra -I "$ROOT/src" "$source/step_loop.cpp" "$library" -o "$work/step_loop" -lopenblas ${has_dnnl:+-ldnnl} -fopenmp -ldl -lpthread

python=$(peer_python peft torch transformers peft numpy) || die "without PyTorch and PEFT there is nothing to compare with"
say "peer: $("$python" -c 'import torch, transformers, peft; print("PyTorch", torch.__version__, "transformers", transformers.__version__, "PEFT", peft.__version__)' 2>/dev/null), $threads threads each"
export OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads MKL_NUM_THREADS=$threads

run() { # case, who, mode, steps
  case $2 in
    ours) "$work/step_loop" "$work/$1" "$3" "$threads" "$4" ;;
    llmc) "$python" "$source/llmc_loop.py" "$(realpath "$LLMC")" "$work/$1" "$threads" "$4" ;;
    *) "$python" "$source/peft_loop.py" train "$work/$1" "$3" "$threads" "$4" ;;
  esac
}

compare() { # case, title, modes...
  local case=$1 title=$2 mode c p m best_clock=0 best_processor=0 best_memory=1e9
  shift 2
  if [ ! -e "$work/$case/.ready" ]; then
    rm -rf "${work:?}/$case"
    mkdir -p "$work/$case"
    "$python" "$source/peft_loop.py" case "$work/$case" "$case" $batch $length $batches >"$work/error" 2>&1 || die "$(tail -n 3 "$work/error")"
    : >"$work/$case/.ready"
  fi
  rm -f "$work"/*.steps "$work"/*.memory "$work"/*.first
  for _ in $(seq "$rounds"); do
    for mode in "$@"; do
      run "$case" "${mode%%:*}" "${mode#*:}" "$steps" >"$work/out" 2>"$work/error" || { say "left out: $mode ($(tail -n 1 "$work/error"))"; continue; }
      # The first step sets up: thread pools, primitives, memory touched for the first time.
      awk 'NF == 4 && $1 >= 1' "$work/out" >>"$work/$mode.steps"
      awk '$1 == "peak" { print $2 / 1048576 }' "$work/out" >>"$work/$mode.memory"
      awk 'NF == 4 && $1 == 0 { print $2 }' "$work/out" >"$work/$mode.first"
      awk '$1 == "planned" { print $2 / 1048576 }' "$work/out" >"$work/$mode.planned"
    done
  done
  say "## $title: $batch rows of $length tokens; tokens a second, median step, and peak memory of the process"
  local tokens=$((batch * length))
  for mode in "$@"; do
    [ -e "$work/$mode.steps" ] || continue
    c=$(awk -v t=$tokens '{ print t / $3 }' "$work/$mode.steps" | median)
    p=$(awk -v t=$tokens -v n="$threads" '{ print t * n / $4 }' "$work/$mode.steps" | median)
    m=$(median <"$work/$mode.memory")
    printf '%s %s %s\n' "${c%% *}" "${p%% *}" "${m%% *}" >"$work/$mode.result"
    printf '%-16s by the clock %-34s by processor time %-9s peak %5.0f MiB%s  loss of step 0 %s\n' "$mode" "$c" "${p%% *}" "${m%% *}" \
      "$(awk '{ printf ", planned %.0f", $1 }' "$work/$mode.planned")" "$(cat "$work/$mode.first")"
    case $mode in peft:*)
      best_clock=$(awk -v a="$best_clock" -v b="${c%% *}" 'BEGIN { print (a > b ? a : b) }')
      best_processor=$(awk -v a="$best_processor" -v b="${p%% *}" 'BEGIN { print (a > b ? a : b) }')
      best_memory=$(awk -v a="$best_memory" -v b="${m%% *}" 'BEGIN { print (a < b ? a : b) }') ;;
    esac
  done
  for mode in "$@"; do
    case $mode in ours:*) [ -e "$work/$mode.result" ] || continue ;; *) continue ;; esac
    read -r c p m <"$work/$mode.result"
    printf '%-16s / best of PyTorch: %s by the clock, %s by processor time; memory / least of PyTorch: %s\n' "$mode" \
      "$(ratio "$c" "$best_clock")" "$(ratio "$p" "$best_processor")" "$(ratio "$m" "$best_memory")"
    if [ -e "$work/llmc:fp32.result" ]; then
      read -r c_llmc _ m_llmc <"$work/llmc:fp32.result"
      printf '%-16s / llm.c: %s by the clock; memory %s\n' "$mode" "$(ratio "$c" "$c_llmc")" "$(ratio "$m" "$m_llmc")"
    fi
  done
}

is_asked() { case " ${CASES:-smollm2 gpt2} " in *" $1 "*) true ;; *) false ;; esac; }
rm -f "$work"/*.result
if is_asked smollm2; then compare smollm2 "LoRA r 16 on all linear layers, SmolLM2-135M" ours:fp32 ours:bf16 peft:fp32 peft:bf16 peft:autocast; fi
rm -f "$work"/*.result
if is_asked gpt2; then compare gpt2 "full training, GPT-2 124M" ours:fp32 ours:bf16 ours:bf16-bf16 ours:bf16-8bit peft:fp32 peft:bf16 peft:autocast ${LLMC:+llmc:fp32}; fi
