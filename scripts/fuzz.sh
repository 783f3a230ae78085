#!/usr/bin/env bash
# Builds the fuzz targets with clang's libFuzzer and sanitizers and runs each for the given seconds, JOBS at a time. Called by
# `make fuzz`. What they learn stays in the build folder for the next time. An input that breaks a target is kept and named with
# the command that shows it again; the last line is `N passed, N failed`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
seconds=${1:?usage: fuzz.sh SECONDS}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "fuzz: SECONDS is a whole number, not '$seconds'"
command -v clang++ >/dev/null || die "fuzz: needs clang++ with libFuzzer. Debian and Ubuntu: apt-get install clang libclang-rt-dev"

work=$BUILD/fuzz
mkdir -p "$work/log" "$work/found"
cmake -S "$ROOT" -B "$work/build" -G Ninja -DPGTRAIN_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS_RELEASE='-O1 -g' >"$work/log/configure" || { cat "$work/log/configure"; die "fuzz: CMake cannot configure"; }
cmake --build "$work/build" -j "$JOBS" >"$work/log/build" || { tail -n 60 "$work/log/build"; die "fuzz: the build failed"; }

targets=()
for program in "$work"/build/bin/*_fuzz; do
  name=$(basename "$program" _fuzz)
  [ -e "$ROOT/test/fuzz/${name}_fuzz.cpp" ] || continue
  if [ -z "${ONLY:-}" ] || [[ " $ONLY " = *" $name "* ]]; then targets+=("$name"); fi
done
[ ${#targets[@]} -gt 0 ] || die "fuzz: no target of that name"

# Half the time on new ground is lost where inputs may be long and slow ones count: hence the limits.
run_target() {
  local name=$1 seeds=$ROOT/test/fuzz/seeds/$1 folders
  mkdir -p "$work/corpus/$name"
  folders=("$work/corpus/$name")
  if [ -d "$seeds" ]; then folders+=("$seeds"); fi
  "$work/build/bin/${name}_fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=25 -rss_limit_mb=2560 -print_final_stats=1 \
    -artifact_prefix="$work/found/$name-" "${folders[@]}" >"$work/log/$name" 2>&1
}

# At most JOBS at a time: each runner takes every JOBS-th target.
run_share() {
  local i status
  for ((i = $1; i < ${#targets[@]}; i += JOBS)); do
    status=0
    run_target "${targets[i]}" || status=$?
    echo "$status" >"$work/log/${targets[i]}.status"
  done
}
for ((runner = 0; runner < JOBS; runner++)); do run_share "$runner" & done
wait

passed=0 failed=0
for name in "${targets[@]}"; do
  log=$work/log/$name
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  if [ "$(cat "$log.status")" = 0 ] && [ -n "$runs" ]; then
    passed=$((passed + 1))
    say "ok      $name: $runs inputs in $seconds s"
  else
    failed=$((failed + 1))
    say "FAILED  $name:"
    grep -vE '^(#[0-9]|INFO|stat::|==[0-9]+== *$)' "$log" | tail -n 40
    say "        again: $work/build/bin/${name}_fuzz $(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)"
  fi
done
say "$passed passed, $failed failed"
[ "$failed" = 0 ]
