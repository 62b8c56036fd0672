#!/bin/sh
# Write the lock files anew: names, versions and hashes, and no address of an index.
# usage: requirements.sh PYTHON
set -eu

"$1" -m venv --clear build/pip-tools
tools=$PWD/build/pip-tools/bin
"$tools/pip" install --quiet --disable-pip-version-check pip-tools
compile() {
  "$tools/pip-compile" --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe \
    --no-header --annotation-style line \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    --output-file requirements.lock "$@"
}
compile --all-extras --all-build-deps pyproject.toml
for folder in demo/*/; do
  if [ -f "$folder/requirements.in" ]; then
    (cd "$folder" && compile requirements.in)
  fi
done
