// The API on a real ClickHouse: pages, identity, isolation of tenants, limits and cancelled queries.

import { randomBytes } from "node:crypto";
import { request as httpRequest } from "node:http";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { names } from "../../components/topology.ts";
import { createApi } from "../../services/api/app.ts";
import type { Statement } from "../../services/api/query.ts";
import { connect, Replicas, type Row } from "../../services/api/replicas.ts";
import { mintToken } from "../../services/token.ts";
import { removeDatabase, startDatabase, type TestDatabase, withoutClickhouse } from "./api-database.ts";

const secret = "0123456789abcdef0123456789abcdef";
const now = 1_930_000_000;
let db: TestDatabase;
let app: ReturnType<typeof createApi>;

interface Page {
  readonly events: Row[];
  readonly alerts: Row[];
  readonly next_cursor: string | null;
}

async function token(tenantId: string): Promise<string> {
  return mintToken({ secret, tenantId, scope: "events:read", ttlSeconds: 600, subject: "t" });
}

async function get(tenantId: string, url: string) {
  return app.inject({ url, headers: { authorization: `Bearer ${await token(tenantId)}` } });
}

/** A tenant that no other test knows. */
const newTenant = (): string => `t-${randomBytes(6).toString("hex")}`;
/** A UUIDv7 of this second. */
const uuidOf = (second: number): string =>
  (second * 1000)
    .toString(16)
    .padStart(12, "0")
    .replace(/(.{8})(.{4})/, "$1-$2-7") + `abc-8abc-${randomBytes(6).toString("hex")}`;

async function addEvents(tenant_id: string, rows: readonly object[]): Promise<void> {
  await db.insert(
    names.eventsTable,
    rows.map((row) => ({ tenant_id, ...row })),
  );
}

/** All rows of all pages, oldest page last. `between` runs after each page. */
async function readAll(
  tenant: string,
  path: string,
  between: () => Promise<void> = () => Promise.resolve(),
): Promise<Row[]> {
  const rows: Row[] = [];
  let cursor: string | null = null;
  let pages = 0;
  do {
    expect(++pages, "the pages have an end").toBeLessThan(200);
    const response = await get(tenant, `${path}${cursor === null ? "" : `&cursor=${cursor}`}`);
    expect(response.statusCode, response.body).toBe(200);
    const page = response.json<Page>();
    rows.push(...(page.events ?? page.alerts));
    cursor = page.next_cursor;
    await between();
  } while (cursor !== null);
  return rows;
}

