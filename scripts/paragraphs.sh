#!/usr/bin/env bash
# Prints the paragraphs of a text file (parted by empty lines) as rows of COPY's text format. Refuses what is no text.
# paragraphs.sh FILE; called by demo.sh for TEXT=FILE.
set -euo pipefail
file=${1:?usage: paragraphs.sh FILE}
refuse() { printf 'pgtrain: TEXT=%s: %s\n' "$file" "$1" >&2; exit 1; }

[ -f "$file" ] && [ -r "$file" ] || refuse "there is no such file that can be read"
cmp -s "$file" <(tr -d '\0' <"$file") || refuse "the file holds NUL bytes: it is no text, or UTF-16; convert it, as in  iconv -f UTF-16 -t UTF-8 FILE > NEW"
iconv -f UTF-8 -t UTF-8 "$file" >/dev/null 2>&1 || refuse "the file is not UTF-8; convert it, as in  iconv -f LATIN1 -t UTF-8 FILE > NEW"
grep -q '[^[:space:]]' "$file" || refuse "the file holds no text"

# awk's own rules for backslashes in what is put in differ from awk to awk, so sed doubles them.
tr -d '\r' <"$file" | sed 's/^[[:space:]]*$//; s/\\/\\\\/g; s/\t/\\t/g' | LC_ALL=C awk 'BEGIN { RS = "" } { gsub(/\n/, "\\n"); print }'
