#!/bin/bash
# Rendered from components/render/clickhouse-entry.ts; changes here are lost at the next up.
# ClickHouse 18.16 that starts while no ZooKeeper serves may hang for good, half-way through its tables.
set -uo pipefail
trap 'exit 0' TERM INT

# The server would drop a table whose file is empty without a word; events meant for it would be read and not stored.
for kept in /var/lib/clickhouse/{metadata,store}; do
  [[ -d "$kept" ]] || continue
  emptied=$(find "$kept" -name '*.sql' -size 0 -print -quit)
  [[ -z "$emptied" ]] || { echo "error: $emptied is empty; a server that starts would forget that table" >&2; exit 1; }
done

# A ZooKeeper outside its quorum answers too, but has no mode.
# shellcheck disable=SC2016 # The inner shell expands it.
serves() {
  timeout 2 bash -c 'exec 3<> "/dev/tcp/$1/2181" && echo srvr >&3 && grep -q ^Mode: <&3' _ "$1" 2> /dev/null
}

until
  for address in 172.25.0.21 172.25.0.22 172.25.0.23; do
    serves "$address" && break
  done
do
  if ((SECONDS >= 120)); then
    echo "no ZooKeeper has served for 120 s: starting without" >&2
    break
  fi
  sleep 0.5
done
exec /entrypoint.sh
