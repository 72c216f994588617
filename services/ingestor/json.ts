// Cuts JSON into events before anything is parsed: JSON.parse keeps the last of two equal keys without a word, and
// builds whatever it is given, in one go, a million arrays in five megabytes too. Events are flat, so one pass over the
// bytes is enough, and each event is parsed by itself.

import { unknownField } from "./event.ts";

/** Something that events may not have, though it may be JSON. */
export class RefusedJson extends Error {
  /** The event's place in an array, from 1; 1 for a single one. */
  readonly place: number;
  readonly key: string;
  readonly what: "duplicate" | "nested" | "unknown" | "too_long" | "not_json";

  constructor(what: RefusedJson["what"], place: number, key = "") {
    super(what);
    this.what = what;
    this.place = place;
    this.key = key;
  }
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const colon = 0x3a;
const [openArray, closeArray, openObject, closeObject] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * An event's longest text. As it is stored, an event has at most 256 KiB (`maxEventBytes`); senders may write up to three
 * times as much for the same (`\u00e9` for é), and spaces.
 */
export const maxTextBytes = 1024 * 1024;

/**
 * The texts of the events of a JSON body, in their order: of an array's elements, or the body itself. What comes out
 * may still be no JSON: whoever parses it finds out. All of them are JSON exactly if the body is.
 * @throws {RefusedJson} where an event has a key twice, one that no event has, an array or an object, or is too long
 */
export function* eventTexts(body: Buffer): Generator<string> {
  const start = skipSpace(body, 0);
  if (start === body.length) return;
  if (body[start] !== openArray) {
    yield eventText(body, start, body.length, 1);
    return;
  }
  let from = skipSpace(body, start + 1);
  if (body[from] !== closeArray) {
    for (let place = 1; ; place++) {
      const end = endOfEvent(body, from, body.length, place, true);
      yield body.toString("utf8", from, end);
      if (end === body.length) throw new RefusedJson("not_json", place);
      from = end + 1;
      if (body[end] === closeArray) break;
    }
  } else from++;
  if (skipSpace(body, from) < body.length) throw new RefusedJson("not_json", 1);
}

/**
 * The text of the single event between two places.
 * @throws {RefusedJson} as {@link eventTexts} does, with the given place
 */
export function eventText(body: Buffer, from: number, to: number, place: number): string {
  return body.toString("utf8", from, endOfEvent(body, from, to, place, false));
}

/** Where the event that begins here ends: before its comma or bracket in an array, else at `to`. */
function endOfEvent(body: Buffer, start: number, to: number, place: number, inArray: boolean): number {
  const limit = Math.min(to, start + maxTextBytes + 1);
  const keys: string[] = [];
  let key = "";
  let inEvent = false;
  for (let at = start; at < limit; at++) {
    switch (body[at]) {
      case quote: {
        const end = endOfString(body, at, limit);
        // A string before a colon is a key. Between them there may be spaces only.
        if (inEvent && body[skipSpace(body, end + 1)] === colon) {
          key = keyOf(body.toString("utf8", at + 1, end));
          if (keys.includes(key)) throw new RefusedJson("duplicate", place, key);
          if (unknownField(key) !== undefined) throw new RefusedJson("unknown", place, key);
          keys.push(key);
        }
        at = end;
        break;
      }
      case openArray:
        throw new RefusedJson("nested", place, key);
      case openObject:
        if (inEvent) throw new RefusedJson("nested", place, key);
        inEvent = true;
        break;
      case closeObject:
        inEvent = false;
        break;
      case comma:
      case closeArray:
        if (inArray && !inEvent) return at;
        break;
      default:
    }
  }
  if (limit - start > maxTextBytes) throw new RefusedJson("too_long", place, key);
  return to;
}

/** Where the string that begins here ends: its second quote, or the limit. */
function endOfString(body: Buffer, start: number, limit: number): number {
  for (let at = start + 1; at < limit; at++) {
    const byte = body[at];
    if (byte === quote) return at;
    if (byte === backslash) at++;
  }
  return limit;
}

/** The first place that has no space. */
export function skipSpace(body: Buffer, from: number): number {
  let at = from;
  while (at < body.length) {
    const byte = body[at];
    if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) break;
    at++;
  }
  return at;
}

/** Two spellings of one key are one key. */
function keyOf(text: string): string {
  if (!text.includes("\\")) return text;
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch {
    return text;
  }
}
