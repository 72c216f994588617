// What must be so before ClickHouse's schema is applied: no replica lacks data that it had, no table lacks a column, and no
// queue of another release reads. As text: shell on the deploying side. Data in, text out.

import { dockerOn } from "../host/host.ts";
import { ports } from "../ports.ts";
import { names, type Replica, type Topology } from "../topology.ts";
import { lostFeeds, narrowTables, staleIntakes, tablesPath, widen } from "./clickhouse.ts";
import { note } from "./note.ts";

/**
 * How far before the first event that may be lost its feed is read again, seconds: as much as the feed may have been
 * behind when the disk went.
 */
const backSeconds = 6 * 3600;
/** How far beyond a replica's last sign of life, for clocks and for pointers that are moved late, seconds. */
const beyondSeconds = 600;
/** Without any progress for so long, seconds, reading again has failed. */
const stalledSeconds = 120;
/** So long 18.16 may take to see by itself that a part is nowhere, seconds; it tries several times a second. */
const settleSeconds = 30;
/** How long one statement may take, seconds: 18.16 may never answer to the end of a queue (decision 17). */
const statementSeconds = 600;
/** A group has noticed after this, seconds, that a member is gone: session, then heartbeats. */
const groupSeconds = 10;
/** A queue that has lost its view has stored the block that it was reading after this, seconds: four blocks' time. */
const blockSeconds = 2;
/** How often it begins anew where a server ends under it. */
const tries = 3;
/** So long a server may refuse before it ends and is started anew, seconds. */
const restartSeconds = 15;
/** So long the servers may take until all can be asked and written again, seconds. */
const settledSeconds = 120;
/** Older than anything that Kafka has, seconds. */
const everSeconds = 10 * 365 * 86_400;

/**
 * Shell: a replica that lacks a table which others have gets it as they have it, and fetches its data from there. Before
 * that, what Kafka had from then on when the first event may have been lost until the replica was last seen is read once
 * more, by another replica: what the lost one had stored and nobody had fetched yet is nowhere else. Readers see once
 * what is stored twice (decision 10). The feed itself goes on meanwhile.
 *
 * The table comes last, so that an interrupted run begins anew. One that breaks off because a server ended does that by
 * itself. With nothing lost it asks each replica a few questions.
 */
