set -eu
on() {
  case $1 in
  1) docker -H "$DOCKER_STORE_NODE_1" exec clickhouse-1 clickhouse-client --query "$2" </dev/null ;;
  2) docker -H "$DOCKER_STORE_NODE_2" exec clickhouse-2 clickhouse-client --query "$2" </dev/null ;;
  3) docker -H "$DOCKER_STORE_NODE_3" exec clickhouse-3 clickhouse-client --query "$2" </dev/null ;;
  esac
}
name() {
  case $1 in
  1) echo clickhouse-1 ;;
  2) echo clickhouse-2 ;;
  3) echo clickhouse-3 ;;
  esac
}

# 18.16 says No node where newer ones say nothing; any other error must not look like a table that was never made.
zookeeper() {
  said=$(on "$1" "$2" 2>&1) || case $said in
  *"No node"*) said= ;;
  *) echo "$said" >&2 && exit 1 ;;
  esac
}
zookeeper 1 "SELECT name FROM system.zookeeper WHERE path = '/clickhouse/tables/01'"
[ -n "$said" ] || exit 0

# Lines of what is lost: replica, table, where ZooKeeper knows it, seconds since that replica was last seen.
lost=
for slot in 1 2 3; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev'")
  while read -r table path; do
    if printf '%s\n' "$has" | grep -qxF "$table"; then continue; fi
    zookeeper "$slot" "SELECT toUnixTimestamp(now()) - toUnixTimestamp(mtime) FROM system.zookeeper WHERE path = '$path/replicas/$(name "$slot")' AND name = 'log_pointer'"
    [ -z "$said" ] || lost="$lost$slot $table $path $said
"
  done <<'TABLES'
events_replicated /clickhouse/tables/01/events
alerts_replicated /clickhouse/tables/01/alerts
undated_replicated /clickhouse/tables/01/undated
TABLES
done
[ -n "$lost" ] || exit 0
# A replica was last seen when the busiest of its tables was.
back=$(printf '%s' "$lost" | awk '!($1 in seen) || $4 < seen[$1] { seen[$1] = $4 }
  END { for (slot in seen) if (seen[slot] > most) most = seen[slot]; print most + 3600 }')

# The first replica that has the table.
source_of() {
  for other in 1 2 3; do
    [ "$(on "$other" "SELECT count() FROM system.tables WHERE database = 'dev' AND name = '$1'")" = 0 ] || { echo "$other"; return; }
  done
  echo "dev.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew without what was stored: docker exec zookeeper-1 sh -c 'zkCli.sh deleteall /clickhouse/tables/01/events && zkCli.sh deleteall /clickhouse/tables/01/alerts && zkCli.sh deleteall /clickhouse/tables/01/undated', then run this again" >&2
  return 1
}
broker=
[ -n "$broker" ] || ! docker -H "$DOCKER_STREAM_NODE_1" exec kafka-1 true 2>/dev/null || broker=1
[ -n "$broker" ] || ! docker -H "$DOCKER_STREAM_NODE_2" exec kafka-2 true 2>/dev/null || broker=2
[ -n "$broker" ] || ! docker -H "$DOCKER_STREAM_NODE_3" exec kafka-3 true 2>/dev/null || broker=3
[ -n "$broker" ] || { echo "no Kafka broker is running" >&2; exit 1; }
groups() {
  case $broker in
  1) docker -H "$DOCKER_STREAM_NODE_1" exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' kafka-1 kafka-consumer-groups --bootstrap-server localhost:9092 "$@" </dev/null ;;
  2) docker -H "$DOCKER_STREAM_NODE_2" exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' kafka-2 kafka-consumer-groups --bootstrap-server localhost:9092 "$@" </dev/null ;;
  3) docker -H "$DOCKER_STREAM_NODE_3" exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' kafka-3 kafka-consumer-groups --bootstrap-server localhost:9092 "$@" </dev/null ;;
  esac
}
# Lines: group, topic, partition, the offset that is read next, the partition's end.
offsets() { groups --describe --group "$1" 2>/dev/null | awk '$3 ~ /^[0-9]+$/ { print $1, $2, $3, $4, $5 }'; }

