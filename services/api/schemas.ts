// What a client may ask and what it gets: the schemas that check requests, and that the OpenAPI document is made of.

import { z } from "zod";

const lastSecond = 0xffffffff;
/** Unix seconds, as the database keeps them. */
export const second = z.int().min(0).max(lastSecond);
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
/** Text that a statement can hold. */
export const unicode = z
  .string()
  .max(1024)
  .refine((value) => !/\p{Surrogate}/u.test(value), { error: "is not valid Unicode" });
const exact = (what: string) => unicode.optional().describe(`Only those with exactly this ${what}.`);

/** Nothing may be asked. */
export const noQuery = z.strictObject({});
export const rangeQuery = z.strictObject({
  from: time.describe(
    "First second: unix seconds or ISO 8601 with a time zone. Without it, 24 hours before now.",
  ),
  to: time.describe("Last second, in the same forms. Without it, 5 minutes after now."),
});
export const eventQuery = z.strictObject({
  from: time.describe("First second to look in. Without it, and without `to`, everywhere."),
  to: time.describe("Last second to look in."),
});
const page = {
  ...rangeQuery.shape,
  limit: z
    .string()
    .regex(/^([1-9]\d{0,2}|1000)$/, { error: "must be 1 to 1000" })
    .transform(Number)
    .optional()
    .describe("Rows of a page, 1 to 1000; 100 without it."),
  cursor: z
    .string()
    .max(4096)
    .optional()
    .describe(
      "The `next_cursor` of the page before, with the same filters. It brings that page's range along.",
    ),
};
export const eventsQuery = z.strictObject({
  ...page,
  source_ip: exact("address"),
  source_type: exact("type of source"),
  event_category: exact("category"),
  event_outcome: exact("outcome"),
  event_action: exact("action"),
  is_threat: z
    .enum(["0", "1", "true", "false"])
    .transform((flag) => (flag === "1" || flag === "true" ? 1 : 0))
    .optional()
    .describe("Only threats (1, true), or only the others (0, false)."),
  q: unicode
    .optional()
    .describe("Only events whose raw_event contains this text, in the same case. There are no wildcards."),
});
export const alertsQuery = z.strictObject({
  ...page,
  source_ip: exact("address"),
  rule: exact("rule"),
  severity: exact("severity"),
  event_id: exact("event"),
});

/** Where a page ended, and the range it was cut from, so that "the last 24 h" doesn't move between pages. */
export const cursorSchema = z.tuple([second, unicode, second, second]);
export type Cursor = z.infer<typeof cursorSchema>;

const seconds = second.describe("Unix seconds.");
/** The columns of an event, in the order of an answer. */
export const event = z.strictObject({
  event_id: z.string(),
  tenant_id: z.string(),
  event_timestamp: seconds,
  source_ip: z.string(),
  source_type: z.string(),
  raw_event: z.string(),
  event_category: z.string(),
  event_outcome: z.string(),
  event_action: z.string(),
  is_threat: z.literal([0, 1]),
});
export const alert = z.strictObject({
  alert_id: z.string(),
  tenant_id: z.string(),
  event_id: z.string(),
  event_timestamp: seconds,
  source_ip: z.string(),
  rule: z.string(),
  severity: z.string(),
  summary: z.string(),
});
const next_cursor = z
  .string()
  .nullable()
  .describe("Ask again with it for the next page; null on the last. Only null says that there is no more.");
export const eventsAnswer = z.strictObject({
  events: z.array(event).describe("Newest first. A page can be shorter than its limit."),
  next_cursor,
});
export const alertsAnswer = z.strictObject({
  alerts: z.array(alert).describe("Newest first. A page can be shorter than its limit."),
  next_cursor,
});
const count = z.int().min(0);
const counts = (what: string) =>
  z.record(z.string(), count).describe(`Events by ${what}, the 100 most frequent.`);
export const statsAnswer = z.strictObject({
  from: seconds,
  to: seconds,
  total: count.describe("Events; one that arrived twice counts once."),
  threats: count,
  by_source_type: counts("type of source"),
  by_category: counts("category"),
  by_outcome: counts("outcome"),
  top_source_ip: z
    .array(z.strictObject({ source_ip: z.string(), count }))
    .max(10)
    .describe("The ten addresses with most events."),
});
export type StatsAnswer = z.infer<typeof statsAnswer>;
/** The answer of a health check with this status. */
export const healthAnswer = (status: string) => z.strictObject({ status: z.literal(status) });

/** A replica's answers that are no success: one shape, and the codes of each status. */
export const errorCodes = {
  400: {
    bad_query: "a parameter is unknown, repeated or wrong",
    bad_url: "the path is not valid UTF-8",
  },
  401: { bad_token: "there is no token, or it is not good (any more)" },
  403: { missing_scope: "the token lacks the scope events:read" },
  404: { no_such_event: "the tenant has no event with this id" },
  414: { url_too_long: "the id has more than 1024 characters" },
  422: {
    too_much: "the query needs more time, memory or rows than one may have, or its answer is too large",
  },
  429: { tenant_busy: "the tenant has as many requests running as it may have" },
  500: { internal: "a defect; the service's log has the cause" },
  503: {
    database_unreachable: "no replica of the database can answer",
    busy: "other requests have taken all slots, or the memory of every replica of the database",
    stopping: "this replica stops, the others serve",
  },
} as const satisfies Record<number, Readonly<Record<string, string>>>;
export type ErrorStatus = keyof typeof errorCodes;

/** The body of an error with one of these codes. */
export function errorAnswer(codes: readonly string[]) {
  return z.strictObject({
    error: z.enum(codes),
    message: z.string().describe("What is wrong and what to do, for people."),
    ...(codes.includes("bad_query")
      ? { parameter: z.string().optional().describe("The parameter that is wrong.") }
      : {}),
  });
}
