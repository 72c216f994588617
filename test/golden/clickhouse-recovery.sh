set -eu
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
  undated_replicated) echo /clickhouse/tables/01/undated ;;
  esac
}

# What the servers are and when each was started.
starts() {
  docker -H "$DOCKER_STREAM_NODE_1" inspect --format '{{.Name}} {{.State.StartedAt}}' zookeeper-1 kafka-1
  docker -H "$DOCKER_STREAM_NODE_2" inspect --format '{{.Name}} {{.State.StartedAt}}' zookeeper-2 kafka-2
  docker -H "$DOCKER_STREAM_NODE_3" inspect --format '{{.Name}} {{.State.StartedAt}}' zookeeper-3 kafka-3
  docker -H "$DOCKER_STORE_NODE_1" inspect --format '{{.Name}} {{.State.StartedAt}}' clickhouse-1
  docker -H "$DOCKER_STORE_NODE_2" inspect --format '{{.Name}} {{.State.StartedAt}}' clickhouse-2
  docker -H "$DOCKER_STORE_NODE_3" inspect --format '{{.Name}} {{.State.StartedAt}}' clickhouse-3
}

# Those that have been started since the lines in $1.
ended_since() {
  now=$(starts 2>/dev/null) || true
  printf '%s\n--\n%s\n' "$1" "$now" | awk '/^--$/ { now = 1; next } !now { at[$1] = $2; next } at[$1] != $2 { printf "%s%s", comma, substr($1, 2); comma = ", " }'
}

# Every server runs, and every ClickHouse has its session with ZooKeeper, can be written, and knows how far behind it is.
settled() {
  starts >/dev/null && [ "$(docker -H "$DOCKER_STORE_NODE_1" exec clickhouse-1 timeout 5 clickhouse-client --query "$writable" </dev/null)" = 1 ] && [ "$(docker -H "$DOCKER_STORE_NODE_2" exec clickhouse-2 timeout 5 clickhouse-client --query "$writable" </dev/null)" = 1 ] && [ "$(docker -H "$DOCKER_STORE_NODE_3" exec clickhouse-3 timeout 5 clickhouse-client --query "$writable" </dev/null)" = 1 ]
}
until_settled() {
  deadline=$(($(date +%s) + 120))
  until said=$(settled 2>&1); do
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$said" >&2
      echo "not every server of ClickHouse, Kafka and ZooKeeper runs and can be written after 120 s" >&2
      exit 1
    fi
    sleep 1
  done
}
writable="SELECT (SELECT count() FROM system.zookeeper WHERE path = '/') > 0 AND (SELECT count() FROM system.replicas WHERE is_readonly OR is_session_expired OR absolute_delay > 315360000) = 0"

