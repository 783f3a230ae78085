#!/usr/bin/env bash
# Layers and directions of docs/architecture.md: which folder may include which, and who may see the server's headers.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(engine_protocol engine_upwards trainer_server module_engine module_cuda crypto_server protocol_system version_outside)
spoil() {
  case $1 in
    engine_protocol) echo '#include "protocol/frame.hpp"' | example_file "$2" src/engine/core/a.hpp ;;
    engine_upwards) echo '#include "engine/train/training.hpp"' | example_file "$2" src/engine/models/a.cpp ;;
    trainer_server) echo '#include <postgres.h>' | example_file "$2" src/trainer/a.cpp ;;
    module_engine) echo '#include "engine/core/shape.hpp"' | example_file "$2" src/pg/worker/a.cpp ;;
    module_cuda) echo '#include <cuda_runtime.h>' | example_file "$2" src/pg/functions/a.cpp ;;
    crypto_server) echo '#include "postgres.h"' | example_file "$2" src/pg/crypto/a.cpp ;;
    protocol_system) echo '#include <unistd.h>' | example_file "$2" src/protocol/a.cpp ;;
    version_outside) echo '#if PG_VERSION_NUM >= 160000' | example_file "$2" src/pg/guc.cpp ;;
  esac
}

# folder: what it may include beside itself. The longest folder that fits a file decides.
rules='
src/protocol:
src/engine/core:
src/engine/backend: src/engine/core
src/engine/graph: src/engine/backend src/engine/core
src/engine/io: src/engine/core
src/engine/tokenizers: src/engine/core
src/engine/templates: src/engine/core
src/engine/data: src/engine/tokenizers src/engine/templates src/engine/core
src/engine/models: src/engine/graph src/engine/backend src/engine/io src/engine/core
src/engine/train: src/engine/models src/engine/data src/engine/tokenizers src/engine/templates src/engine/graph src/engine/backend src/engine/io src/engine/core
src/trainer: src/protocol src/engine
src/pg/crypto: src/pg/errors.hpp
src/pg: src/protocol
'

check() {
  (cd "$1/tree/" && grep -rnE '^[[:space:]]*#[[:space:]]*(include|if.*PG_VERSION_NUM)' src --include='*.cpp' --include='*.hpp' --include='*.cu' --include='*.cuh' --include='*.h' || true) |
    awk -v rules="$rules" '
    BEGIN {
      n = split(rules, lines, "\n")
      for (i = 1; i <= n; i++) if (lines[i] != "") {
        folder = lines[i]; sub(/:.*/, "", folder); may = lines[i]; sub(/^[^:]*: */, "", may); allowed[folder] = may }
      std = "^[a-z_0-9]+$" }
    {
      file = $0; sub(/:.*/, "", file)
      line = $0; sub(/^[^:]*:[0-9]+:/, "", line)
      if (line ~ /PG_VERSION_NUM/) { if (file != "src/pg/compat.hpp") print file ": server versions are for src/pg/compat.hpp alone"; next }
      layer = ""
      for (folder in allowed) if (index(file, folder "/") == 1 && length(folder) > length(layer)) layer = folder
      if (layer == "") { print file ": this folder has no rule in test/checks/includes.sh"; next }
      header = line; sub(/^[^<"]*[<"]/, "", header); sub(/[>"].*/, "", header)
      is_system = line ~ /include *</
      if (header ~ /cuda|cublas|cudnn|nccl/ && layer ~ /^src\/(pg|protocol|trainer)/) { print file ": CUDA header " header; next }
      is_server = header ~ /^(postgres|fmgr|libpq|utils|storage|executor|catalog|access|miscadmin|funcapi|nodes|commands|postmaster|tcop|parser|port|common|lib|pgstat)([\/.]|$)/ && header ~ /\.h$/
      if (is_server && (layer !~ /^src\/pg/ || layer == "src/pg/crypto")) { print file ": header of the server: " header; next }
      if (layer == "src/protocol" && is_system && header !~ std) { print file ": protocol includes the standard library only: " header; next }
      if (is_system || is_server) next
      target = "src/" header
      if (header !~ /^(protocol|engine|trainer|pg)\//) next
      ok = index(target, layer "/") == 1
      m = split(allowed[layer], list, " ")
      for (i = 1; i <= m; i++) if (target == list[i] || index(target, list[i] "/") == 1) ok = 1
      if (!ok) print file ": " layer " may not include " header
    }'
}
run_check "$@"
