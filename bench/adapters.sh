#!/usr/bin/env bash
# Whether folding adapters' columns into the frozen weights would pay: a layer's projections with adapters in three forms, on the CPU with
# SmolLM2-135M's shapes, and counted for Llama 3 8B's (adapters/forms.cpp says what is what). Called by run.sh. There is no peer but the form
# that the engine has. On a card: DEVICE=cuda:0 MODEL=llama3-8b ROWS=16384, with the folder of libpgtrain_cuda.so in LD_LIBRARY_PATH.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
threads=${THREADS:-1}
work=$BENCH/adapters
mkdir -p "$work"

library=$BUILD/cmake/src/engine/libpgtrain_engine.a
[ -f "$library" ] || die "the engine is not built: make all"
has_dnnl=
if [ -e /usr/include/oneapi/dnnl/dnnl.hpp ]; then has_dnnl=1; fi
g++ -std=c++20 -O2 -Wall -Wextra -I "$ROOT/src" "$ROOT/bench/adapters/forms.cpp" "$library" -o "$work/forms" -lopenblas ${has_dnnl:+-ldnnl} -fopenmp -ldl -lpthread

for precision in bf16 fp32; do
  "$work/forms" "${DEVICE:-cpu}" "$threads" "${MODEL:-smollm2}" $precision "${ROWS:-1024}" "${ROUNDS:-$(full 41 15)}"
done
"$work/forms" cpu "$threads" llama3-8b bf16 16384 0
