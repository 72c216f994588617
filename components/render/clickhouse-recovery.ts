// What must be so before ClickHouse's schema is applied: no replica lacks a table that others have, no queue of another
// release reads, and no table of one is in the way. As text: shell on the deploying side. Data in, text out.

import { dockerOn } from "../host/host.ts";
import { names, type Replica, type Topology } from "../topology.ts";
import { earlierTables, setAside, staleIntakes, tablePaths, tablesPath } from "./clickhouse.ts";
import { note } from "./note.ts";

/** How long one statement may take, seconds: 18.16 may never answer to the end of a queue (decision 17). */
const statementSeconds = 600;
/** A group has noticed after this, seconds, that a member is gone: session, then heartbeats. */
const groupSeconds = 10;
/** So long the servers may take until all can be asked and written again, seconds. */
const settledSeconds = 120;
/** More than any server was ever behind, seconds: one that was just started says that it is since 1970. */
const everSeconds = 10 * 365 * 86_400;

/**
 * Shell: a replica that lacks a table which others have is dropped from ZooKeeper, gets the table as they have it, and
 * fetches its data from there: whatever was committed is on two replicas (decision 17). With nothing lost it asks each
 * replica a few questions.
 */
export function renderRecovery(topology: Topology): string {
  const replicas = topology.clickhouse;
  const slots = replicas.map(({ slot }) => slot).join(" ");
  const paths = Object.entries(tablePaths);
  const stale = staleIntakes(topology);
  const [first] = replicas;
  const [zookeeper] = topology.zookeeper;
  if (first === undefined || zookeeper === undefined) throw new Error("there are no replicas to bring back");
  const whichever = (list: readonly Replica[], line: (replica: Replica) => string): string =>
    list.map((replica) => `  ${replica.slot}) ${line(replica)} ;;`).join("\n");
  return `set -eu
doing="asking what is lost"
trap 'code=$?; why=; [ $code != 124 ] || why=" (no answer for ${statementSeconds} s)"; [ $code = 0 ] || echo "broke off with $code$why while $doing" >&2' EXIT
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
${paths.map(([table, path]) => `  ${table}) echo ${path} ;;`).join("\n")}
  esac
}
# Every server has its session with ZooKeeper, can be written, and knows how far behind it is.
settled() {
  for slot in ${slots}; do [ "$(on "$slot" "$writable")" = 1 ] || return; done
}
writable="SELECT (SELECT count() FROM system.zookeeper WHERE path = '/') > 0 AND (SELECT count() FROM system.replicas WHERE is_readonly OR is_session_expired OR absolute_delay > ${everSeconds}) = 0"
until_settled() {
  deadline=$(($(date +%s) + ${settledSeconds}))
  until said=$(settled 2>&1); do
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$said" >&2
      echo "not every ClickHouse replica can be written after ${settledSeconds} s" >&2
      exit 1
    fi
    sleep 1
  done
}

# 18.16 says No node where newer ones say nothing; any other error must not look like a table that was never made.
zookeeper() {
  said=$(on "$1" "$2" 2>/dev/null) && return
  if why=$(on "$1" "$2" 2>&1); then said=$why && return; fi
  case $why in *"No node"*) said= && return ;; esac
  echo "$why" >&2
  exit 1
}
zookeeper ${first.slot} "SELECT name FROM system.zookeeper WHERE path = '${tablesPath}'"
known=$said

# A table that ZooKeeper has forgotten can never be written again.
for table in ${paths.map(([table]) => table).join(" ")}; do
  if printf '%s\\n' "$known" | grep -qxF "$(basename "$(path_of "$table")")"; then continue; fi
  for slot in ${slots}; do
    has=$(on "$slot" "SELECT count() FROM system.tables WHERE database = '${names.database}' AND name = '$table' AND engine LIKE 'Replicated%'")
    [ "$has" = 1 ] || continue
    left=$(on "$slot" "${earlierTables}")
    if printf '%s\\n' "$left" | grep -qxF "$table"; then continue; fi
    echo "ZooKeeper has lost what it knew of $table, which $(name "$slot") still has. The way back: docs/operations.md, All ZooKeepers are lost" >&2
    exit 1
  done
done

# The first replica that has the table.
source_of() {
  for other in ${slots}; do
    count=$(on "$other" "SELECT count() FROM system.tables WHERE database = '${names.database}' AND name = '$1'") || return 1
    if [ "$count" = 1 ]; then echo "$other" && return; fi
  done
  echo "${names.database}.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew: docker exec ${zookeeper.name} zkCli.sh deleteall $(path_of "$1"), and docs/operations.md, A disk that is lost" >&2
  return 1
}

for slot in ${slots}; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = '${names.database}'")
  for table in ${paths.map(([table]) => table).join(" ")}; do
    if printf '%s\\n' "$has" | grep -qxF "$table"; then continue; fi
    replicas=$(path_of "$table")/replicas
    zookeeper "$slot" "SELECT name FROM system.zookeeper WHERE path = '$replicas'"
    [ -n "$said" ] || continue
    doing="making $table on $(name "$slot") anew"
    source=$(source_of "$table")
    wanted=$(on "$source" "SHOW CREATE TABLE ${names.database}.$table FORMAT TSVRaw")
    # Its name in ZooKeeper must come from its own configuration.
    case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
    if printf '%s\\n' "$said" | grep -qxF "$(name "$slot")"; then
      forgotten=$(${dockerOn(zookeeper.node)} exec ${zookeeper.name} zkCli.sh deleteall "$replicas/$(name "$slot")" 2>&1 </dev/null) ||
        { printf '%s\\n' "$forgotten" | tail -n 3 >&2; exit 1; }
    fi
    on "$slot" "CREATE DATABASE IF NOT EXISTS ${names.database}"
    on "$slot" "$wanted"
    echo "${note}$(name "$slot") had lost $table; it fetches it from the others"
  done
done

# Queues and views of other releases, wherever they are. Queues first, and views once no queue is left: what one reads
# without its view would be committed, and stored nowhere. 18.16 may abort where a queue goes that reads; nothing of its
# block is committed then, and it is asked again.
doing="removing the queues of other releases"
everywhere() { for slot in ${slots}; do on "$slot" "$1"; done; }
drop() {
  deadline=$(($(date +%s) + ${settledSeconds}))
  until left=$(everywhere "$1") && [ -z "$left" ]; do
    if [ "$(date +%s)" -ge $deadline ]; then echo "still there after ${settledSeconds} s: $left" >&2; exit 1; fi
    for slot in ${slots}; do
      for one in $left; do on "$slot" "DROP TABLE IF EXISTS ${names.database}.$one" || true; done &
    done
    wait
    sleep 1
  done
}
if [ -n "$(everywhere "${stale.queues}")" ]; then
  # It aborts more seldom where the group is at rest.
  sleep ${groupSeconds}
  drop "${stale.queues}"
  # One that has aborted may not yet take part again.
  until_settled
fi
drop "${stale.views}"

# Nothing feeds them any more. What they hold goes to the tables that take their place, once these are made.
doing="setting tables of an earlier release aside"
for slot in ${slots}; do
  for table in $(on "$slot" "${earlierTables}"); do on "$slot" "${setAside("${table}")}"; done
done
`;
}
