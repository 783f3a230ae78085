#!/usr/bin/env bash
# The catalogue and the pages agree: every public function, view and table has a comment and a line in
# docs/functions.md (tables: docs/entities.md), every setting is in docs/settings.md, every SQLSTATE of ours in
# docs/errors.md, what each role may do in the table of docs/security.md; and what these pages name exists. The catalogue file is what
# scripts/catalogue.sql prints; docs/functions.md must be what scripts/functions_page.sh makes of it.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(uncommented undescribed ghost_function unsettled ghost_setting unlisted_error unpublished_right ghost_right empty outdated)
spoil() {
  local name page=$2/tree/sql/page
  echo 'function|train|Trains.|train()' >"$2/catalogue"
  mkdir -p "$2/tree/docs" "$2/tree/scripts"
  echo 'cat "$1" "$2/page"' | example_file "$2" scripts/functions_page.sh
  echo '`train()` trains.' | example_file "$2" sql/page
  for name in entities settings errors security; do : | example_file "$2" docs/$name.md; done
  case $1 in
    uncommented) echo 'view|gpus|' >>"$2/catalogue"; echo '`gpus`' >>"$page" ;;
    undescribed) echo 'function|stop|Stops.' >>"$2/catalogue" ;;
    ghost_function) echo '`sing(song text)` sings.' >>"$page" ;;
    unsettled) echo 'setting|pgtrain.threads|' >>"$2/catalogue" ;;
    ghost_setting) echo '| `pgtrain.sleep` |' | example_file "$2" docs/settings.md ;;
    unlisted_error) echo 'constexpr auto a = "PT777";' | example_file "$2" src/pg/errors.hpp ;;
    unpublished_right) echo 'rights|models||everything; read' >>"$2/catalogue"; echo '| `models` | everything | - |' | example_file "$2" docs/security.md ;;
    ghost_right) echo '| `moods` | everything |' | example_file "$2" docs/security.md ;;
    empty) : >"$2/catalogue" ;;
  esac
  cat "$2/catalogue" "$page" >"$2/tree/docs/functions.md"
  if [ "$1" = outdated ]; then echo 'more' >>"$page"; fi
}

check() {
  local docs=$1/tree/docs kind name comment signature known
  [ -s "$1/catalogue" ] || echo "the catalogue is empty"
  while IFS='|' read -r kind name comment signature; do
    case $kind in
      function | procedure | view)
        [ -n "$comment" ] || echo "$kind pgtrain.$name has no COMMENT ON"
        grep -qE "\`(pgtrain\.)?$name(\(|\`)" "$docs/functions.md" || echo "$kind pgtrain.$name is not in docs/functions.md" ;;
      table)
        [ -n "$comment" ] || echo "table pgtrain.$name has no COMMENT ON"
        grep -qE "\b$name\b" "$docs/entities.md" || echo "table pgtrain.$name is not in docs/entities.md" ;;
      rights)
        grep -qxF "| \`$name\` | ${signature//; / | } |" "$docs/security.md" ||
          echo "what roles may do to $name is not in docs/security.md: | \`$name\` | ${signature//; / | } |" ;;
      setting) grep -qF "\`$name\`" "$docs/settings.md" || echo "setting $name is not in docs/settings.md" ;;
    esac
  done <"$1/catalogue"
  bash "$1/tree/scripts/functions_page.sh" "$1/catalogue" "$1/tree/sql" | diff -q - "$docs/functions.md" >/dev/null ||
    echo "docs/functions.md is not what scripts/functions_page.sh writes: write it anew"
  known=$(cut -d '|' -f 2 "$1/catalogue")
  for name in $(grep -oE '`(pgtrain\.)?[a-z_0-9]+\(' "$docs/functions.md" | tr -d '`(' | sed 's/^pgtrain\.//' | sort -u); do
    grep -qx "$name" <<<"$known" || echo "docs/functions.md describes $name, which does not exist"
  done
  for name in $(grep -oE '^\| *`pgtrain\.[a-z_0-9]+`' "$docs/settings.md" | tr -d '|` ' | sort -u); do
    grep -qx "$name" <<<"$known" || echo "docs/settings.md describes $name, which does not exist"
  done
  for name in $(grep -oE '^\| `[a-z]+`' "$docs/security.md" | tr -d '|` ' | sort -u); do
    grep -q "^rights|$name|" "$1/catalogue" || echo "docs/security.md says who may do what to $name, which has no permissions"
  done
  for name in $(cd "$1/tree/" && grep -rhoE "\bPT[0-9A-Z]{3}\b" src/pg sql 2>/dev/null | sort -u); do
    grep -q "$name" "$docs/errors.md" || echo "SQLSTATE $name is not in docs/errors.md"
  done
}
run_check "$@"
