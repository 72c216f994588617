// ClickHouse's first process as text: it starts the server once a ZooKeeper serves, and never where a table's file is
// empty. `up` starts things in order, but a restart of Docker or of a machine starts everything at once.

import { ports } from "../ports.ts";
import { type Topology } from "../topology.ts";

/** Where the script stands in ClickHouse's container. */
export const clickhouseEntry = "/usr/local/bin/siem-ha-clickhouse.sh";

/** Where ClickHouse keeps its data. */
export const clickhouseData = "/var/lib/clickhouse";

/** Longest wait, seconds: a server without ZooKeeper can still be read, where its version starts without one. */
const waitSeconds = 120;

/** The script; it ends as the image's own entry point. */
export function renderClickhouseEntry(topology: Topology): string {
  const addresses = topology.zookeeper.map(({ node }) => node.address).join(" ");
  return `#!/bin/bash
# Rendered from components/render/clickhouse-entry.ts; changes here are lost at the next up.
# ClickHouse 18.16 that starts while no ZooKeeper serves may hang for good, half-way through its tables.
set -uo pipefail
trap 'exit 0' TERM INT

# The server would drop a table whose file is empty without a word; events meant for it would be read and not stored.
for kept in ${clickhouseData}/{metadata,store}; do
  [[ -d "$kept" ]] || continue
  emptied=$(find "$kept" -name '*.sql' -size 0 -print -quit)
  [[ -z "$emptied" ]] || { echo "error: $emptied is empty; a server that starts would forget that table" >&2; exit 1; }
done

# A ZooKeeper outside its quorum answers too, but has no mode.
# shellcheck disable=SC2016 # The inner shell expands it.
serves() {
  timeout 2 bash -c 'exec 3<> "/dev/tcp/$1/${ports.zookeeperClient.number}" && echo srvr >&3 && grep -q ^Mode: <&3' _ "$1" 2> /dev/null
}

until
  for address in ${addresses}; do
    serves "$address" && break
  done
do
  if ((SECONDS >= ${waitSeconds})); then
    echo "no ZooKeeper has served for ${waitSeconds} s: starting without" >&2
    break
  fi
  sleep 0.5
done
exec /entrypoint.sh
`;
}
