# Where things lie: the checkout, the build folder, the run folder, PostgreSQL's programs, and who runs the server.
# Sourced by every script here; `bash scripts/environment.sh NAME` prints one of the values, which is how the Makefile asks.
# Nothing is created by sourcing it. Each value may be set by the caller (BUILD=... make all).
#
# Outside: ROOT BUILD RUN SOCKETS PG_CONFIG JOBS; functions as_server, server_owner, say, die.

ROOT=${ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

path_hash() { printf '%s' "$1" | cksum | cut -d ' ' -f 1; }

# A checkout that may be read-only keeps its build elsewhere, one folder for each checkout.
if [ -z "${BUILD:-}" ]; then
  if [ -d "$ROOT/build" ] && [ -w "$ROOT/build" ]; then BUILD=$ROOT/build
  elif [ ! -e "$ROOT/build" ] && [ -w "$ROOT" ]; then BUILD=$ROOT/build
  else BUILD=${XDG_CACHE_HOME:-$HOME/.cache}/pgtrain/$(path_hash "$ROOT")
  fi
fi
case $BUILD in /*) ;; *) BUILD=$PWD/$BUILD ;; esac

# The version that is tested first, then the newest one that has its server headers.
if [ -z "${PG_CONFIG:-}" ]; then
  for candidate in /usr/lib/postgresql/15/bin/pg_config $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -rV); do
    if [ -x "$candidate" ] && [ -f "$("$candidate" --pgxs 2>/dev/null)" ]; then PG_CONFIG=$candidate; break; fi
  done
  PG_CONFIG=${PG_CONFIG:-pg_config}
fi

JOBS=${JOBS:-$(nproc 2>/dev/null || echo 2)}

# The server refuses to run as root: there it runs as the user that its package made.
if [ "$(id -u)" = 0 ]; then
  server_owner=postgres
  as_server() { setpriv --reuid=postgres --regid=postgres --init-groups --reset-env -- "$@"; }
else
  server_owner=$(id -un)
  as_server() { "$@"; }
fi

# What the server reads and writes. A build folder that its user cannot reach (a checkout in /root) is no place for it.
if [ -z "${RUN:-}" ]; then
  RUN=$BUILD/run
  if [ "$(id -u)" = 0 ] && id postgres >/dev/null 2>&1; then
    reached=$BUILD
    while [ ! -d "$reached" ]; do reached=$(dirname "$reached"); done
    as_server test -x "$reached" -a -r "$reached" || RUN=/tmp/pgtrain-run-$(path_hash "$BUILD")
  fi
fi
# A socket's path has at most 107 bytes, so it lives in a short folder of its own.
SOCKETS=${SOCKETS:-/tmp/pgtrain-$(id -u)-$(path_hash "$BUILD")}

say() { printf '%s\n' "$*"; }
die() { printf 'pgtrain: %s\n' "$*" >&2; exit 1; }

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  for name in "$@"; do printf '%s\n' "${!name}"; done
fi
