#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that are missing: those of the build and the demo, with `tests` also those that only tests need.
# Prints what it installs; asks for root only when something is missing; does nothing, fast, when all is there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

with_tests=0
if [ "${1:-}" = tests ]; then with_tests=1; fi

command -v dpkg-query >/dev/null || die "make deps knows Debian and Ubuntu only. Elsewhere install: PostgreSQL 15 to 18 with its
  server headers, libsodium, oneDNN (2.6 or newer), OpenBLAS, GoogleTest, Perl's IPC::Run, CMake 3.25, Ninja, g++ 12."

# 15 is the version that is tested; a release without it gives us its own. Empty, not an error, where no package lists
# were ever fetched: a new machine has none, and apt-cache then fails.
server_version() {
  if [ -n "$(installed postgresql-15)" ] || apt-cache show postgresql-15 >/dev/null 2>&1; then echo 15; return; fi
  { apt-cache depends postgresql 2>/dev/null || true; } | sed -n 's/.*Depends: postgresql-\([0-9][0-9]*\)$/\1/p' | head -n 1
}
installed() { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p'; }
wanted() {
  if [ "$with_tests" = 1 ]; then
    # Fuzzing needs clang and, where it is a package of its own, what its sanitizers link.
    echo python3-venv clang
    if [ -n "$(installed libclang-rt-dev)" ] || apt-cache show libclang-rt-dev >/dev/null 2>&1; then echo libclang-rt-dev; fi
    # Not every release has them; the tests that need them are then skipped by name. jinja2 for machines that cannot have PyPI's.
    local package
    for package in python3-torch python3-jinja2; do
      if [ -n "$(installed "$package")" ] || apt-cache show "$package" >/dev/null 2>&1; then echo "$package"; fi
    done
  fi
  echo "postgresql-$1 postgresql-client-$1 postgresql-server-dev-$1 g++ make cmake ninja-build pkg-config libsodium-dev \
    libdnnl-dev libopenblas-dev libgtest-dev libipc-run-perl pgbouncer util-linux"
}
missing() {
  local package
  for package in $(wanted "$1"); do
    [ "$package" = "$(installed "$package" | head -n 1)" ] || printf '%s ' "$package"
  done
}

version=$(server_version)
lacking=$(missing "${version:-15}")
[ -n "$lacking" ] || { say "deps: all packages are there (PostgreSQL $version)"; exit 0; }

root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || die "missing packages: $lacking
  Install them as root: apt-get install $lacking"
  root=(sudo)
  say "deps: sudo is asked for to install: $lacking"
fi
apt() { ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q "$@" </dev/null; }

# A machine that has never looked, or looked long ago, cannot know the packages it is asked for.
if [ -z "$version" ] || ! apt-cache policy $lacking 2>/dev/null | awk '/Candidate:/ && /none/ {bad=1} /Candidate:/ {n++} END {exit !(n && !bad)}'; then
  apt update
  version=$(server_version)
  [ -n "$version" ] || die "no package of the PostgreSQL server was found; is a Debian or Ubuntu archive configured?"
  lacking=$(missing "$version")
fi
say "deps: installing $lacking"
install() { apt install --yes --no-install-recommends $lacking; }
install || { say "deps: once more with fresh package lists"; apt update; install; }
lacking=$(missing "$version")
[ -z "$lacking" ] || die "still missing after the installation: $lacking"
say "deps: done"
