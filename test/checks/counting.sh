#!/usr/bin/env bash
# The counts that `make check` ends with are those of the runners' reports: each kind of report, with successes,
# failures, skips and crashes in it, is counted here and compared.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(always_green)
spoil() {
  example_file "$2" scripts/count_results.sh <<'END'
count_tap() { echo "passed 1"; }
count_regress() { echo "passed 1"; }
count_cmake() { echo "passed 1"; }
END
}

expect() { # name, what was counted, what should be
  [ "$2" = "$3" ] || printf '%s counted as: %s\n' "$1" "$(tr '\n' ';' <<<"$2")"
}

check() {
  local logs=$1/reports
  mkdir -p "$logs"
  . "$1/tree/scripts/count_results.sh"

  cat >"$logs/tap.log" <<'END'
[05:02:47] t/001_a.pl ..
ok 1 - one
ok 2 # skip no cgroup
# Subtest: inner
    ok 1
    not ok 2
ok 3 - inner
not ok 4 - bad
Dubious, test returned 1 (wstat 256, 0x100)
[05:02:47] t/002_b.pl .. skipped: no device
[05:02:47] t/003_c.pl ..
ok 1 - x
Dubious, test returned 255 (wstat 65280, 0xff00)
[05:02:48] t/004_d.pl ..
1..3
Failed 3/3 subtests
END
  expect tap "$(count_tap "$logs" 1)" 'skipped t/001_a.pl: no cgroup
failed t/001_a.pl: bad
skipped t/002_b.pl: no device
failed t/003_c.pl: Dubious, test returned 255 (wstat 65280, 0xff00)
failed t/004_d.pl: Failed 3/3 subtests
passed 3'
  : >"$logs/tap.log"
  expect "a dead prove" "$(count_tap "$logs" 2)" 'passed 0
failed the runner itself, exit code 2'

  cat >"$logs/regress.log" <<'END'
parallel group (2 tests):  foo bar
     foo                          ... ok           10 ms
     bar                          ... FAILED (test process exited with exit code 2)  11 ms
test good                         ... ok           10 ms
ok 4         - later                                      12 ms
not ok 5     + worse                                      12 ms
END
  expect regress "$(count_regress "$logs" 1)" 'failed bar
failed worse
passed 3'

  cat >"$logs/cmake.xml" <<'END'
	<testcase name="a.b" classname="a.b" time="0.0" status="run">
		<system-out>Running main()
[  PASSED  ] 1 test.
	</testcase>
	<testcase name="a.c" classname="a.c" time="0.0" status="notrun">
		<skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
		<system-out>Running main()
a.cpp:2: Skipped
no device here
[  SKIPPED ] a.c (0 ms)
[  PASSED  ] 0 tests.
[  SKIPPED ] a.c
	</testcase>
	<testcase name="whole" classname="whole" time="0.0" status="run">
		<system-out>Running main()
[  PASSED  ] 7 tests.
	</testcase>
	<testcase name="script" classname="script" time="0.0" status="run">
		<system-out>Running main()
fine
	</testcase>
	<testcase name="a.d" classname="a.d" time="0.0" status="fail">
		<system-out>Running main()
[  PASSED  ] 0 tests.
	</testcase>
	<testcase name="lost" classname="lost" time="0" status="notrun">
		<skipped message="Unable to find executable"/>
	</testcase>
END
  expect cmake "$(count_cmake "$logs" 8)" 'skipped a.c: no device here
failed a.d
failed lost: could not be run
passed 9'

  local passed=1212 failed=1 skips=("tap: x: no device" "cmake: y: no torch") failures=("tap: z")
  expect "the end of make check" "$(print_totals)" 'skipped, 2:
  tap: x: no device
  cmake: y: no torch
failed:
  tap: z
1212 passed, 1 failed'
}
run_check "$@"
