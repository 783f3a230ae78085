#!/usr/bin/env bash
# Removes what this checkout built and its throwaway server, which `make clean` has stopped before.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# Only folders that we made: the marks are files of ours.
if [ -d "$RUN/pg" ]; then rm -rf "$RUN"; fi
if [ -d "$SOCKETS" ]; then rm -rf "$SOCKETS"; fi
for part in module cmake check fuzz bench gpu python models checkout demo-build.log demo-server.log; do rm -rf "${BUILD:?}/$part"; done
rmdir "$BUILD" 2>/dev/null || [ ! -d "$BUILD" ] || say "clean: $BUILD holds files of others and stays"
