// Does a reader see each acknowledged event once? Real ZooKeeper, Kafka and ClickHouse; senders that repeat; a killed replica.

import type { FastifyInstance } from "fastify";
import { setTimeout as sleep } from "node:timers/promises";
import { Producer, ProduceAcks, stringSerializers } from "@platformatic/kafka";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { renderSchema } from "../../components/render/clickhouse.ts";
import { names, plan } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { createApi } from "../../services/api/app.ts";
import { connect, Replicas } from "../../services/api/replicas.ts";
import { uuidV7 } from "../../services/common/uuid.ts";
import { cleanUp, docker, withoutDocker } from "./docker.ts";
import { type Ingest, keys, password, type Plane, startIngest, startPlane, token } from "./plane.ts";

const tenant = "once";
const batches = 12;
const perBatch = 60;
/** Long enough ago that nothing here is in the future. */
const began = Math.floor(Date.now() / 1000) - 4500;

/** What an earlier release left: a column of its tables, a table with a queue and a view, and a row of then. */
const earlier = `clickhouse-client --multiquery <<'SQL'
${renderSchema(plan())
  .split(";\n")
  .filter((statement) => /CREATE DATABASE|ENGINE = Replicated/.test(statement))
  .filter((statement) => !statement.includes(names.unreadableTable))
  .map((statement) =>
    statement
      .replace(/row_version UInt64 DEFAULT \d+/, "mark_awaited_until UInt32")
      .replace("', '{replica}', row_version)", "', '{replica}')")
      .replace("_versioned'", "'"),
  )
  .map((statement) => `${statement};\n`)
  .join("")}
CREATE TABLE ${names.database}.undated_replicated ON CLUSTER ${names.clickhouseCluster} (tenant_id String, event_id String, event_timestamp UInt32)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/undated', '{replica}') PARTITION BY toYYYYMM(toDateTime(event_timestamp)) ORDER BY (tenant_id, event_id, event_timestamp);
CREATE TABLE ${names.database}.undated_queue_1 ON CLUSTER ${names.clickhouseCluster} (tenant_id String, event_id String, event_timestamp UInt32)
ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092', kafka_topic_list = '${names.eventsTopic}', kafka_group_name = 'clickhouse-undated', kafka_format = 'JSONEachRow';
CREATE MATERIALIZED VIEW ${names.database}.undated_consumer_1 ON CLUSTER ${names.clickhouseCluster} TO ${names.database}.undated_replicated AS SELECT * FROM ${names.database}.undated_queue_1;
INSERT INTO ${names.database}.${names.eventsTable} (event_id, tenant_id, event_timestamp, raw_event, mark_awaited_until) VALUES ('of-before', 'of-before', ${began}, '', ${began + 3600}), ('kept-before', 'content', ${began}, 'of before', 0);
SQL`;

type Sent = Readonly<Record<string, unknown>>;

/** Events with a time of their own; every tenth is a threat, so that there are alerts too. */
const dated = (batch: number): Sent[] =>
  Array.from({ length: perBatch }, (_, n) => ({
    event_id: `dated-${batch}-${n}`,
    // Many in one second, in no order of their ids: neighbours in the table are not neighbours in a batch.
    event_timestamp: began + ((batch * 7 + n) % 40),
    raw_event:
      n % 10 === 0
        ? `Dec 10 07:13:01 host sshd[${n}]: Failed password for root from 192.0.2.${n} port ${1000 + n} ssh2`
        : `Dec 10 07:13:01 host cron[${n}]: job ${batch}/${n}`,
  }));

/** Events whose time is in their id, and the ids, which are the same each time. */
const ids = Array.from({ length: batches }, (_, batch) =>
  Array.from({ length: 10 }, (_event, n) => uuidV7(new Date((began + batch * 10 + n) * 1000))),
);
const timed = (batch: number): Sent[] =>
  ids[batch]!.map((event_id, n) => ({
    event_id,
    raw_event: n % 5 === 0 ? "no time here, but a threat" : `no time here: ${batch}/${n}`,
    ...(n % 5 === 0 ? { source_type: "sshd", event_action: "failed_password" } : {}),
  }));

