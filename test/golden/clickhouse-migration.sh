set -eu
for replica in clickhouse-1 clickhouse-2 clickhouse-3; do
  query() { docker exec "$replica" clickhouse-client --query "$1"; }
  [ "$(query "SELECT count() FROM system.tables WHERE database = 'dev' AND name = 'events' AND engine LIKE '%MergeTree'")" = 1 ] || continue
  query "INSERT INTO dev.events_replicated (event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat) SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat FROM dev.events WHERE event_id NOT IN (SELECT event_id FROM dev.events_replicated)"
  query "RENAME TABLE dev.events TO dev.events_migrated"
  echo "$replica: dev.events is now in dev.events_replicated; the old table is kept as dev.events_migrated"
done
