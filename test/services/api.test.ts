// The API over HTTP with a reader that the test controls, its statements, and failover between replicas.

import { ClickHouseError } from "@clickhouse/client";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { createApi } from "../../services/api/app.ts";
import { literal, select } from "../../services/api/query.ts";
import { Replicas, type Row } from "../../services/api/replicas.ts";
import { toTenantId } from "../../services/common/auth.ts";
import { Env } from "../../services/common/env.ts";
import { mintToken } from "../../services/token.ts";

const secret = "0123456789abcdef0123456789abcdef";
const now = new Date("2031-03-05T12:00:00Z");
const nowSeconds = now.getTime() / 1000;

const statements: string[] = [];
let answer: (sql: string) => Row[] = () => [];
let alive = true;
const lifecycle = { draining: false };
const app = createApi({
  reader: {
    query: (sql) => {
      statements.push(sql);
      return Promise.resolve(answer(sql));
    },
    ping: () => Promise.resolve(alive),
  },
  secret: new TextEncoder().encode(secret),
  lifecycle,
  quiet: true,
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

describe("statements", () => {
  /** What a server reads back from a literal; throws if the literal ends early. */
  function unescape(text: string): string {
    expect(text).toMatch(/^'(?:[^'\\]|\\x[\da-f]{2})*'$/s);
    return text
      .slice(1, -1)
      .replace(/(?:\\x[\da-f]{2})+/g, (bytes) => Buffer.from(bytes.replaceAll("\\x", ""), "hex").toString());
  }

  it("escape any text without loss", () => {
    const nasty = fc.string({
      unit: fc.constantFrom("'", "\\", "\0", "\n", "x", "0", "-", ";", "\u2028", "é"),
    });
    fc.assert(
      fc.property(fc.oneof(nasty, fc.string({ unit: "grapheme" }), fc.string({ unit: "binary" })), (text) => {
        fc.pre(!/\p{Surrogate}/u.test(text));
        expect(unescape(literal(text))).toBe(text);
        expect(literal(text)).not.toMatch(/\p{Cc}/u);
      }),
    );
    expect(() => literal("\ud800")).toThrow(RangeError);
  });

  it("can't be built without a tenant", () => {
    const spec = { table: "events_replicated", columns: ["event_id"], limit: 1 };
    // @ts-expect-error a plain string is no tenant
    expect(() => select("", spec)).toThrow("tenant");
    expect(select(toTenantId("acme"), spec)).toContain("WHERE tenant_id = 'acme'");
    expect(() => toTenantId("a'b")).toThrow();
    expect(() => select(toTenantId("acme"), { ...spec, table: "system.users" })).toThrow();
  });

  it("always name the token's tenant", async () => {
    for (const url of [
      "/v1/events",
      "/v1/events/x",
      "/v1/stats",
      "/v1/alerts",
      "/v1/events?q=%27%20OR%201%20--",
    ]) {
      await get(url);
    }
    expect(statements.length).toBe(9);
    for (const sql of statements)
      expect(sql).toMatch(/ WHERE tenant_id = 'acme'( AND |( ORDER BY .*)? LIMIT )/);
  });
});

describe("GET /v1/events", () => {
  it("reads the last 24 hours, newest first", async () => {
    const response = await get("/v1/events");
    expect(response.json()).toEqual({ events: [], next_cursor: null });
    expect(statements[0]).toContain(
      `event_timestamp >= ${nowSeconds - 86400} AND event_timestamp <= ${nowSeconds + 300} ORDER BY event_timestamp DESC, event_id DESC LIMIT 116`,
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
    ["limit=1&limit=2", "limit"],
    ["from=yesterday", "from"],
    ["from=2031-03-01T00:00:00", "from"],
    ["from=4294967296", "from"],
    ["from=20&to=10", "from"],
    ["is_threat=maybe", "is_threat"],
    ["source=x", "source"],
    ["tenant_id=other", "tenant_id"],
    ["cursor=abc", "cursor"],
    [`cursor=${Buffer.from("[1,2,3,4]").toString("base64url")}`, "cursor"],
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
    expect(statements[0]).toContain(`event_id = 'e\\x271'`);
    answer = () => [{ event_id: "e1" }];
    expect((await get("/v1/events/e1")).json()).toEqual({ event_id: "e1" });
  });

  it("stats, with counts as numbers", async () => {
    answer = (sql) => {
      if (sql.includes("threats")) return [{ count: "7", threats: "3" }];
      if (sql.includes("GROUP BY source_ip"))
        return [
          { source_ip: "", count: "4" },
          { source_ip: "192.0.2.7", count: "3" },
        ];
      return [
        { source_type: "sshd", event_category: "authentication", event_outcome: "failure", count: "7" },
      ];
    };
    expect((await get("/v1/stats?from=10&to=20")).json()).toEqual({
      from: 10,
      to: 20,
      total: 7,
      threats: 3,
      by_source_type: { sshd: 7 },
      by_category: { authentication: 7 },
      by_outcome: { failure: 7 },
      top_source_ip: [{ source_ip: "192.0.2.7", count: 3 }],
    });
  });

  it("alerts", async () => {
    answer = () => [{ alert_id: "a1", event_timestamp: 5 }];
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

describe("replicas", () => {
  const down = (): Promise<Row[]> =>
    Promise.reject(Object.assign(new Error("refused"), { code: "ECONNREFUSED" }));
  const error = (code: string) => (): Promise<Row[]> =>
    Promise.reject(new ClickHouseError({ message: "no", code, type: "T" }));
  const up = (name: string) => (): Promise<Row[]> => Promise.resolve([{ name }]);

  it("fail over, and the one that answered is asked first from then on", async () => {
    let asked = 0;
    const replicas = new Replicas([() => (asked++, down()), up("b"), up("c")]);
    expect(await replicas.query("q")).toEqual([{ name: "b" }]);
    expect(await replicas.query("q")).toEqual([{ name: "b" }]);
    expect(asked).toBe(1);
  });

  it("fail over when a replica has no table yet, but not on an error of the query", async () => {
    expect(await new Replicas([error("60"), up("b")]).query("q")).toEqual([{ name: "b" }]);
    await expect(new Replicas([error("62"), up("b")]).query("q")).rejects.toThrow(ClickHouseError);
    await expect(new Replicas([error("159"), up("b")]).query("q")).rejects.toMatchObject({ status: 422 });
    // 18.16's errors reach us as plain text.
    const old = (): Promise<Row[]> =>
      Promise.reject(new Error("Code: 62, e.displayText() = DB::Exception: no"));
    await expect(new Replicas([old, up("b")]).query("q")).rejects.toThrow("Code: 62");
  });

  it("are healthy while one answers, and a ping moves away from a dead one", async () => {
    let asked = 0;
    const replicas = new Replicas([() => (asked++, down()), up("b")]);
    expect(await replicas.ping()).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 5));
    await replicas.query("q");
    expect(asked).toBe(1);
    expect(await new Replicas([down, down]).ping()).toBe(false);
    await expect(new Replicas([down, down]).query("q")).rejects.toMatchObject({ status: 503 });
  });
});

describe("environment", () => {
  it("names several hosts of one database", () => {
    const env = new Env({ DATABASE_URL: "http://siem@a:8123,b:8123/dev", DATABASE_PASSWORD: "p@ss" });
    expect(env.database()).toEqual({
      urls: ["http://a:8123", "http://b:8123"],
      username: "siem",
      password: "p@ss",
      database: "dev",
    });
    expect(() => env.check()).not.toThrow();
  });

  it("is refused in one message that names every problem and no secret", () => {
    const env = new Env({
      DATABASE_URL: "http://siem:hunter2@a/dev",
      JWT_SECRET: "short",
      SERVER_ADDR: "x",
      DATABASE_PASSWORD_FILE: "/no/such",
    });
    env.database();
    env.jwtSecret();
    env.address("SERVER_ADDR", "0.0.0.0:1");
    env.brokers("KAFKA_BROKERS");
    expect(() => env.check()).toThrow(
      /DATABASE_URL[^]*JWT_SECRET has 5 bytes[^]*SERVER_ADDR[^]*KAFKA_BROKERS is missing/,
    );
    expect(() => env.check()).not.toThrow(/hunter2|short/);
  });
});
