// ClickHouse's config.d and users.d, one numbered file per concern, and the schema: typed data in, text out.
// The root element is <yandex>, which both the old (18.16) and the current server take.

import { names, type Reader, readers, type Replica, type Topology } from "../topology.ts";
import { dockerOn } from "../host/host.ts";
import { ports } from "../ports.ts";
import { clickhouseMemory } from "../services/memory.ts";
import { createHash } from "node:crypto";

const header =
  "<!-- Rendered from components/render/clickhouse.ts; changes here are lost at the next up. -->";

const pathOf = (shard: string) => `/clickhouse/tables/${shard}`;
/** Where replicas keep their tables' metadata in ZooKeeper. */
export const tablesPath = pathOf(names.clickhouseShard);

/** config.d of one replica, without secrets: file name → text. */
export function renderClickhouseConfig(topology: Topology, self: Replica): Record<string, string> {
  return {
    "10-network.xml": `<yandex>
  ${header}
  <listen_host replace="replace">0.0.0.0</listen_host>
  <http_port>${ports.clickhouseHttp.number}</http_port>
  <tcp_port>${ports.clickhouseNative.number}</tcp_port>
  <interserver_http_port>${ports.clickhouseInterserver.number}</interserver_http_port>
  <interserver_http_host>${self.alias}</interserver_http_host>
  <disable_internal_dns_cache>1</disable_internal_dns_cache>
</yandex>
`,
    // Addresses, because Docker knows a name only while its node runs, and ClickHouse 18.16 that starts and can resolve
    // none may hang for good (decision 16).
    "30-zookeeper.xml": `<yandex>
  ${header}
  <zookeeper replace="replace">
${topology.zookeeper
  .map(
    (zk) =>
      `    <node index="${zk.slot}"><host>${zk.node.address}</host><port>${ports.zookeeperClient.number}</port></node>`,
  )
  .join("\n")}
    <session_timeout_ms>6000</session_timeout_ms>
  </zookeeper>
  <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>
</yandex>
`,
    "40-macros.xml": `<yandex>
  ${header}
  <macros replace="replace">
    <cluster>${names.clickhouseCluster}</cluster>
    <shard>${names.clickhouseShard}</shard>
    <replica>${self.alias}</replica>
  </macros>
</yandex>
`,
    "50-kafka.xml": `<yandex>
  ${header}
  <kafka>
    <!-- After a cold start the group waits for its former members; the default would be 30 s. -->
    <session_timeout_ms>6000</session_timeout_ms>
    <!-- A request that a broker took with it when it was lost; the default would be 60 s. -->
    <socket_timeout_ms>10000</socket_timeout_ms>
    <!-- A partition that the group has never read is read from its beginning. 18.16 would begin at its end, and what
         came before, or while a replica that had not committed yet was down, would never be stored. -->
    <auto_offset_reset>smallest</auto_offset_reset>
    <!-- A partition that a topic was given is known, and read, after this long; the default would be five minutes. -->
    <topic_metadata_refresh_interval_ms>5000</topic_metadata_refresh_interval_ms>
  </kafka>
</yandex>
`,
    "60-logging.xml": `<yandex>
  ${header}
  <logger><level>information</level><console>1</console></logger>
</yandex>
`,
  };
}

/**
 * What of a replica's memory is for what, in config.d and users.d: path under /etc/clickhouse-server → text. 18.16 has no
 * limit of its own, and more than a container may have ends the server. The profile is everybody's, and each client
 * can change it for himself, so none of ours asks for more. What comes from Kafka is no query to 18.16: no limit of
 * the profile stops the feed.
 * @param memoryMb the container's limit
 */
