#!/bin/sh
# The sample log that the report is made of.
set -e
cd "$(dirname "$0")"
python3 -m logstats build build/access.log "$@"
