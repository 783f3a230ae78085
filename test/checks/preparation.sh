#!/usr/bin/env bash
# `make deps` brings what is missing, whatever state the machine is in: without package lists, with lists that are too
# old, with everything there, and where a package cannot be had. apt and dpkg are stand-ins that keep a list of files.
# Whoever builds without it is told about it, and nobody builds one checkout with what was built for another.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(gives_up_without_lists forgets_tests says_done_without_looking silent_about_tools mixes_checkouts cleans_half)
spoil() {
  . "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
  example_file "$2" scripts/environment.sh <"$ROOT/scripts/environment.sh"
  example_file "$2" scripts/deps.sh <"$ROOT/scripts/deps.sh"
  example_file "$2" scripts/tools.sh <"$ROOT/scripts/tools.sh"
  example_file "$2" scripts/clean.sh <"$ROOT/scripts/clean.sh"
  example_file "$2" scripts/demo_parts.sh <"$ROOT/scripts/demo_parts.sh"
  case $1 in
    gives_up_without_lists) sed 's/ || true; }/; }/' "$ROOT/scripts/deps.sh" | example_file "$2" scripts/deps.sh ;;
    forgets_tests) sed 's/= tests \]/= never ]/' "$ROOT/scripts/deps.sh" | example_file "$2" scripts/deps.sh ;;
    says_done_without_looking) sed '/^\[ -z "$lacking" \] || die "still missing/d' "$ROOT/scripts/deps.sh" | example_file "$2" scripts/deps.sh ;;
    silent_about_tools) sed '/^for tool/,/^done/d' "$ROOT/scripts/tools.sh" | example_file "$2" scripts/tools.sh ;;
    cleans_half) sed 's/ demo-[a-z]*\.log//' "$ROOT/scripts/clean.sh" | example_file "$2" scripts/clean.sh ;;
    mixes_checkouts) sed '/^mark=/,$d' "$ROOT/scripts/tools.sh" | example_file "$2" scripts/tools.sh ;;
  esac
}

# FOLDER is a machine: bin/ its commands, lists what an archive has said, archive what it would say now, installed what is there.
machine() {
  mkdir -p "$1/bin"
  : >"$1/calls"; : >"$1/installed"; : >"$1/lists"
  printf '%s\n' "${2:-}" >"$1/archive"
  printf '#!/bin/sh\necho 0\n' >"$1/bin/id"
  cat >"$1/bin/dpkg-query" <<'END'
#!/bin/bash
for package in "${@:4}"; do grep -qx "$package" "$MACHINE/installed" && echo "installed $package" || missing=1; done
exit ${missing:-0}
END
  cat >"$1/bin/apt-cache" <<'END'
#!/bin/bash
case $1 in
  policy) for package in "${@:2}"; do grep -qxE "$package|all" "$MACHINE/lists" && printf '%s:\n  Candidate: 1\n' "$package"; done; exit 0 ;;
  *) grep -qxE "$2|all" "$MACHINE/lists" || { echo "E: No packages found" >&2; exit 100; } ;;
esac
END
  cat >"$1/bin/apt-get" <<'END'
#!/bin/bash
for word in "$@"; do
  case $word in
    update) echo update >>"$MACHINE/calls"; cp "$MACHINE/archive" "$MACHINE/lists"; : >"$MACHINE/stale.gone" ;;
    install) echo install >>"$MACHINE/calls"; installing=1
      if [ -e "$MACHINE/stale" ] && [ ! -e "$MACHINE/stale.gone" ]; then echo "E: 404 Not Found"; exit 100; fi ;;
    -*) ;;
    *) if [ -n "${installing:-}" ] && [ ! -e "$MACHINE/lazy" ]; then echo "$word" >>"$MACHINE/installed"; fi ;;
  esac