describe.skipIf(withoutDocker())("each acknowledged event", () => {
  let plane: Plane;
  let ingest: Ingest;
  /** Of another tenant, whose events only make parts. */
  let others: Ingest;
  let authorization: string;
  /** The ingestors' clock: it runs on between the repeats of an event. */
  let now = began + 3600;
  const acknowledged = new Set<string>();
  let posts = 0;

  beforeAll(async () => {
    await ensureImages(Object.values(publicImages), (line) => console.log(line));
    plane = await startPlane({ net: "198.18.79", brokers: 1, replicas: 2, earlier });
    ingest = await startIngest(plane, tenant, () => new Date(now * 1000));
    others = await startIngest(plane, "others", () => new Date(now * 1000));
    authorization = `Bearer ${await token(tenant)}`;
  }, 900_000);

  afterAll(async () => {
    await ingest?.close();
    await others?.close();
    cleanUp();
    plane?.remove();
  });

  const post = async (events: readonly Sent[]): Promise<void> => {
    const answer = await ingest.post(events);
    expect(answer.statusCode, answer.body).toBe(202);
    posts += events.length;
    for (const id of answer.json<{ ids: string[] }>().ids) acknowledged.add(id);
  };

  /** The API as it runs, reading from these replicas. */
  const api = (urls: readonly string[]): FastifyInstance => {
    const database = { urls, username: names.databaseUser, password, database: names.database };
    const reader = new Replicas(urls.map((url) => connect(url, database)));
    const clock = () => new Date(now * 1000);
    return createApi({ reader, keys, lifecycle: { draining: false }, quiet: true, now: clock });
  };
  const get = async (app: FastifyInstance, url: string): Promise<Record<string, unknown>> => {
    const answer = await app.inject({ url, headers: { authorization } });
    expect(answer.statusCode, `${url}: ${answer.body}`).toBe(200);
    return answer.json();
  };
  const range = `from=${began - 10}&to=${began + 7200}`;
  /** Every id that the pages of a list show, in their order. */
  const list = async (app: FastifyInstance, what: "events" | "alerts", limit: number): Promise<string[]> => {
    const ids: string[] = [];
    let cursor: string | null = null;
    do {
      const page: Record<string, unknown> = await get(
        app,
        `/v1/${what}?${range}&limit=${limit}${cursor === null ? "" : `&cursor=${cursor}`}`,
      );
      const id = what === "events" ? "event_id" : "alert_id";
      ids.push(...(page[what] as Record<string, string>[]).map((row) => row[id] ?? ""));
      cursor = page["next_cursor"] as string | null;
    } while (cursor !== null);
    return ids;
  };
  const number = (slot: number, sql: string): number => Number(plane.query(slot, sql));

  it("is acknowledged, repeats and all, while a replica is killed and comes back, and no answer has it twice", async () => {
    const second = plane.container("clickhouse-2");
    const app = api(plane.urls);
    const twice: string[] = [];
    const answers = { events: 0, alerts: 0 };
    let over = false;
    const readOn = async (): Promise<void> => {
      while (!over) {
        for (const what of ["events", "alerts"] as const) {
          const answer = await app.inject({
            url: `/v1/${what}?${range}&limit=1000`,
            headers: { authorization },
          });
          if (answer.statusCode !== 200) continue;
          answers[what]++;
          const id = what === "events" ? "event_id" : "alert_id";
          const ids = answer.json<Record<string, Record<string, string>[]>>()[what]!.map((row) => row[id]!);
          twice.push(...ids.filter((one, at) => ids.indexOf(one) !== at));
        }
        const [rows, different] = plane
          .query(1, `SELECT count(), uniqExact(event_id) FROM ${names.database}.events_once`)
          .split("\t");
        if (rows !== different) twice.push(`${rows} rows of ${different} in events_once`);
        await sleep(50);
      }
    };
    const reading = readOn();
    for (let batch = 0; batch < batches; batch++) {
      if (batch === 4) docker("kill", second);
      if (batch === 8) docker("start", second);
      await post([...dated(batch), ...timed(batch)]);
      // A client whose answer was lost sends the same again, a second later.
      now += 1;
      await post([...dated(batch), ...timed(batch)]);
      await sleep(700);
    }
    // A feed that starts again from its beginning.
    now += 60;
    for (let batch = 0; batch < batches; batch++) await post([...timed(batch), ...dated(batch)]);
    await sleep(2000);
    over = true;
    await reading;
    await app.close();
    expect(answers.events).toBeGreaterThan(10);
    expect(answers.alerts).toBeGreaterThan(10);
    expect(twice).toEqual([]);
    expect(acknowledged.size).toBe(batches * (perBatch + 10));
    expect(posts).toBe(3 * acknowledged.size);
  }, 120_000);

  it("is on both replicas", async () => {
    const threats = batches * (perBatch / 10 + 2);
    for (const slot of [1, 2]) {
      const count = (table: string, id: string) =>
        number(slot, `SELECT uniqExact(${id}) FROM ${names.database}.${table} WHERE tenant_id = '${tenant}'`);
      await expect
        .poll(() => count(names.eventsTable, "event_id"), { timeout: 60_000, interval: 500 })
        .toBe(acknowledged.size);
      await expect
        .poll(() => count(names.alertsTable, "alert_id"), { timeout: 60_000, interval: 500 })
        .toBe(threats);
    }
    const offsets = plane.run(
      "kafka-1",
      `KAFKA_HEAP_OPTS=-Xmx128m kafka-get-offsets --bootstrap-server localhost:9092 --topic ${names.eventsTopic}`,
    );
    const messages = offsets.split("\n").reduce((sum, line) => sum + Number(line.split(":")[2]), 0);
    expect(messages, "Kafka has every copy").toBe(posts);
  }, 120_000);

  it("is shown once, on pages of any size, by either replica and by both", async () => {
    const ids = [...acknowledged].sort();
    for (const [urls, limit] of [
      [plane.urls.slice(0, 1), 7],
      [plane.urls.slice(1), 100],
      [plane.urls, 1000],
    ] as const) {
      const app = api(urls);
      expect((await list(app, "events", limit)).sort(), `limit ${limit}`).toEqual(ids);
      const alerts = await list(app, "alerts", limit);
      expect(new Set(alerts).size).toBe(alerts.length);
      expect(alerts).toHaveLength(batches * (perBatch / 10 + 2));
      await app.close();
    }
  }, 120_000);

  it("is counted once", async () => {
    const app = api(plane.urls);
    const stats = await get(app, `/v1/stats?${range}`);
    expect(stats["total"]).toBe(acknowledged.size);
    expect(stats["threats"]).toBe(batches * (perBatch / 10 + 2));
    await app.close();
  });

  it("is found by its id", async () => {
    const app = api(plane.urls);
    expect((await get(app, `/v1/events/${ids[0]![1]}`))["event_timestamp"]).toBe(began + 1);
    expect((await get(app, "/v1/events/dated-3-5"))["event_timestamp"]).toBe(began + 26);
    await app.close();
  });

  it("is there once for people who write SQL", () => {
    for (const slot of [1, 2]) {
      for (const [view, id, wanted] of [
        ["events_once", "event_id", acknowledged.size],
        ["alerts_once", "alert_id", batches * (perBatch / 10 + 2)],
      ] as const) {
        const counts = plane.query(
          slot,
          `SELECT count(), uniqExact(${id}) FROM ${names.database}.${view} WHERE tenant_id = '${tenant}'`,
        );
        expect(counts, `${view} on replica ${slot}`).toBe(`${wanted}\t${wanted}`);
      }
    }
  });

  it("is there too if an earlier release stored it, and nothing else is left of that", () => {
    for (const slot of [1, 2]) {
      expect(
        number(slot, `SELECT count() FROM ${names.database}.events_once WHERE tenant_id = 'of-before'`),
      ).toBe(1);
      const left = `(SELECT count() FROM system.columns WHERE database = '${names.database}' AND name = 'mark_awaited_until')`;
      expect(
        plane.query(
          slot,
          `SELECT ${left}, count() FROM system.tables WHERE database = '${names.database}' AND (name LIKE 'undated%' OR name LIKE '%_earlier')`,
        ),
      ).toBe("0\t0");
    }
  });

  /** Merges what the leader, which alone may, is willing to: the newest parts only once others have come. */
  const merge = async (): Promise<void> => {
    const event = { event_id: uuidV7(new Date()), event_timestamp: began, raw_event: "one more" };
    expect((await others.post([event])).statusCode).toBe(202);
    for (const slot of [1, 2])
      plane.query(slot, `OPTIMIZE TABLE ${names.database}.${names.eventsTable} FINAL`);
  };

  it("has copies that leave the disk as parts are merged", async () => {
    const kept = (what: string): number =>
      number(1, `SELECT ${what} FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${tenant}'`);
    await expect
      .poll(() => merge().then(() => kept("count()")), { timeout: 60_000, interval: 1000 })
      .toBeLessThan(posts);
    expect(kept("uniqExact(event_id)")).toBe(acknowledged.size);
  }, 120_000);

  it("keeps the content that was acknowledged first, on every route, before and after a merge", async () => {
    const other = await startIngest(plane, "content", () => new Date(now * 1000));
    const content = `Bearer ${await token("content")}`;
    const merges = (what: "STOP" | "START") => {
      for (const slot of [1, 2]) expect(plane.query(slot, `SYSTEM ${what} MERGES`)).toBe("");
    };
    const event = (id: string, raw_event: string, is_threat: number) => ({
      event_id: id,
      event_timestamp: began,
      source_type: raw_event,
      raw_event,
      is_threat,
    });
    merges("STOP");
    try {
      expect((await other.post([event("kept", "first", 0)])).statusCode).toBe(202);
      const later = Array.from({ length: 20 }, (_, n) => [
        event("kept", `later ${n}`, 1),
        event("kept-before", `later ${n}`, 1),
      ]);
      for (const { statusCode } of await Promise.all(later.map((events) => other.post(events))))
        expect(statusCode).toBe(202);
    } finally {
      await other.close();
    }
    const rows = (slot: number, where: string) =>
      number(
        slot,
        `SELECT count() FROM ${names.database}.${names.eventsTable} WHERE tenant_id = 'content' AND ${where}`,
      );
    for (const slot of [1, 2])
      await expect.poll(() => rows(slot, "1"), { timeout: 60_000, interval: 500 }).toBe(42);

    const all = async (app: FastifyInstance, url: string): Promise<Record<string, unknown>> => {
      const answer = await app.inject({ url, headers: { authorization: content } });
      expect(answer.statusCode, `${url}: ${answer.body}`).toBe(200);
      return answer.json();
    };
    const agree = async (): Promise<void> => {
      for (const slot of [1, 2]) {
        const app = api([plane.urls[slot - 1]!]);
        const where = `from=${began}&to=${began}`;
        const listed = async (filter: string) =>
          ((await all(app, `/v1/events?${where}&${filter}`))["events"] as Record<string, unknown>[])
            .map(({ raw_event }) => raw_event)
            .sort();
        const both = ["first", "of before"];
        expect((await all(app, "/v1/events/kept"))["raw_event"]).toBe("first");
        expect((await all(app, "/v1/events/kept-before"))["raw_event"]).toBe("of before");
        expect(await listed("")).toEqual(both);
        expect(await listed("is_threat=0")).toEqual(both);
        expect(await listed("is_threat=1")).toEqual([]);
        expect(await listed("q=later")).toEqual([]);
        expect(await listed("source_type=later%205")).toEqual([]);
        expect(await all(app, `/v1/stats?${where}`)).toMatchObject({
          total: 2,
          threats: 0,
          by_source_type: { first: 1, "": 1 },
        });
        await app.close();
        const sql = `SELECT groupArray(raw_event) FROM (SELECT raw_event FROM ${names.database}.events_once WHERE tenant_id = 'content' ORDER BY raw_event)`;
        expect(plane.query(slot, sql)).toBe("['first','of before']");
      }
    };
    await agree();
    merges("START");
    const merged = () => merge().then(() => rows(1, "1"));
    await expect.poll(merged, { timeout: 60_000, interval: 1000 }).toBeLessThan(42);
    await agree();
  }, 180_000);

  it("comes past messages that nobody can read, which are set aside", async () => {
    const producer = new Producer({
      clientId: "test",
      bootstrapBrokers: [...plane.brokers],
      serializers: stringSerializers,
    });
    const row = (fields: object) =>
      JSON.stringify({ tenant_id: tenant, event_id: "by-hand", event_timestamp: began, ...fields });
    const bad: Readonly<Record<string, string>> = {
      "this is not json": "not a JSON object",
      "": "not a JSON object",
      "{}": "an object without fields",
      [row({}).slice(0, -1)]: "an object that does not end",
      [row({ event_id: 5 })]: "a text in quotes is missing",
      [row({ event_timestamp: "soon" })]: "a field that is not its number",
      [row({ event_timestamp: 2 ** 32 })]: "a field that is not its number",
      [row({ source_ip: ["192.0.2.1"] })]: "a text in quotes is missing",
      [row({}).replace("}", ',"event_id":"again"}')]: "a field that is there twice",
      [row({}).replace("by-hand", "\\ud800")]: "half of a surrogate pair",
      [`${row({})} ${row({})}`]: "more than one object",
      [row({ _offset: "5" })]: "a field that begins with _",
      [row({ tenant_id: "" })]: "tenant_id is empty",
      [row({ event_id: undefined })]: "event_id is empty",
      [row({ event_timestamp: 0 })]: "event_timestamp is 0",
      [row({ event_timestamp: 2 ** 32 - 1 })]: "event_timestamp is 4294967295",
    };
    const send = (topic: string, values: readonly string[]) =>
      producer.send({
        messages: values.map((value) => ({ topic, partition: 0, key: "k", value })),
        acks: ProduceAcks.ALL,
      });
    await send(names.eventsTopic, Object.keys(bad));
    await send(names.alertsTopic, ["neither is this"]);
    // What earlier ingestors sent is a row.
    await send(names.eventsTopic, [row({ event_id: "behind", is_undated: 0, mark_awaited_until: 0 })]);
    await producer.close();
    const sql = "SELECT count(), countIf(kafka_topic = 'alerts')";
    for (const slot of [1, 2]) {
      await expect
        .poll(() => plane.query(slot, `${sql} FROM ${names.database}.unreadable_once`), {
          timeout: 60_000,
          interval: 500,
        })
        .toBe(`${Object.keys(bad).length + 1}\t1`);
      const reasons = plane.query(
        slot,
        `SELECT reason FROM ${names.database}.unreadable_once WHERE kafka_topic = '${names.eventsTopic}' ORDER BY kafka_offset`,
      );
      expect(reasons.split("\n")).toEqual(Object.values(bad));
      await expect
        .poll(
          () =>
            number(
              slot,
              `SELECT count() FROM ${names.database}.${names.eventsTable} FINAL WHERE event_id IN ('behind', 'by-hand', '')`,
            ),
          { timeout: 60_000, interval: 500 },
        )
        .toBe(1);
    }
    const text = plane.query(
      1,
      `SELECT message FROM ${names.database}.unreadable_once WHERE reason = 'more than one object'`,
    );
    expect(text).toBe(`${row({})} ${row({})}`);
  }, 180_000);

  it("is readable while others keep coming", async () => {
    const readable = (): number =>
      number(
        1,
        `SELECT count() FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${tenant}' AND event_id LIKE 'trickle-0-%'`,
      );
    // Never half a second without an event, and far fewer than a block of the server's own size.
    let round = 0;
    for (; round < 100 && readable() < 20; round++) {
      const events = Array.from({ length: 20 }, (_, n) => ({
        event_id: `trickle-${round}-${n}`,
        event_timestamp: began + 4400,
        raw_event: "one of many",
      }));
      expect((await ingest.post(events)).statusCode).toBe(202);
      await sleep(200);
    }
    expect(readable()).toBeGreaterThanOrEqual(20);
  }, 120_000);
});
