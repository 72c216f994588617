// Which rows are the same event: a sender's id without a time is one event however often, and whenever, it arrives.
// A row and its mark in the undated table come by two feeds, in any order (decision 10).

import { markPatienceSeconds, names } from "../../components/topology.ts";
import type { TenantId } from "../common/auth.ts";
import { integer, select, type Statement } from "./query.ts";
import type { Row } from "./replicas.ts";

/** Runs a statement. */
export type Read = (statement: Statement) => Promise<Row[]>;

const uuidV7 = /^([\da-f]{8})-([\da-f]{4})-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/i;
const lastSecond = 0xffffffff;

/** The second that a UUIDv7 carries. For an id that the ingestor made it is the event's. */
export function secondOf(id: string): number | undefined {
  const match = uuidV7.exec(id);
  if (!match) return undefined;
  const second = Math.floor(parseInt(match[1]! + match[2]!, 16) / 1000);
  return second > lastSecond ? undefined : second;
}

/** The first second of an event that was sent without a time, or undefined when there is none with this id. */
export async function firstUndated(tenant: TenantId, id: string, read: Read): Promise<number | undefined> {
  const columns = ["event_timestamp"];
  const spec = { table: names.undatedTable, columns, equal: { event_id: id } };
  const [row] = await read(select(tenant, { ...spec, orderBy: "event_timestamp", limit: 1 }));
  return row && Number(row["event_timestamp"]);
}

/** What tells whether a row is a copy, so a list has to read it; an answer shows no {@link undatedFlag}. */
export const undatedFlag = "is_undated";

/**
 * Leaves out rows that repeat an event sent without a time: such an event has the second of its first arrival, and
 * its other rows are copies. A row whose mark has not come yet is left out too: nobody knows what it is.
 * @param rows with event_id, event_timestamp and {@link undatedFlag}
 * @param now unix seconds
 */
export async function withoutRepeats(
  tenant: TenantId,
  rows: readonly Row[],
  now: number,
  read: Read,
): Promise<readonly Row[]> {
  const { known, repeats } = await sorted(tenant, rows, now, read);
  return known.filter((row) => !repeats.has(row));
}

/**
 * The same for alerts. A rule that counts can find the copy a threat and not the first one: that alert has no twin
 * and stays.
 */
export async function withoutRepeatedAlerts(
  tenant: TenantId,
  rows: readonly Row[],
  now: number,
  read: Read,
): Promise<readonly Row[]> {
  const { known, repeats } = await sorted(tenant, rows, now, read);
  if (repeats.size === 0) return known;
  const key = (row: Row): string => JSON.stringify([row["event_id"], row["rule"]]);
  const range = {
    from: Math.min(...repeats.values()),
    to: Math.max(...[...repeats.keys()].map((row) => Number(row["event_timestamp"]))),
  };
  const columns = ["event_id", "rule", "min(event_timestamp) AS first"];
  const oneOf = { event_id: distinct(repeats.keys(), "event_id"), rule: distinct(repeats.keys(), "rule") };
  const spec = { table: names.alertsTable, columns, range, oneOf, groupBy: "event_id, rule" };
  const limit = oneOf.event_id.length * oneOf.rule.length;
  const twins = await read(select(tenant, { ...spec, limit }));
  const first = new Map(twins.map((row) => [key(row), Number(row["first"])]));
  return known.filter(
    (row) => !repeats.has(row) || !(Number(first.get(key(row))) < Number(row["event_timestamp"])),
  );
}

interface Sorted {
  /** Without those that wait for their mark. */
  readonly known: readonly Row[];
  /** Those that are copies, each with the second of its event. */
  readonly repeats: ReadonlyMap<Row, number>;
}

async function sorted(tenant: TenantId, rows: readonly Row[], now: number, read: Read): Promise<Sorted> {
  const repeats = new Map<Row, number>();
  if (rows.length === 0) return { known: rows, repeats };
  const seconds = [...new Set(rows.map((row) => Number(row["event_timestamp"])))];
  const ids = distinct(rows, "event_id");
  // An event with the same id and a time of its own is another event, so the rows' own seconds are asked for too.
  const among = `event_timestamp IN (${seconds.map(integer).join(", ")})`;
  const found = await read(
    select(tenant, {
      table: names.undatedTable,
      columns: [
        "event_id",
        "min(event_timestamp) AS first",
        `groupUniqArrayIf(event_timestamp, ${among}) AS seconds`,
      ],
      range: { from: 0, to: Math.max(...seconds) },
      oneOf: { event_id: ids },
      groupBy: "event_id",
      limit: ids.length,
    }),
  );
  const undated = new Map(
    found.map((row) => [
      row["event_id"],
      { first: Number(row["first"]), seconds: new Set((row["seconds"] as unknown[]).map(Number)) },
    ]),
  );
  const known = rows.filter((row) => {
    const second = Number(row["event_timestamp"]);
    const event = undated.get(row["event_id"]);
    const isMarked = event?.seconds.has(second) === true;
    if (isMarked && second > event.first) repeats.set(row, event.first);
    // What was acknowledged is shown in the end, whatever became of its mark.
    return isMarked || Number(row[undatedFlag]) !== 1 || second <= now - markPatienceSeconds;
  });
  return { known, repeats };
}

function distinct(rows: Iterable<Row>, column: string): string[] {
  return [...new Set([...rows].map((row) => String(row[column])))];
}
