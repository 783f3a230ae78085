#!/usr/bin/env bash
# Makes RUN/pg: the server's programs copied, its libraries and data linked, and `make install` with DESTDIR on top.
# PostgreSQL finds its folders relative to its program, so a server started from there sees our extension and the system
# is not touched. Does nothing when nothing changed. Prints the folder of the staged programs on its last line.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
umask 022

bin=$("$PG_CONFIG" --bindir) lib=$("$PG_CONFIG" --pkglibdir) share=$("$PG_CONFIG" --sharedir)
tree=$RUN/pg

# A link for each entry, in a folder of our own, so that ours can lie beside them.
link_entries() {
  mkdir -p "$tree$1"
  for entry in "$1"/*; do
    ln -sfn "$entry" "$tree$1/$(basename "$entry")"
  done
}

stamp="$("$PG_CONFIG" --version) $bin $(stat -L -c '%Y %s' "$bin/postgres")"
if [ "$(cat "$tree/.stamp" 2>/dev/null)" != "$stamp" ]; then
  rm -rf "$tree"
  mkdir -p "$tree$bin"
  cp -p "$bin"/* "$tree$bin/"
  link_entries "$lib"
  link_entries "$share"
  rm "$tree$share/extension"
  link_entries "$share/extension"
  printf '%s\n' "$stamp" >"$tree/.stamp"
fi

is_installed() {
  local built there
  for built in module/pgtrain.so cmake/bin/pgtrain-trainer cmake/bin/libpgtrain_cuda.so; do
    there=$tree$lib/$(basename "$built")
    if [ -f "$BUILD/$built" ]; then cmp -s "$BUILD/$built" "$there" || return 1; else [ ! -e "$there" ] || return 1; fi
  done
  for built in "$BUILD"/module/pgtrain.control "$BUILD"/module/pgtrain--*.sql; do
    cmp -s "$built" "$tree$share/extension/$(basename "$built")" || return 1
  done
}
if ! is_installed; then
  rm -f "$tree$lib"/*pgtrain* "$tree$share/extension/"pgtrain*
  make -s -C "$ROOT" install DESTDIR="$tree" >"$RUN/install.log" 2>&1 || { cat "$RUN/install.log" >&2; exit 1; }
  is_installed || die "make install left out a file: see $RUN/install.log"
fi
say "$tree$bin"
