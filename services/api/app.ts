// The API's routes: a tenant reads its own events, alerts and counts.

import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { z } from "zod";
import { names } from "../../components/topology.ts";
import { type Keys, requireScope, type TenantId, tenantOf } from "../common/auth.ts";
import { createServer, healthCode, HttpError, type Lifecycle, onceClosed } from "../common/http.ts";
import { pause } from "../common/loop-share.ts";
import { timeOfUuidV7 } from "../common/uuid.ts";
import { openApiDocument } from "./openapi.ts";
import { type Range, select, type Select, type Statement } from "./query.ts";
import type { Reader, Row } from "./replicas.ts";
import {
  alert,
  alertsQuery,
  type Cursor,
  cursorSchema,
  event,
  eventQuery,
  eventsQuery,
  noQuery,
  rangeQuery,
  type StatsAnswer,
} from "./schemas.ts";
import { defaultSlots, type SlotLimits, Slots } from "./slots.ts";

export interface ApiOptions {
  readonly reader: Reader;
  readonly keys: Keys;
  readonly lifecycle: Lifecycle;
  /** @default as many as a container of 512 MB can bear */
  readonly slots?: SlotLimits;
  /** @default the present */
  readonly now?: () => Date;
  /** Turns the log off, for tests. */
  readonly quiet?: boolean;
}

const daySeconds = 24 * 3600;
/** Senders' clocks may run ahead. */
const aheadSeconds = 300;
/**
 * Rows read beyond a page: one tells whether more follow, the rest stand in for rows that are left out. No more than the
 * page has, so that a lower limit makes an answer fit that was too large, whatever its rows are.
 */
const spareRows = 16;
const lastSecond = 0xffffffff;

/** Which of an event's copies a row is: of these, the one with the largest counts (decision 10). */
const versionColumn = "toString(row_version) AS version";
const versionOf = ({ version = 0 }: Row) => BigInt(version as string | number);
/** What the copies of an event or alert have in common. */
const keyOf = (row: Row | undefined, idColumn: string) =>
  row && `${String(row["event_timestamp"])} ${String(row[idColumn])}`;
/** A row as the client gets it. */
const shown = ({ version: _, ...row }: Row): Row => row;

const eventColumns = Object.keys(event.shape);
const alertColumns = Object.keys(alert.shape);

/** A list of rows: what to read. The first column is the id. */
type Listing = Pick<Select, "table" | "columns" | "equal" | "contains">;
/** Runs a statement. */
type Read = (statement: Statement) => Promise<Row[]>;

interface Page {
  readonly from?: number | undefined;
  readonly to?: number | undefined;
  readonly limit?: number | undefined;
  readonly cursor?: string | undefined;
}

