// The API over HTTP with a reader that the test controls: what is asked, what is answered, what is refused.

import { once } from "node:events";
import { type AddressInfo, connect } from "node:net";
import fc from "fast-check";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { type ApiOptions, createApi } from "../../services/api/app.ts";
import type { Row } from "../../services/api/replicas.ts";
import { defaultSlots } from "../../services/api/slots.ts";
import { mintToken } from "../../services/token.ts";

const secret = "0123456789abcdef0123456789abcdef";
const now = new Date("2031-03-05T12:00:00Z");
const nowSeconds = now.getTime() / 1000;

const statements: string[] = [];
let answer: (sql: string) => Row[] = () => [];
let alive = true;
const lifecycle = { draining: false };
/** An API of these tests, where they ask for nothing else. */
const apiOf = (options: Pick<ApiOptions, "reader" | "slots" | "now">) =>
  createApi({ keys: { current: new TextEncoder().encode(secret) }, lifecycle, quiet: true, ...options });
const app = apiOf({
  reader: {
    query: (sql) => {
      statements.push(sql);
      return Promise.resolve(answer(sql));
    },
    ping: () => Promise.resolve(alive),
  },
  now: () => now,
});

beforeEach(() => {
  statements.length = 0;
  answer = () => [];
  alive = true;
  lifecycle.draining = false;
});

async function get(url: string, scope = "events:read") {
  const authorization = `Bearer ${await mintToken({ secret, tenantId: "acme", scope, ttlSeconds: 60, subject: "t" })}`;
  return app.inject({ url, headers: { authorization } });
}

