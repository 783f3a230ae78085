#!/usr/bin/env bash
# Writes the installation script of the extension to standard output: header, then schema/ in order, then api/ in order.
# The order is sql/order.txt: one domain a line, '#' starts a comment. A file that no line names, or a line that names
# no file, is an error, so that nothing can be forgotten. Called by the Makefile and by test/checks.
set -euo pipefail
sql=${1:?usage: extension_sql.sh SQL_FOLDER}

domains=$(sed -e 's/#.*//' -e 's/[[:space:]]//g' "$sql/order.txt" | grep -v '^$')
echo '-- Written by scripts/extension_sql.sh from sql/order.txt; change the files there.'
echo '\echo Use "CREATE EXTENSION pgtrain" to load this file. \quit'
# The server runs this with the schema public in the search path, where others may have put functions that fit better than the server's own.
printf '\nset local search_path = pg_catalog, pg_temp;\n'
for layer in schema api; do
  for domain in $domains; do
    file=$sql/$layer/$domain.sql
    if [ -f "$file" ]; then printf '\n-- %s/%s.sql\n' "$layer" "$domain"; cat "$file"; fi
  done
  for file in "$sql/$layer"/*.sql; do
    [ -e "$file" ] || continue
    name=$(basename "$file" .sql)
    grep -qx -- "$name" <<<"$domains" || { echo "extension_sql.sh: $layer/$name.sql is not in sql/order.txt" >&2; exit 1; }
  done
done
printf '\nselect pgtrain_private.close_to_others();\n'
for domain in $domains; do
  [ -f "$sql/schema/$domain.sql" ] || [ -f "$sql/api/$domain.sql" ] ||
    { echo "extension_sql.sh: sql/order.txt names $domain, which has no file in schema/ or api/" >&2; exit 1; }
done