export function renderClickhouseMemory(memoryMb: number): Record<string, string> {
  const memory = clickhouseMemory(memoryMb);
  return {
    "config.d/70-memory.xml": `<yandex>
  ${header}
  <!-- Only newer servers know this one. -->
  <max_server_memory_usage>${memory.server}</max_server_memory_usage>
  <mark_cache_size>${memory.marks}</mark_cache_size>
</yandex>
`,
    "users.d/20-memory.xml": `<yandex>
  ${header}
  <profiles>
    <default>
      <max_memory_usage>${memory.query}</max_memory_usage>
      <max_memory_usage_for_user>${memory.queries}</max_memory_usage_for_user>
      <!-- Newer servers take this one and don't heed it: they have max_server_memory_usage. -->
      <max_memory_usage_for_all_queries>${memory.queries}</max_memory_usage_for_all_queries>
      <max_bytes_before_external_group_by>${memory.spill}</max_bytes_before_external_group_by>
      <max_bytes_before_external_sort>${memory.spill}</max_bytes_before_external_sort>
    </default>
  </profiles>
</yandex>
`,
  };
}

/** The cluster's definition: secret, because replicas log in to each other with the database password. */
export function renderClickhouseCluster(topology: Topology, password: string): string {
  return `<yandex>
  ${header}
  <remote_servers replace="replace">
    <${names.clickhouseCluster}>
      <shard>
        <internal_replication>true</internal_replication>
${topology.clickhouse
  .map(
    (replica) =>
      `        <replica><host>${replica.alias}</host><port>${ports.clickhouseNative.number}</port><user>${names.databaseUser}</user><password>${password}</password></replica>`,
  )
  .join("\n")}
      </shard>
    </${names.clickhouseCluster}>
  </remote_servers>
</yandex>
`;
}

/** users.d: one user with a password (as a hash), and no passwordless default user off this node. */
export function renderClickhouseUsers(topology: Topology, password: string): string {
  // What two of three have survives the loss of either; a lone server of a test has nobody to wait for.
  const quorum = Math.min(2, topology.clickhouse.length);
  const hash = createHash("sha256").update(password).digest("hex");
  return `<yandex>
  ${header}
  <profiles>
    <default>
      <stream_flush_interval_ms>500</stream_flush_interval_ms>
      <!-- Write what was read from Kafka as it comes. 18.16 would collect it, commit the offsets, and write then: what
           can't be written, on a full disk, would be lost. -->
      <min_insert_block_size_rows>1</min_insert_block_size_rows>
      <!-- Offsets are committed once so many replicas have the block (decision 17): what one has just written may be in
           no more than its page cache. Without a second replica after so many milliseconds it is read from Kafka again;
           the default would be ten minutes. -->
      <insert_quorum>${quorum}</insert_quorum>
      <insert_quorum_timeout>20000</insert_quorum_timeout>
      <!-- A block whose copy ZooKeeper remembers would be dropped as stored, though it may be the one whose quorum just
           failed. Readers see each event once all the same (decision 10). -->
      <insert_deduplicate>0</insert_deduplicate>
      <!-- A replica that was cut off while it sent a part is given up after this long, and the part is fetched anew; the
           default would be half an hour (decision 15). -->
      <http_send_timeout>10</http_send_timeout>
      <http_receive_timeout>10</http_receive_timeout>
      <log_queries>0</log_queries>
    </default>
  </profiles>
  <users>
    <default replace="replace">
      <password_sha256_hex>${hash}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
    <${names.databaseUser}>
      <password_sha256_hex>${hash}</password_sha256_hex>
      <networks><ip>::/0</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </${names.databaseUser}>
  </users>
</yandex>
`;
}

/** Login of clickhouse-client inside the container, so that no password stands on a command line. */
export function renderClickhouseClient(password: string): string {
  return `<config>
  <user>${names.databaseUser}</user>
  <password>${password}</password>
</config>
`;
}

const eventColumns = `event_id String,
  tenant_id String,
  event_timestamp UInt32,
  source_ip String,
  source_type String,
  raw_event String,
  event_category String,
  event_outcome String,
  event_action String,
  is_threat UInt8`;

const alertColumns = `alert_id String,
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  source_ip String,
  rule String,
  severity String,
  summary String`;

function columnNames(columns: string): string {
  return columns
    .split(",\n")
    .map((column) => column.trim().split(" ")[0])
    .join(", ");
}

