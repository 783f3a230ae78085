#!/usr/bin/env bash
# The module exports entry points with our prefix only, and links neither CUDA nor anything of the engine.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(symbol library undefined)
spoil() {
  local source=$2/a.c
  case $1 in
    symbol) echo 'int helper(void) { return 1; }' >"$source"; cc -shared -fPIC -o "$2/pgtrain.so" "$source" ;;
    library) echo 'int pgtrain_a(void) { return 1; }' >"$source"
      cc -shared -fPIC -Wl,-soname,libcudart.so.13 -o "$2/libcudart.so.13" "$source"
      cc -shared -fPIC -Wl,--no-as-needed -o "$2/pgtrain.so" "$source" "$2/libcudart.so.13" ;;
    undefined) echo 'int cudaMalloc(void); int pgtrain_a(void) { return cudaMalloc(); }' >"$source"
      cc -shared -fPIC -o "$2/pgtrain.so" "$source" ;;
  esac
}

check() {
  [ -f "$1/pgtrain.so" ] || { echo 'the module was not built'; return; }
  nm -D --defined-only "$1/pgtrain.so" | awk '$NF !~ /^(pgtrain_[a-z0-9_]+|pg_finfo_pgtrain_[a-z0-9_]+|Pg_magic_func|_PG_init)$/ { print "exported without the prefix: " $NF }'
  nm -D --undefined-only "$1/pgtrain.so" | awk '$NF ~ /^(cu[A-Z]|cuda|cublas|cudnn|nccl|dnnl|cblas_)/ { print "needs " $NF }'
  readelf -d "$1/pgtrain.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
    grep -vE '^(libsodium|libstdc\+\+|libgcc_s|libm|libc|ld-linux-x86-64|ld-linux-aarch64)\.so' | sed 's/^/links /' || true
}
run_check "$@"