export function renderRecovery(topology: Topology): string {
  const replicas = topology.clickhouse;
  const slots = replicas.map(({ slot }) => slot).join(" ");
  const feeds = lostFeeds(topology);
  const stale = staleIntakes(topology);
  const [first] = replicas;
  const [zookeeper] = topology.zookeeper;
  if (first === undefined || zookeeper === undefined) throw new Error("there are no replicas to bring back");
  const whichever = (list: readonly Replica[], line: (replica: Replica) => string): string =>
    list.map((replica) => `  ${replica.slot}) ${line(replica)} ;;`).join("\n");
  const stored = feeds.map(({ table }) => `'${table}'`).join(", ");
  const servers = [...topology.zookeeper, ...topology.kafka, ...replicas];
  const hosts = [...new Set(servers.map(({ node }) => node))].map((node) => ({
    docker: dockerOn(node),
    containers: servers.flatMap((server) => (server.node === node ? [server.name] : [])),
  }));
  return `set -eu
on() {
  # Whoever waits for this was killed.
  kill -0 $$ 2>/dev/null || exit 143
  case $1 in
${whichever(replicas, ({ name, node }) => `${dockerOn(node)} exec ${name} timeout ${statementSeconds} clickhouse-client --query "$2" </dev/null`)}
  esac
}
name() {
  case $1 in
${whichever(replicas, ({ alias }) => `echo ${alias}`)}
  esac
}
path_of() {
  case $1 in
${feeds.map(({ table, path }) => `  ${table}) echo ${path} ;;`).join("\n")}
  esac
}

# What the servers are and when each was started.
starts() {
${hosts.map(({ docker, containers }) => `  ${docker} inspect --format '{{.Name}} {{.State.StartedAt}}' ${containers.join(" ")}`).join("\n")}
}

# Those that have been started since the lines in $1.
ended_since() {
  now=$(starts 2>/dev/null) || true
  printf '%s\\n--\\n%s\\n' "$1" "$now" | awk '/^--$/ { now = 1; next } !now { at[$1] = $2; next } at[$1] != $2 { printf "%s%s", comma, substr($1, 2); comma = ", " }'
}

# Every server runs, and every ClickHouse has its session with ZooKeeper, can be written, and knows how far behind it is.
settled() {
  starts >/dev/null && ${replicas.map(({ name, node }) => `[ "$(${dockerOn(node)} exec ${name} timeout 5 clickhouse-client --query "$writable" </dev/null)" = 1 ]`).join(" && ")}
}
until_settled() {
  deadline=$(($(date +%s) + ${settledSeconds}))
  until said=$(settled 2>&1); do
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$said" >&2
      echo "not every server of ClickHouse, Kafka and ZooKeeper runs and can be written after ${settledSeconds} s" >&2
      exit 1
    fi
    sleep 1
  done
}
writable="SELECT (SELECT count() FROM system.zookeeper WHERE path = '/') > 0 AND (SELECT count() FROM system.replicas WHERE is_readonly OR is_session_expired OR absolute_delay > ${everSeconds}) = 0"

recover() {
doing="asking what is lost"
# A server that ends takes with it what the client in its container would have said.
trap 'code=$?; why=; [ $code != 124 ] || why=" (no answer for ${statementSeconds} s)"; [ $code = 0 ] || echo "broke off with $code$why while $doing" >&2' EXIT

# 18.16 says No node where newer ones say nothing; any other error must not look like a table that was never made.
zookeeper() {
  said=$(on "$1" "$2" 2>/dev/null) && return
  if why=$(on "$1" "$2" 2>&1); then said=$why && return; fi
  case $why in *"No node"*) said= && return ;; esac
  echo "$why" >&2
  exit 1
}
zookeeper ${first.slot} "SELECT name FROM system.zookeeper WHERE path = '${tablesPath}'"
[ -n "$said" ] || exit 0
current=$(on ${first.slot} "SELECT count() FROM system.merge_tree_settings WHERE name = 'ttl_only_drop_parts'")
# Lines of what is lost: replica, table, seconds since that replica was last seen, or "unknown" where ZooKeeper has
# forgotten the replica and others have the table.
lost=
for slot in ${slots}; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = '${names.database}'")
  for table in ${feeds.map(({ table }) => table).join(" ")}; do
    if printf '%s\\n' "$has" | grep -qxF "$table"; then continue; fi
    replicas=$(path_of "$table")/replicas
    zookeeper "$slot" "SELECT name FROM system.zookeeper WHERE path = '$replicas'"
    [ -n "$said" ] || continue
    zookeeper "$slot" "SELECT toUnixTimestamp(now()) - toUnixTimestamp(mtime) FROM system.zookeeper WHERE path = '$replicas/$(name "$slot")' AND name = 'log_pointer'"
    lost="$lost$slot $table \${said:-unknown}
"
  done
done

# Before the new views feed it. What one replica was told, and could not tell all others, these do when they can: what it
# said counts only if that does not come.
doing="adding columns"
narrow() {
  for slot in ${slots}; do
    found=$(on "$slot" "${narrowTables}") || return
    for table in $found; do echo "$slot $table"; done
  done
}
left=$(narrow)
if [ -n "$left" ]; then until_settled; fi
deadline=$(($(date +%s) + ${settledSeconds}))
while [ -n "$left" ]; do
  slot=\${left%% *}
  table=$(printf '%s\\n' "$left" | head -n 1 | cut -d ' ' -f 2)
  said=$(on "$slot" "${widen("$table")}" 2>&1) || true
  left=$(narrow)
  [ -n "$left" ] || break
  if [ "$(date +%s)" -ge $deadline ]; then
    echo "$(name "$slot") still lacks a column of $table after ${settledSeconds} s; told to add it, it said last: \${said:-nothing}" >&2
    exit 1
  fi
  sleep 1
done

# Takes a queue that reads again from a server. 18.16 aborts where a queue goes while a block is being read: that block's
# end subscribes once more to what is just being closed. Without a view it ends its block and reads no more.
remove() {
  there=$(on "$1" "SELECT count() FROM system.tables WHERE database = '${names.database}' AND name IN ('$2', '$3')")
  if [ "$there" = 0 ]; then return; fi
  on "$1" "DROP TABLE IF EXISTS ${names.database}.$3"
  sleep ${blockSeconds}
  on "$1" "DROP TABLE IF EXISTS ${names.database}.$2"
}

# The first replica that has the table.
source_of() {
  for other in ${slots}; do
    count=$(on "$other" "SELECT count() FROM system.tables WHERE database = '${names.database}' AND name = '$1'") || return 1
    if [ "$count" = 1 ]; then echo "$other" && return; fi
  done
  echo "${names.database}.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew: docker exec ${zookeeper.name} zkCli.sh deleteall $(path_of "$1"), and docs/operations.md, A disk that is lost" >&2
  return 1
}

# How many messages a group has yet to read until it is where it should end: group, topic, lines of partition and offset.
left_of() {
  now=$(groups --describe --group "$1" 2>/dev/null | awk '$2 == "'"$2"'" && $4 ~ /^[0-9]+$/ { print $3, $4 }')
  printf '%s\\n--\\n%s\\n' "$3" "$now" | awk '/^--$/ { now = 1; next } !now { end[$1] = $2; next } { at[$1] = $2 }
    END { for (p in end) if (at[p] + 0 < end[p] + 0) left += end[p] - at[p]; print left + 0 }'
}

read_again() {
  table=$1 group=$2 topic=$3 queue=$4 view=$5 make_queue=$6 make_view=$7
  source=$(source_of "$table")
  # Of a run that was interrupted, wherever it read.
  for slot in ${slots}; do remove "$slot" "$queue" "$view"; done
  # What the others know of and have not fetched was stored by the lost one, however long ago.
  behind=0
  for other in ${slots}; do
    delay=$(on "$other" "SELECT max(absolute_delay) FROM system.replicas WHERE database = '${names.database}' AND table = '$table'")
    if [ "\${delay:-0}" -gt "$behind" ]; then behind=$delay; fi
  done
  # A replica was last seen when the busiest of its tables was.
  span=$(printf '%s' "$lost" | awk -v behind="$behind" '
    $3 == "unknown" { unknown = 1; next }
    !($1 in seen) || $3 < seen[$1] { seen[$1] = $3 }
    END {
      for (slot in seen) { if (seen[slot] > most) most = seen[slot]; if (least == "" || seen[slot] < least) least = seen[slot] }
      if (behind + 0 > most + 0) most = behind
      # One that was just started says that it is behind since 1970; Kafka fails at times before that.
      from = unknown || most > ${everSeconds} ? ${everSeconds} : most + ${backSeconds}
      to = unknown || least < ${beyondSeconds} ? 0 : least - ${beyondSeconds}
      printf "%d %d", from, to
    }')
  deadline=$(($(date +%s) + ${stalledSeconds}))
  # It succeeds also where it has refused, because the group of an interrupted run is not yet empty.
  until said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT\${span#* }S" --dry-run --export 2>&1) &&
    ! printf '%s\\n' "$said" | grep -q '^Error'; do
    if [ "$(date +%s)" -ge $deadline ]; then echo "$said" >&2; exit 1; fi
    sleep 1
  done
  # Lines: topic, partition, offset, with commas; then partition, offset.
  ends=$(printf '%s\\n' "$said" | tr -d '"' | awk -F , '$1 == "'"$topic"'" && $3 ~ /^[0-9]+$/ { print $2, $3 }')
  [ -n "$ends" ] || { echo "Kafka does not say how far $group is to read in $topic: $said" >&2; exit 1; }
  said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT\${span% *}S" --execute 2>&1) || { echo "$said" >&2; exit 1; }
  if printf '%s\\n' "$said" | grep -q '^Error'; then echo "$said" >&2; exit 1; fi
  left=$(left_of "$group" "$topic" "$ends")
  if [ "$left" = 0 ]; then return; fi
  on "$source" "$make_queue"
  on "$source" "$make_view"
  before=
  while :; do
    left=$(left_of "$group" "$topic" "$ends")
    [ "$left" != 0 ] || break
    if [ "$left" != "$before" ]; then before=$left deadline=$(($(date +%s) + ${stalledSeconds})); fi
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$(name "$source") has not read on in $topic for ${stalledSeconds} s, $left before the end of what it is to read" >&2
      exit 1
    fi
    sleep 1
  done
  remove "$source" "$queue" "$view"
  echo "${note}$table: read again what Kafka had from \${span% *} s to \${span#* } s ago"
}

if [ -n "$lost" ]; then
  broker=
${topology.kafka.map(({ slot, name, node }) => `  [ -n "$broker" ] || ! ${dockerOn(node)} exec ${name} true 2>/dev/null || broker=${slot}`).join("\n")}
  [ -n "$broker" ] || { echo "no Kafka broker is running" >&2; exit 1; }
  groups() {
    case $broker in
${whichever(topology.kafka, ({ name, node }) => `${dockerOn(node)} exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' ${name} kafka-consumer-groups --bootstrap-server localhost:${ports.kafka.number} "$@" </dev/null`)}
    esac
  }
  # The marks of undated events first: what needs them waits for them.
  tables=$(printf '%s' "$lost" | cut -d ' ' -f 2 | sort -ru)
  for table in $tables; do source_of "$table" >/dev/null; done
  for table in $tables; do
    doing="reading again what $table has lost"
    case $table in
