#!/usr/bin/env python3
"""Static check of an installation script by pgspot: unqualified names, search paths that are not pinned, objects that another could have
made before. Arguments: script files. Prints each finding; exit 1 for findings, 77 when pgspot cannot be had. Called by test/checks/static.sh.

pgspot 0.9 does not read two things. Functions with a body in standard SQL are left out: their names were resolved when they were created.
Of bodies in PL/pgSQL that its parser cannot read (those that set `FUNCTION.VARIABLE` or a field of a row variable, and some expressions) it
sees the head only, which is where the search path is pinned; the catalogue test refuses any function without one."""
import argparse
import re
import sys

try:
    from pglast.parser import ParseError
    from pgspot import visitors
    from pgspot.state import Counter, State
except ImportError as error:
    print(f"pgspot is not installed: {error}", file=sys.stderr)
    sys.exit(77)

read_body = visitors.visit_plpgsql


def read_body_if_known(state, node, *rest):
    try:
        read_body(state, node, *rest)
    except ParseError:
        pass


visitors.visit_plpgsql = read_body_if_known


def readable(script):
    return re.sub(r"create (?:or replace )?function (?:(?!\$\$|create ).)*?(?:\n\s*return\b[^;]*|\bbegin atomic\b.*?\bend);", "", script, flags=re.S | re.I)


def check(path):
    options = argparse.Namespace(ignore=[], ignore_lang=[], proc_without_search_path=[], plpgsql=True, summary_only=False, sql_fn=[], append=False)
    counter = Counter(options)
    with open(path, encoding="utf8") as file:
        visitors.visit_sql(State(counter), readable(file.read()), toplevel=True)
    return counter.is_clean()


if __name__ == "__main__":
    sys.exit(0 if all([check(path) for path in sys.argv[1:]]) else 1)
