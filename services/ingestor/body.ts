// Turns a posted body into events, or refuses all of it naming the first line and field that is wrong.

import type { TenantId } from "../common/auth.ts";
import { HttpError } from "../common/http.ts";
import { eventFromJson, eventFromLine, InvalidEvent, type SiemEvent, unknownField } from "./event.ts";
import { checkEvents, RefusedJson } from "./json.ts";

/** A post's events, at most. */
export const maxEvents = 10_000;
/** The media types `POST /v1/events` takes. */
export const mediaTypes = ["application/json", "application/x-ndjson", "text/plain"] as const;
export type MediaType = (typeof mediaTypes)[number];

/** All events of a body. `line` is the line of NDJSON and text, the place in an array, 1 for a single event. */
export function parseBody(type: MediaType, body: Buffer, tenant: TenantId, now: Date): SiemEvent[] {
  // Log lines may hold any bytes; JSON that isn't UTF-8 was damaged on its way.
  const text = decode(body, type !== "text/plain");
  const events: SiemEvent[] = [];
  const take = (line: number, make: () => SiemEvent): void => {
    if (events.length === maxEvents) throw tooMany();
    try {
      events.push(make());
    } catch (error) {
      if (!(error instanceof InvalidEvent)) throw error;
      const { field, message } = error;
      throw new HttpError(400, "invalid_event", `line ${line}, field ${field}: ${message}`, { line, field });
    }
  };
  if (type === "application/json") {
    const values = text.trim() === "" ? [] : [parseJson(text, 1, maxEvents)].flat();
    values.forEach((value, index) => take(index + 1, () => eventFromJson(value, tenant, now)));
  } else {
    for (const { number, line } of lines(text)) {
      const json = type === "text/plain" ? undefined : parseJson(line, number);
      take(number, () =>
        type === "text/plain" ? eventFromLine(line, tenant, now) : eventFromJson(json, tenant, now),
      );
    }
  }
  if (events.length === 0) throw new HttpError(400, "empty_body", "the body has no event; send at least one");
  return events;
}

/** The lines that aren't blank. One at a time: a body may be five million of the others. */
function* lines(text: string): Generator<{ readonly number: number; readonly line: string }> {
  for (let number = 1, from = 0; from <= text.length; number++) {
    const newline = text.indexOf("\n", from);
    const end = newline < 0 ? text.length : newline;
    const line = text.slice(from, text[end - 1] === "\r" && end > from ? end - 1 : end);
    if (line.trim() !== "") yield { number, line };
    from = end + 1;
  }
}

function decode(body: Buffer, fatal: boolean): string {
  try {
    return new TextDecoder("utf-8", { fatal }).decode(body);
  } catch {
    throw new HttpError(400, "invalid_utf8", "the body is not UTF-8; send UTF-8, or log lines as text/plain");
  }
}

/** With `most`, the value may be an array of so many events. */
function parseJson(text: string, line: number, most?: number): unknown {
  try {
    checkEvents(text, most);
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof RefusedJson) throw refusal(error, line);
    throw new HttpError(400, "invalid_json", `line ${line}: not JSON: ${(error as Error).message}`, { line });
  }
}

function refusal({ what, place, key }: RefusedJson, firstLine: number): HttpError {
  if (what === "too_many") return tooMany();
  const line = firstLine + place - 1;
  const field = key.slice(0, 128) || "(event)";
  const details = { line, field };
  if (what === "duplicate") {
    const message = `line ${line}: key ${field} occurs twice in the event; send it once`;
    return new HttpError(400, "duplicate_key", message, details);
  }
  const why = unknownField(key) ?? "is an array or an object; events are flat: text, numbers, true and false";
  return new HttpError(400, "invalid_event", `line ${line}, field ${field}: ${why}`, details);
}

function tooMany(): HttpError {
  const message = `the body has more than ${maxEvents} events; split it into several posts`;
  return new HttpError(413, "too_many_events", message);
}
