// Brings back ClickHouse replicas whose data is lost, as text: shell on the deploying side. Data in, text out.

import { dockerOn } from "../host/host.ts";
import { ports } from "../ports.ts";
import { names, type Replica, type Topology } from "../topology.ts";
import { askRows, lostFeeds, tablesPath } from "./clickhouse.ts";

/**
 * How far before a replica's last sign of life its feeds are read again, seconds. What a replica stores is known to
 * Kafka as read, and to the other replicas a moment later; an hour is for a feed that lagged, and for clocks.
 */
const backSeconds = 3600;
/** So long 18.16 may take to see by itself that a part is nowhere, seconds. */
const settleSeconds = 30;
/** Without any progress for so long, seconds, reading again has failed. */
const stalledSeconds = 120;

/**
 * Shell: a replica that lacks a table which ZooKeeper knows to be its own gets it as another replica has it, and fetches
 * its data from there. Before that, what Kafka has had since an hour before the replica was last seen is read once more,
 * by another replica: what the lost one had stored and nobody had fetched yet is nowhere else. Readers see once what
 * is stored twice (decision 10). The feed itself goes on meanwhile.
 *
 * The table comes last, so that an interrupted run begins anew. With nothing lost it asks each replica one question.
 */
export function renderRecovery(topology: Topology): string {
  const replicas = topology.clickhouse;
  const slots = replicas.map(({ slot }) => slot).join(" ");
  const feeds = lostFeeds(topology, "$rows");
  const [first] = replicas;
  const [zookeeper] = topology.zookeeper;
  if (first === undefined || zookeeper === undefined) throw new Error("there are no replicas to bring back");
  const whichever = (list: readonly Replica[], line: (replica: Replica) => string): string =>
    list.map((replica) => `  ${replica.slot}) ${line(replica)} ;;`).join("\n");
  const forgotten = feeds.map(({ path }) => `zkCli.sh deleteall ${path}`).join(" && ");
  return `set -eu
on() {
  case $1 in
${whichever(replicas, ({ name, node }) => `${dockerOn(node)} exec ${name} clickhouse-client --query "$2" </dev/null`)}
  esac
}
name() {
  case $1 in
${whichever(replicas, ({ alias }) => `echo ${alias}`)}
  esac
}

# 18.16 says No node where newer ones say nothing; any other error must not look like a table that was never made.
zookeeper() {
  said=$(on "$1" "$2" 2>&1) || case $said in
  *"No node"*) said= ;;
  *) echo "$said" >&2 && exit 1 ;;
  esac
}
zookeeper ${first.slot} "SELECT name FROM system.zookeeper WHERE path = '${tablesPath}'"
[ -n "$said" ] || exit 0

# Lines of what is lost: replica, table, where ZooKeeper knows it, seconds since that replica was last seen.
lost=
for slot in ${slots}; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = '${names.database}'")
  while read -r table path; do
    if printf '%s\\n' "$has" | grep -qxF "$table"; then continue; fi
    zookeeper "$slot" "SELECT toUnixTimestamp(now()) - toUnixTimestamp(mtime) FROM system.zookeeper WHERE path = '$path/replicas/$(name "$slot")' AND name = 'log_pointer'"
    [ -z "$said" ] || lost="$lost$slot $table $path $said
"
  done <<'TABLES'
${feeds.map(({ table, path }) => `${table} ${path}`).join("\n")}
TABLES
done
[ -n "$lost" ] || exit 0
# A replica was last seen when the busiest of its tables was.
back=$(printf '%s' "$lost" | awk '!($1 in seen) || $4 < seen[$1] { seen[$1] = $4 }
  END { for (slot in seen) if (seen[slot] > most) most = seen[slot]; print most + ${backSeconds} }')

# The first replica that has the table.
source_of() {
  for other in ${slots}; do
    [ "$(on "$other" "SELECT count() FROM system.tables WHERE database = '${names.database}' AND name = '$1'")" = 0 ] || { echo "$other"; return; }
  done
  echo "${names.database}.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew without what was stored: docker exec ${zookeeper.name} sh -c '${forgotten}', then run this again" >&2
  return 1
}
broker=
${topology.kafka.map(({ slot, name, node }) => `[ -n "$broker" ] || ! ${dockerOn(node)} exec ${name} true 2>/dev/null || broker=${slot}`).join("\n")}
[ -n "$broker" ] || { echo "no Kafka broker is running" >&2; exit 1; }
groups() {
  case $broker in
${whichever(topology.kafka, ({ name, node }) => `${dockerOn(node)} exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' ${name} kafka-consumer-groups --bootstrap-server localhost:${ports.kafka.number} "$@" </dev/null`)}
  esac
}
# Lines: group, topic, partition, the offset that is read next, the partition's end.
offsets() { groups --describe --group "$1" 2>/dev/null | awk '$3 ~ /^[0-9]+$/ { print $1, $2, $3, $4, $5 }'; }

