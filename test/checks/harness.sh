# The shape that every check has. A check is a script with two functions and a list: `examples` names its bad examples,
# spoil NAME FOLDER writes one, check FOLDER prints each problem on a line. FOLDER holds what is looked at: tree/ (the
# checkout), pgtrain.so, catalogue (what psql saw), compile_commands.json. run.sh asks each check about the real thing,
# which must be clean, and about each bad example, which it must refuse: a check that cannot fail is found out.

set -euo pipefail

# Files of the tree that people write, relative to it; the arguments are find's tests.
written_files() {
  (cd "$1/tree/" && find . -type d \( -name build -o -name .git -o -name fixtures -o -name results \) -prune -o -type f "${@:2}" -print | sed 's|^\./||' | LC_ALL=C sort)
}

# Writes standard input to FOLDER/tree/PATH.
example_file() {
  mkdir -p "$(dirname "$1/tree/$2")"
  cat >"$1/tree/$2"
}

run_check() {
  case ${1:-} in
    examples) printf '%s\n' "${examples[@]}" ;;
    spoil) mkdir -p "$3/tree"; spoil "$2" "$3" ;;
    check)
      local problems
      # 77: what the check needs is not there.
      problems=$(check "$2") || case $? in 77) exit 77 ;; *) echo "the check itself failed"; exit 2 ;; esac
      if [ -n "$problems" ]; then printf '%s\n' "$problems"; exit 1; fi ;;
    *) echo "usage: $0 examples | spoil NAME FOLDER | check FOLDER" >&2; exit 2 ;;
  esac
}
