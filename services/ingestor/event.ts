// What an event is, and how one is made from what a client sent: JSON fields or a log line.

import { createHash } from "node:crypto";
import { toUSVString } from "node:util";
import { z } from "zod";
import type { TenantId } from "../common/auth.ts";
import { formatUuid, timeOfUuidV7, uuidV7 } from "../common/uuid.ts";
import { acceptedTimes, isAddress, type LineFields, parseLine } from "./logline.ts";
import type { Columns } from "./row.ts";

/** An event on its way into the events table. */
export interface SiemEvent {
  event_id: string;
  tenant_id: string;
  /** Unix seconds. */
  event_timestamp: number;
  source_ip: string;
  source_type: string;
  raw_event: string;
  event_category: string;
  event_outcome: string;
  event_action: string;
  is_threat: 0 | 1;
}

/** The messages of the events topic: the columns of the events table. */
export const eventColumns = {
  event_id: "String",
  tenant_id: "String",
  event_timestamp: "UInt32",
  source_ip: "String",
  source_type: "String",
  raw_event: "String",
  event_category: "String",
  event_outcome: "String",
  event_action: "String",
  is_threat: "UInt8",
} as const satisfies Columns & Record<keyof SiemEvent, unknown>;

/** Fits into one batch for Kafka, and keeps a page of the API readable. */
export const maxEventBytes = 256 * 1024;
export const sizeRule = `at most ${maxEventBytes} are allowed as JSON`;
export const maxLabelLength = 128;

// Half of a surrogate pair is no character, but the rest of the text may matter: it is kept, with U+FFFD instead.
const label = z.string().max(maxLabelLength).transform(toUSVString);
const timestamp = z.union([
  z.int().min(0).max(0xffffffff),
  z.iso
    .datetime({ offset: true })
    .transform((text) => Math.floor(Date.parse(text) / 1000))
    .refine((seconds) => seconds >= 0 && seconds <= 0xffffffff),
]);
const threat = z.union([z.literal([0, 1]), z.boolean().transform((flag) => (flag ? 1 : 0))]);
const message = (error: string): { error: string } => ({ error });

/** What a client may send as JSON; everything is optional, but something must be there. */
const inputSchema = z.strictObject({
  event_id: z
    .string()
    .regex(/^[\w.:-]{1,128}$/, message("must be 1 to 128 of letters, digits, '.', '_', ':' and '-'"))
    .optional(),
  /** Accepted, so that stored events can be sent again, and ignored: the tenant is the token's. */
  tenant_id: z.string().optional(),
  event_timestamp: z
    .union([timestamp], message("must be unix seconds (0 to 4294967295) or ISO 8601 with a time zone"))
    .optional(),
  source_ip: z
    .string()
    .refine((ip) => ip === "" || isAddress(ip), message("must be an IPv4 or IPv6 address"))
    .optional(),
  source_type: label.optional(),
  raw_event: z.string().transform(toUSVString).optional(),
  event_category: label.optional(),
  event_outcome: z.enum(["success", "failure", "unknown"]).optional(),
  event_action: label.optional(),
  is_threat: z.union([threat], message("must be 0, 1, true or false")).optional(),
});

/** A JSON value that is no event: which field, and why. */
export class InvalidEvent extends Error {
  readonly field: string;
  constructor(field: string, why: string) {
    super(why);
    this.field = field;
  }
}

/** Why no event has a field of this name; undefined when one may. */
export function unknownField(name: string): string | undefined {
  if (name === "" || Object.hasOwn(inputSchema.shape, name)) return undefined;
  return `unknown field; allowed are ${Object.keys(inputSchema.shape).join(", ")}`;
}

