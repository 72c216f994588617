// A feed that stands still: real Kafka and ClickHouse, and events that are days old for Kafka. Ingestors refuse until it reads on.

import { setTimeout as sleep } from "node:timers/promises";
import { Admin, Producer, ProduceAcks, stringSerializers } from "@platformatic/kafka";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { names, type Reader, readers } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { toTenantId } from "../../services/common/auth.ts";
import { createIngestor } from "../../services/ingestor/app.ts";
import type { Message } from "../../services/ingestor/batch.ts";
import { eventFromJson } from "../../services/ingestor/event.ts";
import { FeedWatch } from "../../services/ingestor/feed-watch.ts";
import { KafkaPublisher } from "../../services/ingestor/kafka.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import { cleanUp, docker, withoutDocker } from "./docker.ts";
import { keys, type Plane, startPlane, token } from "./plane.ts";

const tenant = "feed";
const [eventsTopic, alertsTopic] = [names.eventsTopic, names.alertsTopic];
/** Kafka keeps seven days. These watches believe in four, so that what is three days old is too old and stays. */
const retentionHours = 96;
const old = BigInt(Date.now() - 72 * 3_600_000);
/** Ten for each partition of the events. */
const events = 60;
const threats = 12;

describe.skipIf(withoutDocker())("a feed that stands", () => {
  let plane: Plane;
  let admin: Admin;
  const open: { close(): unknown }[] = [];

  beforeAll(async () => {
    await ensureImages(Object.values(publicImages), (line) => console.log(line));
    plane = await startPlane({ net: "198.18.88", brokers: 1, replicas: 1 });
    admin = new Admin({ clientId: "test", bootstrapBrokers: [...plane.brokers] });
    open.push(admin);
  }, 900_000);

  afterAll(async () => {
    for (const each of open) await each.close();
    cleanUp();
    plane?.remove();
  });

  interface Seen {
    readonly watch: FeedWatch;
    /** What it logged: the message, and what came with it. */
    readonly said: { readonly message: string; readonly details: Record<string, unknown> }[];
  }
  const watching = (...what: Reader[]): Seen => {
    const said: Seen["said"] = [];
    const warn = (details: object, message: string) =>
      void said.push({ message, details: details as Record<string, unknown> });
    return { watch: new FeedWatch({ brokers: plane.brokers, readers: what, retentionHours, warn }), said };
  };
  /** Looks until it has the wanted answer. */
  const until = async ({ watch, said }: Seen, stands: boolean, seconds: number): Promise<void> => {
    for (const deadline = Date.now() + seconds * 1000; ; await sleep(500)) {
      await watch.check();
      if (watch.stands === stands) return;
      if (Date.now() > deadline) throw new Error(`never ${stands}: ${JSON.stringify(said)}`);
    }
  };
  /** Kafka answered each of so many checks: three that fail in a row are logged. */
  const looks = async (seen: Seen): Promise<boolean> => {
    for (let round = 0; round < 3; round++) await seen.watch.check();
    expect(seen.said.filter(({ message }) => message.includes("not known"))).toEqual([]);
    return seen.watch.stands;
  };
  /** As an ingestor would have sent them three days ago, the same number to each partition. */
  const sendOld = async (): Promise<void> => {
    const producer = new Producer({
      clientId: "test",
      bootstrapBrokers: [...plane.brokers],
      serializers: stringSerializers,
    });
    const messages: Message[] = [];
    const publisher = { connected: true, publish: () => Promise.resolve() };
    const pipeline = new Pipeline({ publisher, rules: parseRules(), eventsTopic, alertsTopic });
    for (let n = 0; n < events; n++) {
      const raw_event = n < threats ? "a threat" : `job ${n}`;
      const threat = n < threats ? { source_type: "sshd", event_action: "failed_password" } : {};
      const event = {
        event_id: `event-${n}`,
        event_timestamp: Math.floor(Date.now() / 1000),
        raw_event,
        ...threat,
      };
      const made = eventFromJson(event, toTenantId(tenant), new Date());
      messages.push(...(await pipeline.pack([made])).messages);
    }
    const sent: Record<string, number> = { [eventsTopic]: 0, [alertsTopic]: 0 };
    const partitions: Record<string, number> = { [eventsTopic]: 6, [alertsTopic]: 3 };
    await producer.send({
      messages: messages.map((message) => ({
        ...message,
        partition: sent[message.topic]!++ % partitions[message.topic]!,
        timestamp: old,
      })),
      acks: ProduceAcks.ALL,
    });
    expect(sent).toEqual({ [eventsTopic]: events, [alertsTopic]: threats });
    await producer.close();
  };
  const stored = (table: string): number =>
    Number(plane.query(1, `SELECT count() FROM ${names.database}.${table}`));

  it("is seen when ClickHouse is gone, makes the ingestor refuse, and is over when ClickHouse has read", async () => {
    const seen = watching(...Object.values(readers));
    expect(await looks(seen)).toBe(false);
    const clickhouse = plane.container("clickhouse-1");
    docker("kill", clickhouse);
    await sendOld();
    await until(seen, true, 10);
    expect(seen.said).toHaveLength(1);
    expect(seen.said[0]?.details["late"]).toEqual([
      { ...readers.events, messages: events },
      { ...readers.alerts, messages: threats },
    ]);

    const warn = () => undefined;
    const publisher = new KafkaPublisher({
      brokers: plane.brokers,
      topics: [eventsTopic, alertsTopic],
      warn,
    });
    void publisher.run();
    const rules = parseRules();
    const pipeline = new Pipeline({ publisher, feed: seen.watch, rules, eventsTopic, alertsTopic });
    const app = createIngestor({ pipeline, keys, lifecycle: { draining: false }, quiet: true });
    open.push(app, publisher);
    await expect.poll(() => publisher.connected, { timeout: 60_000 }).toBe(true);
    const authorization = `Bearer ${await token(tenant)}`;
    const post = () =>
      app.inject({
        method: "POST",
        url: "/v1/events",
        headers: { authorization, "content-type": "text/plain" },
        payload: "one more",
      });
    const refused = await post();
    expect([refused.statusCode, refused.headers["retry-after"]]).toEqual([503, "60"]);
    expect(refused.json()).toMatchObject({ error: "feed_stands" });

    docker("start", clickhouse);
    const started = Date.now();
    await until(seen, false, 120);
    console.log(
      `the feed had caught up ${Math.round((Date.now() - started) / 1000)} s after ClickHouse started`,
    );
    expect(stored(names.eventsTable)).toBe(events);
    expect(stored(names.alertsTable)).toBe(threats);
    expect((await post()).statusCode).toBe(202);
    expect(await looks(seen)).toBe(false);
    expect(seen.said.map(({ message }) => message)).toHaveLength(2);
  }, 300_000);

  it("is one whose group never committed, and none once it has, or what it missed is deleted", async () => {
    const reader = { group: "of-the-test", topic: alertsTopic };
    const each = threats / 3;
    const commit = (...offsets: number[]) =>
      admin.alterConsumerGroupOffsets({
        groupId: reader.group,
        topics: [
          {
            name: alertsTopic,
            partitionOffsets: offsets.map((offset, partition) => ({ partition, offset: BigInt(offset) })),
          },
        ],
      });
    const late = async (): Promise<unknown> => {
      const seen = watching(reader);
      const stands = await looks(seen);
      expect(seen.said).toHaveLength(stands ? 1 : 0);
      return seen.said[0]?.details["late"];
    };
    expect(await late()).toEqual([{ ...reader, messages: threats }]);
    await commit(each, each, each - 1);
    expect(await late()).toEqual([{ ...reader, messages: 1 }]);
    await commit(each, each, each);
    expect(await late()).toBeUndefined();
    await commit(each, each, 0);
    expect(await late()).toEqual([{ ...reader, messages: each }]);
    await admin.deleteRecords({
      topics: [{ name: alertsTopic, partitions: [{ partition: 2, offset: BigInt(each - 1) }] }],
    });
    expect(await late()).toEqual([{ ...reader, messages: 1 }]);
    await admin.deleteRecords({
      topics: [{ name: alertsTopic, partitions: [{ partition: 2, offset: BigInt(each) }] }],
    });
    expect(await late()).toBeUndefined();
  }, 120_000);

  it("stays one while Kafka is gone, and is looked at again when it is back", async () => {
    const seen = watching({ group: "nobody", topic: eventsTopic });
    await seen.watch.check();
    expect(seen.watch.stands).toBe(true);
    const kafka = plane.container("kafka-1");
    docker("kill", kafka);
    for (let round = 0; round < 3; round++) await seen.watch.check();
    expect(seen.watch.stands).toBe(true);
    expect(seen.said.slice(1)).toMatchObject([{ details: { stands: true } }]);
    docker("start", kafka);
    for (const deadline = Date.now() + 90_000; seen.said.length < 3; await sleep(500)) {
      await seen.watch.check();
      expect(seen.watch.stands).toBe(true);
      if (Date.now() > deadline) throw new Error(`never again: ${JSON.stringify(seen.said)}`);
    }
    expect(seen.said.at(-1)?.message).toContain("known again");
  }, 180_000);
});