interface Stored {
  readonly table: string;
  readonly columns: string;
  /** Its name in ZooKeeper. */
  readonly path: string;
  readonly key: string;
  /** The column that tells a row's age, in unix seconds. */
  readonly time: string;
}

interface Feed extends Stored, Reader {
  /** What names a row, beside its tenant and its time. */
  readonly id: string;
  /** What of a row is shown where the row is set aside. */
  readonly text: string;
}

/** Of copies, the row with the largest stays (decision 10). */
const version = "row_version";
/** What rows of earlier releases have: more than any other. */
const largestVersion = 2n ** 63n - 1n;
const versionColumn = `${version} UInt64 DEFAULT ${largestVersion}`;

/**
 * What ClickHouse reads from Kafka, and the tables it ends in. Queues and their views hold nothing: what has been read is
 * known to Kafka, by the group. Fields of a row that a queue has no column for are skipped, and missing ones are 0.
 */
const feeds: readonly Feed[] = [
  {
    table: names.eventsTable,
    ...readers.events,
    columns: eventColumns,
    path: "events_versioned",
    key: "tenant_id, event_timestamp, event_id",
    time: "event_timestamp",
    id: "event_id",
    text: "raw_event",
  },
  {
    table: names.alertsTable,
    ...readers.alerts,
    columns: alertColumns,
    path: "alerts_versioned",
    key: "tenant_id, event_timestamp, alert_id",
    time: "event_timestamp",
    id: "alert_id",
    text: "summary",
  },
];

/** Messages that are no rows: where Kafka has them, when they were set aside, why, and what they say. */
const unreadable: Stored = {
  table: names.unreadableTable,
  columns: `kafka_topic String,
  kafka_partition UInt64,
  kafka_offset UInt64,
  set_aside_at UInt32,
  reason String,
  message String`,
  path: "unreadable",
  key: "kafka_topic, kafka_partition, kafka_offset",
  time: "set_aside_at",
};

const stored: readonly Stored[] = [...feeds, unreadable];

/** The tables that hold data, by their names in the database. */
export const storedTables: readonly string[] = stored.map(({ table }) => table);

/** The column of each that tells how old a row is, in unix seconds. */
export const ageColumns: Readonly<Record<string, string>> = Object.fromEntries(
  stored.map(({ table, time }) => [table, time]),
);

/** Where ZooKeeper knows each of them. */
export const tablePaths: Readonly<Record<string, string>> = Object.fromEntries(
  stored.map(({ table, path }) => [table, `${tablesPath}/${path}`]),
);

/** The most rows of a block that a queue reads; it is stored after stream_flush_interval_ms if that comes sooner. */
const blockRows = 65536;

/** What the names of a table's queue and views begin with. */
const stemOf = ({ table }: Pick<Stored, "table">) => table.replace("_replicated", "");

/** The view of a table that shows each of its rows once. */
export const onceView = (table: string): string => `${stemOf({ table })}_once`;

/**
 * SQL: the smaller, the later Kafka took it; below what rows of earlier releases have. The day first, because offsets
 * begin anew where a topic was lost; then the partition, because a key moves only to one that was added (kafka.ts of the
 * ingestor); then the offset. 16, 10 and 37 bits.
 */
const versionOf = `toUInt64(${largestVersion} - (intDiv(toUInt64(assumeNotNull(_timestamp)), 86400) * ${2n ** 47n} + bitAnd(toUInt64(_partition), ${2n ** 10n - 1n}) * ${2n ** 37n} + bitAnd(toUInt64(_offset), ${2n ** 37n - 1n})))`;

/** Days: what the ingestors take (logline.ts), and Kafka's retention, with room. More months than 100 in a block are refused. */
const [daysBack, daysAhead] = [6 * 366, 30] as const;

/** SQL: why a message is no row; empty if it is one. Its own error first. */
function reasonOf({ id }: Feed): string {
  const now = "toUnixTimestamp(now())";
  return `multiIf(_error != '', _error, tenant_id = '', 'tenant_id is empty', ${id} = '', '${id} is empty', event_timestamp < ${now} - ${daysBack * 86_400} OR event_timestamp > ${now} + ${daysAhead * 86_400}, concat('event_timestamp is ', toString(event_timestamp)), '')`;
}

