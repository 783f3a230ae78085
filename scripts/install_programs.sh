#!/usr/bin/env bash
# Installs what CMake built beside the module: the trainer, and the CUDA backend where it was built.
# First argument: DESTDIR, may be empty. Called by `make install`, after PGXS has installed the module.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
to=${1:-}$("$PG_CONFIG" --pkglibdir)
install -d "$to"
for file in pgtrain-trainer libpgtrain_cuda.so; do
  if [ -f "$BUILD/cmake/bin/$file" ]; then
    # A running trainer keeps its old file: write beside it and rename.
    cmp -s "$BUILD/cmake/bin/$file" "$to/$file" || { install -m 755 "$BUILD/cmake/bin/$file" "$to/$file.new"; mv "$to/$file.new" "$to/$file"; }
  fi
done
if [ -z "${1:-}" ]; then say "installed into $to; next: shared_preload_libraries = 'pgtrain', restart, create extension pgtrain"; fi
