#!/bin/sh
# Like the public image's: options and script files go to node, commands run as they are.
set -e
case "${1:-}" in
  -*) exec node "$@" ;;
esac
if [ -n "${1:-}" ] && ! command -v "$1" > /dev/null; then exec node "$@"; fi
exec "$@"
