// What a power cut does to a replica's disk: what was written last and never synced is not there afterwards. As text:
// shell for a container that has the replica's volumes.

/** The stateful services. */
export type Stateful = "clickhouse" | "kafka" | "zookeeper";

/** How old what is lost may be, seconds: Linux writes back what is 30 s old. */
export const unsyncedSeconds = 20;

/**
 * Files that each writes without syncing them, as find(1) names them. ClickHouse 18.16 syncs no part, only its tables'
 * definitions. Kafka syncs no segment before it is full, but its checkpoints. ZooKeeper syncs its log before it answers,
 * and the epochs; of its own accord it writes snapshots without.
 */
const unsynced: Readonly<Record<Stateful, string>> = {
  clickhouse: "/var/lib/clickhouse/data -type f",
  kafka: "/var/lib/kafka/data -type f -name '*.log'",
  zookeeper: "/data -type f -name 'snapshot.*'",
};

/** Shell: those files and their sizes. What goes while it looks is not there. */
export function listing(service: Stateful): string {
  return `find ${unsynced[service]} -printf '%s %p\\n' 2>/dev/null || true`;
}

/**
 * Shell, fed with an earlier {@link listing}: gives each file the size that it had then, and new ones none, as a
 * journaling file system does that knows names and not yet contents. Kafka's indexes of such a segment are as old as it.
 * Prints how many files it cut.
 */
export function cutting(service: Stateful): string {
  const indexes = `for index in "\${path%.log}.index" "\${path%.log}.timeindex"; do [ ! -e "$index" ] || truncate -s 0 "$index"; done`;
  return `set -eu
{ cat; echo --; find ${unsynced[service]} -printf '%s %p\\n'; } |
  awk '/^--$/ { now = 1; next } !now { size[$2] = $1; next } $1 > size[$2] + 0 { print size[$2] + 0, $2 }' | {
  count=0
  while read -r size path; do
    truncate -s "$size" "$path"
${service === "kafka" ? `    ${indexes}\n` : ""}    count=$((count + 1))
  done
  echo $count
}`;
}
