// What an event is, and how one is made from what a client sent: JSON fields or a log line.

import { createHash, randomBytes } from "node:crypto";
import { toUSVString } from "node:util";
import { z } from "zod";
import type { TenantId } from "../common/auth.ts";
import { acceptedTimes, isAddress, parseLine } from "./logline.ts";
import type { Columns } from "./row.ts";

/** The columns of the events table, in its order. */
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

/** The events table, as its feed reads it. */
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
  tenant_id: z.unknown().optional(),
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

/** An event from a JSON value; fields that are missing come from its `raw_event`, read as a log line. */
export function eventFromJson(value: unknown, tenant: TenantId, now: Date): SiemEvent {
  const result = inputSchema.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    if (issue.code === "unrecognized_keys") {
      const allowed = Object.keys(inputSchema.shape).join(", ");
      throw new InvalidEvent(issue.keys[0]!, `unknown field; allowed are ${allowed}`);
    }
    throw new InvalidEvent(issue.path.join(".") || "(event)", issue.message);
  }
  const given = result.data;
  if (Object.keys(given).length === 0) throw new InvalidEvent("(event)", "must have at least one field");
  const { from, to } = acceptedTimes(now);
  if (given.event_timestamp !== undefined && (given.event_timestamp < from || given.event_timestamp > to)) {
    const [oldest, newest] = [from, to].map((at) => new Date(at * 1000).toISOString());
    throw new InvalidEvent(
      "event_timestamp",
      `is ${new Date(given.event_timestamp * 1000).toISOString()}; events are taken from 5 years back to 1 day ahead, now ${oldest} to ${newest}`,
    );
  }
  const line = given.raw_event ?? "";
  // Only what the client left out is taken from the line; JSON without raw_event is its own raw event.
  return limited({
    ...readLine(line, tenant, now),
    ...given,
    raw_event: given.raw_event ?? JSON.stringify(value),
    tenant_id: tenant,
  });
}

/** An event from one log line. */
export function eventFromLine(line: string, tenant: TenantId, now: Date): SiemEvent {
  return limited(readLine(line, tenant, now));
}

function readLine(line: string, tenant: TenantId, now: Date): SiemEvent {
  // Before it is parsed: what will be refused needs no work.
  if (line.length > maxEventBytes) throw tooLarge(line);
  return { event_id: uuidV7(now), tenant_id: tenant, raw_event: line, is_threat: 0, ...parseLine(line, now) };
}

function limited(event: SiemEvent): SiemEvent {
  // A character takes at most six bytes of JSON and the other fields are short, so only long events are measured.
  if (event.raw_event.length < maxEventBytes / 8) return event;
  if (Buffer.byteLength(JSON.stringify(event)) > maxEventBytes) throw tooLarge(event);
  return event;
}

function tooLarge(event: SiemEvent | string): InvalidEvent {
  const bytes = Buffer.byteLength(JSON.stringify(event));
  return new InvalidEvent(
    "raw_event",
    `the event has ${bytes} bytes as JSON; at most ${maxEventBytes} are allowed`,
  );
}

/** A UUID that sorts by time (RFC 9562, version 7). */
export function uuidV7(now: Date): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(now.getTime(), 0, 6);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return formatUuid(bytes);
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

function formatUuid(bytes: Buffer): string {
  return bytes.toString("hex", 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
