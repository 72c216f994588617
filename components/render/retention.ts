// How long events are kept: the shell that removes what is older, beside each ClickHouse replica. Data in, text out.

import { names } from "../topology.ts";
import { ageColumns } from "./clickhouse.ts";

/** Seconds between rounds, and after one that failed, because the server was down or another replica was at it. */
const pauses = { round: 3600, failed: 60 } as const;

/** How the server itself writes the rule in its table's definition. */
const rule = (days: number) => `TTL toDateTime($2) + toIntervalDay(${days})`;

/**
 * POSIX shell: rounds for ever; with the argument `once`, one round, and its exit code.
 *
 * A server that knows TTL gets it as the table's rule, and removes only parts in which everything is too old. One that
 * doesn't loses whole months: a month goes when its last second is too old. Either way nothing younger is ever removed,
 * and what is older stays at most a month longer. All replicas may run it at once: what one has done the others find
 * done.
 */
export function renderRetention(days: number): string {
  const month = "toDate(concat(substring(partition, 1, 4), '-', substring(partition, 5, 2), '-01'))";
  const expired = [
    `database = '${names.database}' AND table = '$1' AND active`,
    `toUnixTimestamp(toDateTime(addMonths(${month}, 1))) <= toUnixTimestamp(now()) - ${days} * 86400`,
    // Dates end in 2106: the month after that would be in 1970.
    `toUInt32OrZero(partition) < toYYYYMM(now())`,
  ].join("\n      AND ");
  return `set -eu

ask() { clickhouse-client --query "$1" </dev/null; }

keep_by_rule() {
  definition=$(ask "SELECT engine_full FROM system.tables WHERE database = '${names.database}' AND name = '$1'") || return 1
  # Of parts, only whole ones: otherwise the rule would rewrite every part that it takes a row from.
  case $definition in
    *"ttl_only_drop_parts = 1"*) ;;
    *) ask "ALTER TABLE ${names.database}.$1 MODIFY SETTING ttl_only_drop_parts = 1" || return 1 ;;
  esac
  case $definition in
    *"${rule(days)}"*) ;;
    *)
      ask "ALTER TABLE ${names.database}.$1 MODIFY ${rule(days)}" || return 1
      echo "$1: events are kept for ${days} days, by the server's own rule"
      ;;
  esac
}

drop_months() {
  # Another replica would only pass the statement on to the leader, without a password.
  leader=$(ask "SELECT count() FROM system.replicas WHERE database = '${names.database}' AND table = '$1' AND is_leader") || return 1
  [ "$leader" = 1 ] || return 0
  months=$(ask "SELECT DISTINCT partition FROM system.parts WHERE ${expired} ORDER BY partition") || return 1
  for month in $months; do
    ask "ALTER TABLE ${names.database}.$1 DROP PARTITION $month" || return 1
    echo "$1: dropped the month $month, all of it older than ${days} days"
  done
}

keep() { if [ "$rules" = 0 ]; then drop_months "$1"; else keep_by_rule "$1" "$2"; fi; }

round() {
  rules=$(ask "SELECT count() FROM system.merge_tree_settings WHERE name = 'ttl_only_drop_parts'") || return 1
${Object.entries(ageColumns)
  .map((entry) => `  keep ${entry.join(" ")} || return 1`)
  .join("\n")}
}

if [ "\${1:-}" = once ]; then
  round
  exit
fi
# As the first process of its container a shell ignores the stop signal, unless it is told.
trap 'exit 0' TERM INT
while :; do
  if round; then pause=${pauses.round}; else pause=${pauses.failed}; fi
  sleep "$pause" &
  wait "$!"
done
`;
}
