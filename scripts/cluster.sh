#!/usr/bin/env bash
# The throwaway server of this checkout: cluster.sh start | stop | psql [ARGUMENT...].
# Its data lies in RUN/data, it listens on a socket only that its owner (and root) can open, and holds the database
# pgtrain with the extension. `start` reuses a running one, restarts it when the module changed, makes the database
# anew when the extension's SQL changed; its last line is the connection string.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
umask 022
database=pgtrain
address="postgresql://postgres@/$database?host=$SOCKETS"

# The folders that belong to the server's user; nobody else may have put something in their place.
make_private() {
  mkdir -p -m 700 "$1"
  [ -d "$1" ] && [ ! -L "$1" ] || die "$1 is not a folder"
  if [ "$(id -u)" = 0 ]; then chown "$server_owner" "$1"; fi
  [ "$(stat -c %U "$1")" = "$server_owner" ] || die "$1 belongs to $(stat -c %U "$1"), not to $server_owner: remove it or set SOCKETS"
  chmod 700 "$1"
}
is_running() { [ -d "$RUN/data" ] && (cd / && as_server "$bin/pg_ctl" -D "$RUN/data" status >/dev/null 2>&1); }
control() { (cd / && as_server "$bin/pg_ctl" -D "$RUN/data" -w -t 60 "$@" >/dev/null); }
query() { "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
admin() { query -h "$SOCKETS" -U postgres -d postgres "$@"; }

initialise() {
  make_private "$RUN/data"
  (cd / && as_server "$bin/initdb" -D "$RUN/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null)
  # As docs/operations.md tells: secrets need a root key, which only the server's user may read.
  (umask 077; od -A n -v -t x1 -N 32 /dev/urandom | tr -d ' \n' | as_server tee "$RUN/data/root.keys" >/dev/null)
  as_server chmod 600 "$RUN/data/root.keys"
  # Throwaway: after a power cut it is made anew, so it does not wait for the disk.
  as_server tee -a "$RUN/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$SOCKETS'
shared_preload_libraries = 'pgtrain'
pgtrain.root_key_file = '$RUN/data/root.keys'
max_worker_processes = 32
fsync = off
CONF
}

start() {
  command -v "$PG_CONFIG" >/dev/null || die "PostgreSQL with its server headers is missing: make deps"
  mkdir -p "$RUN"
  exec 9>"$RUN/lock"; flock 9
  bin=$(bash "$ROOT/scripts/stage.sh" 9>&- | tail -n 1)
  make_private "$SOCKETS"; make_private "$RUN/log"
  if [ ! -s "$RUN/data/PG_VERSION" ]; then rm -rf "$RUN/data"; initialise; fi
  [ "$(as_server cat "$RUN/data/PG_VERSION")" = "$("$PG_CONFIG" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" ] ||
    die "$RUN/data is of another server version: make clean"

  local programs
  programs=$(cat "$RUN/pg$("$PG_CONFIG" --pkglibdir)"/*pgtrain* | sha256sum)
  if is_running && [ "$(cat "$RUN/programs" 2>/dev/null)" != "$programs" ]; then
    say "cluster: the module changed, restarting the server"
    control -m fast stop
  fi
  if ! is_running; then
    control -l "$RUN/log/server.log" start 9>&- || { tail -n 20 "$RUN/log/server.log" >&2; die "the server did not start"; }
  fi
  printf '%s\n' "$programs" >"$RUN/programs"

  local script known
  script=$(cat "$BUILD"/module/pgtrain--*.sql | sha256sum)
  known=$(admin -c "select 1 from pg_database where datname = '$database'")
  if [ -n "$known" ] && [ "$(cat "$RUN/script" 2>/dev/null)" != "$script" ]; then
    say "cluster: the extension's SQL changed, making the database $database anew"
    admin -c "drop database $database with (force)"
    known=
  fi
  if [ -z "$known" ]; then
    rm -f "$RUN/script"
    admin -c "create database $database"
    query "$address" -c 'create extension pgtrain' || { admin -c "drop database $database with (force)"; die "CREATE EXTENSION failed"; }
    printf '%s\n' "$script" >"$RUN/script"
  fi
  flock -u 9; exec 9>&-
  say "$address"
}

stop() {
  [ -d "$RUN/pg" ] || return 0
  bin=$RUN/pg$("$PG_CONFIG" --bindir)
  if is_running; then control -m fast stop; say "cluster: stopped"; fi
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  psql) shift
    start >&2
    # Readable for root too: the client is the staged one, the socket folder its owner's.
    exec "$bin/psql" "$address" "$@" ;;
  *) die "usage: cluster.sh start | stop | psql" ;;
esac
