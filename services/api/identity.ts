// Which rows are the same event: a sender's id without a time is one event however often, and whenever, it arrives.
// A row and its mark in the undated table come by two feeds, in any order (decision 10).

import { names } from "../../components/topology.ts";
import type { TenantId } from "../common/auth.ts";
import { integer, select, type Statement } from "./query.ts";
import type { Row } from "./replicas.ts";

/** Runs a statement. */
export type Read = (statement: Statement) => Promise<Row[]>;

const uuidV7 = /^([\da-f]{8})-([\da-f]{4})-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/i;
const lastSecond = 0xffffffff;
/**
 * So many of the seconds at which a page's alerts were raised are looked at, the earliest of each: a statement has to hold
 * them, and 18.16 takes none with more than 50,000 parts.
 */
const maxTwins = 20_000;

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

/**
 * Leaves out rows that repeat an event sent without a time: such an event has the second of its first arrival, and
 * its other rows are copies. A row that waits for its mark is left out too: nobody knows what it is.
 * @param rows with event_id, event_timestamp and `names.awaitsMark`
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
  const { known, repeats, marks } = await sorted(tenant, rows, now, read);
  if (repeats.size === 0) return known;
  const key = ({ event_id, rule }: Row): string => JSON.stringify([event_id, rule]);
  const first = new Map<string, number>();
  const count = (row: Row, seconds: readonly number[], marked: Marks): void => {
    const counted = seconds.filter((second) => marked.get(row["event_id"])?.seconds.has(second));
    first.set(key(row), Math.min(first.get(key(row)) ?? Infinity, ...counted));
  };
  // Another replica may answer what follows, one that does not have all of these.
  for (const row of known) count(row, [secondIn(row)], marks);
  const range = {
    from: Math.min(...repeats.values()),
    to: Math.max(...[...repeats.keys()].map(secondIn)),
  };
  const oneOf = { event_id: distinct(repeats.keys(), "event_id"), rule: distinct(repeats.keys(), "rule") };
  const limit = oneOf.event_id.length * oneOf.rule.length;
  const earliest = Math.max(1, Math.floor(maxTwins / limit));
  const columns = [
    ...["event_id", "rule"],
    `arraySlice(arraySort(groupUniqArray(event_timestamp)), 1, ${earliest}) AS seconds`,
  ];
  const spec = { table: names.alertsTable, columns, range, oneOf, groupBy: "event_id, rule" };
  const twins = await read(select(tenant, { ...spec, limit }));
  // A twin that waits for its mark is shown to nobody, and stands for nothing.
  const marked = await marksOf(tenant, oneOf.event_id, twins.flatMap(secondsIn), read);
  for (const row of twins) count(row, secondsIn(row), marked);
  return known.filter((row) => !repeats.has(row) || first.get(key(row)) === secondIn(row));
}

interface Sorted {
  /** Without those that wait for their mark. */
  readonly known: readonly Row[];
  /** Those that are copies, each with the second of its event. */
  readonly repeats: ReadonlyMap<Row, number>;
  readonly marks: Marks;
}

async function sorted(tenant: TenantId, rows: readonly Row[], now: number, read: Read): Promise<Sorted> {
  const marks = await marksOf(tenant, distinct(rows, "event_id"), rows.map(secondIn), read);
  const repeats = new Map<Row, number>();
  const known = rows.filter((row) => {
    const second = secondIn(row);
    const event = marks.get(row["event_id"]);
    const isMarked = event?.seconds.has(second) === true;
    if (isMarked && second > event.first) repeats.set(row, event.first);
    return isMarked || !(Number(row[names.awaitsMark]) > now);
  });
  return { known, repeats, marks };
}

/** By event_id: the first second of an event without a time, and which of the asked seconds are its. */
type Marks = ReadonlyMap<unknown, { readonly first: number; readonly seconds: ReadonlySet<number> }>;

/**
 * The marks of these ids up to the last of these seconds. An event with the same id and a time of its own is another
 * event, so each second is asked for.
 */
async function marksOf(
  tenant: TenantId,
  ids: readonly string[],
  asked: readonly number[],
  read: Read,
): Promise<Marks> {
  if (asked.length === 0) return new Map();
  const seconds = [...new Set(asked)];
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
  return new Map(
    found.map((row) => [row["event_id"], { first: Number(row["first"]), seconds: new Set(secondsIn(row)) }]),
  );
}

const secondIn = (row: Row): number => Number(row["event_timestamp"]);
const secondsIn = (row: Row): number[] => (row["seconds"] as unknown[]).map(Number);

function distinct(rows: Iterable<Row>, column: string): string[] {
  return [...new Set([...rows].map((row) => String(row[column])))];
}
