#!/bin/sh
# Takes every barrier out of the CUDA kernels, one at a time, and expects the checked operation tests to fail each time.
# By hand, after `cuda_ops_checked` and `cuda_cudnn_checked` were built: test/cuda/mutate.sh BUILD_FOLDER [FILE.cu]. Minutes; prints what survived, and
# ends with 1 when something did. A survivor is a barrier that is not needed, or a test that is missing.
set -u
build=${1:?usage: test/cuda/mutate.sh BUILD_FOLDER [FILE.cu]}
only=${2:-}
root=$(cd "$(dirname "$0")/../.." && pwd)
kernels=$root/src/engine/backend/cuda
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
survivors=0
mutants=0

# Compiles FILE with line LINE's barrier removed and runs the tests. $3: the .cu that includes it.
try() {
  program=cuda_ops_checked
  [ "$1" = attention_first.cu ] && program=cuda_cudnn_checked  # whose rows are long enough
  command=$(cd "$build" && ninja -t commands "$program")
  link=$(printf '%s\n' "$command" | tail -1)
  mkdir -p "$work/engine/backend/cuda"
  cp "$kernels"/*.h "$kernels"/*.hpp "$kernels"/*.cuh "$kernels"/*.cu "$work/engine/backend/cuda/"
  sed -i "$2s/__sync\(threads\|warp\)()/((void)0)/" "$work/engine/backend/cuda/$1"
  object=$(printf '%s\n' "$command" | grep -o "[^ ]*emulated_kernels_checked[^ ]*/$3\.o" | head -1)
  compile=$(printf '%s\n' "$command" | grep -- "-c [^ ]*/$3\$" | grep emulated_kernels_checked | sed "s#-c .*#-c $work/engine/backend/cuda/$3#; s#-o [^ ]*#-o $work/mutant.o#; s#-I$root/src#-I$work -I$root/src#")
  (cd "$build" && sh -c "$compile") || { echo "could not compile $1:$2"; exit 2; }
  (cd "$build" && sh -c "$(printf '%s' "$link" | sed "s#$object#$work/mutant.o#; s#-o bin/$program#-o $work/mutant#")") || exit 2
  mutants=$((mutants + 1))
  for part in attention layer_norm embedding column_sum cross_entropy sums "equal bits"; do
    timeout 300 "$work/mutant" "$part" >"$work/out" 2>&1 || return 0
  done
  survivors=$((survivors + 1))
  echo "SURVIVED: $1:$2 $(sed -n "$2p" "$kernels/$1" | sed 's/^ *//')"
}
for file in "$kernels"/*.cu "$kernels"/*.cuh; do
  name=$(basename "$file")
  [ -z "$only" ] || [ "$only" = "$name" ] || continue
  case $name in kernel.cuh) user=sum.cu ;; *.cuh) continue ;; *) user=$name ;; esac
  for line in $(grep -nE '__sync(threads|warp)\(\)' "$file" | cut -d: -f1); do try "$name" "$line" "$user"; done
done
echo "$mutants barriers removed, $survivors not noticed"
[ "$survivors" -eq 0 ] && [ "$mutants" -gt 0 ]