describe("GET /v1/events", () => {
  it("reads the last 24 hours, newest first", async () => {
    const response = await get("/v1/events");
    expect(response.json()).toEqual({ events: [], next_cursor: null });
    expect(statements[0]).toContain(
      `event_timestamp >= ${nowSeconds - 86400} AND event_timestamp <= ${nowSeconds + 300} ORDER BY event_timestamp DESC, event_id DESC, row_version DESC LIMIT 116`,
    );
  });

  it("takes times, filters and a substring", async () => {
    await get(
      "/v1/events?from=2031-03-01T00:00:00Z&to=1940000000&source_ip=192.0.2.7&is_threat=true&q=it%27s&limit=5",
    );
    expect(statements[0]).toContain(
      `event_timestamp >= ${Date.parse("2031-03-01T00:00:00Z") / 1000} AND event_timestamp <= 1940000000 AND source_ip = '192.0.2.7' AND is_threat = 1 AND position(raw_event, 'it\\x27s') > 0 ORDER`,
    );
  });

  it("pages by a cursor over any set of events, duplicates included, without loss or repetition", async () => {
    const events = fc.array(fc.tuple(fc.integer({ min: 1, max: 4 }), fc.constantFrom("a", "b", "c", "d")), {
      maxLength: 60,
    });
    await fc.assert(
      fc.asyncProperty(events, fc.integer({ min: 1, max: 7 }), async (pairs, limit) => {
        // The same id has the same time, as in a repeated post.
        const rows = pairs
          .map(([time, id]) => ({ event_id: `${id}${time}`, event_timestamp: nowSeconds - time }))
          .sort((a, b) => b.event_timestamp - a.event_timestamp || (a.event_id < b.event_id ? 1 : -1));
        answer = (sql) => {
          const after = /event_timestamp < (\d+) OR \(event_timestamp = \d+ AND event_id < '(\w+)'/.exec(sql);
          const rest = rows.filter(
            (row) =>
              !after ||
              row.event_timestamp < Number(after[1]) ||
              (row.event_timestamp === Number(after[1]) && row.event_id < after[2]!),
          );
          return rest.slice(0, Number(/LIMIT (\d+)$/.exec(sql)![1]));
        };
        const seen: unknown[] = [];
        let cursor: string | null = "";
        while (cursor !== null) {
          const url: string = `/v1/events?limit=${limit}${cursor && `&cursor=${cursor}`}`;
          const page: { events: Row[]; next_cursor: string | null } = (await get(url)).json();
          seen.push(...page.events.map((event) => event["event_id"]));
          cursor = page.next_cursor;
        }
        expect(seen).toEqual([...new Set(rows.map((row) => row.event_id))]);
      }),
      { numRuns: 40 },
    );
  });

  it.each([
    ["limit=0", "limit"],
    ["limit=1001", "limit"],
    ["limit=1e2", "limit"],
    ["limit=1&limit=2", "limit"],
    ["source_ip=a&source_ip=b", "source_ip"],
    ["from[]=1", "from[]"],
    ["__proto__=1", "__proto__"],
    ["q=" + "x".repeat(1025), "q"],
    ["from=yesterday", "from"],
    ["from=2031-03-01T00:00:00", "from"],
    ["from=4294967296", "from"],
    ["from=20&to=10", "from"],
    ["is_threat=maybe", "is_threat"],
    ["source=x", "source"],
    ["tenant_id=other", "tenant_id"],
    ["cursor=abc", "cursor"],
    ["cursor=", "cursor"],
    ...[
      "[1,2,3,4]",
      '["1","a",0,9]',
      '[1,"a",0]',
      '[1,"a",0,9,9]',
      '[-1,"a",0,9]',
      "null",
      "{}",
      '[1,"a",0,4294967296]',
    ].map((text): [string, string] => [`cursor=${Buffer.from(text).toString("base64url")}`, "cursor"]),
  ])("refuses %s by name", async (query, parameter) => {
    const response = await get(`/v1/events?${query}`);
    expect(response.statusCode).toBe(400);
    expect(response.json()).toMatchObject({ error: "bad_query", parameter });
    expect(statements).toHaveLength(0);
  });

  it("needs the scope", async () => {
    expect((await get("/v1/events", "events:write")).statusCode).toBe(403);
    expect((await app.inject("/v1/events")).statusCode).toBe(401);
  });
});

describe("the other routes", () => {
  it("one event, or 404", async () => {
    expect((await get("/v1/events/e%271")).statusCode).toBe(404);
    expect(statements.map((sql) => sql.replace(/.* FROM/, "FROM"))).toEqual([
      "FROM events_replicated WHERE tenant_id = 'acme' AND event_timestamp >= 0 AND event_timestamp <= 4294967295 AND event_id = 'e\\x271' ORDER BY event_timestamp, row_version DESC LIMIT 1",
    ]);
    answer = () => [{ event_id: "e1" }];
    expect((await get("/v1/events/e1")).json()).toEqual({ event_id: "e1" });
  });

  it("one event by a UUIDv7 reads nothing but its second", async () => {
    answer = () => [{ event_id: "e1" }];
    await get("/v1/events/01c1c1a0-f400-7abc-8abc-0123456789ab");
    const second = Math.floor(0x01c1c1a0f400 / 1000);
    expect(statements).toHaveLength(1);
    expect(statements[0]).toContain(
      `event_timestamp >= ${second} AND event_timestamp <= ${second} AND event_id`,
    );
    statements.length = 0;
    // Version 4, and a time that no event can have, carry no second.
    for (const id of ["01c1c1a0-f400-4abc-8abc-0123456789ab", "ffffffff-ffff-7abc-8abc-0123456789ab"]) {
      await get(`/v1/events/${id}`);
    }
    expect(statements).toHaveLength(2);
    for (const sql of statements) expect(sql).toContain("event_timestamp >= 0");
  });

  it("one event by the longest id, and by none that is longer than any", async () => {
    answer = () => [{ event_id: "e1" }];
    expect((await get(`/v1/events/${"x".repeat(128)}`)).statusCode).toBe(200);
    const long = await get(`/v1/events/${"x".repeat(2000)}`);
    expect([long.statusCode, long.json<Row>()["error"]]).toEqual([414, "url_too_long"]);
    const broken = await get("/v1/events/%FF");
    expect([broken.statusCode, broken.json<Row>()["error"]]).toEqual([400, "bad_url"]);
    expect((await get("/v1/events/a?from=20&to=10")).statusCode).toBe(400);
    expect((await get("/v1/events/a?limit=1")).json()).toMatchObject({ parameter: "limit" });
  });

  it("stats, with counts as numbers, in one statement", async () => {
    const row = (part: string, value: string, count: string, threats = "0"): Row => ({
      part,
      value,
      count,
      threats,
    });
    answer = () => [
      row("source_ip", "192.0.2.8", "1"),
      row("source_ip", "", "4"),
      row("source_ip", "192.0.2.7", "3"),
      row("source_type", "sshd", "7"),
      row("event_category", "authentication", "7"),
      row("event_outcome", "failure", "7"),
      row("total", "", "7", "3"),
    ];
    expect((await get("/v1/stats?from=10&to=20")).json()).toEqual({
      from: 10,
      to: 20,
      total: 7,
      threats: 3,
      by_source_type: { sshd: 7 },
      by_category: { authentication: 7 },
      by_outcome: { failure: 7 },
      top_source_ip: [
        { source_ip: "192.0.2.7", count: 3 },
        { source_ip: "192.0.2.8", count: 1 },
      ],
    });
    expect(statements).toHaveLength(1);
  });

  it("alerts", async () => {
    answer = () => [{ alert_id: "a1", event_timestamp: 5, version: "9" }];
    expect((await get("/v1/alerts?rule=r")).json()).toEqual({
      alerts: [{ alert_id: "a1", event_timestamp: 5 }],
      next_cursor: null,
    });
    expect(statements[0]).toMatch(
      /FROM alerts_replicated .* rule = 'r' ORDER BY event_timestamp DESC, alert_id DESC/,
    );
  });

  it("health", async () => {
    expect((await app.inject("/v1/health")).statusCode).toBe(200);
    lifecycle.draining = true;
    expect((await app.inject("/v1/health")).statusCode).toBe(404);
    lifecycle.draining = false;
    alive = false;
    expect((await app.inject("/v1/health")).statusCode).toBe(503);
  });
});

describe("requests", () => {
  it("HEAD answers like GET, without a body", async () => {
    const authorization = `Bearer ${await mintToken({ secret, tenantId: "acme", scope: "events:read", ttlSeconds: 60, subject: "t" })}`;
    const head = await app.inject({ method: "HEAD", url: "/v1/events", headers: { authorization } });
    expect([head.statusCode, head.body]).toEqual([200, ""]);
    expect((await app.inject({ method: "HEAD", url: "/v1/events" })).statusCode).toBe(401);
  });

  it("of other methods and paths are refused before anything is read", async () => {
    for (const [method, url] of [
      ["POST", "/v1/events"],
      ["DELETE", "/v1/events/a"],
      ["GET", "/v1/events/a/b"],
      ["GET", "/v2/events"],
      ["GET", "/v1/events/"],
    ] as const) {
      expect((await app.inject({ method, url })).statusCode, `${method} ${url}`).toBeGreaterThanOrEqual(400);
    }
    expect(statements).toHaveLength(0);
  });

  it("that exceed what a replica or a tenant may run at once are told when to come back", async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    let reading = 0;
    const query = () => {
      reading++;
      return held.then(() => []);
    };
    const small = apiOf({
      reader: { query, ping: () => Promise.resolve(true) },
      slots: { ...defaultSlots, total: 2, perTenant: 1, waitMs: 20, waitingPerTenant: 1 },
    });
    const ask = async (tenantId: string) => {
      const token = await mintToken({ secret, tenantId, scope: "events:read", ttlSeconds: 60, subject: "t" });
      return small.inject({ url: "/v1/events", headers: { authorization: `Bearer ${token}` } });
    };
    const running = [ask("a"), ask("b")];
    await vi.waitFor(() => expect(reading).toBe(2));
    const [again, other] = await Promise.all([ask("a"), ask("c")]);
    expect([again.statusCode, again.json<Row>()["error"]]).toEqual([429, "tenant_busy"]);
    expect([other.statusCode, other.json<Row>()["error"]]).toEqual([503, "busy"]);
    for (const { headers } of [again, other]) expect(Number(headers["retry-after"])).toBeGreaterThan(0);
    release();
    for (const response of await Promise.all(running)) expect(response.statusCode).toBe(200);
    expect((await ask("a")).statusCode).toBe(200);
  });

  it("whose clients don't take their answers keep their slots, and are cut off after a while", async () => {
    const large = [{ event_id: "a", event_timestamp: 1, raw_event: "x".repeat(32 * 1024 * 1024) }];
    let answer: Row[] = large;
    const own = apiOf({
      reader: {
        query: () => Promise.resolve(answer),
        ping: () => Promise.resolve(true),
      },
      slots: { total: 2, perTenant: 1, waitMs: 20, waitingPerTenant: 1, answerMs: 1_000 },
    });
    const token = await mintToken({
      secret,
      tenantId: "a",
      scope: "events:read",
      ttlSeconds: 60,
      subject: "t",
    });
    const authorization = `Bearer ${token}`;
    const ask = async () => (await own.inject({ url: "/v1/events", headers: { authorization } })).statusCode;
    try {
      await own.listen({ host: "127.0.0.1", port: 0 });
      const socket = connect((own.server.address() as AddressInfo).port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(`GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\n\r\n`);
      await once(socket, "readable");
      // The head of the answer is there; the client reads no further.
      answer = [];
      expect(await ask()).toBe(429);
      await expect.poll(ask, { timeout: 10_000 }).toBe(200);
      const closed = once(socket, "close");
      socket.resume();
      await closed;
    } finally {
      await own.close();
    }
  });

  it("whose client goes away stop reading", async () => {
    let aborted = false;
    const own = apiOf({
      reader: {
        query: (_statement, signal) =>
          new Promise((_, reject) => {
            started();
            signal.addEventListener("abort", () => {
              aborted = true;
              reject(new Error("aborted"));
            });
          }),
        ping: () => Promise.resolve(true),
      },
    });
    let started = (): void => {};
    const reached = new Promise<void>((resolve) => (started = resolve));
    try {
      const address = await own.listen({ host: "127.0.0.1", port: 0 });
      const token = await mintToken({
        secret,
        tenantId: "a",
        scope: "events:read",
        ttlSeconds: 60,
        subject: "t",
      });
      const controller = new AbortController();
      const answer = fetch(`${address}/v1/events`, {
        headers: { authorization: `Bearer ${token}` },
        signal: controller.signal,
      });
      await reached;
      expect(aborted).toBe(false);
      controller.abort();
      await expect(answer).rejects.toThrow();
      await expect.poll(() => aborted, { timeout: 10_000 }).toBe(true);
    } finally {
      await own.close();
    }
  });
});

describe("a client that has gone", () => {
  /** An API that hangs while it is told to, with one slot for everybody. */
  function hanging(total: number) {
    const state = { hang: true, started: 0, aborted: 0 };
    const own = apiOf({
      reader: {
        query: (_statement, signal) => {
          state.started++;
          if (!state.hang) return Promise.resolve([]);
          return new Promise((_, reject) =>
            signal.addEventListener("abort", () => {
              state.aborted++;
              reject(new Error("aborted"));
            }),
          );
        },
        ping: () => Promise.resolve(true),
      },
      slots: { ...defaultSlots, total, perTenant: total, waitMs: 20, waitingPerTenant: 1 },
    });
    return { own, state };
  }
  const mint = async (): Promise<string> =>
    `Bearer ${await mintToken({ secret, tenantId: "a", scope: "events:read", ttlSeconds: 60, subject: "t" })}`;

  it("gives back the slots of all its requests, also of those that wait for an earlier answer", async () => {
    const { own, state } = hanging(3);
    try {
      await own.listen({ host: "127.0.0.1", port: 0 });
      const authorization = await mint();
      const socket = connect((own.server.address() as AddressInfo).port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(`GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\n\r\n`.repeat(3));
      await expect.poll(() => state.started).toBe(3);
      socket.destroy();
      await expect.poll(() => state.aborted).toBe(3);
      state.hang = false;
      expect((await own.inject({ url: "/v1/events", headers: { authorization } })).statusCode).toBe(200);
    } finally {
      await own.close();
    }
  });

  it("gets no slot when it went while its token was checked", async () => {
    const { own, state } = hanging(1);
    const problems: string[] = [];
    let leave = true;
    own.addHook("preHandler", async (request) => {
      if (!leave) return;
      const { socket } = request.raw;
      socket.destroy();
      await once(socket, "close");
    });
    own.addHook("onError", async (_request, _reply, error) => void problems.push(error.code));
    try {
      const address = await own.listen({ host: "127.0.0.1", port: 0 });
      const headers = { authorization: await mint() };
      await expect(fetch(`${address}/v1/events`, { headers })).rejects.toThrow();
      await expect.poll(() => problems).toEqual(["client_gone"]);
      leave = false;
      state.hang = false;
      expect((await fetch(`${address}/v1/events`, { headers })).status).toBe(200);
      // Only the second one read.
      expect(state.started).toBe(1);
    } finally {
      await own.close();
    }
  });
});

describe("any text in any parameter", () => {
  const text = fc.oneof(
    fc.string({
      unit: fc.constantFrom("'", "\\", "\0", "\n", "%", "_", "x", "0", "-", ";", "\u2028", "é", "𝕏"),
    }),
    fc.string({ unit: "grapheme" }),
    fc.string({ unit: "binary" }),
    fc.constantFrom(
      "'; DROP TABLE events_replicated; --",
      "\\' OR 1=1 /*",
      "*/ OR 1=1",
      "1 OR 1=1",
      "0x10",
      "null",
    ),
  );
  /** A statement's shape, and what its literals say to a server. Throws where a literal ends early. */
  function read(sql: string): { shape: string; texts: string[] } {
    const texts: string[] = [];
    const shape = sql.replace(/'((?:[^'\\]|\\x[\da-f]{2})*)'/gs, (_, inside: string) => {
      texts.push(
        inside.replace(/(?:\\x[\da-f]{2})+/g, (escaped) =>
          Buffer.from(escaped.replaceAll("\\x", ""), "hex").toString(),
        ),
      );
      return "?";
    });
    expect(shape).not.toMatch(/['\\]|\p{Cc}/u);
    return { shape, texts };
  }
  const filters = {
    "/v1/events": ["source_ip", "source_type", "event_category", "event_outcome", "event_action", "q"],
    "/v1/alerts": ["source_ip", "rule", "severity", "event_id"],
  } as const;
  const cases = Object.entries(filters).flatMap(([path, parameters]) =>
    parameters.map((parameter) => [path, parameter] as const),
  );

  it.each(cases)("%s?%s is one literal that says exactly it, or 400", async (path, parameter) => {
    await get(`${path}?${parameter}=plain`);
    const { shape } = read(statements[0]!);
    await fc.assert(
      fc.asyncProperty(text, async (given) => {
        // Empty text is in every event: no clause.
        fc.pre(!/\p{Surrogate}/u.test(given) && (parameter !== "q" || given !== ""));
        statements.length = 0;
        const response = await get(`${path}?${parameter}=${encodeURIComponent(given)}`);
        if (response.statusCode === 400) {
          expect(statements).toHaveLength(0);
          return;
        }
        expect(response.statusCode).toBe(200);
        expect(statements.map(read)).toEqual([{ shape, texts: ["acme", given] }]);
      }),
    );
  });

  it("an id in the path is one literal that says exactly it", async () => {
    await get("/v1/events/plain");
    const shapes = statements.map((sql) => read(sql).shape);
    await fc.assert(
      fc.asyncProperty(text, async (given) => {
        fc.pre(given !== "" && given !== "." && given !== ".." && !/\p{Surrogate}/u.test(given));
        statements.length = 0;
        expect((await get(`/v1/events/${encodeURIComponent(given)}`)).statusCode).toBe(404);
        expect(statements.map(read)).toEqual(shapes.map((shape) => ({ shape, texts: ["acme", given] })));
      }),
    );
  });

  it.each(["from", "to", "limit", "cursor", "is_threat"])(
    "%s is a number or flag, or 400",
    async (parameter) => {
      const numberless = (sql: string): string => read(sql).shape.replace(/\d+/g, "#");
      await get(`/v1/events?${parameter === "is_threat" ? "is_threat=1" : ""}`);
      const shape = numberless(statements[0]!);
      await fc.assert(
        fc.asyncProperty(fc.oneof(text, fc.nat().map(String)), async (given) => {
          fc.pre(!/\p{Surrogate}/u.test(given));
          statements.length = 0;
          const response = await get(`/v1/events?${parameter}=${encodeURIComponent(given)}`);
          if (response.statusCode === 400) {
            expect(statements).toHaveLength(0);
            return;
          }
          expect(statements.map(numberless)).toEqual([shape]);
          expect(read(statements[0]!).texts).toEqual(["acme"]);
        }),
      );
    },
  );

  it("a cursor made by hand is one literal and four numbers, or 400", async () => {
    const second = fc.oneof(fc.nat(0xffffffff), fc.integer(), fc.double(), text);
    const shapeOf = (sql: string): string => read(sql).shape.replace(/\d+/g, "#");
    const cursor = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    await get(`/v1/events?cursor=${cursor([1, "a", 0, 9])}`);
    const shape = shapeOf(statements[0]!);
    await fc.assert(
      fc.asyncProperty(fc.tuple(second, text, second, second), async (given) => {
        fc.pre(!/\p{Surrogate}/u.test(given.join("")));
        statements.length = 0;
        const response = await get(`/v1/events?cursor=${cursor(given)}`);
        if (response.statusCode === 400) {
          expect(statements).toHaveLength(0);
          return;
        }
        expect(statements.map(shapeOf)).toEqual([shape]);
        expect(read(statements[0]!).texts).toEqual(["acme", given[1]]);
      }),
    );
  });
});
