#!/usr/bin/env bash
# No written file is longer than 700 lines, but for those that large_files.txt names with a reason; every source file
# begins with a head comment.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(long headless unused)
spoil() {
  case $1 in
    long) { echo '// Head.'; seq -f '// %g' 701; } | example_file "$2" src/a.cpp ;;
    headless) echo 'int a;' | example_file "$2" src/a.cpp ;;
    unused) echo 'src/gone.cpp: once long' | example_file "$2" test/checks/large_files.txt ;;
  esac
}

check() {
  local allowed=$1/tree/test/checks/large_files.txt file lines
  while read -r file; do
    case $file in LICENSE | expected/*) continue ;; esac
    lines=$(wc -l <"$1/tree/$file")
    if [ "$lines" -gt 700 ] && ! grep -q "^$file: ..." "$allowed" 2>/dev/null; then echo "$file: $lines lines, split it or give a reason in test/checks/large_files.txt"; fi
    case $file in
      *.md | *.txt | *schedule | *.out | *.json | *.control | .git* | .clang-format | LICENSE) continue ;;
      *.cpp | *.hpp | *.cu | *.cuh | *.h | *.sql | *.sh | *.pl | *.py | *.spec | *Makefile | *CMakeLists.txt | *.conf | .ci/run) ;;
      *) continue ;;
    esac
    head -n 4 "$1/tree/$file" | sed '/^#!/d' | grep -qE '^[[:space:]]*(//|/\*|--|#[^a-z]|"""|#$)' || echo "$file: no head comment"
  done < <(written_files "$1")
  if [ -f "$allowed" ]; then
    while IFS=: read -r file _; do
      case $file in '' | '#'*) continue ;; esac
      [ -f "$1/tree/$file" ] && [ "$(wc -l <"$1/tree/$file")" -gt 700 ] || echo "test/checks/large_files.txt: $file needs no entry"
    done <"$allowed"
  fi
}
run_check "$@"
