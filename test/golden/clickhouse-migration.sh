set -eu
migrate() {
  replica=$1
  shift
  # On a line of its own: a server that doesn't answer must fail the script, not look like one without the table.
  found=$("$@" exec "$replica" clickhouse-client --query "SELECT count() FROM system.tables WHERE database = 'dev' AND name = 'events' AND engine LIKE '%MergeTree'")
  [ "$found" = 1 ] || return 0
  # What the replica before has moved must be here before it is compared.
  "$@" exec "$replica" clickhouse-client --query "SYSTEM SYNC REPLICA dev.events_replicated"
  "$@" exec "$replica" clickhouse-client --query "INSERT INTO dev.events_replicated (event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat) SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat FROM dev.events WHERE (tenant_id, event_id) NOT IN (SELECT tenant_id, event_id FROM dev.events_replicated)"
  "$@" exec "$replica" clickhouse-client --query "RENAME TABLE dev.events TO dev.events_migrated"
  echo "$replica: dev.events is now in dev.events_replicated; the old table is kept as dev.events_migrated"
}
migrate clickhouse-1 docker -H "$DOCKER_STORE_NODE_1"
migrate clickhouse-2 docker -H "$DOCKER_STORE_NODE_2"
migrate clickhouse-3 docker -H "$DOCKER_STORE_NODE_3"
