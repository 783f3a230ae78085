# Reads what each runner reported and prints `passed N`, then `failed NAME` and `skipped NAME: REASON` for each other
# test. Sourced by check.sh; count_SUITE LOGS STATUS, where LOGS holds SUITE.log (and cmake.xml) and STATUS is the
# runner's exit code: one that is not zero without a failure in its report is itself a failure.

# Prints the failure of a runner that ended badly but reported no test that failed.
count_status() {
  if [ "$1" != 0 ] && [ "$2" = 0 ]; then echo "failed the runner itself, exit code $1"; fi
}

# TAP lines without indentation, and prove's verdict on a whole file where none of its tests failed (a plan that was
# not met, a script that died).
count_tap() {
  local lines
  lines=$(awk '
    function say(word, text) { print word " " (file == "" ? "" : file ": ") text }
    function reason() { text = $0; sub(/.*# *[Ss][Kk][Ii][Pp][a-z]*:? */, "", text); return text == "" ? "no reason given" : text }
    /^\[[0-9:]+\] t\// { file = $2; has_failed = 0 }
    /^\[[0-9:]+\] t\/.* skipped: / { text = $0; sub(/.* skipped: /, "", text); say("skipped", text) }
    /^ok [0-9]+/ { if (/# *[Ss][Kk][Ii][Pp]/) { name = $0; sub(/^ok [0-9]+ *-? */, "", name); sub(/ *# *[Ss][Kk][Ii][Pp].*/, "", name)
        say("skipped", (name == "" ? "" : name ": ") reason()) } else passed++ }
    /^not ok [0-9]+/ { name = $0; sub(/^not ok [0-9]+ *-? */, "", name)
      if (/# *[T]ODO/) say("skipped", name); else { say("failed", name); has_failed = 1 } }
    /^(Dubious|Failed [0-9]+\/[0-9]+ subtests|No subtests run)/ { if (!has_failed) say("failed", $0); has_failed = 1 }
    END { print "passed " passed + 0 }' "$1/${3:-tap}.log")
  printf '%s\n' "$lines"
  count_status "$2" "$(grep -c '^failed' <<<"$lines")"
}

# Our own checks speak TAP.
count_checks() { count_tap "$1" "$2" checks; }

# `test NAME ... ok   12 ms` up to 15, `ok 1 - NAME   12 ms` from 16 on; parallel groups are indented.
count_pg_regress() {
  local lines
  lines=$(awk '
    /^(test|  *| *parallel)? *[a-z0-9_]+ +\.\.\. ok/ { passed++; next }
    / \.\.\. FAILED/ { name = $0; sub(/^(test)? */, "", name); sub(/ .*/, "", name); print "failed " name; next }
    / \.\.\. (skipped|ignored)/ { name = $0; sub(/^(test)? */, "", name); sub(/ .*/, "", name); print "skipped " name ": by the schedule"; next }
    /^ok [0-9]+ +[-+] / { passed++ }
    /^not ok [0-9]+ +[-+] / { print "failed " $5 }
    END { print "passed " passed + 0 }' "$1")
  printf '%s\n' "$lines"
  count_status "$2" "$(grep -c '^failed' <<<"$lines")"
}
count_regress() { count_pg_regress "$1/regress.log" "$2"; }
count_isolation() { count_pg_regress "$1/isolation.log" "$2"; }

# CTest's JUnit file. A test of CTest is one GoogleTest case or a whole program of them: both say how many passed, and
# which were skipped, with the reason on the line after "Skipped".
count_cmake() {
  [ -s "$1/cmake.xml" ] || { echo "failed ctest wrote no report, exit code $2"; return; }
  local lines
  lines=$(awk '
    function attribute(key) { match($0, " " key "=\"[^\"]*\""); return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 4) }
    /<testcase / { name = attribute("name"); status = attribute("status"); cases = -1; named = 0; reason = "" }
    take { reason = $0; gsub(/^ +| +$/, "", reason); take = 0 }
    /: Skipped *$/ { take = 1 }
    /^\[  SKIPPED \] .* \(/ { print "skipped " $4 ": " (reason == "" ? "no reason given" : reason); named++; reason = "" }
    /^\[  PASSED  \] [0-9]+ test/ { cases = $4 }
    /<skipped message="Unable/ { status = "lost" }
    /<\/testcase>/ {
      if (status == "run") passed += cases < 0 ? 1 : cases
      else if (status == "notrun" || status == "disabled") { if (!named) print "skipped " name ": " status }
      else print "failed " name (status == "lost" ? ": could not be run" : "") }
    END { print "passed " passed + 0 }' "$1/cmake.xml")
  printf '%s\n' "$lines"
  count_status "$2" "$(grep -c '^failed' <<<"$lines")"
}

# What `make check` ends with, of the globals passed, failed, skips and failures.
print_totals() {
  if [ ${#skips[@]} -gt 0 ]; then echo "skipped, ${#skips[@]}:"; printf '  %s\n' "${skips[@]}"; fi
  if [ ${#failures[@]} -gt 0 ]; then echo "failed:"; printf '  %s\n' "${failures[@]}"; fi
  echo "$passed passed, $failed failed"
}
