// The ingestor over HTTP with a producer that the test controls: who may post, what is refused, when 202 comes.

import fc from "fast-check";
import { SignJWT, UnsecuredJWT } from "jose";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { toTenantId } from "../../services/common/auth.ts";
import { createIngestor } from "../../services/ingestor/app.ts";
import type { Message } from "../../services/ingestor/batch.ts";
import { eventFromJson, InvalidEvent } from "../../services/ingestor/event.ts";
import { uuidV7 } from "../../services/common/uuid.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import { mintToken } from "../../services/token.ts";

const secret = "0123456789abcdef0123456789abcdef";
const key = new TextEncoder().encode(secret);
const token = (scope = "events:write", tenantId = "acme", ttlSeconds = 60): Promise<string> =>
  mintToken({ secret, tenantId, scope, ttlSeconds, subject: "test" });

const calls: Message[][] = [];
let publish: (messages: readonly Message[]) => Promise<void>;
let connected = true;
const lifecycle = { draining: false, refusing: false };
const publisher = {
  get connected() {
    return connected;
  },
  publish: (messages: readonly Message[]) => {
    calls.push([...messages]);
    return publish(messages);
  },
};
const feed = { stands: false, retentionHours: 168 };
const rules = parseRules();
const pipeline = new Pipeline({
  publisher,
  feed,
  rules,
  eventsTopic: "ingest-events",
  alertsTopic: "alerts",
});
const present = Date.parse("2031-03-05T12:00:00.123Z");
let time = present;
const app = createIngestor({
  pipeline,
  keys: { current: key },
  lifecycle,
  quiet: true,
  now: () => new Date(time),
});

beforeEach(() => {
  calls.length = 0;
  publish = () => Promise.resolve();
  connected = true;
  feed.stands = false;
  lifecycle.draining = false;
  lifecycle.refusing = false;
  time = present;
});

async function post(
  payload: string | Buffer,
  type = "application/json",
  headers: Record<string, string> = {},
) {
  const authorization = `Bearer ${await token()}`;
  return app.inject({
    method: "POST",
    url: "/v1/events",
    payload,
    headers: { authorization, "content-type": type, ...headers },
  });
}
const sent = (topic = "ingest-events"): Record<string, unknown>[] =>
  calls
    .flat()
    .filter((message) => message.topic === topic)
    .map((message) => JSON.parse(message.value) as Record<string, unknown>);

describe("who may post", () => {
  const claims = { tenant_id: "acme", scope: "events:write" };
  const sign = (payload: object, algorithm = "HS256", expires: number | string = "1m"): Promise<string> =>
    new SignJWT({ ...payload }).setProtectedHeader({ alg: algorithm }).setExpirationTime(expires).sign(key);
  const tokens: [string, () => string | Promise<string>, number][] = [
    ["none", () => "", 401],
    ["garbage", () => "Bearer abc", 401],
    ["alg none", () => `Bearer ${new UnsecuredJWT(claims).setExpirationTime("1m").encode()}`, 401],
    ["another algorithm", async () => `Bearer ${await sign(claims, "HS384")}`, 401],
    ["expired", async () => `Bearer ${await sign(claims, "HS256", 1)}`, 401],
    [
      "no exp",
      async () => `Bearer ${await new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(key)}`,
      401,
    ],
    ["no tenant", async () => `Bearer ${await sign({ scope: "events:write" })}`, 401],
    [
      "a tenant that is no name",
      async () => `Bearer ${await sign({ ...claims, tenant_id: "a' OR 1" })}`,
      401,
    ],
    ["no scope", async () => `Bearer ${await sign({ tenant_id: "acme" })}`, 401],
    ["another scope", async () => `Bearer ${await token("events:read events:writer")}`, 403],
    [
      "another secret",
      async () =>
        `Bearer ${await mintToken({ secret: secret.toUpperCase(), tenantId: "acme", scope: "events:write", ttlSeconds: 60, subject: "x" })}`,
      401,
    ],
    ["several scopes", async () => `Bearer ${await token("events:read events:write")}`, 202],
  ];
  it.each(tokens)("%s", async (_name, make, status) => {
    const response = await post(`{"raw_event":"x"}`, "application/json", { authorization: await make() });
    expect(response.statusCode).toBe(status);
    expect(calls).toHaveLength(status === 202 ? 1 : 0);
  });

  it("refuses to mint with a short secret", async () => {
    await expect(
      mintToken({ secret: "short", tenantId: "a", scope: "", ttlSeconds: 1, subject: "" }),
    ).rejects.toThrow("32");
  });
});

