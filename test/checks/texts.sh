#!/usr/bin/env bash
# `TEXT=file make demo` trains on what is in the file: every paragraph a row that COPY reads back as the same bytes, and
# what is no text is refused by name before anything else happens.
. "$(dirname "${BASH_SOURCE[0]}")/harness.sh"

examples=(single_backslash takes_anything)
spoil() {
  local true_one
  true_one=$(dirname "${BASH_SOURCE[0]}")/../../scripts/paragraphs.sh
  case $1 in
    single_backslash) sed 's/; s.\\\\.\\\\\\\\.g//' "$true_one" | example_file "$2" scripts/paragraphs.sh ;;
    takes_anything) sed 's/^refuse() .*/refuse() { :; }/' "$true_one" | example_file "$2" scripts/paragraphs.sh ;;
  esac
}

expect() { # name, what is in the file, what should be printed
  printf "$2" >"$file"
  local printed
  # A refusal is one of the answers that are compared; its status says no more.
  printed=$(bash "$reader" "$file" 2>&1) || true
  [[ $printed == $3 ]] || printf '%s: %s\n' "$1" "$printed"
}

check() {
  local reader=$1/tree/scripts/paragraphs.sh file=$1/text.txt
  expect "paragraphs" 'one\ntwo\n\n\n \t\nthree' $'one\\\\ntwo\nthree'
  expect "backslashes, tabs, an end mark of COPY" 'a\\b\tc\n\\.\n' 'a\\\\b\\tc\\n\\\\.'
  expect "lines of Windows" 'a\r\nb\r\n\r\nc\r\n' $'a\\\\nb\nc'
  expect "other scripts" 'Gr\303\274\303\237e\n' $'Gr\303\274\303\237e'
  expect "another encoding" 'Gr\374\337e\n' '*is not UTF-8; convert it*'
  expect "two bytes a letter" 'a\0b\0' '*holds NUL bytes*'
  expect "nothing" ' \n\t\n' '*holds no text'
  rm "$file"
  [[ $(bash "$reader" "$file" 2>&1) == *'no such file'* ]] || echo "a file that is not there"
}
run_check "$@"
