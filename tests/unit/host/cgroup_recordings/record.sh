#!/bin/sh
# All recordings of one kernel, in a throw-away machine, from a login session of a user with sudo.
# usage: record.sh FOLDER [SUFFIX [NAME]...]   SUFFIX is put behind the names; only those NAMEs
set -u
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
suffix=${2:-}
shift "$(($# < 2 ? $# : 2))"
only=" $* "
record() {
  name=$1
  shift
  case $only in *" $name "* | "  ") ;; *) return ;; esac
  echo "record: $name"
  "$@" || echo "record: $name FAILED"
}
mine() { record "$1" python3 "$here/record.py" "$folder/$1$suffix.json" "$2" $3; }
roots() { record "$1" sudo python3 "$here/record.py" "$folder/$1$suffix.json" "$2" $3; }

mine rootless-crun podman ""
mine rootless-crun-oom podman "--kills 2"
mine rootless-runc podman "--engine=--runtime=runc"
mine rootless-cgroupfs podman "--engine=--cgroup-manager=cgroupfs"

# An ancestor with less memory and CPU than the container's own limits.
sudo systemctl set-property --runtime machine.slice MemoryMax=144M CPUQuota=25%
roots root-small-slice podman "--kills 1"

sudo systemctl stop docker.socket docker.service
docker() {
  sudo systemd-run --quiet --collect --unit=recorded-docker \
    dockerd --iptables=false --bridge=none --exec-opt "native.cgroupdriver=$1"
  for _ in $(seq 120); do sudo docker version >/dev/null 2>&1 && break; sleep 1; done
  roots "docker-$1" docker "$2"
  sudo systemctl stop recorded-docker
}
docker systemd ""
docker cgroupfs "--kills 1 --group"

# As stock Debian 12, less cpu. This script is not in the user's manager, which ends here.
sudo sh -ec "
  printf '[Service]\nDelegate=\nDelegate=memory pids\n' \
    > /etc/systemd/system/user@.service.d/delegate.conf
  systemctl daemon-reload
  systemctl restart user@$(id -u)"
mine rootless-no-cpu podman --no-cpus
