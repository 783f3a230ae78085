#!/bin/sh
# Everything a CUDA card can tell about pgtrain, in one command: builds, tests the operations on the card, trains the same small
# model on the card and on the CPU and compares, tries whether CUDA starts inside the trainer's sandbox, then measures tokens a
# second, beside PyTorch where python3 has it.
# Needs nvcc, CMake, g++ and make or ninja; uses the network for nothing. Results go to bench/results/.
#   bench/gpu/run.sh              all of it
#   bench/gpu/run.sh build|test   only so far
# BUILD, PGTRAIN_DEVICE (cuda:0), PYTHON (python3), STEPS (30), CUDA_HOME (/usr/local/cuda) can be set.
# Ends with 0, or: 2 wrong use, 3 a tool is missing, 4 no usable card, 5 a test failed on the card, 6 all is well but CUDA does
# not start inside the sandbox, 1 anything else.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
BUILD=${BUILD:-$root/build/gpu}
PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-30}
export PGTRAIN_DEVICE=${PGTRAIN_DEVICE:-cuda:0}
part=${1:-all}
case $part in build | test | all) ;; *) echo "usage: bench/gpu/run.sh [build|test|all]" >&2; exit 2 ;; esac

stop() { echo "bench/gpu/run.sh: $2" >&2; exit "$1"; }
need() { command -v "$1" >/dev/null 2>&1 || stop 3 "$1 is needed and was not found${2:+ ($2)}"; }

PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin
export PATH
need cmake "3.22 or newer; where the system has none, python3 -m pip install cmake"
need g++
need nvcc "the CUDA toolkit's compiler; add its bin folder to PATH"
if command -v ninja >/dev/null 2>&1; then generator=Ninja; else need make; generator="Unix Makefiles"; fi

echo "== build in $BUILD"
mkdir -p "$BUILD" || stop 1 "cannot create $BUILD; set BUILD to a folder that can be written"
cmake -S "$here" -B "$BUILD" -G "$generator" >"$BUILD/configure.log" 2>&1 || { tail -20 "$BUILD/configure.log" >&2; stop 1 "CMake failed, see $BUILD/configure.log"; }
cmake --build "$BUILD" --parallel "$(nproc)" >"$BUILD/build.log" 2>&1 || { tail -40 "$BUILD/build.log" >&2; stop 1 "the build failed, see $BUILD/build.log"; }
bin=$BUILD/bin
[ -f "$bin/libpgtrain_cuda.so" ] || stop 3 "the CUDA backend was not built, see $BUILD/configure.log"
[ "$part" = build ] && exit 0

echo "== devices"
"$bin/measure" devices || stop 4 "there is no card to test"

results=$root/bench/results
mkdir -p "$results" || stop 1 "cannot create $results"
stamp=$(date -u +%Y%m%dT%H%M%SZ)
log=$results/gpu-$stamp.log
lines=$results/gpu-$stamp.jsonl
{ date -u; uname -srm; nvcc --version | tail -2; command -v nvidia-smi >/dev/null && nvidia-smi; "$bin/measure" devices; } >"$log" 2>&1

# Runs a test program: its output into the log and, when it fails, to the reader.
check() {
  echo "== $1"
  shift
  if "$@" >"$BUILD/test.out" 2>&1; then tail -1 "$BUILD/test.out"; cat "$BUILD/test.out" >>"$log"; return 0; fi
  cat "$BUILD/test.out" >>"$log"
  tail -40 "$BUILD/test.out" >&2
  stop 5 "a test failed on $PGTRAIN_DEVICE: no speed is measured of a wrong engine. The log is $log"
}
check "operations against double precision" env PGTRAIN_TEST_TIMES=1 "$bin/card_ops"
check "training on the card against the CPU" "$bin/card_training" 40
echo "== CUDA inside the trainer's sandbox"
sandbox=0
if "$bin/card_sandbox" >"$BUILD/test.out" 2>&1; then tail -1 "$BUILD/test.out"; cat "$BUILD/test.out" >>"$log"; else
  sandbox=6
  for setting in on files calls off; do
    if PGTRAIN_SANDBOX=$setting "$bin/card_sandbox" >"$BUILD/test.out" 2>&1; then verdict=works; else verdict="does not work"; fi
    echo "PGTRAIN_SANDBOX=$setting $verdict: $(tail -1 "$BUILD/test.out")" | tee -a "$log" >&2
  done
  echo "CUDA does not start in the trainer's sandbox; pgtrain.trainer_environment with a setting that works is the way round. The log is $log" >&2
fi
[ "$part" = test ] && exit "$sandbox"

peers=
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then peers="eager compile"; else
  echo "PyTorch with CUDA was not found by $PYTHON: only ours is measured"
fi
# Ours and the peers in turn, twice: what one of them does to the card's clocks meets the others as well.
measure() {
  echo "== $*"
  for turn in 1 2; do
    "$bin/measure" "$PGTRAIN_DEVICE" "$@" "$STEPS" 2>>"$log" | tee -a "$lines"
    for mode in $peers; do "$PYTHON" "$here/peer.py" "$PGTRAIN_DEVICE" "$@" "$STEPS" "$mode" 2>>"$log" | tee -a "$lines"; done
  done
}
#       layers width heads vocabulary context batch precision
measure 6 384 6 257 256 64 bf16
measure 12 768 12 50257 1024 16 bf16
measure 12 768 12 50257 1024 32 bf16
measure 6 384 6 257 256 64 fp32
grep -q '"tokens_per_second"' "$lines" || stop 1 "nothing could be measured, see $log"
echo "== results in $lines, details in $log"
exit "$sandbox"