read_again() {
  table=$1 group=$2 topic=$3 queue=$4 view=$5 make_queue=$6 make_view=$7
  source=$(source_of "$table")
  # Of a run that was interrupted.
  for name in "$queue" "$view"; do on "$source" "DROP TABLE IF EXISTS dev.$name"; done
  deadline=$(($(date +%s) + 120))
  # It succeeds also where it has refused, because the group of an interrupted run is not yet empty.
  until said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT${back}S" --execute 2>&1) &&
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
    left=$(printf '%s\n--\n%s\n' "$ends" "$now" | awk '/^--$/ { now = 1; next } !now { end[$3] = $5; next } { at[$3] = $4 }
      END { for (p in end) if (at[p] + 0 < end[p] + 0) left += end[p] - at[p]; print left + 0 }')
    [ "$left" != 0 ] || break
    if [ "$left" != "$before" ]; then before=$left deadline=$(($(date +%s) + 120)); fi
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$(name "$source") has not read on in $topic for 120 s, $left before what was its end" >&2
      exit 1
    fi
    sleep 1
  done
  for name in "$queue" "$view"; do on "$source" "DROP TABLE IF EXISTS dev.$name"; done
}
ask() { on "$(source_of events_replicated)" "$1"; }
current=$(ask "SELECT count() FROM system.merge_tree_settings WHERE name = 'ttl_only_drop_parts'")
if [ "$current" = 1 ]; then rows=65536; else rows=100; fi
tables=$(printf '%s' "$lost" | cut -d ' ' -f 2 | sort -u)
for table in $tables; do source_of "$table" >/dev/null; done
for table in $tables; do
  case $table in
  events_replicated)
    read_again events_replicated clickhouse-ingest-events-recovery ingest-events events_queue_recovery events_consumer_recovery "CREATE TABLE IF NOT EXISTS dev.events_queue_recovery (
  event_id String,
  tenant_id String,
  event_timestamp UInt32,
  source_ip String,
  source_type String,
  raw_event String,
  event_category String,
  event_outcome String,
  event_action String,
  is_threat UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'ingest-events',
  kafka_group_name = 'clickhouse-ingest-events-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = $rows" \
      "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.events_consumer_recovery TO dev.events_replicated AS
SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat FROM dev.events_queue_recovery"
    ;;
  alerts_replicated)
    read_again alerts_replicated clickhouse-alerts-recovery alerts alerts_queue_recovery alerts_consumer_recovery "CREATE TABLE IF NOT EXISTS dev.alerts_queue_recovery (
  alert_id String,
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  source_ip String,
  rule String,
  severity String,
  summary String
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'alerts',
  kafka_group_name = 'clickhouse-alerts-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = $rows" \
      "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.alerts_consumer_recovery TO dev.alerts_replicated AS
SELECT alert_id, tenant_id, event_id, event_timestamp, source_ip, rule, severity, summary FROM dev.alerts_queue_recovery"
    ;;
  undated_replicated)
    read_again undated_replicated clickhouse-undated-recovery ingest-events undated_queue_recovery undated_consumer_recovery "CREATE TABLE IF NOT EXISTS dev.undated_queue_recovery (
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  is_undated UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'ingest-events',
  kafka_group_name = 'clickhouse-undated-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = $rows" \
      "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.undated_consumer_recovery TO dev.undated_replicated AS
SELECT tenant_id, event_id, event_timestamp FROM dev.undated_queue_recovery WHERE is_undated = 1"
    ;;
  esac
done

printf '%s' "$lost" | while read -r slot table path seen; do
  wanted=$(on "$(source_of "$table")" "SHOW CREATE TABLE dev.$table FORMAT TSVRaw")
  # Its name in ZooKeeper must come from its own configuration.
  case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
  on "$slot" "CREATE DATABASE IF NOT EXISTS dev"
  # 18.16 takes the table with what ZooKeeper knows of it; a current server is to be forgotten first.
  if ! said=$(on "$slot" "ATTACH ${wanted#CREATE }" 2>&1); then
    on "$slot" "SYSTEM DROP REPLICA '$(name "$slot")' FROM ZKPATH '$path'" || { echo "$said" >&2; exit 1; }
    on "$slot" "$wanted"
  fi
  echo "$(name "$slot") had lost $table, last seen $seen s ago: it fetches it from the others"
done

# What the lost replica had merged others wait for, and 18.16 waits for ever: "Hoping that it will eventually appear".
# What was in it is stored anew, so the entry is taken out of the queue. Current servers put an empty part there.
stuck() { on "$1" "SELECT concat(table, ' ', node_name) FROM system.replication_queue WHERE database = 'dev' AND last_exception LIKE '%No active replica has part%'"; }
all_stuck() { for slot in 1 2 3; do stuck "$slot" | sed "s/^/$slot /"; done; }
deadline=$(($(date +%s) + 30))
while left=$(all_stuck) && [ -n "$left" ] && [ "$(date +%s)" -lt $deadline ]; do sleep 1; done
if [ -n "$left" ]; then
  printf '%s\n' "$left" | while read -r slot table node; do
    case $table in
    events_replicated) path=/clickhouse/tables/01/events ;;
  alerts_replicated) path=/clickhouse/tables/01/alerts ;;
  undated_replicated) path=/clickhouse/tables/01/undated ;;
    esac
    echo "delete $path/replicas/$(name "$slot")/queue/$node"
  done | docker -H "$DOCKER_STREAM_NODE_1" exec -i zookeeper-1 zkCli.sh >/dev/null 2>&1
  printf '%s\n' "$left" | cut -d ' ' -f 1,2 | sort -u | while read -r slot table; do
    on "$slot" "SYSTEM RESTART REPLICA dev.$table"
  done
fi
# Nobody needs these any more, and Kafka forgets them by itself in time.
groups --delete --group clickhouse-ingest-events-recovery --group clickhouse-alerts-recovery --group clickhouse-undated-recovery >/dev/null 2>&1 || true