done
END
  chmod +x "$1"/bin/*
}

# Prints the exit status, what apt-get was asked for, and the last line that was said.
deps_of() { # tree, machine, words
  local status=0
  MACHINE=$2 PATH=$2/bin:$PATH bash "$1/scripts/deps.sh" "${@:3}" >"$2/said" 2>&1 </dev/null || status=$?
  printf '%s: %s: %s\n' "$status" "$(tr '\n' ' ' <"$2/calls")" "$(tail -n 1 "$2/said")"
}

expect() { # machine, what should be (a pattern), what was
  [[ $3 == $2 ]] || printf '%s: %s\n' "$1" "$3"
}

check() {
  local tree=$1/tree at=$1/machines
  rm -rf "$at"
  machine "$at/new" all
  expect "a new machine without package lists" '0: update install : deps: done' "$(deps_of "$tree" "$at/new")"
  expect "the same machine again" '0: update install : deps: all packages are there (PostgreSQL 15)' "$(deps_of "$tree" "$at/new")"
  [ "$(grep -c python "$at/new/installed")" = 0 ] || echo "the demo's packages: those of the tests came too"
  expect "the same machine for the tests" '0: update install install : deps: done' "$(deps_of "$tree" "$at/new" tests)"
  expect "what the tests need" 'python3-jinja2 python3-torch python3-venv' "$(grep python "$at/new/installed" | sort | paste -sd ' ')"
  machine "$at/old" all
  echo all >"$at/old/lists"; : >"$at/old/stale"
  expect "a machine whose lists are too old" '0: install update install : deps: done' "$(deps_of "$tree" "$at/old")"
  machine "$at/bare"
  expect "a machine without an archive" '1: update : pgtrain: no package of the PostgreSQL server was found*' "$(deps_of "$tree" "$at/bare")"
  machine "$at/lazy" all
  : >"$at/lazy/lazy"
  expect "an installation that brought nothing" '1: update install : pgtrain: still missing after the installation: postgresql-15 *' "$(deps_of "$tree" "$at/lazy")"

  local tool none=$at/none
  mkdir -p "$none"
  for tool in bash dirname cksum cut id ls sort nproc setpriv; do ln -s "$(command -v "$tool")" "$none/$tool"; done
  expect "tools of a machine without packages" "pgtrain: missing: g++, cmake, ninja, pkg-config, a PostgreSQL with its server headers. 'make deps'*:: 1" \
    "$(PATH=$none PG_CONFIG=$none/pg_config "$none/bash" "$tree/scripts/tools.sh" 2>&1 || echo ":: $?")"
  mkdir -p "$at/checkout"
  ln -s checkout "$at/link"
  expect "a new build folder" '' "$(ROOT=$at/checkout BUILD=$at/build bash "$tree/scripts/tools.sh" 2>&1)"
  expect "the same by another name" '' "$(ROOT=$at/link BUILD=$at/build bash "$tree/scripts/tools.sh" 2>&1)"
  expect "the folder of another checkout" "*'make clean'*" "$(ROOT=$at/none BUILD=$at/build bash "$tree/scripts/tools.sh" 2>&1)"
  mv "$at/build" "$at/moved"
  local log
  mkdir -p "$at/built/module" "$at/built/bench/results" "$at/built/gpu"
  for log in $(grep -o 'BUILD/[a-z-]*\.log' "$tree/scripts/demo_parts.sh"); do : >"$at/built/${log#BUILD/}"; done
  [ -n "$log" ] || echo "the demo writes no log"
  expect "a clean after a demo and a bench" 'nothing is left' \
    "$(RUN=$at/run SOCKETS=$at/sockets BUILD=$at/built bash "$tree/scripts/clean.sh" 2>&1; [ -e "$at/built" ] || echo nothing is left)"
  expect "a folder that was moved" "*'make clean'*" "$(ROOT=$at/checkout BUILD=$at/moved bash "$tree/scripts/tools.sh" 2>&1)"
}
run_check "$@"
