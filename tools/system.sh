#!/bin/sh
# Install the system packages that are missing, or say how.
# usage: system.sh [env | test]   (only what the virtual environment needs; also what tests need)
set -eu

packages="ca-certificates git python3 python3-venv"
tools="git python3"
if [ "${1:-}" != env ]; then
  tools="$tools podman skopeo"
  packages="$packages procps podman runc crun catatonit skopeo debootstrap"
  [ "$(id -u)" = 0 ] || packages="$packages uidmap slirp4netns fuse-overlayfs"
  if [ "$(id -u)" != 0 ] && [ -d /run/systemd/system ]; then
    packages="$packages dbus-user-session"
  fi
fi
[ "${1:-}" = test ] && packages="$packages docker-registry locales slurm-wlm munge"
if [ "${1:-}" = test ] && ! PATH="$PATH:/usr/sbin" command -v dockerd >/dev/null; then
  packages="$packages docker.io iptables"
fi

if ! command -v apt-get >/dev/null; then
  for tool in $tools; do
    command -v "$tool" >/dev/null || missing="${missing:-} $tool"
  done
  [ -z "${missing:-}" ] && exit 0
  echo "system: install these with your package manager, then run make again:$missing" >&2
  exit 1
fi

missing=
for package in $packages; do
  state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) || state=
  [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

install="apt-get install --yes --no-install-recommends$missing"
if [ "$(id -u)" = 0 ]; then
  as_root=
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo --non-interactive true 2>/dev/null; }; then
  as_root=sudo
else
  echo "system: packages are missing and this is not root; let root run, then run make again:" >&2
  echo "  apt-get update && $install" >&2
  exit 1
fi
# It comes with docker.io; one that is there already is somebody's.
new_containerd=containerd
! command -v containerd >/dev/null || new_containerd=
echo "system: installing$missing"
log=build/system.log
mkdir -p build
# shellcheck disable=SC2086  # words on purpose
if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive $install; } \
  >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  echo "system: apt-get failed ($log)" >&2
  exit 1
fi
# The tests start all of these themselves; nobody asked for ones that always run.
for service in docker-registry docker.socket docker $new_containerd munge slurmctld slurmd; do
  case "$service $missing" in
    docker-registry*docker-registry* | munge*munge* | slurm*slurm-wlm* | docker[\ .]*docker.io* \
      | containerd*docker.io*)
      [ ! -d /run/systemd/system ] || $as_root systemctl disable --quiet --now "$service" ;;
  esac
done
