#!/bin/sh
# Two directories of tests at once, for neither needs the machine to itself as those that measure do.
# usage: test-side-by-side.sh FIRST SECOND
set -u

mkdir -p build
# Not `&`: a shell without job control lets what it starts there ignore SIGINT and SIGQUIT.
printf '%s\n' "$1" "$2" \
  | xargs -P 2 -I '{}' sh -c 'pytest -p no:cacheprovider "tests/{}" > "build/test-{}.log" 2>&1'
status=$?
cat "build/test-$1.log" "build/test-$2.log"
exit "$status"
