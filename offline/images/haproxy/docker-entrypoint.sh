#!/bin/sh
# Like the public image's: haproxy runs as master and workers in the foreground; other commands run as they are.
set -e
case "${1:-}" in
  -*) set -- haproxy "$@" ;;
esac
if [ "${1:-}" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