${feeds
  .map(
    ({ table, group, topic, again }) => `    ${table})
      read_again ${table} ${group} ${topic} ${again.queue} ${again.view} "${again.statements[0]}" \\
        "${again.statements[1]}"
      ;;`,
  )
  .join("\n")}
    esac
  done

  doing="making the lost tables"
  printf '%s' "$lost" | while read -r slot table seen; do
    source=$(source_of "$table")
    wanted=$(on "$source" "SHOW CREATE TABLE ${names.database}.$table FORMAT TSVRaw")
    # Its name in ZooKeeper must come from its own configuration.
    case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
    on "$slot" "CREATE DATABASE IF NOT EXISTS ${names.database}"
    if [ "$seen" = unknown ]; then
      on "$slot" "$wanted"
    elif [ "$current" = 0 ]; then
      # 18.16 takes the table with what ZooKeeper knows of it.
      on "$slot" "ATTACH \${wanted#CREATE }"
    else
      on "$slot" "SYSTEM DROP REPLICA '$(name "$slot")' FROM ZKPATH '$(path_of "$table")'"
      on "$slot" "$wanted"
    fi
    echo "${note}$(name "$slot") had lost $table, last seen: $seen s ago; it fetches it from the others"
  done
  # Nobody needs these any more, and Kafka forgets them by itself in time.
  groups --delete ${feeds.map(({ group }) => `--group ${group}`).join(" ")} >/dev/null 2>&1 || true
  # The first fetches have been tried then.
  sleep 5
