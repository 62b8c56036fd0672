#!/bin/sh
# Remove what no agent reads from a Debian root file system; it is more than a third of its size.
# usage: strip.sh ROOT
set -eu
root=${1%/}
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
rm -rf "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/info/*
rm -rf "$root"/usr/share/locale/*
