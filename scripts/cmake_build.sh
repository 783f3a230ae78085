#!/usr/bin/env bash
# Builds the CMake side: `programs` are what an installation needs, `all` adds the tests. Called by the Makefile.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
build() { cmake --build "$BUILD/cmake" -j "$JOBS" "$@" | sed '/^ninja: no work to do/d; /Re-checking globbed directories/d'; }
case ${1:?usage: cmake_build.sh programs|all} in
  all) build ;;
  programs)
    known=$(cmake --build "$BUILD/cmake" --target help)
    targets=()
    for target in pgtrain-trainer pgtrain_cuda; do
      if grep -q "^$target: phony" <<<"$known"; then targets+=("$target"); fi
    done
    [ ${#targets[@]} -gt 0 ] || die "CMake knows neither the trainer nor a backend: look at $BUILD/cmake"
    build --target "${targets[@]}" ;;
  *) die "cmake_build.sh: programs or all, not $1" ;;
esac
