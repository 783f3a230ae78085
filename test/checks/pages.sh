#!/usr/bin/env bash
# Pages and files hold together: relative links lead somewhere, every `make TARGET` that a page names exists, no file
# names a folder of one machine, and nothing is left marked as unfinished.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(dead_link no_target machine_path unfinished)
spoil() {
  echo 'all:' | example_file "$2" Makefile
  case $1 in
    dead_link) echo 'See [there](docs/nowhere.md).' | example_file "$2" README.md ;;
    no_target) echo 'Run `make magic`.' | example_file "$2" README.md ;;
    machine_path) printf '# Head.\ncd /ho%s/someone/project\n' me | example_file "$2" scripts/a.sh ;;
    unfinished) printf '// Head.\n// TO%s: write this\n' DO | example_file "$2" src/a.cpp ;;
  esac
}

check() {
  local tree=$1/tree page link target
  while read -r page; do
    for link in $(sed '/^```/,/^```/d' "$tree/$page" | grep -oE '\]\([^)#: ]+[)#]' | sed 's/^](//; s/[)#]$//'); do
      [ -e "$tree/$(dirname "$page")/$link" ] || echo "$page: link to $link leads nowhere"
    done
    for target in $(grep -oE '(^|`|[$] )make [a-z][a-z-]*' "$tree/$page" | sed 's/.*make //' | sort -u); do
      grep -qE "^$target:|^\.PHONY:.* $target( |$)" "$tree/Makefile" || echo "$page: make $target does not exist"
    done
  done < <(written_files "$1" -name '*.md')
  (cd "$tree/" && written_files "$1" | grep -vE '^(LICENSE|expected/|test/checks/pages\.sh$)' | tr '\n' '\0' |
    xargs -0 -r grep -nIE '(^|[^a-zA-Z0-9_.$}])/(wo''rk|ho''me|ro''ot)/[a-zA-Z]' | sed 's/$/   <- a path of one machine/' || true)
  (cd "$tree/" && written_files "$1" | grep -E '\.(cpp|hpp|cu|cuh|h|sql|sh|pl|py|spec|cmake)$|Makefile|CMakeLists' | grep -v '^test/checks/pages\.sh$' | tr '\n' '\0' |
    xargs -0 -r grep -nIE '\b(TO''DO|FIX''ME|XX''X)\b' | sed 's/$/   <- unfinished/' || true)
}
run_check "$@"
