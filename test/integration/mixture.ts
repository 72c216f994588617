// Random posts, good and bad, as careful and as careless clients send them, and what must become of each.

import fc from "fast-check";
import { type Answer, type Post } from "../../ops/ledger.ts";

/** One post, and what it must be answered with. */
export interface Mixed extends Post {
  /** Ids of its events, chosen by the sender; in plain lines they stand in the text instead. */
  readonly ids: readonly string[];
  /** The sender chose them, so a repetition is the same event. */
  readonly named: boolean;
  readonly expected: {
    readonly status: number;
    /** Line of the first bad event. */
    readonly line?: number;
  };
}

let count = 0;
const run = Date.now().toString(36);
/** No two are ever the same, in any run. */
const freshId = (): string => `mix-${run}-${(count++).toString(36)}`;

const text = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 60 }),
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.constantFrom("'; DROP TABLE dev.events_replicated; --", "%_%", "\\'\"\u0000\u0007\t", "{}", "null"),
);

/** Fields of a good event, without its id. */
const good = fc.record(
  {
    raw_event: text.map((value) => `r${value}`),
    event_timestamp: fc.integer({ min: 1, max: 3000 }).map((ago) => Math.floor(Date.now() / 1000) - ago),
    source_ip: fc.constantFrom("192.0.2.1", "2001:db8::7", ""),
    source_type: text,
    event_category: text,
    event_action: text,
    is_threat: fc.constantFrom(0, 1, true, false),
    // Taken by the ingestor, and without any meaning: the tenant is the token's.
    tenant_id: fc.constantFrom("somebody-else", "siem-ha-probe"),
  },
  { requiredKeys: ["raw_event", "event_timestamp"] },
);

/** What makes an event bad. */
const flaw: fc.Arbitrary<Record<string, unknown>> = fc.constantFrom<Record<string, unknown>>(
  { unknown_field: 1 },
  { tenant_id: { deep: [[[1]]] } },
  { source_ip: "not an address" },
  { event_timestamp: 4_294_967_296 },
  { event_timestamp: Math.floor(Date.now() / 1000) + 3 * 86_400 },
  { event_timestamp: -1 },
  // Who names an event must fix its time.
  { event_timestamp: undefined },
  { event_timestamp: "yesterday" },
  { raw_event: 7 },
  { event_id: "has a space" },
  { event_id: "" },
  { is_threat: 2 },
  { event_outcome: "maybe" },
  { source_type: "x".repeat(129) },
);

const batch = fc
  .record({
    events: fc.array(good, { minLength: 1, maxLength: 12 }),
    /** Which one is bad, if any. */
    bad: fc.option(fc.tuple(fc.nat(), flaw), { freq: 2 }),
    lines: fc.boolean(),
  })
  .map(({ events, bad, lines }): Mixed => {
    const named: Record<string, unknown>[] = events.map((event) => ({ event_id: freshId(), ...event }));
    const ids = named.map((event) => event["event_id"] as string);
    const at = bad === null ? -1 : bad[0] % named.length;
    if (bad !== null) named[at] = { ...named[at], ...bad[1] };
    return {
      type: lines ? "application/x-ndjson" : "application/json",
      body: lines ? named.map((event) => JSON.stringify(event)).join("\n") : JSON.stringify(named),
      ids,
      named: true,
      expected: bad === null ? { status: 202 } : { status: 400, line: at + 1 },
    };
  });

const plainLines = fc.array(text, { minLength: 1, maxLength: 8 }).map((lines): Mixed => {
  const ids = lines.map(freshId);
  const body = lines.map((line, index) => `${ids[index]} ${line.replace(/[\r\n]/g, " ")}`).join("\n");
  return { type: "text/plain", body, ids, named: false, expected: { status: 202 } };
});

const broken = fc
  .constantFrom<readonly [Post["type"], string | Uint8Array<ArrayBuffer>, number]>(
    ["application/json", '{"event_id": "mix-cut', 400],
    ["application/json", "", 400],
    ["application/json", "[]", 400],
    ["application/json", "7", 400],
    ["application/json", '{"raw_event":"a","raw_event":"b"}', 400],
    ["application/json", "[".repeat(100_000), 400],
    ["application/json", Uint8Array.of(0x22, 0xff, 0x22), 400],
    ["application/x-ndjson", '{"raw_event":"x"}\n{', 400],
    ["text/plain", "\n\n", 400],
    ["text/plain", "y".repeat(300_000), 400],
    ["application/json", " ".repeat(6 * 1024 * 1024), 413],
  )
  .map(([type, body, status]): Mixed => ({ type, body, ids: [], named: true, expected: { status } }));

/** A few posts in a row. */
export const mixtures = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: batch },
    { weight: 2, arbitrary: plainLines },
    { weight: 1, arbitrary: broken },
  ),
  { minLength: 1, maxLength: 4 },
);

/** Throws when the answer isn't the one that this post must have. */
export function judge(mixed: Mixed, answer: Answer): void {
  const { status, line } = mixed.expected;
  const said = JSON.stringify({ expected: mixed.expected, answer, body: mixed.body.slice(0, 300) });
  if (answer.status !== status) throw new Error(`another answer: ${said}`);
  const parsed = JSON.parse(answer.text) as { line?: number; ids?: string[] };
  if (line !== undefined && parsed.line !== line) throw new Error(`another line: ${said}`);
  if (status === 202 && parsed.ids?.length !== mixed.ids.length) throw new Error(`other ids: ${said}`);
  if (status === 202 && mixed.named && parsed.ids?.join() !== mixed.ids.join()) {
    throw new Error(`other ids: ${said}`);
  }
}