/** A queue and its views, by their names in the database, and the statements that make them if they are not there. */
interface Intake {
  readonly queue: string;
  readonly views: readonly string[];
  readonly statements: readonly string[];
}

/**
 * Shell variables that a queue's statement holds: what a server that can set aside what it can't parse is told, and
 * which columns another one has instead of Kafka's own, which the stand-in fills (habits.c).
 */
const queueColumns = "$queue_columns";
const queueSettings = "$queue_settings";
const ownColumns =
  ", _topic String, _partition UInt64, _offset UInt64, _timestamp UInt32, _error String, _raw_message String";
const ownSettings = ", kafka_handle_error_mode = 'stream'";

/**
 * @param suffix of all names
 * @param group the consumer group that reads
 * @param on behind each name: `ON CLUSTER …`, or nothing for one server
 */
function intakeOf(
  topology: Topology,
  feed: Feed,
  { suffix, group, on }: { suffix: string; group: string; on: string },
): Intake {
  const brokers = topology.kafka.map((broker) => `${broker.alias}:${ports.kafka.number}`).join(",");
  const [queue, aside, view] = ["queue", "unreadable", "consumer"].map(
    (kind) => `${stemOf(feed)}_${kind}_${suffix}`,
  ) as [string, string, string];
  const from = `FROM ${names.database}.${queue}`;
  const reason = reasonOf(feed);
  return {
    queue,
    views: [aside, view],
    statements: [
      `CREATE TABLE IF NOT EXISTS ${names.database}.${queue}${on} (
  ${feed.columns}${queueColumns}
) ENGINE = Kafka SETTINGS kafka_broker_list = '${brokers}', kafka_topic_list = '${feed.topic}',
  kafka_group_name = '${group}', kafka_format = 'JSONEachRow', kafka_num_consumers = 1,
  kafka_max_block_size = ${blockRows}${queueSettings}`,
      // The view that sets aside comes first: what is read while only one is there is committed.
      `CREATE MATERIALIZED VIEW IF NOT EXISTS ${names.database}.${aside}${on} TO ${names.database}.${unreadable.table} AS
SELECT _topic AS kafka_topic, toUInt64(_partition) AS kafka_partition, toUInt64(_offset) AS kafka_offset, toUInt32(toUnixTimestamp(now())) AS set_aside_at, ${reason} AS reason, if(_error != '', _raw_message, ${feed.text}) AS message
${from} WHERE ${reason} != ''`,
      `CREATE MATERIALIZED VIEW IF NOT EXISTS ${names.database}.${view}${on} TO ${names.database}.${feed.table} AS
SELECT ${columnNames(feed.columns)}, ${versionOf} AS ${version}
${from} WHERE ${reason} = ''`,
    ],
  };
}

/**
 * The intakes of the feeds, named by what they are: one that is as it should be is left alone. A queue that goes while it
 * reads can abort 18.16 (librdkafka's "assert: !rkcg->rkcg_subscription", decision 17).
 */
function currentIntakes(topology: Topology): Intake[] {
  return feeds.map((feed) => {
    const { group } = feed;
    const on = ` ON CLUSTER ${names.clickhouseCluster}`;
    const { statements } = intakeOf(topology, feed, { suffix: "", group, on });
    const suffix = createHash("sha256")
      .update([...statements, ownColumns, ownSettings].join("\n"))
      .digest("hex")
      .slice(0, 8);
    return intakeOf(topology, feed, { suffix, group, on });
  });
}

/**
 * The schema, idempotent, run against any replica: ON CLUSTER takes it to all. Takes no secret, and the shell's
 * variables `queue_columns` and `queue_settings`.
 */
