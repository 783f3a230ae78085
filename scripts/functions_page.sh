#!/usr/bin/env bash
# Writes docs/functions.md to standard output from a catalogue file (scripts/catalogue.sql) and the SQL folder, whose
# files say to which domain each name belongs. By hand: scripts/cluster.sh psql -A -t -f scripts/catalogue.sql > FILE;
# scripts/functions_page.sh FILE sql > docs/functions.md. test/checks/documented.sh compares the page with this.
set -euo pipefail
catalogue=${1:?usage: functions_page.sh CATALOGUE SQL_FOLDER} sql=${2:?usage: functions_page.sh CATALOGUE SQL_FOLDER}

# domain:kind:name of everything that sql/ creates in the public schema.
owners=$(cd "$sql" && grep -oiE '^[[:space:]]*create (or replace )?(function|procedure|view) pgtrain\.[a-z_0-9]+' api/*.sql schema/*.sql 2>/dev/null |
  sed -E 's|^[a-z]+/([a-z_]+)\.sql:.*pgtrain\.([a-z_0-9]+)$|\1 \2|' | sort -u)

cat <<'END'
# Functions and views

Everything below is in the schema `pgtrain`. Arguments can be given by name (`submit_run(dataset_id => 7)`); one with
`DEFAULT` may be left out. Errors are listed in [errors.md](errors.md), tables in [entities.md](entities.md), settings of
the server in [settings.md](settings.md), those of a run in [run-settings.md](run-settings.md). This page is written from the catalogue: `COMMENT ON` is its source.
END
for domain in $(sed -e 's/#.*//' "$sql/order.txt"); do
  names=$(sed -n "s/^$domain //p" <<<"$owners")
  [ -n "$names" ] || continue
  heading=${domain//_/ }
  printf '\n## %s\n\n' "${heading^}"
  awk -F '|' -v names="$names" '
    BEGIN { n = split(names, list, "\n"); for (i = 1; i <= n; i++) mine[list[i]] = 1 }
    ($1 == "function" || $1 == "procedure") && $2 in mine { sub(/\.$/, "", $3); printf "- `%s`  \n  %s.\n", $4, $3 }
    $1 == "view" && $2 in mine { sub(/\.$/, "", $3); views = views sprintf("- `%s` (view: %s)  \n  %s.\n", $2, $4, $3) }
    END { printf "%s", views }' "$catalogue"
done