describe.skipIf(withoutClickhouse())("on ClickHouse", { timeout: 300_000 }, () => {
  beforeAll(async () => {
    db = await startDatabase();
    app = createApi({
      reader: new Replicas(db.database.urls.map((url) => connect(url, db.database))),
      keys: { current: new TextEncoder().encode(secret) },
      lifecycle: { draining: false },
      quiet: true,
      now: () => new Date(now * 1000),
    });
  }, 300_000);
  afterAll(async () => {
    await app?.close();
    removeDatabase();
  });

  describe("pages", () => {
    const someEvents = fc.array(
      fc.record({
        // Few of each, so that equal times, equal ids and copies of both are common.
        event_id: fc.constantFrom("a", "b", "c", "d", "Z", "é", "a'b", "a\\b"),
        event_timestamp: fc.integer({ min: now - 4, max: now }),
      }),
      { maxLength: 80 },
    );
    const key = (row: Row): string => `${Number(row["event_timestamp"])} ${String(row["event_id"])}`;

    it("have every event once, newest first, whatever copies and equal times there are", async () => {
      await fc.assert(
        fc.asyncProperty(someEvents, fc.integer({ min: 1, max: 9 }), async (events, limit) => {
          const tenant = newTenant();
          await addEvents(tenant, events);
          const seen = await readAll(tenant, `/v1/events?limit=${limit}`);
          const expected = [...new Map(events.map((event) => [key(event), event])).values()].sort(
            (a, b) =>
              b.event_timestamp - a.event_timestamp ||
              Buffer.compare(Buffer.from(b.event_id), Buffer.from(a.event_id)),
          );
          expect(seen.map(key)).toEqual(expected.map(key));
        }),
        { numRuns: 40 },
      );
    });

    it("show of copies the one that counts, and filters find none of the others", async () => {
      const copies = fc.uniqueArray(
        fc.record({
          event_id: fc.constantFrom("a", "b", "c"),
          event_timestamp: fc.integer({ min: now - 2, max: now }),
          row_version: fc.bigInt({ min: 2n ** 62n, max: 2n ** 62n + 20n }).map(String),
          is_threat: fc.constantFrom(0, 1),
          raw_event: fc.constantFrom("x", "y"),
        }),
        { selector: (row) => `${key(row)} ${row.row_version}`, maxLength: 40 },
      );
      await fc.assert(
        fc.asyncProperty(copies, fc.integer({ min: 1, max: 5 }), async (events, limit) => {
          const tenant = newTenant();
          await addEvents(tenant, events);
          const first = new Map<string, (typeof events)[number]>();
          for (const event of [...events].sort((a, b) => (a.row_version < b.row_version ? 1 : -1)))
            if (!first.has(key(event))) first.set(key(event), event);
          const said = (row: Row) => `${key(row)} ${Number(row["is_threat"])} ${String(row["raw_event"])}`;
          const wanted = (keep: (event: (typeof events)[number]) => boolean) =>
            [...first.values()].filter(keep).map(said).sort();
          for (const [query, keep] of [
            ["", () => true],
            ["&is_threat=1", (event) => event.is_threat === 1],
            ["&q=x", (event) => event.raw_event === "x"],
          ] as [string, (event: (typeof events)[number]) => boolean][]) {
            const seen = await readAll(tenant, `/v1/events?limit=${limit}${query}`);
            expect(seen.map(said).sort(), query).toEqual(wanted(keep));
            for (const row of seen) expect(row).not.toHaveProperty("version");
          }
          const stats = (await get(tenant, "/v1/stats")).json<Record<string, unknown>>();
          expect([stats["total"], stats["threats"]]).toEqual([
            first.size,
            wanted((event) => event.is_threat === 1).length,
          ]);
        }),
        { numRuns: 40 },
      );
    });

    it("lose and repeat nothing of what was there when events arrive in between", async () => {
      await fc.assert(
        fc.asyncProperty(
          someEvents,
          someEvents,
          fc.integer({ min: 1, max: 9 }),
          async (first, later, limit) => {
            const tenant = newTenant();
            await addEvents(tenant, first);
            const arriving = [...later];
            const seen = await readAll(tenant, `/v1/events?limit=${limit}`, () =>
              addEvents(tenant, arriving.splice(0, 5)),
            );
            const keys = seen.map(key);
            expect(new Set(keys).size).toBe(keys.length);
            expect(keys).toEqual(expect.arrayContaining(first.map(key)));
          },
        ),
        { numRuns: 25 },
      );
    });

    it("go on past more copies of one event than a page reads ahead", async () => {
      const tenant = newTenant();
      const copies = Array.from({ length: 60 }, () => ({ event_id: "m", event_timestamp: now }));
      await addEvents(tenant, [...copies, { event_id: "a", event_timestamp: now }]);
      const seen = await readAll(tenant, "/v1/events?limit=2");
      expect(seen.map((row) => row["event_id"])).toEqual(["m", "a"]);
    });
  });

  describe("one event by its id", () => {
    it("is found by the second in its id, by another second, and as the oldest of several", async () => {
      const tenant = newTenant();
      const [own, other] = [uuidOf(now - 50), uuidOf(now - 60)];
      await addEvents(tenant, [
        { event_id: own, event_timestamp: now - 50, raw_event: "own" },
        { event_id: other, event_timestamp: now - 70, raw_event: "other" },
        { event_id: "plain", event_timestamp: now - 8, raw_event: "later" },
        { event_id: "plain", event_timestamp: now - 9, raw_event: "earlier" },
      ]);
      expect((await get(tenant, `/v1/events/${own}`)).json()).toMatchObject({ raw_event: "own" });
      expect((await get(tenant, `/v1/events/${other}`)).json()).toMatchObject({ raw_event: "other" });
      expect((await get(tenant, "/v1/events/plain")).json()).toMatchObject({ raw_event: "earlier" });
      expect((await get(tenant, `/v1/events/plain?from=${now - 8}`)).json()).toMatchObject({
        raw_event: "later",
      });
      expect((await get(tenant, `/v1/events/${uuidOf(now)}`)).statusCode).toBe(404);
      expect((await get(newTenant(), `/v1/events/${own}`)).statusCode).toBe(404);
    });
  });

  it("counts an event once, and what no address has is no address", async () => {
    const tenant = newTenant();
    await addEvents(tenant, [
      { event_id: "a", event_timestamp: now, source_type: "sshd", source_ip: "192.0.2.1", is_threat: 1 },
      { event_id: "a", event_timestamp: now, source_type: "sshd", source_ip: "192.0.2.1", is_threat: 1 },
      { event_id: "b", event_timestamp: now, source_type: "nginx", source_ip: "" },
      { event_id: "c", event_timestamp: now, source_type: "sshd", source_ip: "192.0.2.2" },
      { event_id: "d", event_timestamp: now, source_type: "__proto__", source_ip: "192.0.2.2" },
    ]);
    const answer = (await get(tenant, "/v1/stats")).json<Record<string, unknown>>();
    expect(answer).toMatchObject({
      total: 4,
      threats: 1,
      top_source_ip: [
        { source_ip: "192.0.2.2", count: 2 },
        { source_ip: "192.0.2.1", count: 1 },
      ],
    });
    expect(Object.entries(answer["by_source_type"] as object).sort()).toEqual([
      ["__proto__", 1],
      ["nginx", 1],
      ["sshd", 2],
    ]);
  });

  describe("tenants", () => {
    const parameters = {
      "/v1/events": ["source_ip", "source_type", "event_category", "event_outcome", "event_action", "q"],
      "/v1/alerts": ["source_ip", "rule", "severity", "event_id"],
    } as const;
    const attack = fc.oneof(
      fc.constantFrom(
        "' OR 1=1 --",
        "'; DROP TABLE dev.events_replicated; --",
        "\\' OR '1'='1",
        "') OR (tenant_id != '",
        "%",
        "_",
        "/* */",
        "-- ",
        "\0",
        "\\x27 OR 1 --",
        "victim",
      ),
      fc.string({
        unit: fc.constantFrom("'", "\\", "\0", "\n", "%", "_", "x", "2", "7", "-", ";", "é", "𝕏", " "),
      }),
      fc.string({ unit: "grapheme" }),
    );

    it("never see each other's rows, whatever they ask; and each text finds exactly itself", async () => {
      const [attacker, victim] = [newTenant(), newTenant()];
      const fields = ["source_ip", "source_type", "event_category", "event_outcome", "event_action"] as const;
      await addEvents(
        victim,
        ["victim", "' OR 1=1 --", "%", "_", ""].map((text, index) => ({
          event_id: `v${index}`,
          event_timestamp: now,
          raw_event: text,
          ...Object.fromEntries(fields.map((field) => [field, text])),
        })),
      );
      await db.insert(names.alertsTable, [
        {
          tenant_id: victim,
          alert_id: "v",
          event_id: "v0",
          event_timestamp: now,
          rule: "r",
          severity: "high",
        },
      ]);
      let turn = 0;
      await fc.assert(
        fc.asyncProperty(attack, fc.boolean(), async (text, known) => {
          const value = encodeURIComponent(text);
          for (const [path, filters] of Object.entries(parameters)) {
            for (const name of filters) {
              const response = await get(attacker, `${path}?${name}=${value}&limit=1000&from=0`);
              expect(response.statusCode, response.body).toBe(200);
              for (const row of [...(response.json<Page>().events ?? response.json<Page>().alerts)]) {
                expect(row["tenant_id"]).toBe(attacker);
              }
            }
          }
          for (const id of [value, ...(known ? ["v0"] : [])].filter(Boolean)) {
            expect((await get(attacker, `/v1/events/${id}`)).statusCode).toBe(404);
          }
          // What the attacker stores itself is found by exactly that text.
          const event_id = `own${turn++}`;
          await addEvents(attacker, [{ event_id, event_timestamp: now, event_action: `${event_id}${text}` }]);
          const own = await get(attacker, `/v1/events?event_action=${event_id}${value}`);
          expect(own.json<Page>().events.map((row) => row["event_id"])).toEqual([event_id]);
        }),
        { numRuns: 60 },
      );
      expect(await readAll(victim, "/v1/events?limit=100")).toHaveLength(5);
    });

    it("can't use each other's cursors", async () => {
      const [one, two] = [newTenant(), newTenant()];
      await addEvents(
        one,
        [1, 2, 3].map((id) => ({ event_id: `a${id}`, event_timestamp: now - id })),
      );
      await addEvents(
        two,
        [1, 2, 3].map((id) => ({ event_id: `b${id}`, event_timestamp: now - id })),
      );
      // Few rows are read ahead, so there is a cursor only with more than a page and its spare rows.
      await addEvents(
        one,
        Array.from({ length: 30 }, (_, id) => ({ event_id: `c${id}`, event_timestamp: now - 9 })),
      );
      const { next_cursor } = (await get(one, "/v1/events?limit=1")).json<Page>();
      expect(next_cursor).not.toBeNull();
      const page = (await get(two, `/v1/events?cursor=${next_cursor}`)).json<Page>();
      expect(page.events.map((row) => row["event_id"])).toEqual(["b2", "b3"]);
    });

    it("search for text as it is: % and _ mean nothing", async () => {
      const tenant = newTenant();
      await addEvents(
        tenant,
        ["100% sure", "100 percent", "a_b", "axb", "a\\b", "a'b"].map((raw_event, index) => ({
          event_id: `e${index}`,
          event_timestamp: now,
          raw_event,
        })),
      );
      const found = async (q: string): Promise<unknown[]> =>
        (await get(tenant, `/v1/events?q=${encodeURIComponent(q)}`))
          .json<Page>()
          .events.map((row) => row["raw_event"]);
      expect(await found("%")).toEqual(["100% sure"]);
      expect(await found("_")).toEqual(["a_b"]);
      expect(await found("a\\b")).toEqual(["a\\b"]);
      expect(await found("a'b")).toEqual(["a'b"]);
      expect(await found("A_B")).toEqual([]);
    });
  });

  describe("limits", () => {
    it("an answer that is too large is refused, and fewer rows are not", async () => {
      const tenant = newTenant();
      const raw_event = "x".repeat(200 * 1024);
      for (let part = 0; part < 10; part++) {
        await addEvents(
          tenant,
          Array.from({ length: 10 }, (_, id) => ({
            event_id: `${part}-${id}`,
            event_timestamp: now,
            raw_event,
          })),
        );
      }
      const refused = await get(tenant, "/v1/events?limit=100");
      expect(refused.statusCode).toBe(422);
      expect(refused.json()).toMatchObject({
        error: "too_much",
        message: expect.stringContaining("limit") as string,
      });
      const fewer = await get(tenant, "/v1/events?limit=20");
      expect(fewer.json<Page>().events).toHaveLength(20);
    });

    it("an answer that is small in the database and too large as JSON is refused, and one event never is", async () => {
      const tenant = newTenant();
      // Six bytes each in JSON; the largest that an event may have.
      const raw_event = "\u0001".repeat(256 * 1024);
      for (let id = 0; id < 20; id++)
        await addEvents(tenant, [{ event_id: `c${id}`, event_timestamp: now - id, raw_event }]);
      const refused = await get(tenant, "/v1/events?limit=20");
      expect(refused.statusCode).toBe(422);
      expect(refused.json()).toMatchObject({
        error: "too_much",
        message: expect.stringContaining("limit") as string,
      });
      const one = await get(tenant, "/v1/events?limit=1");
      expect(one.json<Page>().events.map((row) => row["raw_event"])).toEqual([raw_event]);
      expect((await get(tenant, "/v1/events/c19")).json<Row>()["raw_event"]).toBe(raw_event);
    });

    it("a limit that is reached in the middle of an answer is named all the same", async () => {
      // Several blocks have left by then.
      const long = "SELECT number FROM system.numbers LIMIT 100000000 SETTINGS max_result_rows = 2000000";
      const replica = connect(db.database.urls[0]!, db.database);
      const reader = new Replicas([(_sql, signal) => replica(long, signal)]);
      const asked = reader.query("" as Statement, new AbortController().signal);
      await expect(asked).rejects.toMatchObject({ status: 422, code: "too_much" });
    });

    it("a query ends on the server when its client goes away", async () => {
      const [url] = db.database.urls;
      const replica = connect(url!, db.database);
      const running = (): Promise<string> =>
        db.sql("SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleep_here%'");
      const slow =
        "SELECT sleep_here, sum(cityHash64(number)) FROM (SELECT 1 AS sleep_here, number FROM system.numbers LIMIT 100000000000) GROUP BY sleep_here SETTINGS max_execution_time = 600";
      const reader = new Replicas([(_sql, signal) => replica(slow, signal)]);
      const own = createApi({
        reader,
        keys: { current: new TextEncoder().encode(secret) },
        lifecycle: { draining: false },
        quiet: true,
      });
      try {
        const address = await own.listen({ host: "127.0.0.1", port: 0 });
        const headers = { authorization: `Bearer ${await token("acme")}` };
        const client = httpRequest(`${address}/v1/events`, { headers });
        client.on("error", () => {});
        client.end();
        await expect.poll(running, { timeout: 20_000 }).toBe("1");
        client.destroy();
        await expect.poll(running, { timeout: 20_000 }).toBe("0");
      } finally {
        await own.close();
      }
    });
  });
});
