#!/bin/sh
# A Debian root file system as a tar archive, without a container registry. Needs root.
# usage: debootstrap.sh ARCHIVE SUITE PACKAGES [MIRROR]
set -eu
archive=$1 suite=$2 packages=$3 mirror=${4:-}
root=$(mktemp -d "$archive.XXXXXX")
trap 'rm -rf "$root"' EXIT
trap 'exit 1' HUP INT TERM
# shellcheck disable=SC2086  # no mirror means debootstrap's own default
debootstrap --variant=minbase --include="$packages" "$suite" "$root" $mirror
sh "$(dirname "$0")/strip.sh" "$root"
tar --create --numeric-owner --file "$archive" --directory "$root" \
  --exclude './dev/*' --exclude './proc/*' --exclude './sys/*' .
# Where sudo made it, the caller must be able to read it and to remove it.
chmod 644 "$archive"
