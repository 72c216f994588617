// Turns a posted body into events, or refuses all of it naming the first line and field that is wrong.

import type { TenantId } from "../common/auth.ts";
import { HttpError } from "../common/http.ts";
import { eventFromJson, eventFromLine, InvalidEvent, type SiemEvent } from "./event.ts";

const maxEvents = 10_000;
/** The media types `POST /v1/events` takes. */
export const mediaTypes = ["application/json", "application/x-ndjson", "text/plain"] as const;
export type MediaType = (typeof mediaTypes)[number];

/** All events of a body. `line` is the line of NDJSON and text, the place in an array, 1 for a single event. */
export function parseBody(type: MediaType, body: Buffer, tenant: TenantId, now: Date): SiemEvent[] {
  // Log lines may hold any bytes; JSON that isn't UTF-8 was damaged on its way.
  const text = decode(body, type !== "text/plain");
  const entries =
    type === "application/json"
      ? [parseJson(text, 1)].flat().map((value, index) => ({ line: index + 1, value }))
      : text
          .split(/\r?\n/)
          .map((value, index) => ({ line: index + 1, value }))
          .filter(({ value }) => value.trim() !== "");
  if (entries.length === 0)
    throw new HttpError(400, "empty_body", "the body has no event; send at least one");
  if (entries.length > maxEvents) {
    const message = `the body has ${entries.length} events; at most ${maxEvents} are allowed, split it into several posts`;
    throw new HttpError(413, "too_many_events", message);
  }
  return entries.map(({ line, value }) => {
    try {
      if (type === "text/plain") return eventFromLine(value as string, tenant, now);
      const json: unknown = type === "application/json" ? value : parseJson(value as string, line);
      return eventFromJson(json, tenant, now);
    } catch (error) {
      if (!(error instanceof InvalidEvent)) throw error;
      const { field, message } = error;
      throw new HttpError(400, "invalid_event", `line ${line}, field ${field}: ${message}`, { line, field });
    }
  });
}

function decode(body: Buffer, fatal: boolean): string {
  try {
    return new TextDecoder("utf-8", { fatal }).decode(body);
  } catch {
    throw new HttpError(400, "invalid_utf8", "the body is not UTF-8; send UTF-8, or log lines as text/plain");
  }
}

function parseJson(text: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HttpError(400, "invalid_json", `line ${line}: not JSON: ${(error as Error).message}`, { line });
  }
}
