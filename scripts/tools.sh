#!/usr/bin/env bash
# Before a build begins: says what is missing on a machine where `make deps` never ran, and refuses a build folder that
# was made for another checkout or at another place, because CMake and the server remember both. Else says nothing.
# Called by the Makefile's `tools`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
lacking=()
for tool in g++ cmake ninja pkg-config; do
  command -v "$tool" >/dev/null || lacking+=("$tool,")
done
[ -f "$("$PG_CONFIG" --pgxs 2>/dev/null)" ] || lacking+=("a PostgreSQL with its server headers,")
[ ${#lacking[@]} = 0 ] || { lacking=${lacking[*]}; die "missing: ${lacking%,}. 'make deps' installs what the build needs"; }

mark=$BUILD/checkout
if [ -s "$mark" ]; then
  { read -r checkout; read -r folder; } <"$mark"
  [ "$checkout" -ef "$ROOT" ] && [ "$folder" -ef "$BUILD" ] ||
    die "$BUILD was built as $folder for the checkout $checkout. 'make clean' removes it and its throwaway server; then build again"
else
  mkdir -p "$BUILD"
  printf '%s\n' "$ROOT" "$BUILD" >"$mark"
fi
