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

/** What it has to fetch, and no replica that is there has. */
export function waitingParts(reach: Reach, replica: Replica): Promise<string[]> {
  const sql = `SELECT concat(table, ' ', new_part_name) FROM system.replication_queue WHERE ${ours} AND last_exception LIKE '%No active replica has part%'`;
  return ask(reach, replica, sql);
}

/**
 * Parts that it has given up: their rows were on no replica's disk any more. 18.16 counts them since its start, and names
 * them in its log; newer servers count them in ZooKeeper.
 */
export async function lostParts(reach: Reach, replica: Replica): Promise<string[]> {
  const counts = await ask(
    reach,
    replica,
    "SELECT toUInt64(sum(value)) FROM system.events WHERE event = 'ReplicatedDataLoss'",
  );
  const kept = `SELECT count() FROM system.columns WHERE database = 'system' AND table = 'replicas' AND name = 'lost_part_count'`;
  if ((await ask(reach, replica, kept))[0] === "1") {
    const sql = `SELECT toUInt64(sum(lost_part_count)) FROM system.replicas WHERE ${ours}`;
    counts.push(...(await ask(reach, replica, sql)));
  }
  const count = Math.max(...counts.map(Number));
  if (count === 0) return [];
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

/** Parts that it found broken and set aside, and has not got from another replica since. */
export async function brokenParts(reach: Reach, replica: Replica): Promise<string[]> {
  // Every server since 18.16 knows where it keeps a table; newer ones say what is set aside, too.
  const listed = `SELECT count() FROM system.tables WHERE database = 'system' AND name = 'detached_parts'`;
  const aside =
    (await ask(reach, replica, listed))[0] === "1"
      ? await ask(reach, replica, `SELECT concat(table, ' ', name) FROM system.detached_parts WHERE ${ours}`)
      : lines(
          await inContainer(reach, replica, [
            ...["sh", "-c"],
            `cd /var/lib/clickhouse/data/${names.database} && find ${storedTables.map((table) => `${table}/detached`).join(" ")} -mindepth 1 -maxdepth 1 -type d 2>/dev/null | sed 's|/detached/| |'`,
          ]),
        );
  if (aside.length === 0) return [];
  const active = await ask(
    reach,
    replica,
    `SELECT concat(table, ' ', name) FROM system.parts WHERE ${ours} AND active`,
  );
  return storedTables.flatMap((table) => {
    const of = (all: readonly string[]) =>
      all.flatMap((line) => (line.startsWith(`${table} `) ? [line.slice(table.length + 1)] : []));
    return uncovered(of(aside), of(active)).map((name) => `${table} ${name}`);
  });
}
