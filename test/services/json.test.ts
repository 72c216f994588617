import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { toTenantId } from "../../services/common/auth.ts";
import { parseBody } from "../../services/ingestor/body.ts";
import { eventTexts, maxTextBytes, RefusedJson } from "../../services/ingestor/json.ts";

const keys = ["event_id", "raw_event", "source_ip", "is_threat"] as const;
const parse = (text: string): unknown => JSON.parse(text);
/** What the body's events are, each parsed by itself; undefined if it is no JSON, or refused. */
function cut(text: string): unknown[] | undefined {
  try {
    return [...eventTexts(Buffer.from(text))].map(parse);
  } catch {
    return undefined;
  }
}

const space = fc.stringMatching(/^[ \n\r\t]{0,2}$/);
const value = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.stringMatching(/^[\\"{}[\],: ]{0,12}$/),
  fc.integer(),
  fc.boolean(),
  fc.constant(null),
);
const written = fc
  .tuple(space, value, space)
  .map(([before, it_, after]) => before + JSON.stringify(it_) + after);
/** One that any event may be. */
const event = fc
  .tuple(fc.uniqueArray(fc.constantFrom(...keys)), fc.array(written, { minLength: 4, maxLength: 4 }), space)
  .map(([names, values, gap]) => `{${gap}${names.map((name, n) => `"${name}"${gap}:${values[n]!}`).join()}}`);
const array = fc
  .tuple(fc.array(fc.oneof({ weight: 3, arbitrary: event }, written), { maxLength: 6 }), space)
  .map(([all, gap]) => `${gap}[${gap}${all.join(`${gap},${gap}`)}${gap}]${gap}`);

describe("the texts of events", () => {
  it("are, parsed one by one, what JSON.parse makes of the whole", () => {
    fc.assert(
      fc.property(fc.oneof(array, event), (text) => {
        expect(cut(text)).toEqual([parse(text)].flat());
      }),
      { numRuns: 500 },
    );
  });

  it("are all JSON only if the whole is", () => {
    const change = fc.tuple(fc.nat(), fc.nat(3), fc.stringMatching(/^["\\[\]{},:1 ]{0,3}$/));
    fc.assert(
      fc.property(array, change, (text, [at, length, instead]) => {
        const place = at % (text.length + 1);
        // A pair of surrogates may have been cut in two.
        const changed = Buffer.from(text.slice(0, place) + instead + text.slice(place + length)).toString();
        const events = cut(changed);
        // What has a key twice, or an array in an event, is refused though it is JSON.
        if (events !== undefined)
          expect(events).toEqual(changed.trim() === "" ? [] : [parse(changed)].flat());
      }),
      { numRuns: 3000 },
    );
  });

  it("are refused at the first key that no event has, before there are many", () => {
    const many = Array.from({ length: 100_000 }, (_, n) => `"k${n}":1`).join();
    expect(() => cutOrThrow(`{"raw_event":"a",${many}}`)).toThrow(new RefusedJson("unknown", 1, "k0"));
  });

  it("have a longest one, wherever it ends", async () => {
    const now = new Date("2031-03-05T12:00:00Z");
    const longest = `{"raw_event":"a"${" ".repeat(maxTextBytes - 17)}}`;
    for (const [type, body] of [
      ["application/json", longest],
      ["application/json", `[{"raw_event":"b"},${longest}]`],
      ["application/x-ndjson", `${longest}\n`],
    ] as const) {
      const read = (text: string) =>
        parseBody(type, Buffer.from(text), toTenantId("acme"), now, () => undefined);
      expect((await read(body)).at(-1)!.raw_event).toBe("a");
      await expect(read(body.replace('"a"', '"a" '))).rejects.toMatchObject({
        code: "invalid_event",
        details: { line: body.startsWith("[") ? 2 : 1 },
      });
    }
  });
});

function cutOrThrow(text: string): string[] {
  return [...eventTexts(Buffer.from(text))];
}
