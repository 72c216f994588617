set -eu
on() {
  case $1 in
  1) docker -H "$DOCKER_STORE_NODE_1" exec clickhouse-1 clickhouse-client --query "$2" </dev/null ;;
  2) docker -H "$DOCKER_STORE_NODE_2" exec clickhouse-2 clickhouse-client --query "$2" </dev/null ;;
  3) docker -H "$DOCKER_STORE_NODE_3" exec clickhouse-3 clickhouse-client --query "$2" </dev/null ;;
  esac
}
has() { on "$1" "SELECT count() FROM system.tables WHERE database = 'dev' AND name = '$2' AND engine LIKE '%MergeTree'"; }

# Months go over only between tables with the same columns. Every replica must know them, and one that is slow to is told
# of as an error, though it does it all the same.
bring() {
  column() { on "$source" "SELECT count() FROM system.columns WHERE database = 'dev' AND table = '$old' AND name = '$1'"; }
  alter() { said=$(on "$source" "ALTER TABLE dev.$old $1" 2>&1) || echo "$said" | head -n 1 >&2; }
  source=$1
  if [ "$(column mark_awaited_until)" = 1 ]; then alter "DROP COLUMN mark_awaited_until"; fi
  if [ "$table" != unreadable_replicated ] && [ "$(column row_version)" = 0 ]; then alter "ADD COLUMN row_version UInt64 DEFAULT 9223372036854775807"; fi
  months=$(on "$source" "SELECT DISTINCT partition FROM system.parts WHERE database = 'dev' AND table = '$old' AND active ORDER BY partition")
  for month in $months; do
    on "$source" "ALTER TABLE dev.$table ATTACH PARTITION $month FROM dev.$old"
  done
}

for slot in 1 2 3; do
  # On a line of its own: a server that doesn't answer must fail the script, not look like one without the table.
  found=$(has "$slot" events)
  [ "$found" = 1 ] || continue
  # What the replica before has moved must be here before it is compared.
  on "$slot" "SYSTEM SYNC REPLICA dev.events_replicated"
  on "$slot" "INSERT INTO dev.events_replicated (event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat) SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat FROM dev.events WHERE (tenant_id, event_id) NOT IN (SELECT tenant_id, event_id FROM dev.events_replicated)"
  on "$slot" "RENAME TABLE dev.events TO dev.events_migrated"
  echo "ClickHouse $slot: dev.events is now in dev.events_replicated; the old table is kept as dev.events_migrated"
done

for table in events_replicated alerts_replicated unreadable_replicated; do
  old=${table}_earlier
  sources=
  for slot in 1 2 3; do
    found=$(has "$slot" "$old")
    [ "$found" = 1 ] || continue
    # One that has caught up has all of it. Plain tables, as after three lost ZooKeepers, can't, and each may have its own.
    if on "$slot" "SYSTEM SYNC REPLICA dev.$old" 2>/dev/null; then sources=$slot && break; fi
    sources="$sources $slot"
  done
  [ -n "$sources" ] || continue
  for slot in $sources; do bring "$slot"; done
  for slot in 1 2 3; do on "$slot" "DROP TABLE IF EXISTS dev.$old"; done
  echo "$table has its earlier rows"
done
