#!/bin/sh
# Run the integration tests as an ordinary user of an emulated Debian 12 with cgroup v2, systemd
# and rootless Podman. Slow: times that are measured there mean nothing.
# usage: test-vm.sh [COMMAND]   COMMAND runs in the clone there; default: the integration tests
# VM_TOOLS names the folder with build-vm.sh (needs root and debootstrap, once) and vm-run.sh.
set -eu

tools=${VM_TOOLS:-../shared/vm}
command=${1:-python3 -m pytest -p no:cacheprovider tests/integration}
if [ ! -x "$tools/vm-run.sh" ] || ! command -v qemu-system-x86_64 >/dev/null; then
  echo "test-vm: needs qemu-system-x86 and, in VM_TOOLS, build-vm.sh and vm-run.sh" >&2
  exit 1
fi
machine=$PWD/build/vm
if [ ! -f "$machine/disk.img" ]; then
  EXTRA_PKGS=skopeo CACHE=$PWD/build/vm-cache "$tools/build-vm.sh" "$machine"
fi
share=$(mktemp -d "$PWD/build/vm-share.XXXXXX")
trap 'rm -rf "$share"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$share/clone" "$share/bin"
git ls-files -co --exclude-standard -z | tar --create --null --files-from - --ignore-failed-read \
  | tar --extract --directory "$share/clone"
cp -r images agents "$share/clone"
cp -r .venv/lib/python3.11/site-packages "$share/packages"
# The scripts of a virtual environment name its Python by its path here.
for script in agentsweep snakemake pytest; do
  sed '1s|.*|#!/usr/bin/python3|' ".venv/bin/$script" > "$share/bin/$script"
  chmod 755 "$share/bin/$script"
done
# Without all of x86-64-v2 numpy does not load.
VM_CPU=${VM_CPU:-max} VM_DIR=$machine "$tools/vm-run.sh" --timeout 3600 --no-copy-out "$share" "
  export PATH=/share/bin:\$PATH PYTHONPATH=/share/clone/src:/share/packages CI=1
  cd /share/clone && $command"