/** The API as a server that doesn't listen yet. */
export function createApi(options: ApiOptions): FastifyInstance {
  const { reader, lifecycle } = options;
  const app = createServer(lifecycle, options.quiet);
  const protect = { onRequest: requireScope(options.keys, "events:read") };
  const limits = options.slots ?? defaultSlots;
  const slots = new Slots(limits);
  const now = (): number => Math.floor((options.now?.() ?? new Date()).getTime() / 1000);
  const document = openApiDocument();

  /** Reads within a slot, which is taken until the client has its answer, goes away, or takes too long. */
  async function reading<T>(
    request: FastifyRequest,
    reply: FastifyReply,
    work: (tenant: TenantId, read: Read) => Promise<T>,
  ): Promise<T> {
    const tenant = tenantOf(request);
    const gone = new AbortController();
    const answered = new Promise<void>((resolve) => {
      onceClosed(request, reply, () => {
        gone.abort();
        resolve();
      });
    });
    try {
      return await slots.run(
        tenant,
        gone.signal,
        () => work(tenant, (statement) => reader.query(statement, gone.signal)),
        answered,
      );
    } finally {
      const late = setTimeout(() => request.raw.socket.destroy(), limits.answerMs);
      void answered.then(() => clearTimeout(late));
    }
  }

  async function readPage(
    tenant: TenantId,
    read: Read,
    listing: Listing,
    query: Page,
  ): Promise<{ rows: Row[]; next_cursor: string | null }> {
    const cursor = query.cursor === undefined ? undefined : decodeCursor(query.cursor);
    const within = toRange({ from: query.from ?? cursor?.[2], to: query.to ?? cursor?.[3] }, now());
    const limit = query.limit ?? 100;
    const idColumn = listing.columns[0]!;
    const fetch = limit + Math.min(spareRows, limit);
    const found = await read(
      select(tenant, {
        ...listing,
        columns: [...listing.columns, versionColumn],
        range: within,
        after: cursor && { idColumn, timestamp: cursor[0], id: cursor[1] },
        orderBy: `event_timestamp DESC, ${idColumn} DESC, row_version DESC`,
        limit: fetch,
      }),
    );
    // An event that was sent again is stored twice until a merge. The copies are neighbours here, the one that counts
    // first; LIMIT BY or FINAL would make the server read the whole range instead of one page of it.
    const distinct = found.filter((row, index) => keyOf(row, idColumn) !== keyOf(found[index - 1], idColumn));
    const rows = distinct.slice(0, limit);
    // Rows left out count as read, so that even a page full of them leads on.
    const last = distinct.length > limit ? rows.at(-1) : found.length === fetch ? distinct.at(-1) : undefined;
    const next =
      last && encodeCursor([Number(last["event_timestamp"]), String(last[idColumn]), within.from, within.to]);
    return { rows: (await firstOnes(tenant, read, listing, rows)).map(shown), next_cursor: next ?? null };
  }

  /** What a filter found may be a copy whose content does not count, where that of the first does not match. */
  async function firstOnes(
    tenant: TenantId,
    read: Read,
    { table, columns, equal, contains }: Listing,
    rows: Row[],
  ): Promise<Row[]> {
    const filters = [contains, ...Object.values(equal ?? {})].filter((value) => value !== undefined);
    if (filters.length === 0 || rows.length === 0) return rows;
    const idColumn = columns[0]!;
    const keys = rows.map((row) => ({
      timestamp: Number(row["event_timestamp"]),
      id: String(row[idColumn]),
    }));
    const range = { from: keys.at(-1)!.timestamp, to: keys[0]!.timestamp };
    const first = await read(
      select(tenant, {
        table,
        columns: ["event_timestamp", idColumn, "toString(max(row_version)) AS version"],
        range,
        among: { idColumn, keys },
        groupBy: `event_timestamp, ${idColumn}`,
        limit: keys.length,
      }),
    );
    const versions = new Map(first.map((row) => [keyOf(row, idColumn), versionOf(row)]));
    // Another replica may have answered, and not have all of them yet.
    return rows.filter((row) => (versions.get(keyOf(row, idColumn)) ?? 0n) <= versionOf(row));
  }

  app.get("/v1/openapi.json", (request) => {
    parseQuery(noQuery, request);
    return document;
  });

  // Load balancers may add what they like to its URL.
  app.get("/v1/health", async (_request, reply) => {
    const status = lifecycle.draining ? "draining" : (await reader.ping()) ? "ok" : "database_unreachable";
    return reply.code(healthCode(status)).send({ status });
  });

  app.get("/v1/events", protect, async (request, reply) => {
    const { from, to, limit, cursor, q, ...equal } = parseQuery(eventsQuery, request);
    const spec = { table: names.eventsTable, columns: eventColumns, equal, contains: q };
    const { rows, next_cursor } = await reading(request, reply, (tenant, read) =>
      readPage(tenant, read, spec, { from, to, limit, cursor }),
    );
    return reply.type(json).send(await pageOf("events", rows, next_cursor));
  });

  app.get<{ Params: { id: string } }>("/v1/events/:id", protect, async (request, reply) => {
    const { from = 0, to = lastSecond } = parseQuery(eventQuery, request);
    const within = orderly({ from, to });
    const { id } = request.params;
    const found = await reading(request, reply, async (tenant, read) => {
      const oldest = async (range: Range): Promise<Row | undefined> => {
        const spec = { table: names.eventsTable, columns: eventColumns, equal: { event_id: id }, range };
        const orderBy = "event_timestamp, row_version DESC";
        return (await read(select(tenant, { ...spec, orderBy, limit: 1 })))[0];
      };
      const at = async (second: number | undefined): Promise<Row | undefined> =>
        second === undefined || second < from || second > to
          ? undefined
          : oldest({ from: second, to: second });
      // One second of one tenant is next to nothing to read; only the last way looks everywhere.
      return (await at(secondOf(id))) ?? (await oldest(within));
    });
    if (!found) throw new HttpError(404, "no_such_event", `this tenant has no event "${id}"`);
    return found;
  });

  app.get("/v1/stats", protect, async (request, reply) => {
    const within = toRange(parseQuery(rangeQuery, request), now());
    const by = ["source_type", "event_category", "event_outcome", "source_ip"] as const;
    const parts = ["('total', '')", ...by.map((column) => `('${column}', ${column})`)];
    const rows = await reading(request, reply, (tenant, read) =>
      read(
        select(tenant, {
          table: names.eventsTable,
          final: true,
          range: within,
          columns: [
            `arrayJoin([${parts.join(", ")}]) AS pair`,
            "tupleElement(pair, 1) AS part",
            "tupleElement(pair, 2) AS value",
            "count() AS count",
            "countIf(is_threat = 1) AS threats",
          ],
          groupBy: "pair",
          orderBy: "count DESC, value",
          limitBy: { rows: 100, column: "part" },
          limit: 100 * parts.length,
        }),
      ),
    );
    const part = (name: (typeof by)[number] | "total") =>
      rows
        .filter((row) => row["part"] === name)
        .map((row) => ({ value: String(row["value"]), count: Number(row["count"]) }))
        .sort((a, b) => b.count - a.count || (a.value < b.value ? -1 : 1));
    const counts = (name: (typeof by)[number]) =>
      Object.fromEntries(part(name).map(({ value, count: events }) => [value, events]));
    return {
      ...within,
      total: part("total")[0]?.count ?? 0,
      threats: Number(rows.find((row) => row["part"] === "total")?.["threats"] ?? 0),
      by_source_type: counts("source_type"),
      by_category: counts("event_category"),
      by_outcome: counts("event_outcome"),
      top_source_ip: part("source_ip")
        .filter(({ value }) => value !== "")
        .slice(0, 10)
        .map(({ value, count: events }) => ({ source_ip: value, count: events })),
    } satisfies StatsAnswer;
  });

  app.get("/v1/alerts", protect, async (request, reply) => {
    const { from, to, limit, cursor, ...equal } = parseQuery(alertsQuery, request);
    const spec = { table: names.alertsTable, columns: alertColumns, equal };
    const { rows, next_cursor } = await reading(request, reply, (tenant, read) =>
      readPage(tenant, read, spec, { from, to, limit, cursor }),
    );
    return reply.type(json).send(await pageOf("alerts", rows, next_cursor));
  });
  return app;
}