/** An event from a JSON value; fields that are missing come from its `raw_event`, read as a log line. */
export function eventFromJson(value: unknown, tenant: TenantId, now: Date): SiemEvent {
  const result = inputSchema.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    if (issue.code === "unrecognized_keys") {
      const key = issue.keys[0]!;
      throw new InvalidEvent(key.slice(0, maxLabelLength) || '""', unknownField(key) ?? "has no name");
    }
    throw new InvalidEvent(issue.path.join(".") || "(event)", issue.message);
  }
  const given = result.data;
  if (Object.keys(given).length === 0) throw new InvalidEvent("(event)", "must have at least one field");
  // A repeat is known by its id and time, so both must be the same whenever it comes. What a UUIDv7 tells is the clock
  // that the line is read by, and the time of an event that has no other.
  const made = given.event_id === undefined ? undefined : timeOfUuidV7(given.event_id);
  const line = readLine(given.raw_event ?? "", made ?? now);
  const event_timestamp = given.event_timestamp ?? line.event_timestamp;
  if (given.event_id !== undefined && given.event_timestamp === undefined && !made && !line.isDated) {
    throw new InvalidEvent(
      "event_timestamp",
      "is missing: an event with an event_id needs a time that is the same when it is sent again; give event_timestamp, " +
        "a raw_event with a time of the last 5 years (with its year, or not ahead of now), or a UUID of version 7 as event_id",
    );
  }
  const { from, to } = acceptedTimes(now);
  if (event_timestamp < from || event_timestamp > to) {
    const [oldest, newest] = [from, to].map((at) => new Date(at * 1000).toISOString());
    throw new InvalidEvent(
      given.event_timestamp === undefined ? "event_id" : "event_timestamp",
      `is of ${new Date(event_timestamp * 1000).toISOString()}; events are taken from 5 years back to 1 day ahead, now ${oldest} to ${newest}`,
    );
  }
  // Only what the client left out is taken from the line; JSON without raw_event is its own raw event. Each field by
  // name: spreading costs more than reading the line.
  return limited({
    event_id: given.event_id ?? idAt(event_timestamp, now),
    tenant_id: tenant,
    event_timestamp,
    source_ip: given.source_ip ?? line.source_ip,
    source_type: given.source_type ?? line.source_type,
    raw_event: given.raw_event ?? JSON.stringify(value),
    event_category: given.event_category ?? line.event_category,
    event_outcome: given.event_outcome ?? line.event_outcome,
    event_action: given.event_action ?? line.event_action,
    is_threat: given.is_threat ?? 0,
  });
}

/** An event from one log line. */
export function eventFromLine(line: string, tenant: TenantId, now: Date): SiemEvent {
  const fields = readLine(line, now);
  return limited({
    event_id: idAt(fields.event_timestamp, now),
    tenant_id: tenant,
    event_timestamp: fields.event_timestamp,
    source_ip: fields.source_ip,
    source_type: fields.source_type,
    raw_event: line,
    event_category: fields.event_category,
    event_outcome: fields.event_outcome,
    event_action: fields.event_action,
    is_threat: 0,
  });
}

function readLine(line: string, clock: Date): LineFields {
  // Before it is parsed: what will be refused needs no work.
  if (line.length > maxEventBytes) throw tooLarge(`more than ${maxEventBytes}`);
  return parseLine(line, clock);
}

function limited(event: SiemEvent): SiemEvent {
  // A character takes at most six bytes of JSON and the other fields are short, so only long events are measured.
  if (event.raw_event.length < maxEventBytes / 8) return event;
  const bytes = Buffer.byteLength(JSON.stringify(event));
  if (bytes > maxEventBytes) throw tooLarge(bytes);
  return event;
}

function tooLarge(bytes: number | string): InvalidEvent {
  return new InvalidEvent("raw_event", `the event has ${bytes} bytes as JSON; ${sizeRule}`);
}

/** An id that tells the event's second, so that it is found without a search; the rest orders by arrival. */
function idAt(seconds: number, now: Date): string {
  return uuidV7(new Date(seconds * 1000 + now.getMilliseconds()));
}

/** The same id whenever the same event is found by the same rule, so that a repeated post is one alert. */
export function alertId(event: SiemEvent, rule: string): string {
  const hash = createHash("sha256")
    .update(JSON.stringify([event.tenant_id, event.event_id, rule]))
    .digest();
  hash[6] = (hash[6]! & 0x0f) | 0x80;
  hash[8] = (hash[8]! & 0x3f) | 0x80;
  return formatUuid(hash);
}
