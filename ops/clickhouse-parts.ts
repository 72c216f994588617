// Parts of ClickHouse's tables that are lost or broken, as one replica tells of them.

import { dockerOn } from "../components/host/host.ts";
import { storedTables } from "../components/render/clickhouse.ts";
import { names, type Replica } from "../components/topology.ts";
import { inContainer, type Reach, shell } from "./daemon.ts";

const tables = storedTables.map((table) => `'${table}'`).join(", ");
const ours = `database = '${names.database}' AND table IN (${tables})`;

const lines = (text: string) => text.split("\n").filter((line) => line !== "");
const ask = async (reach: Reach, replica: Replica, sql: string) =>
  lines(await inContainer(reach, replica, ["clickhouse-client", "--query", sql]));

const waitingSql = (prefix: string) =>
  `SELECT concat('${prefix}', table, ' ', new_part_name) FROM system.replication_queue WHERE ${ours} AND last_exception LIKE '%No active replica has part%'`;

/** What it has to fetch, and no replica that is there has. */
export function waitingParts(reach: Reach, replica: Replica): Promise<string[]> {
  return ask(reach, replica, waitingSql(""));
}

/** Parts of a replica, each with its table: `events_replicated 202611_5_5_0`. */
export interface Parts {
  /** Given up: their rows were on no replica's disk any more. */
  readonly lost: readonly string[];
  /** Found broken and set aside, and not fetched from another replica since. */
  readonly broken: readonly string[];
  /** What it has to fetch, and no replica that is there has. */
  readonly waiting: readonly string[];
}

/**
 * Shell within a replica: a word and what it is about, a line each. 18.16 counts what was lost since its start, and knows
 * no table of what is set aside; newer servers count in ZooKeeper.
 */
const look = `set -eu
ask() { clickhouse-client --multiquery --query "$1" </dev/null; }
said=$(ask "SELECT concat('lost ', toString(toUInt64(sum(value)))) FROM system.events WHERE event = 'ReplicatedDataLoss';
${waitingSql("waiting ")};
SELECT concat('active ', table, ' ', name) FROM system.parts WHERE ${ours} AND active;
SELECT concat('newer ', toString(count())) FROM system.tables WHERE database = 'system' AND name = 'detached_parts'")
printf '%s\\n' "$said"
if printf '%s\\n' "$said" | grep -q '^newer 1$'; then
  ask "SELECT concat('lost ', toString(toUInt64(sum(lost_part_count)))) FROM system.replicas WHERE ${ours};
SELECT concat('aside ', table, ' ', name) FROM system.detached_parts WHERE ${ours}"
else
  cd /var/lib/clickhouse/data/${names.database}
  find ${storedTables.map((table) => `${table}/detached`).join(" ")} -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sed 's|/detached/| |; s|^|aside |' || true
fi`;

export async function partsOf(reach: Reach, replica: Replica): Promise<Parts> {
  const said = lines(await inContainer(reach, replica, ["sh", "-c", look]));
  const of = (word: string) =>
    said.flatMap((line) => (line.startsWith(`${word} `) ? [line.slice(word.length + 1)] : []));
  const [aside, active] = [of("aside"), of("active")];
  const broken = storedTables.flatMap((table) => {
    const inTable = (all: readonly string[]) =>
      all.flatMap((line) => (line.startsWith(`${table} `) ? [line.slice(table.length + 1)] : []));
    return uncovered(inTable(aside), inTable(active)).map((name) => `${table} ${name}`);
  });
  const count = Math.max(0, ...of("lost").map(Number));
  return { lost: count === 0 ? [] : await lostNames(reach, replica, count), broken, waiting: of("waiting") };
}

/** Their names, as far as its log still has them. */
async function lostNames(reach: Reach, replica: Replica, count: number): Promise<string[]> {
  const said = await shell(
    reach,
    `${dockerOn(replica.node)} logs ${replica.name} 2>&1 | sed -n 's/.*[Pp]art \\([0-9A-Za-z_]*\\) is lost forever.*/\\1/p' | sort -u | tail -n 50`,
  );
  const found = lines(said);
  return found.length > 0 ? found : [`${count} parts, no longer named in its log`];
}

/** What a part's name says: `202611_5_9_1`, perhaps after a word that says why it was set aside. */
interface Range {
  readonly partition: string;
  readonly from: number;
  readonly to: number;
}

/** @returns undefined for what is no part, or was set aside because it is not wanted */
export function rangeOf(name: string): Range | undefined {
  const [, why, partition, from, to] =
    /^(?:([a-z-]+)_)?(\d+)_(\d+)_(\d+)_\d+(?:_\d+|_try\d+)*$/.exec(name) ?? [];
  if (partition === undefined || (why !== undefined && !why.includes("broken"))) return undefined;
  return { partition, from: Number(from), to: Number(to) };
}

/** Those of the broken parts whose rows no active part has. */
export function uncovered(broken: readonly string[], active: readonly string[]): string[] {
  const ranges = active.flatMap((name) => rangeOf(name) ?? []);
  return broken.filter((name) => {
    const range = rangeOf(name);
    if (range === undefined) return false;
    const { partition, from, to } = range;
    return !ranges.some((one) => one.partition === partition && one.from <= from && one.to >= to);
  });
}
