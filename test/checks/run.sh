#!/usr/bin/env bash
# Runs every check of this folder on the real thing and on its bad examples; speaks TAP. Called by scripts/check.sh
# after the build; by hand: bash test/checks/run.sh [CHECK...]. The catalogue is read from a server of its own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$here/../../scripts/environment.sh"

subject=$BUILD/check/subject
instance=$RUN/check/catalogue
bin=$RUN/pg$("$PG_CONFIG" --bindir)

stop_server() { (cd / && as_server "$bin/pg_ctl" -D "$instance/data" -m immediate stop >/dev/null 2>&1) || true; rm -rf "$instance"; }

write_catalogue() {
  stop_server
  trap stop_server EXIT
  mkdir -p "$instance"
  if [ "$(id -u)" = 0 ]; then chown "$server_owner" "$instance"; fi
  (cd / && as_server "$bin/initdb" -D "$instance/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >/dev/null &&
    as_server "$bin/pg_ctl" -D "$instance/data" -w -l "$instance/log" start \
      -o "-c listen_addresses='' -c unix_socket_directories='$instance' -c fsync=off -c shared_preload_libraries=pgtrain" >/dev/null)
  "$bin/psql" -h "$instance" -U postgres -d postgres -X -q -A -t -v ON_ERROR_STOP=1 >"$subject/catalogue" \
    -c 'create extension pgtrain' -f "$ROOT/scripts/catalogue.sql"
}

count=0 failed=0
report() { # status, name, problems
  count=$((count + 1))
  if [ "$1" = ok ]; then echo "ok $count - $2"; else failed=1; echo "not ok $count - $2"; sed 's/^/#   /' <<<"$3"; fi
}

rm -rf "$subject"
mkdir -p "$subject"
ln -s "$ROOT" "$subject/tree"
ln -s "$BUILD/module/pgtrain.so" "$subject/pgtrain.so"
ln -s "$BUILD"/module/pgtrain--*.sql "$subject/extension.sql"
ln -s "$BUILD/cmake/compile_commands.json" "$subject/compile_commands.json"
write_catalogue || report failed "the catalogue can be read" "$(tail -n 5 "$instance/log" 2>/dev/null)"

checks=${*:-$(cd "$here" && ls -- *.sh | sed 's/\.sh$//' | grep -vxE 'run|harness')}
for check in $checks; do
  status=0
  problems=$(bash "$here/$check.sh" check "$subject" 2>&1) || status=$?
  case $status in
    0) report ok "$check" ;;
    77) report ok "$check # SKIP what it needs is not installed: make deps"; continue ;;
    *) report failed "$check" "$problems" ;;
  esac
  for example in $(bash "$here/$check.sh" examples); do
    bad=$subject-bad
    rm -rf "$bad"
    status=0
    bash "$here/$check.sh" spoil "$example" "$bad" && problems=$(bash "$here/$check.sh" check "$bad" 2>&1) || status=$?
    if [ "$status" = 1 ]; then report ok "$check refuses $example"; else report failed "$check refuses $example" "exit code $status: $problems"; fi
  done
done
rm -rf "$subject-bad"
echo "1..$count"
exit $failed