export function renderSchema(topology: Topology): string {
  const on = `ON CLUSTER ${names.clickhouseCluster}`;
  const table = ({ table, columns, path, key, time }: Stored, row = { column: "", argument: "" }): string =>
    `CREATE TABLE IF NOT EXISTS ${names.database}.${table} ${on} (
  ${columns}${row.column}
) ENGINE = ReplicatedReplacingMergeTree('${pathOf("{shard}")}/${path}', '{replica}'${row.argument})
PARTITION BY toYYYYMM(toDateTime(${time}))
ORDER BY (${key})`;
  return joined([
    `CREATE DATABASE IF NOT EXISTS ${names.database} ${on}`,
    ...feeds.map((feed) => table(feed, { column: `,\n  ${versionColumn}`, argument: `, ${version}` })),
    table(unreadable),
    ...currentIntakes(topology).flatMap(({ statements }) => statements),
  ]);
}

/**
 * SQL: the queues of other releases, or their views, of one server.
 */
export function staleIntakes(topology: Topology): { queues: string; views: string } {
  const intakes = currentIntakes(topology);
  const of = (engine: string, kinds: readonly string[], kept: readonly string[]): string => {
    const stems = [...feeds.map(stemOf), earlier.stem];
    const like = stems.flatMap((stem) => kinds.map((kind) => `name LIKE '${stem}_${kind}%'`)).join(" OR ");
    return `SELECT name FROM system.tables WHERE database = '${names.database}' AND engine = '${engine}' AND (${like}) AND name NOT IN (${quoted(kept)})`;
  };
  return {
    queues: of(
      "Kafka",
      ["queue"],
      intakes.map(({ queue }) => queue),
    ),
    views: of(
      "MaterializedView",
      ["consumer", "unreadable"],
      intakes.flatMap(({ views }) => views),
    ),
  };
}

const quoted = (all: readonly string[]) => all.map((one) => `'${one}'`).join(", ");

/**
 * What earlier releases had: tables whose rows know no order, called like this one and this from then on; and for events
 * that were sent with an id and without a time a table of them, with a feed, and a column of the others.
 */
const earlier = {
  table: "undated_replicated",
  stem: "undated",
  column: "mark_awaited_until",
  suffix: "_earlier",
};

/** SQL: the tables of one server that are of an earlier release. */
export const earlierTables = `SELECT name FROM system.tables WHERE database = '${names.database}' AND name IN (${quoted(feeds.map(({ table }) => table))}) AND name NOT IN (SELECT table FROM system.columns WHERE database = '${names.database}' AND name = '${version}')`;

/** SQL: makes room for the table that takes such a one's place. On one server: a name is each server's own. */
export function setAside(table: string): string {
  return `RENAME TABLE ${names.database}.${table} TO ${names.database}.${table}${earlier.suffix}`;
}

/** Views for people who write SQL: each event, each alert and each message that is none once. They hold nothing. */
export function renderOnceViews(): string {
  return joined(
    stored.flatMap((one) => {
      const view = `${names.database}.${onceView(one.table)} ON CLUSTER ${names.clickhouseCluster}`;
      return [
        `DROP TABLE IF EXISTS ${view}`,
        `CREATE VIEW ${view} AS
SELECT ${columnNames(one.columns)}
FROM ${names.database}.${one.table} FINAL`,
      ];
    }),
  );
}

function joined(statements: readonly string[]): string {
  return statements.map((statement) => `${statement};\n`).join("\n");
}

/** Settings of a table, for servers that know them: what is inserted or fetched is synced before it counts as stored. */
const syncing =
  "fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1";

/** Shell, run inside a replica: the schema, then the views. */
export function renderSchemaScript(topology: Topology): string {
  return `set -eu
ask() { clickhouse-client --query "$1" </dev/null; }
# 18.16 can neither sync what it stores, which is left to the kernel and to the quorum (decision 17), nor tell where in
# Kafka a row was.
current=$(ask "SELECT count() FROM system.merge_tree_settings WHERE name = 'fsync_after_insert'")
queue_columns="${ownColumns}"
queue_settings=
if [ "$current" = 1 ]; then
  queue_columns=
  queue_settings="${ownSettings}"
fi
clickhouse-client --multiquery <<SQL
${renderSchema(topology)}SQL
if [ "$current" = 1 ]; then
  for table in ${storedTables.join(" ")}; do
    ask "ALTER TABLE ${names.database}.$table ON CLUSTER ${names.clickhouseCluster} MODIFY SETTING ${syncing}" >/dev/null
  done
fi
ask "DROP TABLE IF EXISTS ${names.database}.${earlier.table} ON CLUSTER ${names.clickhouseCluster}" >/dev/null
clickhouse-client --multiquery <<'SQL'
${renderOnceViews()}SQL
`;
}

