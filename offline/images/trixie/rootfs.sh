#!/bin/sh
# Makes the root file system of debian:trixie-slim in directory $1, as its sibling makes that of debian:bookworm-slim.
set -eu
script=$(sed 's/bookworm/trixie/g' "$(dirname "$0")/../debian/rootfs.sh")
exec sh -c "$script" sh "$1"
