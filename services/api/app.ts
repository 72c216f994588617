// The API's routes: a tenant reads its own events, alerts and counts.

import type { FastifyInstance, FastifyRequest } from "fastify";
import { z } from "zod";
import { names } from "../../components/topology.ts";
import { requireScope, type TenantId, tenantOf } from "../common/auth.ts";
import { createServer, healthCode, HttpError, type Lifecycle } from "../common/http.ts";
import { type Range, select, type Select } from "./query.ts";
import type { Reader, Row } from "./replicas.ts";

export interface ApiOptions {
  readonly reader: Reader;
  readonly secret: Uint8Array;
  readonly lifecycle: Lifecycle;
  /** @default the present */
  readonly now?: () => Date;
  /** Turns the log off, for tests. */
  readonly quiet?: boolean;
}

const daySeconds = 24 * 3600;
/** Senders' clocks may run ahead. */
const aheadSeconds = 300;
/** Rows read beyond a page: one tells whether more follow, the rest stand in for duplicates. */
const spareRows = 16;
const lastSecond = 0xffffffff;

const second = z.int().min(0).max(lastSecond);
const time = z
  .union(
    [
      z
        .string()
        .regex(/^\d{1,10}$/)
        .transform(Number)
        .pipe(second),
      z.iso
        .datetime({ offset: true })
        .transform((text) => Math.floor(Date.parse(text) / 1000))
        .pipe(second),
    ],
    { error: "must be unix seconds or ISO 8601 with a time zone, like 2030-01-31T12:00:00Z" },
  )
  .optional();
const unicode = z
  .string()
  .max(1024)
  .refine((value) => !/\p{Surrogate}/u.test(value), { error: "is not valid Unicode" });
const text = unicode.optional();
const range = { from: time, to: time };
const page = {
  ...range,
  limit: z
    .string()
    .regex(/^([1-9]\d{0,2}|1000)$/, { error: "must be 1 to 1000" })
    .transform(Number)
    .optional(),
  cursor: z.string().max(1024).optional(),
};
const eventsQuery = z.strictObject({
  ...page,
  source_ip: text,
  source_type: text,
  event_category: text,
  event_outcome: text,
  event_action: text,
  is_threat: z
    .enum(["0", "1", "true", "false"])
    .transform((flag) => (flag === "1" || flag === "true" ? 1 : 0))
    .optional(),
  q: text,
});
const alertsQuery = z.strictObject({ ...page, source_ip: text, rule: text, severity: text, event_id: text });
const statsQuery = z.strictObject(range);
/** Where a page ended, and the range it was cut from, so that "the last 24 h" doesn't move between pages. */
const cursorSchema = z.tuple([second, unicode, second, second]);

const eventColumns = [
  "event_id",
  "tenant_id",
  "event_timestamp",
  "source_ip",
  "source_type",
  "raw_event",
  "event_category",
  "event_outcome",
  "event_action",
  "is_threat",
];
const alertColumns = [
  "alert_id",
  "tenant_id",
  "event_id",
  "event_timestamp",
  "source_ip",
  "rule",
  "severity",
  "summary",
];

