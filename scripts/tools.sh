#!/usr/bin/env bash
# Says what is missing before a build begins on a machine where `make deps` never ran; else says nothing. Called by the
# Makefile's `tools`.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
lacking=()
for tool in g++ cmake ninja pkg-config; do
  command -v "$tool" >/dev/null || lacking+=("$tool,")
done
[ -f "$("$PG_CONFIG" --pgxs 2>/dev/null)" ] || lacking+=("a PostgreSQL with its server headers,")
[ ${#lacking[@]} = 0 ] || { lacking=${lacking[*]}; die "missing: ${lacking%,}. 'make deps' installs what the build needs"; }
