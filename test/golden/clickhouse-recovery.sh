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
  events_replicated) echo /clickhouse/tables/01/events ;;
  alerts_replicated) echo /clickhouse/tables/01/alerts ;;
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
[ -n "$said" ] || exit 0

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
  for table in events_replicated alerts_replicated; do
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

# Before the new views feed it. What one replica was told, and could not tell all others, these do when they can: what it
# said counts only if that does not come.
doing="dropping columns"
wide() {
  for slot in 1 2 3; do
    found=$(on "$slot" "SELECT table FROM system.columns WHERE database = 'dev' AND table IN ('events_replicated', 'alerts_replicated') AND name = 'mark_awaited_until'") || return
    for table in $found; do echo "$slot $table"; done
  done
}
left=$(wide)
if [ -n "$left" ]; then until_settled; fi
deadline=$(($(date +%s) + 120))
while [ -n "$left" ]; do
  slot=${left%% *}
  table=$(printf '%s\n' "$left" | head -n 1 | cut -d ' ' -f 2)
  said=$(on "$slot" "ALTER TABLE dev.$table DROP COLUMN mark_awaited_until" 2>&1) || true
  left=$(wide)
  [ -n "$left" ] || break
  if [ "$(date +%s)" -ge $deadline ]; then
    echo "$(name "$slot") still has a column of an earlier release in $table after 120 s; told to drop it, it said last: ${said:-nothing}" >&2
    exit 1
  fi
  sleep 1
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
if [ -n "$(everywhere "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_8949d6ab', 'alerts_queue_cc77f1e6')")" ]; then
  # It aborts more seldom where the group is at rest.
  sleep 10
  drop "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_8949d6ab', 'alerts_queue_cc77f1e6')"
  # One that has aborted may not yet take part again.
  until_settled
fi
drop "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'MaterializedView' AND (name LIKE 'events_consumer%' OR name LIKE 'alerts_consumer%' OR name LIKE 'undated_consumer%') AND name NOT IN ('events_consumer_8949d6ab', 'alerts_consumer_cc77f1e6')"
