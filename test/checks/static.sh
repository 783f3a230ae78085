#!/usr/bin/env bash
# The installation script through pgspot (test/interop/check_extension_sql.py), which looks for what an attacker could plant in front of
# it. Skipped by name where `make deps` could not get it.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(unpinned unqualified)
spoil() {
  case $1 in
    unpinned) echo "create function pgtrain.f() returns integer language sql security definer as 'select 1';" ;;
    unqualified) echo 'create table t (id integer); grant select on t to public;' ;;
  esac >"$2/extension.sql"
}

check() {
  local status=0 said
  said=$(bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test_python.sh" "$(dirname "${BASH_SOURCE[0]}")/../interop/check_extension_sql.py" "$1/extension.sql" 2>&1) || status=$?
  case $status in 0 | 77) return "$status" ;; *) printf '%s\n' "$said" ;; esac
}
run_check "$@"