const json = "application/json; charset=utf-8";

/** An answer row by row, so that one of some megabytes does not hold up the others. */
async function pageOf(name: string, rows: readonly Row[], next_cursor: string | null): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (const row of rows) {
    parts.push(Buffer.from(`${parts.length === 0 ? `{"${name}":[` : ","}${JSON.stringify(row)}`));
    await pause();
  }
  const begin = parts.length === 0 ? `{"${name}":[` : "";
  parts.push(Buffer.from(`${begin}],"next_cursor":${JSON.stringify(next_cursor)}}`));
  return Buffer.concat(parts);
}

function parseQuery<T extends z.ZodObject>(schema: T, request: FastifyRequest): z.output<T> {
  const result = schema.safeParse(request.query);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  if (issue.code === "unrecognized_keys") {
    const parameter = issue.keys[0]!;
    const allowed = Object.keys(schema.shape).join(", ") || "none";
    throw badQuery(parameter, `unknown parameter; allowed: ${allowed}`);
  }
  const parameter = String(issue.path[0]);
  const given = (request.query as Record<string, unknown>)[parameter];
  throw badQuery(parameter, Array.isArray(given) ? "is given more than once" : issue.message);
}

function badQuery(parameter: string, why: string): HttpError {
  return new HttpError(400, "bad_query", `query parameter "${parameter}": ${why}`, { parameter });
}

function toRange(query: { from?: number | undefined; to?: number | undefined }, now: number): Range {
  const to = query.to ?? Math.min(now + aheadSeconds, lastSecond);
  return orderly({ from: query.from ?? Math.max(Math.min(now, to) - daySeconds, 0), to });
}

function orderly({ from, to }: Range): Range {
  if (from > to) throw badQuery("from", `is later than "to" (${from} > ${to})`);
  return { from, to };
}

/** The second that a UUIDv7 carries. For an id that the ingestor made it is the event's. */
function secondOf(id: string): number | undefined {
  const time = timeOfUuidV7(id);
  const second = time && Math.floor(time.getTime() / 1000);
  return second === undefined || second > lastSecond ? undefined : second;
}

function encodeCursor(cursor: Cursor): string {
  return Buffer.from(JSON.stringify(cursor)).toString("base64url");
}

function decodeCursor(text: string): Cursor {
  try {
    return cursorSchema.parse(JSON.parse(Buffer.from(text, "base64url").toString("utf8")));
  } catch {
    throw badQuery("cursor", "is not one that this API gave; start again without it");
  }
}