recover() {
doing="asking what is lost"
# A server that ends takes with it what the client in its container would have said.
trap 'code=$?; why=; [ $code != 124 ] || why=" (no answer for 600 s)"; [ $code = 0 ] || echo "broke off with $code$why while $doing" >&2' EXIT

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
current=$(on 1 "SELECT count() FROM system.merge_tree_settings WHERE name = 'ttl_only_drop_parts'")
# Lines of what is lost: replica, table, seconds since that replica was last seen, or "unknown" where ZooKeeper has
# forgotten the replica and others have the table.
lost=
for slot in 1 2 3; do
  has=$(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev'")
  for table in events_replicated alerts_replicated undated_replicated; do
    if printf '%s\n' "$has" | grep -qxF "$table"; then continue; fi
    replicas=$(path_of "$table")/replicas
    zookeeper "$slot" "SELECT name FROM system.zookeeper WHERE path = '$replicas'"
    [ -n "$said" ] || continue
    zookeeper "$slot" "SELECT toUnixTimestamp(now()) - toUnixTimestamp(mtime) FROM system.zookeeper WHERE path = '$replicas/$(name "$slot")' AND name = 'log_pointer'"
    lost="$lost$slot $table ${said:-unknown}
"
  done
done

# Before the new views feed it. What one replica was told, and could not tell all others, these do when they can: what it
# said counts only if that does not come.
doing="adding columns"
narrow() {
  for slot in 1 2 3; do
    found=$(on "$slot" "SELECT name FROM system.tables WHERE database = 'dev' AND name IN ('events_replicated', 'alerts_replicated') AND name NOT IN (SELECT table FROM system.columns WHERE database = 'dev' AND name = 'mark_awaited_until')") || return
    for table in $found; do echo "$slot $table"; done
  done
}
left=$(narrow)
if [ -n "$left" ]; then until_settled; fi
deadline=$(($(date +%s) + 120))
while [ -n "$left" ]; do
  slot=${left%% *}
  table=$(printf '%s\n' "$left" | head -n 1 | cut -d ' ' -f 2)
  said=$(on "$slot" "ALTER TABLE dev.$table ADD COLUMN mark_awaited_until UInt32" 2>&1) || true
  left=$(narrow)
  [ -n "$left" ] || break
  if [ "$(date +%s)" -ge $deadline ]; then
    echo "$(name "$slot") still lacks a column of $table after 120 s; told to add it, it said last: ${said:-nothing}" >&2
    exit 1
  fi
  sleep 1
done

# Takes a queue that reads again from a server. 18.16 aborts where a queue goes while a block is being read: that block's
# end subscribes once more to what is just being closed. Without a view it ends its block and reads no more.
remove() {
  there=$(on "$1" "SELECT count() FROM system.tables WHERE database = 'dev' AND name IN ('$2', '$3')")
  if [ "$there" = 0 ]; then return; fi
  on "$1" "DROP TABLE IF EXISTS dev.$3"
  sleep 2
  on "$1" "DROP TABLE IF EXISTS dev.$2"
}

# The first replica that has the table.
source_of() {
  for other in 1 2 3; do
    count=$(on "$other" "SELECT count() FROM system.tables WHERE database = 'dev' AND name = '$1'") || return 1
    if [ "$count" = 1 ]; then echo "$other" && return; fi
  done
  echo "dev.$1 is lost: ZooKeeper knows it, and no ClickHouse replica has it any more. If a data volume can be brought back, do that and run this again. To begin anew: docker exec zookeeper-1 zkCli.sh deleteall $(path_of "$1"), and docs/operations.md, A disk that is lost" >&2
  return 1
}

# How many messages a group has yet to read until it is where it should end: group, topic, lines of partition and offset.
left_of() {
  now=$(groups --describe --group "$1" 2>/dev/null | awk '$2 == "'"$2"'" && $4 ~ /^[0-9]+$/ { print $3, $4 }')
  printf '%s\n--\n%s\n' "$3" "$now" | awk '/^--$/ { now = 1; next } !now { end[$1] = $2; next } { at[$1] = $2 }
    END { for (p in end) if (at[p] + 0 < end[p] + 0) left += end[p] - at[p]; print left + 0 }'
}

read_again() {
  table=$1 group=$2 topic=$3 queue=$4 view=$5 make_queue=$6 make_view=$7
  source=$(source_of "$table")
  # Of a run that was interrupted, wherever it read.
  for slot in 1 2 3; do remove "$slot" "$queue" "$view"; done
  # What the others know of and have not fetched was stored by the lost one, however long ago.
  behind=0
  for other in 1 2 3; do
    delay=$(on "$other" "SELECT max(absolute_delay) FROM system.replicas WHERE database = 'dev' AND table = '$table'")
    if [ "${delay:-0}" -gt "$behind" ]; then behind=$delay; fi
  done
  # A replica was last seen when the busiest of its tables was.
  span=$(printf '%s' "$lost" | awk -v behind="$behind" '
    $3 == "unknown" { unknown = 1; next }
    !($1 in seen) || $3 < seen[$1] { seen[$1] = $3 }
    END {
      for (slot in seen) { if (seen[slot] > most) most = seen[slot]; if (least == "" || seen[slot] < least) least = seen[slot] }
      if (behind + 0 > most + 0) most = behind
      # One that was just started says that it is behind since 1970; Kafka fails at times before that.
      from = unknown || most > 315360000 ? 315360000 : most + 21600
      to = unknown || least < 600 ? 0 : least - 600
      printf "%d %d", from, to
    }')
  deadline=$(($(date +%s) + 120))
  # It succeeds also where it has refused, because the group of an interrupted run is not yet empty.
  until said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT${span#* }S" --dry-run --export 2>&1) &&
    ! printf '%s\n' "$said" | grep -q '^Error'; do
    if [ "$(date +%s)" -ge $deadline ]; then echo "$said" >&2; exit 1; fi
    sleep 1
  done
  # Lines: topic, partition, offset, with commas; then partition, offset.
  ends=$(printf '%s\n' "$said" | tr -d '"' | awk -F , '$1 == "'"$topic"'" && $3 ~ /^[0-9]+$/ { print $2, $3 }')
  [ -n "$ends" ] || { echo "Kafka does not say how far $group is to read in $topic: $said" >&2; exit 1; }
  said=$(groups --group "$group" --topic "$topic" --reset-offsets --by-duration "PT${span% *}S" --execute 2>&1) || { echo "$said" >&2; exit 1; }
  if printf '%s\n' "$said" | grep -q '^Error'; then echo "$said" >&2; exit 1; fi
  left=$(left_of "$group" "$topic" "$ends")
  if [ "$left" = 0 ]; then return; fi
  on "$source" "$make_queue"
  on "$source" "$make_view"
  before=
  while :; do
    left=$(left_of "$group" "$topic" "$ends")
    [ "$left" != 0 ] || break
    if [ "$left" != "$before" ]; then before=$left deadline=$(($(date +%s) + 120)); fi
    if [ "$(date +%s)" -ge $deadline ]; then
      echo "$(name "$source") has not read on in $topic for 120 s, $left before the end of what it is to read" >&2
      exit 1
    fi
    sleep 1
  done
  remove "$source" "$queue" "$view"
  echo "note: $table: read again what Kafka had from ${span% *} s to ${span#* } s ago"
}

if [ -n "$lost" ]; then
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
  # The marks of undated events first: what needs them waits for them.
  tables=$(printf '%s' "$lost" | cut -d ' ' -f 2 | sort -ru)
  for table in $tables; do source_of "$table" >/dev/null; done
  for table in $tables; do
    doing="reading again what $table has lost"
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
  is_threat UInt8,
  is_undated UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'ingest-events',
  kafka_group_name = 'clickhouse-ingest-events-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = 65536" \
        "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.events_consumer_recovery TO dev.events_replicated AS
SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat, toUInt32(if(is_undated = 1, toUInt32(now()) + 3600, 0)) AS mark_awaited_until FROM dev.events_queue_recovery"
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
  summary String,
  is_undated UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'alerts',
  kafka_group_name = 'clickhouse-alerts-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = 65536" \
        "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.alerts_consumer_recovery TO dev.alerts_replicated AS
SELECT alert_id, tenant_id, event_id, event_timestamp, source_ip, rule, severity, summary, toUInt32(if(is_undated = 1, toUInt32(now()) + 3600, 0)) AS mark_awaited_until FROM dev.alerts_queue_recovery"
      ;;
    undated_replicated)
      read_again undated_replicated clickhouse-undated-recovery ingest-events undated_queue_recovery undated_consumer_recovery "CREATE TABLE IF NOT EXISTS dev.undated_queue_recovery (
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  is_undated UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'ingest-events',
  kafka_group_name = 'clickhouse-undated-recovery', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = 65536" \
        "CREATE MATERIALIZED VIEW IF NOT EXISTS dev.undated_consumer_recovery TO dev.undated_replicated AS
SELECT tenant_id, event_id, event_timestamp FROM dev.undated_queue_recovery WHERE is_undated = 1"
      ;;
    esac
  done

  doing="making the lost tables"
  printf '%s' "$lost" | while read -r slot table seen; do
    source=$(source_of "$table")
    wanted=$(on "$source" "SHOW CREATE TABLE dev.$table FORMAT TSVRaw")
    # Its name in ZooKeeper must come from its own configuration.
    case $wanted in *"'{replica}'"*) ;; *) echo "$table is not defined by macros: $wanted" >&2; exit 1 ;; esac
    on "$slot" "CREATE DATABASE IF NOT EXISTS dev"
    if [ "$seen" = unknown ]; then
      on "$slot" "$wanted"
    elif [ "$current" = 0 ]; then
      # 18.16 takes the table with what ZooKeeper knows of it.
      on "$slot" "ATTACH ${wanted#CREATE }"
    else
      on "$slot" "SYSTEM DROP REPLICA '$(name "$slot")' FROM ZKPATH '$(path_of "$table")'"
      on "$slot" "$wanted"
    fi
    echo "note: $(name "$slot") had lost $table, last seen: $seen s ago; it fetches it from the others"
  done
  # Nobody needs these any more, and Kafka forgets them by itself in time.
  groups --delete --group clickhouse-ingest-events-recovery --group clickhouse-alerts-recovery --group clickhouse-undated-recovery >/dev/null 2>&1 || true
  # The first fetches have been tried then.
  sleep 5
fi

# What the lost replica had merged others wait for, and 18.16 waits for ever: "Hoping that it will eventually appear".
# What was in it is stored anew by now, so the entry is taken out of the queue. Only if it has waited all the time, and
# nobody is away who may yet have the part. Current servers put an empty part there.
doing="looking for what waits for a lost part"
if [ "$current" = 0 ]; then
  waiting() {
    for slot in 1 2 3; do
      away=$(on "$slot" "SELECT count() FROM system.replicas WHERE database = 'dev' AND active_replicas < total_replicas")
      [ "$away" = 0 ] || { echo away; return; }
      on "$slot" "SELECT concat('$slot ', table, ' ', node_name) FROM system.replication_queue WHERE database = 'dev' AND table IN ('events_replicated', 'alerts_replicated', 'undated_replicated') AND last_exception LIKE '%No active replica has part%'"
    done
  }
  # A server that was started anew has not yet tried either.
  [ $try = 1 ] || sleep 5
  left=$(waiting)
  deadline=$(($(date +%s) + 30))
  while [ -n "$left" ] && [ "$(date +%s)" -lt $deadline ]; do
    sleep 1
    now=$(waiting)
    if printf '%s\n' "$now" | grep -qx away; then left= && break; fi
    left=$(printf '%s\n' "$left" | while read -r line; do if printf '%s\n' "$now" | grep -qxF "$line"; then echo "$line"; fi; done)
  done
  if printf '%s\n' "$left" | grep -qx away; then left=; fi
  if [ -n "$left" ]; then
    printf '%s\n' "$left" | while read -r slot table node; do
      echo "delete $(path_of "$table")/replicas/$(name "$slot")/queue/$node"
    done | docker -H "$DOCKER_STREAM_NODE_1" exec -i zookeeper-1 zkCli.sh >/dev/null 2>&1
    printf '%s\n' "$left" | cut -d ' ' -f 1,2 | sort -u | while read -r slot table; do
      on "$slot" "SYSTEM RESTART REPLICA dev.$table"
      echo "note: $(name "$slot"): $table waits no longer for a part that is nowhere"
    done
  fi
fi

# Queues and views of other releases, wherever they are. Queues first, and views once no queue is left: what one reads
# without its view would be committed, and stored nowhere. Where 18.16 aborts, nothing of its block is committed, and all
# of this begins anew.
doing="removing the queues of other releases"
everywhere() { for slot in 1 2 3; do on "$slot" "$1"; done; }
queues=$(everywhere "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_e99469c1', 'alerts_queue_5b6ebb8b', 'undated_queue_12f779aa')")
if [ -n "$queues" ]; then
  # It aborts more seldom where the group is at rest.
  sleep 10
  for queue in $(printf '%s\n' "$queues" | sort -u); do
    on 1 "DROP TABLE IF EXISTS dev.$queue ON CLUSTER siem_cluster" >/dev/null
  done
  queues=$(everywhere "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'Kafka' AND (name LIKE 'events_queue%' OR name LIKE 'alerts_queue%' OR name LIKE 'undated_queue%') AND name NOT IN ('events_queue_e99469c1', 'alerts_queue_5b6ebb8b', 'undated_queue_12f779aa')")
  [ -z "$queues" ] || { echo "queues of another release are still there: $queues" >&2; exit 1; }
  # One that has aborted may not yet take part again.
  until_settled
fi
views=$(everywhere "SELECT name FROM system.tables WHERE database = 'dev' AND engine = 'MaterializedView' AND (name LIKE 'events_consumer%' OR name LIKE 'alerts_consumer%' OR name LIKE 'undated_consumer%') AND name NOT IN ('events_consumer_e99469c1', 'alerts_consumer_5b6ebb8b', 'undated_consumer_12f779aa')")
for view in $(printf '%s\n' "$views" | sort -u); do
  on 1 "DROP TABLE IF EXISTS dev.$view ON CLUSTER siem_cluster" >/dev/null
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
  deadline=$(($(date +%s) + 15))
  while [ -z "$(ended_since "$before")" ] && [ "$(date +%s)" -lt $deadline ]; do sleep 1; done
  until_settled
  ended=$(ended_since "$before")
  [ -n "$ended" ] || exit 1
  if [ $try = 3 ]; then echo "$ended ended meanwhile, which is once too often" >&2; exit 1; fi
  try=$((try + 1))
  echo "note: $ended ended meanwhile; once more"
done
