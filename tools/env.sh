#!/bin/sh
# The virtual environment .venv from requirements.lock, with this clone in it.
# usage: env.sh PYTHON
set -eu

python=$1
lock=requirements.lock
# A virtual environment holds absolute paths, so a clone that was moved needs a new one.
wanted=$( { pwd; cat "$lock" pyproject.toml; } | sha256sum)
[ "$(cat .venv/agentsweep.stamp 2>/dev/null)" != "$wanted" ] || exit 0

echo "env: installing $lock into .venv"
mkdir -p build
log=build/env.log
pip() {
  .venv/bin/python -m pip install --disable-pip-version-check "$@"
}
# Source packages are built with the locked setuptools, which must be there first. The lock names
# all there is: were pip to look for more, a release newer than the lock could stop it.
awk '/^[a-z]/ {keep = /^setuptools==/} keep' "$lock" > build/setuptools.lock
if ! { "$python" -m venv --clear .venv \
  && pip --require-hashes --requirement build/setuptools.lock \
  && pip --require-hashes --no-deps --no-build-isolation --use-pep517 --requirement "$lock" \
  && pip --no-deps --no-build-isolation --editable . \
  && .venv/bin/python -m pip check; } >"$log" 2>&1; then
  grep -E '^ERROR|[Ee]rror:' "$log" | head -n 3 >&2 || tail -n 3 "$log" >&2
  echo "env: .venv could not be made ($log)" >&2
  exit 1
fi
echo "$wanted" > .venv/agentsweep.stamp