/** The API as a server that doesn't listen yet. */
export function createApi(options: ApiOptions): FastifyInstance {
  const { reader, lifecycle } = options;
  const app = createServer(lifecycle, options.quiet);
  const protect = { onRequest: requireScope(options.secret, "events:read") };
  const now = (): number => Math.floor((options.now?.() ?? new Date()).getTime() / 1000);

  async function readPage(
    tenant: TenantId,
    spec: Pick<Select, "table" | "columns" | "equal" | "contains">,
    query: {
      from?: number | undefined;
      to?: number | undefined;
      limit?: number | undefined;
      cursor?: string | undefined;
    },
  ): Promise<{ rows: Row[]; next_cursor: string | null }> {
    const cursor = query.cursor === undefined ? undefined : decodeCursor(query.cursor);
    const within = toRange({ from: query.from ?? cursor?.[2], to: query.to ?? cursor?.[3] }, now());
    const limit = query.limit ?? 100;
    const idColumn = spec.columns[0]!;
    const fetch = limit + spareRows;
    const found = await reader.query(
      select(tenant, {
        ...spec,
        range: within,
        after: cursor && { idColumn, timestamp: cursor[0], id: cursor[1] },
        orderBy: `event_timestamp DESC, ${idColumn} DESC`,
        limit: fetch,
      }),
    );
    // A repeated post stores an event twice. The copies are neighbours here; LIMIT BY would make the server
    // sort the whole range in memory instead of keeping one page of it.
    const distinct = found.filter((row, index) => row[idColumn] !== found[index - 1]?.[idColumn]);
    const rows = distinct.slice(0, limit);
    const last = rows.at(-1);
    const more = distinct.length > limit || found.length === fetch;
    return {
      rows: rows.map((row) => ({ ...row, event_timestamp: Number(row["event_timestamp"]) })),
      next_cursor:
        last && more
          ? encodeCursor([Number(last["event_timestamp"]), String(last[idColumn]), within.from, within.to])
          : null,
    };
  }

  app.get("/v1/health", async (_request, reply) => {
    const status = lifecycle.draining ? "draining" : (await reader.ping()) ? "ok" : "database_unreachable";
    return reply.code(healthCode(status)).send({ status });
  });

  app.get("/v1/events", protect, async (request) => {
    const { from, to, limit, cursor, q, ...equal } = parseQuery(eventsQuery, request);
    const spec = { table: names.eventsTable, columns: eventColumns, equal, contains: q };
    const { rows, next_cursor } = await readPage(tenantOf(request), spec, { from, to, limit, cursor });
    return { events: rows, next_cursor };
  });

  app.get<{ Params: { id: string } }>("/v1/events/:id", protect, async (request) => {
    parseQuery(z.strictObject({}), request);
    const { id } = request.params;
    const equal = { event_id: id };
    const statement = select(tenantOf(request), {
      table: names.eventsTable,
      columns: eventColumns,
      equal,
      limit: 1,
    });
    const [event] = await reader.query(statement);
    if (!event) throw new HttpError(404, "no_such_event", `this tenant has no event "${id}"`);
    return event;
  });

  app.get("/v1/stats", protect, async (request) => {
    const within = toRange(parseQuery(statsQuery, request), now());
    const tenant = tenantOf(request);
    // Copies of a repeated post count once.
    const count = "uniqExact(event_id) AS count";
    const by = async (column: string, limit: number): Promise<[string, number][]> => {
      const columns = [column, count];
      const spec = { table: names.eventsTable, columns, range: within, groupBy: column, limit };
      const rows = await reader.query(select(tenant, { ...spec, orderBy: `count DESC, ${column}` }));
      return rows.map((row) => [String(row[column]), Number(row["count"])]);
    };
    const totals = [count, "uniqExactIf(event_id, is_threat = 1) AS threats"];
    const [[total], types, categories, outcomes, sources] = await Promise.all([
      reader.query(select(tenant, { table: names.eventsTable, columns: totals, range: within, limit: 1 })),
      by("source_type", 100),
      by("event_category", 100),
      by("event_outcome", 100),
      by("source_ip", 11),
    ]);
    return {
      ...within,
      total: Number(total?.["count"] ?? 0),
      threats: Number(total?.["threats"] ?? 0),
      by_source_type: Object.fromEntries(types),
      by_category: Object.fromEntries(categories),
      by_outcome: Object.fromEntries(outcomes),
      top_source_ip: sources
        .filter(([source_ip]) => source_ip !== "")
        .slice(0, 10)
        .map(([source_ip, events]) => ({ source_ip, count: events })),
    };
  });

  app.get("/v1/alerts", protect, async (request) => {
    const { from, to, limit, cursor, ...equal } = parseQuery(alertsQuery, request);
    const spec = { table: names.alertsTable, columns: alertColumns, equal };
    const { rows, next_cursor } = await readPage(tenantOf(request), spec, { from, to, limit, cursor });
    return { alerts: rows, next_cursor };
  });
  return app;
}

function parseQuery<T extends z.ZodType>(schema: T, request: FastifyRequest): z.output<T> {
  const result = schema.safeParse(request.query);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  if (issue.code === "unrecognized_keys") {
    const parameter = issue.keys[0]!;
    const allowed = Object.keys((schema as unknown as { shape: object }).shape).join(", ") || "none";
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
  const from = query.from ?? Math.max(Math.min(now, to) - daySeconds, 0);
  if (from > to) throw badQuery("from", `is later than "to" (${from} > ${to})`);
  return { from, to };
}

function encodeCursor(cursor: z.infer<typeof cursorSchema>): string {
  return Buffer.from(JSON.stringify(cursor)).toString("base64url");
}

function decodeCursor(text: string): z.infer<typeof cursorSchema> {
  try {
    return cursorSchema.parse(JSON.parse(Buffer.from(text, "base64url").toString("utf8")));
  } catch {
    throw badQuery("cursor", "is not one that this API gave; start again without it");
  }
}
