// The API's routes: a tenant reads its own events, alerts and counts.

import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import type { z } from "zod";
import { names } from "../../components/topology.ts";
import { type Keys, requireScope, type TenantId, tenantOf } from "../common/auth.ts";
import { createServer, healthCode, HttpError, type Lifecycle, onceClosed } from "../common/http.ts";
import { timeOfUuidV7 } from "../common/uuid.ts";
import { openApiDocument } from "./openapi.ts";
import { type Range, select, type Select, type Statement, unionOf } from "./query.ts";
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
        range: within,
        after: cursor && { idColumn, timestamp: cursor[0], id: cursor[1] },
        orderBy: `event_timestamp DESC, ${idColumn} DESC`,
        limit: fetch,
      }),
    );
    // A repeated post stores an event twice until a merge. The copies are neighbours here; LIMIT BY would make the
    // server sort the whole range in memory instead of keeping one page of it.
    const distinct = found.filter(
      (row, index) =>
        row[idColumn] !== found[index - 1]?.[idColumn] ||
        row["event_timestamp"] !== found[index - 1]?.["event_timestamp"],
    );
    const rows = distinct.slice(0, limit);
    // Rows left out count as read, so that even a page full of them leads on.
    const last = distinct.length > limit ? rows.at(-1) : found.length === fetch ? distinct.at(-1) : undefined;
    const next =
      last && encodeCursor([Number(last["event_timestamp"]), String(last[idColumn]), within.from, within.to]);
    return { rows, next_cursor: next ?? null };
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
    return { events: rows, next_cursor };
  });

  app.get<{ Params: { id: string } }>("/v1/events/:id", protect, async (request, reply) => {
    const { from = 0, to = lastSecond } = parseQuery(eventQuery, request);
    const within = orderly({ from, to });
    const { id } = request.params;
    const found = await reading(request, reply, async (tenant, read) => {
      const oldest = async (range: Range): Promise<Row | undefined> => {
        const spec = { table: names.eventsTable, columns: eventColumns, equal: { event_id: id }, range };
        return (await read(select(tenant, { ...spec, orderBy: "event_timestamp", limit: 1 })))[0];
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
    // Copies of a repeated post count once.
    const spec = { table: names.eventsTable, range: within };
    const count = "uniqExact(event_id) AS count";
    const by = { source_type: 100, event_category: 100, event_outcome: 100, source_ip: 11 };
    const rows = await reading(request, reply, (tenant, read) =>
      read(
        unionOf([
          select(tenant, {
            ...spec,
            columns: [
              "'total' AS part",
              "'' AS value",
              count,
              "uniqExactIf(event_id, is_threat = 1) AS threats",
            ],
            limit: 1,
          }),
          ...Object.entries(by).map(([column, limit]) =>
            select(tenant, {
              ...spec,
              columns: [`'${column}' AS part`, `${column} AS value`, count, "toUInt64(0) AS threats"],
              groupBy: column,
              orderBy: `count DESC, ${column}`,
              limit,
            }),
          ),
        ]),
      ),
    );
    const part = (name: keyof typeof by | "total") =>
      rows
        .filter((row) => row["part"] === name)
        .map((row) => ({ value: String(row["value"]), count: Number(row["count"]) }))
        .sort((a, b) => b.count - a.count || (a.value < b.value ? -1 : 1));
    const counts = (name: keyof typeof by) =>
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
    return { alerts: rows, next_cursor };
  });
  return app;
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
