set -eu

ask() { clickhouse-client --query "$1" </dev/null; }

keep_by_rule() {
  definition=$(ask "SELECT engine_full FROM system.tables WHERE database = 'dev' AND name = '$1'") || return 1
  # Of parts, only whole ones: otherwise the rule would rewrite every part that it takes a row from.
  case $definition in
    *"ttl_only_drop_parts = 1"*) ;;
    *) ask "ALTER TABLE dev.$1 MODIFY SETTING ttl_only_drop_parts = 1" || return 1 ;;
  esac
  case $definition in
    *"TTL toDateTime($2) + toIntervalDay(365)"*) ;;
    *)
      ask "ALTER TABLE dev.$1 MODIFY TTL toDateTime($2) + toIntervalDay(365)" || return 1
      echo "$1: events are kept for 365 days, by the server's own rule"
      ;;
  esac
}

drop_months() {
  # Another replica would only pass the statement on to the leader, without a password.
  leader=$(ask "SELECT count() FROM system.replicas WHERE database = 'dev' AND table = '$1' AND is_leader") || return 1
  [ "$leader" = 1 ] || return 0
  months=$(ask "SELECT DISTINCT partition FROM system.parts WHERE database = 'dev' AND table = '$1' AND active
      AND toUnixTimestamp(toDateTime(addMonths(toDate(concat(substring(partition, 1, 4), '-', substring(partition, 5, 2), '-01')), 1))) <= toUnixTimestamp(now()) - 365 * 86400
      AND toUInt32OrZero(partition) < toYYYYMM(now()) ORDER BY partition") || return 1
  for month in $months; do
    ask "ALTER TABLE dev.$1 DROP PARTITION $month" || return 1
    echo "$1: dropped the month $month, all of it older than 365 days"
  done
}

keep() { if [ "$rules" = 0 ]; then drop_months "$1"; else keep_by_rule "$1" "$2"; fi; }

round() {
  rules=$(ask "SELECT count() FROM system.merge_tree_settings WHERE name = 'ttl_only_drop_parts'") || return 1
  keep events_replicated event_timestamp || return 1
  keep alerts_replicated event_timestamp || return 1
  keep unreadable_replicated set_aside_at || return 1
}

if [ "${1:-}" = once ]; then
  round
  exit
fi
# As the first process of its container a shell ignores the stop signal, unless it is told.
trap 'exit 0' TERM INT
while :; do
  if round; then pause=3600; else pause=60; fi
  sleep "$pause" &
  wait "$!"
done