fi

# What the lost replica had merged others wait for, and 18.16 waits for ever: "Hoping that it will eventually appear".
# What was in it is stored anew by now, so the entry is taken out of the queue. Only if it has waited all the time, and
# nobody is away who may yet have the part. Current servers put an empty part there.
doing="looking for what waits for a lost part"
if [ "$current" = 0 ]; then
  waiting() {
    for slot in ${slots}; do
      away=$(on "$slot" "SELECT count() FROM system.replicas WHERE database = '${names.database}' AND active_replicas < total_replicas")
      [ "$away" = 0 ] || { echo away; return; }
      on "$slot" "SELECT concat('$slot ', table, ' ', node_name) FROM system.replication_queue WHERE database = '${names.database}' AND table IN (${stored}) AND last_exception LIKE '%No active replica has part%'"
    done
  }
  # A server that was started anew has not yet tried either.
  [ $try = 1 ] || sleep 5
  left=$(waiting)
  deadline=$(($(date +%s) + ${settleSeconds}))
  while [ -n "$left" ] && [ "$(date +%s)" -lt $deadline ]; do
    sleep 1
    now=$(waiting)
    if printf '%s\\n' "$now" | grep -qx away; then left= && break; fi
    left=$(printf '%s\\n' "$left" | while read -r line; do if printf '%s\\n' "$now" | grep -qxF "$line"; then echo "$line"; fi; done)
  done
  if printf '%s\\n' "$left" | grep -qx away; then left=; fi
  if [ -n "$left" ]; then
    printf '%s\\n' "$left" | while read -r slot table node; do
      echo "delete $(path_of "$table")/replicas/$(name "$slot")/queue/$node"
    done | ${dockerOn(zookeeper.node)} exec -i ${zookeeper.name} zkCli.sh >/dev/null 2>&1
    printf '%s\\n' "$left" | cut -d ' ' -f 1,2 | sort -u | while read -r slot table; do
      on "$slot" "SYSTEM RESTART REPLICA ${names.database}.$table"
      echo "${note}$(name "$slot"): $table waits no longer for a part that is nowhere"
    done
  fi