describe("bodies", () => {
  it("takes one JSON event; what it says wins, the rest is read from raw_event", async () => {
    const raw_event = "Mar  5 11:00:00 host sshd[1]: Failed password for root from 192.0.2.7 port 1 ssh2";
    const response = await post(
      JSON.stringify({ event_id: "e1", raw_event, event_action: "mine", tenant_id: "other" }),
    );
    expect(response.statusCode).toBe(202);
    expect(response.json()).toEqual({ accepted: 1, ids: ["e1"] });
    expect(sent()).toEqual([
      {
        event_id: "e1",
        tenant_id: "acme",
        event_timestamp: Date.parse("2031-03-05T11:00:00Z") / 1000,
        source_ip: "192.0.2.7",
        source_type: "sshd",
        raw_event,
        event_category: "authentication",
        event_outcome: "failure",
        event_action: "mine",
        is_threat: 0,
      },
    ]);
    expect(calls[0]![0]!.key).toBe("e1");
  });

  it("takes an array, NDJSON and log lines", async () => {
    expect((await post(`[{"raw_event":"a"},{"raw_event":"b"}]`)).json()).toMatchObject({ accepted: 2 });
    const ndjson = `{"raw_event":"c"}\n\n{"event_timestamp":"2031-01-01T00:00:00Z","source_ip":"::1"}\r\n`;
    expect((await post(ndjson, "application/x-ndjson; charset=utf-8")).json()).toMatchObject({ accepted: 2 });
    expect((await post(Buffer.from("d \xff\n\ne\n", "latin1"), "text/plain")).json()).toMatchObject({
      accepted: 2,
    });
    const raw = sent().map((event) => event["raw_event"]);
    expect(raw).toEqual([
      "a",
      "b",
      "c",
      `{"event_timestamp":"2031-01-01T00:00:00Z","source_ip":"::1"}`,
      "d \ufffd",
      "e",
    ]);
    const ids = new Set(sent().map((event) => event["event_id"]));
    expect(ids.size).toBe(6);
    for (const id of ids)
      expect(id).toMatch(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
  });

  it("writes threats to the alerts too, with an id that a repeated post keeps", async () => {
    const event = JSON.stringify({
      event_id: "e1",
      raw_event: "Mar  5 11:00:00 h sshd[1]: Invalid user eve from 192.0.2.7",
    });
    await post(event);
    await post(event);
    expect(sent()[0]).toMatchObject({ event_id: "e1", is_threat: 1 });
    const [first, second] = sent("alerts");
    expect(first).toEqual(second);
    expect(first).toEqual({
      alert_id: expect.stringMatching(/^[\da-f-]{36}$/) as string,
      tenant_id: "acme",
      event_id: "e1",
      event_timestamp: Date.parse("2031-03-05T11:00:00Z") / 1000,
      source_ip: "192.0.2.7",
      rule: "sshd-invalid-user",
      severity: "medium",
      summary: "login attempt for a user that does not exist",
    });
  });

  it.each([
    ["", "application/json", 400, {}],
    ["{", "application/json", 400, { error: "invalid_json", line: 1 }],
    ["[]", "application/json", 400, { error: "empty_body" }],
    ["\n \n", "text/plain", 400, { error: "empty_body" }],
    ["{}", "application/json", 400, { line: 1 }],
    ["7", "application/json", 400, { line: 1 }],
    [`[{"raw_event":"a"},{"raw_event":"b","color":1}]`, "application/json", 400, { line: 2, field: "color" }],
    [
      `{"raw_event":"a"}\n\n{"source_ip":"10.0.0.256"}`,
      "application/x-ndjson",
      400,
      { line: 3, field: "source_ip" },
    ],
    [`{"raw_event":"a"}\n{"raw_event":`, "application/x-ndjson", 400, { error: "invalid_json", line: 2 }],
    [`{"event_timestamp":-1}`, "application/json", 400, { field: "event_timestamp" }],
    [`{"event_timestamp":0}`, "application/json", 400, { line: 1, field: "event_timestamp" }],
    [
      `[{"raw_event":"a"},{"event_timestamp":"2026-02-01T00:00:00Z"}]`,
      "application/json",
      400,
      { line: 2, field: "event_timestamp" },
    ],
    [
      `{"raw_event":"a"}\n{"event_timestamp":"2031-03-06T12:00:01Z"}`,
      "application/x-ndjson",
      400,
      { line: 2, field: "event_timestamp" },
    ],
    [`{"event_timestamp":4294967296}`, "application/json", 400, { field: "event_timestamp" }],
    [`{"event_id":"a b"}`, "application/json", 400, { field: "event_id" }],
    [
      JSON.stringify({ raw_event: "x", source_ip: `fe80::1%${"a".repeat(300_000)}` }),
      "application/json",
      400,
      { field: "source_ip" },
    ],
    [`{"is_threat":2}`, "application/json", 400, { field: "is_threat" }],
    [`{"__proto__":{}}`, "application/json", 400, { field: "__proto__" }],
    [Buffer.from(`{"raw_event":"\xff"}`, "latin1"), "application/json", 400, { error: "invalid_utf8" }],
    [
      JSON.stringify({ raw_event: "x".repeat(300_000) }),
      "application/json",
      400,
      { line: 1, field: "raw_event" },
    ],
    ["x".repeat(300_000), "text/plain", 400, { line: 1, field: "raw_event" }],
    ["\0".repeat(50_000), "text/plain", 400, { line: 1, field: "raw_event" }],
    ["x\n".repeat(10_001), "text/plain", 413, { error: "too_many_events" }],
    ["x".repeat(5 * 1024 * 1024 + 1), "text/plain", 413, {}],
    ["<a/>", "application/xml", 415, {}],
    ["x", "application/octet-stream", 415, {}],
  ])("refuses body %# as %2$s", async (body, type, status, answer) => {
    const response = await post(body, type);
    expect({ status: response.statusCode, body: response.json<object>() }).toMatchObject({
      status,
      body: answer,
    });
    expect(calls).toHaveLength(0);
  });

  it("looks at a line that is too long only to refuse it", async () => {
    const exec = vi.spyOn(RegExp.prototype, "exec");
    try {
      const line = `Mar  5 11:00:00 h sshd[1]: Disconnected from ${"a ".repeat(200_000)}`;
      expect((await post(`x\n${line}`, "text/plain")).statusCode).toBe(400);
      expect((await post(JSON.stringify({ raw_event: line }))).statusCode).toBe(400);
      expect(exec.mock.calls.some(([text]) => text === "x")).toBe(true);
      expect(exec.mock.calls.some(([text]) => text === line)).toBe(false);
    } finally {
      exec.mockRestore();
    }
  });

  it("refuses compressed bodies", async () => {
    expect((await post("x", "text/plain", { "content-encoding": "gzip" })).statusCode).toBe(415);
  });
});

describe("what reaches Kafka", () => {
  const text = String.raw`"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[\da-fA-F]{4})*"`;
  /** JSONEachRow as ClickHouse 18 to 24 read it: these columns and no other, and no escaped half of a character. */
  const row = (columns: Record<string, string>): RegExp =>
    new RegExp(
      `^\\{${Object.entries(columns)
        .map(([name, value]) => `"${name}":${value}`)
        .join(",")}\\}$`,
    );
  const eventRow = row({
    event_id: text,
    tenant_id: text,
    event_timestamp: "\\d{10}",
    source_ip: text,
    source_type: text,
    raw_event: text,
    event_category: text,
    event_outcome: text,
    event_action: text,
    is_threat: "[01]",
  });
  const alertRow = row({
    alert_id: text,
    tenant_id: text,
    event_id: text,
    event_timestamp: "\\d{10}",
    source_ip: text,
    rule: text,
    severity: text,
    summary: text,
  });

  it("keeps an event with half of a surrogate pair, with U+FFFD for it", async () => {
    const halves = String.raw`{"raw_event":"a\ud800b","source_type":"\udc00","event_category":"\ud83d\ude00","event_action":"x\ud83d"}`;
    expect((await post(halves)).statusCode).toBe(202);
    expect(sent()).toMatchObject([
      { raw_event: "a\ufffdb", source_type: "\ufffd", event_category: "\u{1f600}", event_action: "x\ufffd" },
    ]);
    expect(calls[0]![0]!.value).not.toMatch(/\\u/);
  });

  it("is always a row that the feed can read, whatever is accepted", async () => {
    const nasty = fc.string({
      unit: fc.constantFrom(
        ...[
          "a",
          "\ud800",
          "\udbff",
          "\udc00",
          "\u{1f600}",
          "\0",
          "\x1f",
          "\x7f",
          "\u2028",
          "\\",
          '"',
          "/",
          "\n",
        ],
        ..."é{},:[]",
        "sshd[1]: ",
        "Mar  5 11:00:00 h ",
        "Invalid user ",
        " from 192.0.2.7",
      ),
      maxLength: 20,
    });
    const value = fc.oneof(nasty, fc.double(), fc.integer(), fc.boolean(), fc.constant(null));
    const now = Date.parse("2031-03-05T12:00:00Z") / 1000;
    const event = fc.record(
      {
        event_id: fc.oneof(fc.stringMatching(/^[\w.:-]{1,8}$/), value),
        tenant_id: nasty,
        event_timestamp: fc.oneof(
          fc.integer({ min: now - 9e7, max: now }),
          fc.constantFrom("2031-03-05T11:00:00.5+02:00", -0, 1e10, 2 ** 32, now + 0.5),
        ),
        source_ip: fc.oneof(fc.ipV4(), fc.ipV6(), fc.constant("fe80::1%eth0"), nasty),
        source_type: nasty,
        raw_event: nasty,
        event_category: nasty,
        event_outcome: fc.constantFrom("success", "failure", "unknown", "\ud800"),
        event_action: nasty,
        is_threat: fc.constantFrom(0, 1, true, false, 2, "1"),
      },
      { requiredKeys: [] },
    );
    const authorization = `Bearer ${await token()}`;
    const accepted = { events: 0, alerts: 0 };
    const check = async (payload: string, type: string) => {
      calls.length = 0;
      const headers = { authorization, "content-type": type };
      const response = await app.inject({ method: "POST", url: "/v1/events", payload, headers });
      expect(response.statusCode).toBeLessThan(500);
      for (const { topic, value } of calls.flat()) {
        expect(value).toMatch(topic === "alerts" ? alertRow : eventRow);
        expect(Buffer.from(value).toString()).toBe(value);
        accepted[topic === "alerts" ? "alerts" : "events"]++;
      }
    };
    await fc.assert(
      fc.asyncProperty(event, (given) => check(JSON.stringify(given), "application/json")),
      { numRuns: 1000 },
    );
    await fc.assert(
      fc.asyncProperty(nasty, (line) => check(line, "text/plain")),
      { numRuns: 500 },
    );
    expect(accepted.events).toBeGreaterThan(300);
    expect(accepted.alerts).toBeGreaterThan(20);
  });
});

describe("an event's identity", () => {
  const seconds = (iso: string): number => Date.parse(iso) / 1000;
  const uuid = (iso: string): string => uuidV7(new Date(iso));
  const one = async (event: object): Promise<Record<string, unknown>> => {
    calls.length = 0;
    const response = await post(JSON.stringify(event));
    expect(response.statusCode).toBe(202);
    return sent()[0]!;
  };
  /** The milliseconds that a UUID of version 7 tells. */
  const told = (id: unknown): number => Number.parseInt(String(id).replaceAll("-", "").slice(0, 12), 16);

  it("has an id that tells the event's second and the arrival's milliseconds", async () => {
    const given = await one({ event_timestamp: "2030-07-01T10:00:00Z" });
    expect(told(given["event_id"])).toBe(Date.parse("2030-07-01T10:00:00.123Z"));
    const line = await one({ raw_event: "Mar  5 11:00:00 host app: x" });
    expect(told(line["event_id"])).toBe(Date.parse("2031-03-05T11:00:00.123Z"));
    expect(told((await one({ raw_event: "x" }))["event_id"])).toBe(present);
    await post("Mar  4 11:00:00 host app: x", "text/plain");
    expect(told(sent().at(-1)!["event_id"])).toBe(Date.parse("2031-03-04T11:00:00.123Z"));
  });

  it.each([
    ["no id", { raw_event: "x" }, "2031-03-05T12:00:00Z"],
    [
      "no id, and a time too old in its line",
      { raw_event: "1999-03-05T11:00:00Z h a: x" },
      "2031-03-05T12:00:00Z",
    ],
    ["a time", { event_id: "a", event_timestamp: 1930000000 }, "2031-02-27T23:06:40Z"],
    [
      "a time, and an id of another",
      { event_id: uuid("2020-03-01T00:00:00Z"), event_timestamp: 1930000000 },
      "2031-02-27T23:06:40Z",
    ],
    ["a line's time", { event_id: "a", raw_event: "Mar  5 11:00:00 h a: x" }, "2031-03-05T11:00:00Z"],
    ["an id with a time", { event_id: uuid("2031-03-01T00:00:00Z"), raw_event: "x" }, "2031-03-01T00:00:00Z"],
    [
      "that id in capitals",
      { event_id: uuid("2031-03-01T00:00:00Z").toUpperCase(), raw_event: "x" },
      "2031-03-01T00:00:00Z",
    ],
    [
      "that id and a line's time",
      { event_id: uuid("2031-03-01T00:00:00Z"), raw_event: "2031-02-01T00:00:00Z h a: x" },
      "2031-02-01T00:00:00Z",
    ],
    [
      "the year from the id",
      { event_id: uuid("2030-03-01T00:00:00Z"), raw_event: "Mar  4 11:00:00 h a: x" },
      "2029-03-04T11:00:00Z",
    ],
    [
      "an id whose line is older than events may be",
      { event_id: uuid("2031-03-01T00:00:00Z"), raw_event: "1999-03-05T11:00:00Z h a: x" },
      "2031-03-01T00:00:00Z",
    ],
  ])("with %s", async (_name, event, time) => {
    expect(await one(event)).toMatchObject({ event_timestamp: seconds(time) });
  });

  it.each([
    ["an id alone", { event_id: "a", raw_event: "x" }, "event_timestamp"],
    ["an id of another version", { event_id: "01a1ffaf-3906-462f-ae17-4b978e4e4218" }, "event_timestamp"],
    ["a line's time too old", { event_id: "a", raw_event: "1999-03-05T11:00:00Z h a: x" }, "event_timestamp"],
    ["a line's time too new", { event_id: "a", raw_event: "2031-03-07T00:00:00Z h a: x" }, "event_timestamp"],
    [
      "a line without a year, of a clock that runs ahead",
      { event_id: "a", raw_event: "Mar  7 11:00:00 h a: x" },
      "event_timestamp",
    ],
    ["an id with a time too old", { event_id: uuid("2020-03-01T00:00:00Z"), raw_event: "x" }, "event_id"],
    ["an id with a time too new", { event_id: uuid("2031-03-07T00:00:00Z"), raw_event: "x" }, "event_id"],
    ["an id with a time as no event has", { event_id: "ffffffff-ffff-7abc-8abc-0123456789ab" }, "event_id"],
  ])("with %s is refused, and the answer says what is missing", async (_name, event, field) => {
    const response = await post(JSON.stringify([{ raw_event: "x" }, event]));
    expect(response.statusCode).toBe(400);
    expect(response.json()).toMatchObject({ error: "invalid_event", line: 2, field });
    expect(response.json<Record<string, string>>()["message"]).toMatch(
      /event_timestamp, .* UUID of version 7|5 years/,
    );
    expect(calls).toEqual([]);
  });

  it("is the same for a repeat, whenever it comes, or the repeat is refused", () => {
    const at = fc.date({
      min: new Date("2030-01-01T00:00:00Z"),
      max: new Date("2031-03-05T00:00:00Z"),
      noInvalidDate: true,
    });
    const day = 86_400_000;
    const around = (ms: number, before: number, after: number) =>
      fc.date({ min: new Date(ms - before), max: new Date(ms + after), noInvalidDate: true });
    /** Both ends of the times that events may have. */
    const end = fc.oneof(
      around(present + day, 0.5 * day, 0.5 * day),
      around(present + day, day, 3 * day),
      around(present - 5 * 366 * day, 90 * day, 90 * day),
    );
    const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const stamp = (date: Date): string =>
      `${months[date.getUTCMonth()]} ${String(date.getUTCDate()).padStart(2)} ${date.toISOString().slice(11, 19)}`;
    const anyDay = fc.date({
      min: new Date("2030-01-01T00:00:00Z"),
      max: new Date("2030-12-31T23:59:59Z"),
      noInvalidDate: true,
    });
    const id = fc.oneof(
      fc.stringMatching(/^[\w.:-]{1,8}$/),
      at.map((date) => uuidV7(date)),
      end.map((date) => uuidV7(date)),
    );
    const line = fc.oneof(
      fc.string({ maxLength: 10 }),
      at.map((date) => `<13>1 ${date.toISOString()} h a - - - x`),
      end.map((date) => `<13>1 ${date.toISOString()} h a - - - x`),
      anyDay.map((date) => `${stamp(date)} h a: x`),
    );
    const event = fc.tuple(id, line, fc.boolean(), at).map(([event_id, raw_event, hasTime, date]) => ({
      event_id,
      raw_event,
      ...(hasTime ? { event_timestamp: Math.floor(date.getTime() / 1000) } : {}),
    }));
    // Whole seconds: most doubles are next to nothing.
    const days = fc.integer({ min: 0, max: 59 * 86_400 }).map((count) => count / 86_400);
    const seen = { same: 0, refused: 0, refusedLater: 0, takenLater: 0 };
    fc.assert(
      fc.property(event, days, (given, later) => {
        const [first, second] = [present, present + later * day].map((arrival) => {
          try {
            const made = eventFromJson(given, toTenantId("acme"), new Date(arrival));
            return [made.tenant_id, made.event_timestamp, made.event_id];
          } catch (error) {
            if (!(error instanceof InvalidEvent)) throw error;
            return undefined;
          }
        });
        if (first && second) {
          expect(second).toEqual(first);
          seen.same++;
        } else seen[first ? "refusedLater" : second ? "takenLater" : "refused"]++;
      }),
      { numRuns: 5000 },
    );
    for (const [what, count] of Object.entries(seen)) expect(count, what).toBeGreaterThan(20);
  });
});

describe("a burst", () => {
  const body = (source: string, count: number): string =>
    Array.from(
      { length: count },
      () => `${source} - - [05/Mar/2031:11:00:00 +0000] "GET / HTTP/1.1" 404 1`,
    ).join("\n");
  const events = (source: string, count: number): string =>
    JSON.stringify(
      body(source, count)
        .split("\n")
        .map((raw_event, n) => ({ event_id: `${source}-${n}`, raw_event })),
    );
  const kinds: [string, (source: string, count: number) => string, string][] = [
    ["log lines", body, "text/plain"],
    ["events with ids", events, "application/json"],
  ];

  it.each(kinds)("does not count posts of %s that were refused", async (name, make, type) => {
    const source = name === "log lines" ? "198.51.100.1" : "198.51.100.2";
    publish = () => Promise.reject(new Error("no"));
    expect((await post(make(source, 10), type)).statusCode).toBe(503);
    connected = false;
    expect((await post(make(source, 10), type)).statusCode).toBe(503);
    connected = true;
    publish = () => Promise.resolve();
    expect((await post(make(source, 10), type)).statusCode).toBe(202);
    expect(sent("alerts")).toEqual([]);
    // It is counted all the same.
    expect((await post(body(source, 10), "text/plain")).statusCode).toBe(202);
    expect(sent("alerts")).toHaveLength(1);
  });

  it("counts a repeated id once, and what waits for Kafka too", async () => {
    for (let again = 0; again < 4; again++) await post(events("198.51.100.3", 10), "application/json");
    expect(sent("alerts")).toEqual([]);
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const posts = [1, 2].map(() => post(body("198.51.100.4", 10), "text/plain"));
    await expect.poll(() => calls.flat().length).toBeGreaterThanOrEqual(61);
    acknowledge();
    await Promise.all(posts);
    expect(sent("alerts")).toHaveLength(1);
  });
});

describe("acknowledgement", () => {
  it("answers only when Kafka has acknowledged", async () => {
    let acknowledge = (): void => {};
    publish = () => new Promise((resolve) => (acknowledge = resolve));
    let answered = false;
    const response = post("x", "text/plain").then((value) => ((answered = true), value));
    while (calls.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(answered).toBe(false);
    acknowledge();
    expect((await response).statusCode).toBe(202);
  });

  it("answers 503 with Retry-After when a part fails", async () => {
    let call = 0;
    publish = () => (call++ === 1 ? Promise.reject(new Error("no")) : Promise.resolve());
    const response = await post(
      Array.from({ length: 20 }, () => "x".repeat(100_000)).join("\n"),
      "text/plain",
    );
    expect(calls.length).toBeGreaterThan(1);
    expect(response.statusCode).toBe(503);
    expect(response.headers["retry-after"]).toBe("2");
    expect(response.json()).not.toHaveProperty("ids");
  });

  it("joins concurrent requests into one call, and keeps batches below a broker's limit", async () => {
    await Promise.all(Array.from({ length: 20 }, () => post("x", "text/plain")));
    expect(calls.length).toBeLessThan(5);
    calls.length = 0;
    await post(Array.from({ length: 30 }, () => "x".repeat(100_000)).join("\n"), "text/plain");
    for (const batch of calls) {
      expect(batch.reduce((sum, message) => sum + message.value.length, 0)).toBeLessThan(1_000_000);
    }
    expect(sent()).toHaveLength(30);
  });

  it("answers 503 with its own Retry-After while the feed stands, stays in the load balancer, and takes posts after", async () => {
    feed.stands = true;
    const refused = await post("x", "text/plain");
    expect(refused.statusCode).toBe(503);
    expect(refused.headers["retry-after"]).toBe("60");
    expect(refused.json()).toMatchObject({ error: "feed_stands" });
    expect(refused.json<{ message: string }>().message).toMatch(/84 hours behind.*168 hours.*retention\.md/);
    expect(calls).toHaveLength(0);
    const health = await app.inject("/health");
    expect([health.statusCode, health.json()]).toEqual([200, { status: "feed_stands" }]);
    connected = false;
    expect((await app.inject("/health")).statusCode).toBe(404);
    connected = true;
    feed.stands = false;
    expect((await post("x", "text/plain")).statusCode).toBe(202);
    expect((await app.inject("/health")).json()).toEqual({ status: "ok" });
  });

  it("sends nothing of a post that was read when the feed began to stand", async () => {
    feed.stands = true;
    await expect(
      pipeline.send({ messages: [{ topic: "alerts", key: "k", value: "{}" }], sizes: [1], counted: [] }),
    ).rejects.toMatchObject({
      status: 503,
      code: "feed_stands",
    });
    expect(calls).toHaveLength(0);
  });

  it("is healthy only when connected and not draining", async () => {
    const health = async (): Promise<number> => (await app.inject("/health")).statusCode;
    expect(await health()).toBe(200);
    connected = false;
    expect(await health()).toBe(404);
    expect((await post("x", "text/plain")).statusCode).toBe(503);
    expect(calls).toHaveLength(0);
    connected = true;
    lifecycle.draining = true;
    expect(await health()).toBe(404);
    expect((await post("x", "text/plain")).statusCode).toBe(202);
  });
});