/**
 * Shell: brings into today's tables what earlier releases left: an unreplicated `dev.events`, and tables that were set
 * aside ({@link setAside}), month by month, without copying a row. It can be interrupted anywhere: what comes twice is
 * merged away, and the old tables go last.
 */
export function renderMigration(topology: Topology): string {
  const { database } = names;
  const columns = columnNames(eventColumns);
  const target = `${database}.${names.eventsTable}`;
  const replicas = topology.clickhouse;
  return `set -eu
on() {
  case $1 in
${replicas.map(({ slot, name, node }) => `  ${slot}) ${dockerOn(node)} exec ${name} clickhouse-client --query "$2" </dev/null ;;`).join("\n")}
  esac
}
has() { on "$1" "SELECT count() FROM system.tables WHERE database = '${database}' AND name = '$2' AND engine LIKE '%MergeTree'"; }

# Months go over only between tables with the same columns. Every replica must know them, and one that is slow to is told
# of as an error, though it does it all the same.
bring() {
  column() { on "$source" "SELECT count() FROM system.columns WHERE database = '${database}' AND table = '$old' AND name = '$1'"; }
  alter() { said=$(on "$source" "ALTER TABLE ${database}.$old $1" 2>&1) || echo "$said" | head -n 1 >&2; }
  source=$1
  if [ "$(column ${earlier.column})" = 1 ]; then alter "DROP COLUMN ${earlier.column}"; fi
  if [ "$table" != ${unreadable.table} ] && [ "$(column ${version})" = 0 ]; then alter "ADD COLUMN ${versionColumn}"; fi
  months=$(on "$source" "SELECT DISTINCT partition FROM system.parts WHERE database = '${database}' AND table = '$old' AND active ORDER BY partition")
  for month in $months; do
    on "$source" "ALTER TABLE ${database}.$table ATTACH PARTITION $month FROM ${database}.$old"
  done
}

for slot in ${replicas.map(({ slot }) => slot).join(" ")}; do
  # On a line of its own: a server that doesn't answer must fail the script, not look like one without the table.
  found=$(has "$slot" events)
  [ "$found" = 1 ] || continue
  # What the replica before has moved must be here before it is compared.
  on "$slot" "SYSTEM SYNC REPLICA ${target}"
  on "$slot" "INSERT INTO ${target} (${columns}) SELECT ${columns} FROM ${database}.events WHERE (tenant_id, event_id) NOT IN (SELECT tenant_id, event_id FROM ${target})"
  on "$slot" "RENAME TABLE ${database}.events TO ${database}.events_migrated"
  echo "ClickHouse $slot: ${database}.events is now in ${target}; the old table is kept as ${database}.events_migrated"
done

for table in ${storedTables.join(" ")}; do
  old=\${table}${earlier.suffix}
  sources=
  for slot in ${replicas.map(({ slot }) => slot).join(" ")}; do
    found=$(has "$slot" "$old")
    [ "$found" = 1 ] || continue
    # One that has caught up has all of it. Plain tables, as after three lost ZooKeepers, can't, and each may have its own.
    if on "$slot" "SYSTEM SYNC REPLICA ${database}.$old" 2>/dev/null; then sources=$slot && break; fi
    sources="$sources $slot"
  done
  [ -n "$sources" ] || continue
  for slot in $sources; do bring "$slot"; done
  for slot in ${replicas.map(({ slot }) => slot).join(" ")}; do on "$slot" "DROP TABLE IF EXISTS ${database}.$old"; done
  echo "$table has its earlier rows"
done
`;
}