read_again() {
  table=$1 group=$2 topic=$3 queue=$4 view=$5 make_queue=$6 make_view=$7
  source=$(source_of "$table")
  # Of a run that was interrupted.
  for name in "$queue" "$view"; do on "$source" "DROP TABLE IF EXISTS ${names.database}.$name"; done
  deadline=$(($(date +%s) + ${stalledSeconds}))
  # It succeeds also where it has refused, because the group of an interrupted run is not yet empty.
  until said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT\${back}S" --execute 2>&1) &&
    ! printf '%s' "$said" | grep -q '^Error'; do
    if [ "$(date +%s)" -ge $deadline ]; then echo "$said" >&2; exit 1; fi
    sleep 1
  done
  ends=$(offsets "$group")
  [ -n "$ends" ] || { echo "Kafka does not say how far $group is to read in $topic" >&2; exit 1; }
  on "$source" "$make_queue"
  on "$source" "$make_view"
  before=
  while :; do
    now=$(offsets "$group")
    # Read as far as each partition's end was in the beginning.
    left=$(printf '%s\\n--\\n%s\\n' "$ends" "$now" | awk '/^--$/ { now = 1; next } !now { end[$3] = $5; next } { at[$3] = $4 }
      END { for (p in end) if (at[p] + 0 < end[p] + 0) left += end[p] - at[p]; print left + 0 }')
    [ "$left" != 0 ] || break
    if [ "$left" != "$before" ]; then before=$left deadline=$(($(date +%s) + ${stalledSeconds})); fi
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$(name "$source") has not read on in $topic for ${stalledSeconds} s, $left before what was its end" >&2
      exit 1
    fi
    sleep 1
  done
  for name in "$queue" "$view"; do on "$source" "DROP TABLE IF EXISTS ${names.database}.$name"; done
}
ask() { on "$(source_of ${feeds[0]?.table})" "$1"; }
${askRows}tables=$(printf '%s' "$lost" | cut -d ' ' -f 2 | sort -u)
for table in $tables; do source_of "$table" >/dev/null; done
for table in $tables; do
  case $table in
${feeds
  .map(
    ({ table, group, topic, again }) => `  ${table})
    read_again ${table} ${group} ${topic} ${again.queue} ${again.view} "${again.statements[0]}" \\
      "${again.statements[1]}"
    ;;`,
  )
  .join("\n")}
  esac
done

printf '%s' "$lost" | while read -r slot table path seen; do
  wanted=$(on "$(source_of "$table")" "SHOW CREATE TABLE ${names.database}.$table FORMAT TSVRaw")
  # Its name in ZooKeeper must come from its own configuration.
  case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
  on "$slot" "CREATE DATABASE IF NOT EXISTS ${names.database}"
  # 18.16 takes the table with what ZooKeeper knows of it; a current server is to be forgotten first.
  if ! said=$(on "$slot" "ATTACH \${wanted#CREATE }" 2>&1); then
    on "$slot" "SYSTEM DROP REPLICA '$(name "$slot")' FROM ZKPATH '$path'" || { echo "$said" >&2; exit 1; }
    on "$slot" "$wanted"
  fi
  echo "$(name "$slot") had lost $table, last seen $seen s ago: it fetches it from the others"
done

# What the lost replica had merged others wait for, and 18.16 waits for ever: "Hoping that it will eventually appear".
# What was in it is stored anew, so the entry is taken out of the queue. Current servers put an empty part there.
stuck() { on "$1" "SELECT concat(table, ' ', node_name) FROM system.replication_queue WHERE database = '${names.database}' AND last_exception LIKE '%No active replica has part%'"; }
all_stuck() { for slot in ${slots}; do stuck "$slot" | sed "s/^/$slot /"; done; }
deadline=$(($(date +%s) + ${settleSeconds}))
while left=$(all_stuck) && [ -n "$left" ] && [ "$(date +%s)" -lt $deadline ]; do sleep 1; done
if [ -n "$left" ]; then
  printf '%s\\n' "$left" | while read -r slot table node; do
    case $table in
  ${feeds.map(({ table, path }) => `  ${table}) path=${path} ;;`).join("\n")}
    esac
    echo "delete $path/replicas/$(name "$slot")/queue/$node"
  done | ${dockerOn(zookeeper.node)} exec -i ${zookeeper.name} zkCli.sh >/dev/null 2>&1
  printf '%s\\n' "$left" | cut -d ' ' -f 1,2 | sort -u | while read -r slot table; do
    on "$slot" "SYSTEM RESTART REPLICA ${names.database}.$table"
  done
fi
# Nobody needs these any more, and Kafka forgets them by itself in time.
groups --delete ${feeds.map(({ group }) => `--group ${group}`).join(" ")} >/dev/null 2>&1 || true
`;
}
