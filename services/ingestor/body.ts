// Turns a posted body into events, or refuses all of it naming the first line and field that is wrong.

import { isUtf8 } from "node:buffer";
import type { TenantId } from "../common/auth.ts";
import { HttpError } from "../common/http.ts";
import type { Pause } from "../common/loop-share.ts";
import {
  eventFromJson,
  eventFromLine,
  InvalidEvent,
  sizeRule,
  type SiemEvent,
  unknownField,
} from "./event.ts";
import { eventText, eventTexts, maxTextBytes, RefusedJson } from "./json.ts";

/** A post's events, at most. */
export const maxEvents = 10_000;
/** The media types `POST /v1/events` takes. */
export const mediaTypes = ["application/json", "application/x-ndjson", "text/plain"] as const;
export type MediaType = (typeof mediaTypes)[number];

/**
 * All events of a body. `line` is the line of NDJSON and text, the place in an array, 1 for a single event.
 * @param pause asked after each event
 */
export async function parseBody(
  type: MediaType,
  whole: Buffer,
  tenant: TenantId,
  now: Date,
  pause: Pause,
): Promise<SiemEvent[]> {
  const events: SiemEvent[] = [];
  const take = (line: number, make: () => SiemEvent): Promise<void> | undefined => {
    if (events.length === maxEvents) throw tooMany();
    try {
      events.push(make());
    } catch (error) {
      throw error instanceof InvalidEvent ? invalidEvent(line, error.field, error.message) : error;
    }
    return pause();
  };
  const takeJson = (line: number, text: string): Promise<void> | undefined =>
    take(line, () => eventFromJson(parseJson(text, line), tenant, now));
  const body = whole.subarray(0, 3).equals(byteOrderMark) ? whole.subarray(3) : whole;
  // Log lines may hold any bytes; JSON that isn't UTF-8 was damaged on its way.
  if (type !== "text/plain" && !isUtf8(body)) {
    throw new HttpError(400, "invalid_utf8", "the body is not UTF-8; send UTF-8, or log lines as text/plain");
  }
  try {
    if (type === "application/json") {
      let place = 0;
      for (const text of eventTexts(body)) await takeJson(++place, text);
    } else {
      for (const { number, from, to } of lines(body)) {
        // What is longer than that is refused without its end, too.
        const line = body.toString("utf8", from, Math.min(to, from + maxTextBytes));
        if (line.trim() !== "") {
          await (type === "text/plain"
            ? take(number, () => eventFromLine(line, tenant, now))
            : takeJson(number, eventText(body, from, to, number)));
        } else if (number % 256 === 0) await pause();
      }
    }
  } catch (error) {
    throw error instanceof RefusedJson ? refusal(error) : error;
  }
  if (events.length === 0) throw new HttpError(400, "empty_body", "the body has no event; send at least one");
  return events;
}

const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);
const [newline, carriageReturn] = [0x0a, 0x0d];

/** Where the lines are. One at a time: they may be millions. */
function* lines(
  body: Buffer,
): Generator<{ readonly number: number; readonly from: number; readonly to: number }> {
  for (let number = 1, from = 0; from < body.length; number++) {
    const found = body.indexOf(newline, from);
    const end = found < 0 ? body.length : found;
    yield { number, from, to: end > from && body[end - 1] === carriageReturn ? end - 1 : end };
    from = end + 1;
  }
}
function parseJson(text: string, line: number): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw notJson(line, (error as Error).message);
  }
}

function refusal({ what, place, key }: RefusedJson): HttpError {
  const field = key.slice(0, 128) || "(event)";
  switch (what) {
    case "not_json":
      return notJson(place, "the array has no end, or something follows it");
    case "duplicate": {
      const message = `line ${place}: key ${field} occurs twice in the event; send it once`;
      return new HttpError(400, "duplicate_key", message, { line: place, field });
    }
    case "too_long":
      return invalidEvent(place, field, `the event has more than ${maxTextBytes} bytes; ${sizeRule}`);
    default: {
      const flat = "is an array or an object; events are flat: text, numbers, true and false";
      return invalidEvent(place, field, unknownField(key) ?? flat);
    }
  }
}

function notJson(line: number, why: string): HttpError {
  return new HttpError(400, "invalid_json", `line ${line}: not JSON: ${why}`, { line });
}

function invalidEvent(line: number, field: string, why: string): HttpError {
  return new HttpError(400, "invalid_event", `line ${line}, field ${field}: ${why}`, { line, field });
}

function tooMany(): HttpError {
  const message = `the body has more than ${maxEvents} events; split it into several posts`;
  return new HttpError(413, "too_many_events", message);
}
