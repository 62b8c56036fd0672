#!/bin/sh
# Run the integration tests as an ordinary user of an emulated Debian 12 with cgroup v2, systemd
# and rootless Podman. Slow: times that are measured there mean nothing.
# usage: test-vm.sh [COMMAND]   COMMAND runs in the clone there; default: the integration tests
# VM_TOOLS    the folder with build-vm.sh (needs root and debootstrap, once) and vm-run.sh
# VM_KERNEL   the suite that the kernel is from; bookworm-backports has Linux 6.12, which resets
#             memory peaks; default: Debian 12's own, 6.1. Each has a machine of its own
# VM_TIMEOUT  seconds that all may take, default 7200
# VM_OPTIONS  more options of vm-run.sh, such as --login
set -eu

tools=${VM_TOOLS:-../shared/vm}
command=${1:-python3 -m pytest -p no:cacheprovider tests/integration}
fail() {
  echo "test-vm: $*" >&2
  exit 1
}
for program in qemu-system-x86_64 mke2fs debugfs; do
  command -v "$program" >/dev/null \
    || fail "$program is missing: apt-get install qemu-system-x86 e2fsprogs"
done
[ -x "$tools/vm-run.sh" ] || fail "no vm-run.sh in $tools: name its folder in VM_TOOLS"
packages=.venv/lib/python3.11/site-packages
[ -d "$packages" ] || fail "no $packages, and the machine has Python 3.11: run \`make env\` with it"
for made in images agents; do
  [ -n "$(ls "$made/" 2>/dev/null)" ] || fail "no $made: run \`make setup\`"
done
machine=$PWD/build/vm${VM_KERNEL:+-$VM_KERNEL}
if [ ! -f "$machine/disk.img" ]; then
  command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"
  [ "$(id -u)" = 0 ] || fail "the machine in $machine has to be built by root, once"
  EXTRA_PKGS="skopeo docker-registry runc docker.io apparmor" KERNEL_SUITE=${VM_KERNEL:-} \
    CACHE=$PWD/build/vm-cache "$tools/build-vm.sh" "$machine"
fi
share=$(mktemp -d "$PWD/build/vm-share.XXXXXX")
trap 'rm -rf "$share"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$share/clone" "$share/bin"
git ls-files -co --exclude-standard -z | tar --create --null --files-from - --ignore-failed-read \
  | tar --extract --directory "$share/clone"
# They may be links to those of another clone.
cp -RL images agents "$share/clone"
cp -RL "$packages" "$share/packages"
# The scripts of a virtual environment name its Python by its path here.
for script in agentsweep snakemake pytest; do
  sed '1s|.*|#!/usr/bin/python3|' ".venv/bin/$script" > "$share/bin/$script"
  chmod 755 "$share/bin/$script"
done
# numpy does not load without all of x86-64-v2, and Linux 6.12 does not start with cmpxchg16b as
# QEMU 7.2 emulates it: the programs have it and the kernel leaves it alone.
# shellcheck disable=SC2086
VM_CPU=${VM_CPU:-max} VM_DIR=$machine "$tools/vm-run.sh" --timeout "${VM_TIMEOUT:-7200}" \
  --append clearcpuid=cx16 --no-copy-out ${VM_OPTIONS:-} "$share" "
  export PATH=/share/bin:\$PATH PYTHONPATH=/share/clone/src:/share/packages CI=1
  export AGENTSWEEP_TEST_PATIENCE=10
  cd /share/clone && $command"
