set -eu
doing="asking what is lost"
trap 'code=$?; why=; [ $code != 124 ] || why=" (no answer for 600 s)"; [ $code = 0 ] || echo "broke off with $code$why while $doing" >&2' EXIT
on() {
  # Whoever waits for this was killed.
  kill -0 $$ 2>/dev/null || exit 143
  case $1 in
  1) docker -H "$DOCKER_STORE_NODE_1" exec clickhouse-1 timeout 600 clickhouse-client --query "$2" </dev/null ;;
  2) docker -H "$DOCKER_STORE_NODE_2" exec clickhouse-2 timeout 600 clickhouse-client --query "$2" </dev/null ;;
  3) docker -H "$DOCKER_STORE_NODE_3" exec clickhouse-3 timeout 600 clickhouse-client --query "$2" </dev/null ;;
  esac
}
name() {
  case $1 in
  1) echo clickhouse-1 ;;
  2) echo clickhouse-2 ;;
  3) echo clickhouse-3 ;;
  esac
}
path_of() {
  case $1 in
  events_replicated) echo /clickhouse/tables/01/events_versioned ;;
  alerts_replicated) echo /clickhouse/tables/01/alerts_versioned ;;
  unreadable_replicated) echo /clickhouse/tables/01/unreadable ;;
  esac
}
# Every server has its session with ZooKeeper, can be written, and knows how far behind it is.
settled() {
  for slot in 1 2 3; do [ "$(on "$slot" "$writable")" = 1 ] || return; done
}
writable="SELECT (SELECT count() FROM system.zookeeper WHERE path = '/') > 0 AND (SELECT count() FROM system.replicas WHERE is_readonly OR is_session_expired OR absolute_delay > 315360000) = 0"
until_settled() {
  deadline=$(($(date +%s) + 120))
  until said=$(settled 2>&1); do
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$said" >&2
      echo "not every ClickHouse replica can be written after 120 s" >&2
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
zookeeper 1 "SELECT name FROM system.zookeeper WHERE path = '/clickhouse/tables/01'"
known=$said

# A table that ZooKeeper has forgotten can never be written again.
for table in events_replicated alerts_replicated unreadable_replicated; do
  if printf '%s\n' "$known" | grep -qxF "$(basename "$(path_of "$table")")"; then continue; fi
  for slot in 1 2 3; do
    has=$(on "$slot" "SELECT count() FROM system.tables WHERE database = 'dev' AND name = '$table' AND engine LIKE 'Replicated%'")
    [ "$has" = 1 ] || continue
    left=$(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev' AND name IN ('events_replicated', 'alerts_replicated') AND name NOT IN (SELECT table FROM system.columns WHERE database = 'dev' AND name = 'row_version')")
    if printf '%s\n' "$left" | grep -qxF "$table"; then continue; fi
    echo "ZooKeeper has lost what it knew of $table, which $(name "$slot") still has. The way back: docs/operations.md, All ZooKeepers are lost" >&2
    exit 1
  done
done

# The first replica that has the table.
source_of() {
  for other in 1 2 3; do
    count=$(on "$other" "SELECT count() FROM system.tables WHERE database = 'dev' AND name = '$1'") || return 1
    if [ "$count" = 1 ]; then echo "$other" && return; fi
  done
  echo "dev.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew: docker exec zookeeper-1 zkCli.sh deleteall $(path_of "$1"), and docs/operations.md, A disk that is lost" >&2
  return 1
}

for slot in 1 2 3; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev'")
  for table in events_replicated alerts_replicated unreadable_replicated; do
    if printf '%s\n' "$has" | grep -qxF "$table"; then continue; fi
    replicas=$(path_of "$table")/replicas
    zookeeper "$slot" "SELECT name FROM system.zookeeper WHERE path = '$replicas'"
    [ -n "$said" ] || continue
    doing="making $table on $(name "$slot") anew"
    source=$(source_of "$table")
    wanted=$(on "$source" "SHOW CREATE TABLE dev.$table FORMAT TSVRaw")
    # Its name in ZooKeeper must come from its own configuration.
    case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
    if printf '%s\n' "$said" | grep -qxF "$(name "$slot")"; then
      forgotten=$(docker -H "$DOCKER_STREAM_NODE_1" exec zookeeper-1 zkCli.sh deleteall "$replicas/$(name "$slot")" 2>&1 </dev/null) ||
        { printf '%s\n' "$forgotten" | tail -n 3 >&2; exit 1; }
    fi
    on "$slot" "CREATE DATABASE IF NOT EXISTS dev"
    on "$slot" "$wanted"
    echo "note: $(name "$slot") had lost $table; it fetches it from the others"
  done
done

# Queues and views of other releases, wherever they are. Queues first, and views once no queue is left: what one reads
# without its view would be committed, and stored nowhere. 18.16 may abort where a queue goes that reads; nothing of its
# block is committed then, and it is asked again.
doing="removing the queues of other releases"
everywhere() { for slot in 1 2 3; do on "$slot" "$1"; done; }
drop() {
  deadline=$(($(date +%s) + 120))
  until left=$(everywhere "$1") && [ -z "$left" ]; do
    if [ "$(date +%s)" -ge $deadline ]; then echo "still there after 120 s: $left" >&2; exit 1; fi
    for slot in 1 2 3; do
      for one in $left; do on "$slot" "DROP TABLE IF EXISTS dev.$one" || true; done &
    done
    wait
    sleep 1
  done
}
if [ -n "$(everywhere "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_aa5043b3', 'alerts_queue_b21e22da')")" ]; then
  # It aborts more seldom where the group is at rest.
  sleep 10
  drop "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_aa5043b3', 'alerts_queue_b21e22da')"
  # One that has aborted may not yet take part again.
  until_settled
fi
drop "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'MaterializedView' AND (name LIKE 'events_consumer%' OR name LIKE 'events_unreadable%' OR name LIKE 'alerts_consumer%' OR name LIKE 'alerts_unreadable%' OR name LIKE 'undated_consumer%' OR name LIKE 'undated_unreadable%') AND name NOT IN ('events_unreadable_aa5043b3', 'events_consumer_aa5043b3', 'alerts_unreadable_b21e22da', 'alerts_consumer_b21e22da')"

# Nothing feeds them any more. What they hold goes to the tables that take their place, once these are made.
doing="setting tables of an earlier release aside"
for slot in 1 2 3; do
  for table in $(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev' AND name IN ('events_replicated', 'alerts_replicated') AND name NOT IN (SELECT table FROM system.columns WHERE database = 'dev' AND name = 'row_version')"); do on "$slot" "RENAME TABLE dev.${table} TO dev.${table}_earlier"; done
done
