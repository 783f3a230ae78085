#!/usr/bin/env bash
# Generation on the CPU: tokens a second beside llama.cpp's (llama-cpp-python) at the same precision and threads, in turn, and whether
# both write the same greedy text. PGTRAIN_TEST_GGUF names another model than SmolLM2-135M; PGTRAIN_BENCH_PYTHON_LLAMA a Python
# that has llama-cpp-python.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source=$ROOT/bench/generate
threads=${THREADS:-$(nproc)} tokens=29 rounds=$(full 9 3)
work=$BENCH/generate
mkdir -p "$work/base"
model=${PGTRAIN_TEST_GGUF:-$(bash "$ROOT/scripts/small_model.sh")}
ln -sf "$(realpath "$model")" "$work/base/model.gguf"
library=$BUILD/cmake/src/engine/libpgtrain_engine.a
[ -f "$library" ] || die "the engine is not built: make all"
has_dnnl=
if [ -e /usr/include/oneapi/dnnl/dnnl.hpp ]; then has_dnnl=1; fi
g++ -std=c++20 -O2 -Wall -Wextra -I "$ROOT/src" "$source/write_loop.cpp" "$library" -o "$work/write_loop" -lopenblas ${has_dnnl:+-ldnnl} -fopenmp -ldl -lpthread
python=$(peer_python llama llama-cpp-python) || die "without llama-cpp-python there is nothing to compare with"
rm -f "$work"/*.rates
for _ in $(seq "$rounds"); do
  for mode in ours-fp32 ours-bf16 llama-f16 llama-bf16; do
    case $mode in
      ours-*) "$work/write_loop" "$work/base" "${mode#*-}" "$threads" "$tokens" ;;
      *) "$python" "$source/llama_loop.py" "$model" "${mode#*-}" "$threads" "$tokens" "$work" 2>/dev/null ;;
    esac >"$work/$mode.out"
    head -n 1 "$work/$mode.out" >>"$work/$mode.rates"
  done
done
say "## tokens a second, median (goal: at least 0.8 times llama.cpp's at the same precision, then 1.0), $threads threads"
for mode in ours-fp32 ours-bf16 llama-f16 llama-bf16; do printf '%-12s %s\n' "$mode" "$(median <"$work/$mode.rates")"; done
for peer in f16 bf16; do
  same=differs
  if cmp -s <(tail -n +2 "$work/ours-bf16.out") <(tail -n +2 "$work/llama-$peer.out"); then same="is the same"; fi
  printf 'ours bf16 / llama.cpp %s: %s, the text %s\n' "$peer" "$(ratio "$(median <"$work/ours-bf16.rates")" "$(median <"$work/llama-$peer.rates")")" "$same"
done
