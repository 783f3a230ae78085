#!/bin/sh
# Runs a compiler command and keeps what it reports: compile.sh REPORT COMMAND... The report is printed only on failure.
report=$1
shift
if "$@" 2>"$report"; then exit 0; fi
cat "$report" >&2
rm -f "$report"
exit 1
