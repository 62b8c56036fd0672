#!/bin/sh
# Two directories of tests at once, for neither needs the machine to itself as those that measure do.
# usage: test-side-by-side.sh FIRST SECOND
set -u

mkdir -p build
log=build/test-$1.log
pytest -p no:cacheprovider "tests/$1" >"$log" 2>&1 &
first=$!
pytest "tests/$2"
second_status=$?
wait "$first"
first_status=$?
cat "$log"
exit $((first_status || second_status))
