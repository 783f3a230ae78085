#!/usr/bin/env bash
# Every test that lies in test/ is run by something: schedules name the SQL tests and specs and nothing else, every
# C++ file of the tests is compiled, and no module SQL lies where the regression runner would take it for a test.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(unscheduled_sql scheduled_ghost unscheduled_spec no_answer uncompiled shadow)
spoil() {
  echo '[]' >"$2/compile_commands.json"
  mkdir -p "$2/tree/test/sql" "$2/tree/test/specs" "$2/tree/expected"
  : | example_file "$2" test/regress_schedule
  : | example_file "$2" test/isolation_schedule
  case $1 in
    unscheduled_sql) : | example_file "$2" test/sql/a.sql; : | example_file "$2" expected/a.out ;;
    scheduled_ghost) echo 'test: ghost' | example_file "$2" test/regress_schedule ;;
    unscheduled_spec) : | example_file "$2" test/specs/a.spec; : | example_file "$2" expected/a.out ;;
    no_answer) : | example_file "$2" test/sql/a.sql; echo 'test: a' | example_file "$2" test/regress_schedule ;;
    uncompiled) echo 'TEST(a, b) {}' | example_file "$2" test/engine/a_test.cpp ;;
    shadow) : | example_file "$2" sql/a.sql ;;
  esac
}

compare() { # files, schedule, folder
  local scheduled name
  scheduled=$(sed -n 's/^test://p' "$2" | tr ' ' '\n' | sed '/^$/d')
  for name in $1; do
    grep -qx "$name" <<<"$scheduled" || echo "$3/$name is not in $(basename "$2")"
    [ -f "$tree/expected/$name.out" ] || echo "$3/$name has no expected/$name.out"
  done
  for name in $scheduled; do
    grep -qx "$name" <<<"$1" || echo "$(basename "$2") names $name, which is not in $3"
  done
  sort <<<"$scheduled" | uniq -d | sed '/^$/d; s/$/ is scheduled twice/'
}

check() {
  local tree=$1/tree file
  compare "$(cd "$tree/test/sql" && ls -- *.sql 2>/dev/null | sed 's/\.sql$//')" "$tree/test/regress_schedule" test/sql
  compare "$(cd "$tree/test/specs" && ls -- *.spec 2>/dev/null | sed 's/\.spec$//')" "$tree/test/isolation_schedule" test/specs
  while read -r file; do
    grep -qE '^ *(TEST|TEST_F|TEST_P)\(' "$tree/$file" || continue
    grep -q "/$file\"" "$1/compile_commands.json" || echo "$file is not compiled by any CMakeLists.txt"
  done < <(written_files "$1" -path './test/*' -name '*.cpp')
  for file in "$tree"/sql/*.sql; do
    if [ -e "$file" ]; then echo "sql/$(basename "$file") lies where the regression runner looks for tests"; fi
  done
}
run_check "$@"
