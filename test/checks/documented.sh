#!/usr/bin/env bash
# The catalogue and the pages agree: every public function, view and table has a comment and a line in
# docs/functions.md (tables: docs/entities.md), every setting is in docs/settings.md, every SQLSTATE of ours in
# docs/errors.md; and what these pages name exists. The catalogue file has lines of `kind|name|comment`.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(uncommented undescribed ghost_function unsettled ghost_setting unlisted_error empty)
spoil() {
  local name
  echo 'function|train|Trains.' >"$2/catalogue"
  echo '`train()` trains.' | example_file "$2" docs/functions.md
  for name in entities settings errors; do : | example_file "$2" docs/$name.md; done
  case $1 in
    uncommented) echo 'view|gpus|' >>"$2/catalogue"; echo '`gpus`' >>"$2/tree/docs/functions.md" ;;
    undescribed) echo 'function|stop|Stops.' >>"$2/catalogue" ;;
    ghost_function) echo '`sing(song text)` sings.' >>"$2/tree/docs/functions.md" ;;
    unsettled) echo 'setting|pgtrain.threads|' >>"$2/catalogue" ;;
    ghost_setting) echo '| `pgtrain.sleep` |' | example_file "$2" docs/settings.md ;;
    unlisted_error) echo 'constexpr auto a = "PT777";' | example_file "$2" src/pg/errors.hpp ;;
    empty) : >"$2/catalogue" ;;
  esac
}

check() {
  local docs=$1/tree/docs kind name comment known
  [ -s "$1/catalogue" ] || echo "the catalogue is empty"
  while IFS='|' read -r kind name comment; do
    case $kind in
      function | view)
        [ -n "$comment" ] || echo "$kind pgtrain.$name has no COMMENT ON"
        grep -qE "\`(pgtrain\.)?$name(\(|\`)" "$docs/functions.md" || echo "$kind pgtrain.$name is not in docs/functions.md" ;;
      table)
        [ -n "$comment" ] || echo "table pgtrain.$name has no COMMENT ON"
        grep -qE "\b$name\b" "$docs/entities.md" || echo "table pgtrain.$name is not in docs/entities.md" ;;
      setting) grep -qF "\`$name\`" "$docs/settings.md" || echo "setting $name is not in docs/settings.md" ;;
    esac
  done <"$1/catalogue"
  known=$(cut -d '|' -f 2 "$1/catalogue")
  for name in $(grep -oE '`(pgtrain\.)?[a-z_0-9]+\(' "$docs/functions.md" | tr -d '`(' | sed 's/^pgtrain\.//' | sort -u); do
    grep -qx "$name" <<<"$known" || echo "docs/functions.md describes $name, which does not exist"
  done
  for name in $(grep -oE '^\| *`pgtrain\.[a-z_0-9]+`' "$docs/settings.md" | tr -d '|` ' | sort -u); do
    grep -qx "$name" <<<"$known" || echo "docs/settings.md describes $name, which does not exist"
  done
  for name in $(cd "$1/tree/" && grep -rhoE "\bPT[0-9A-Z]{3}\b" src/pg sql 2>/dev/null | sort -u); do
    grep -q "$name" "$docs/errors.md" || echo "SQLSTATE $name is not in docs/errors.md"
  done
}
run_check "$@"