fi

# Queues and views of other releases, wherever they are. Queues first, and views once no queue is left: what one reads
# without its view would be committed, and stored nowhere. Where 18.16 aborts, nothing of its block is committed, and all
# of this begins anew.
doing="removing the queues of other releases"
everywhere() { for slot in ${slots}; do on "$slot" "$1"; done; }
queues=$(everywhere "${stale.queues}")
if [ -n "$queues" ]; then
  # It aborts more seldom where the group is at rest.
  sleep ${groupSeconds}
  for queue in $(printf '%s\\n' "$queues" | sort -u); do
    on ${first.slot} "DROP TABLE IF EXISTS ${names.database}.$queue ON CLUSTER ${names.clickhouseCluster}" >/dev/null
  done
  queues=$(everywhere "${stale.queues}")
  [ -z "$queues" ] || { echo "queues of another release are still there: $queues" >&2; exit 1; }
  # One that has aborted may not yet take part again.
  until_settled
fi
views=$(everywhere "${stale.views}")
for view in $(printf '%s\\n' "$views" | sort -u); do
  on ${first.slot} "DROP TABLE IF EXISTS ${names.database}.$view ON CLUSTER ${names.clickhouseCluster}" >/dev/null
done
}

try=1
while :; do
  before=$(starts)
  # Not in a condition: a shell does not stop at a failure there.
  set +e
  (set -e; recover)
  failed=$?
  set -e
  [ $failed != 0 ] || exit 0
  # One that is being stopped refuses first, and ends later.
  deadline=$(($(date +%s) + ${restartSeconds}))
  while [ -z "$(ended_since "$before")" ] && [ "$(date +%s)" -lt $deadline ]; do sleep 1; done
  until_settled
  ended=$(ended_since "$before")
  [ -n "$ended" ] || exit 1
  if [ $try = ${tries} ]; then echo "$ended ended meanwhile, which is once too often" >&2; exit 1; fi
  try=$((try + 1))
  echo "${note}$ended ended meanwhile; once more"
done
`;
}
