// The acknowledgement's guarantee at the producer: all in-sync replicas or an error, and what is safe isn't sent twice.

import { ProduceAcks } from "@platformatic/kafka";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Message } from "../../services/ingestor/batch.ts";
import {
  type KafkaOptions,
  type KafkaProducer,
  KafkaPublisher,
  partitionOf,
} from "../../services/ingestor/kafka.ts";

// The clock moves only when the publisher sleeps, so that 20 s take no time.
vi.mock("node:timers/promises", () => ({
  setTimeout: (ms: number) => Promise.resolve(vi.setSystemTime(Date.now() + ms)),
}));
beforeEach(() => void vi.useFakeTimers({ toFake: ["Date"], now: 0 }));
afterEach(() => void vi.useRealTimers());

interface Call {
  readonly acks: unknown;
  readonly messages: readonly { topic: string; key: string; partition: number }[];
}

const partitions = 4;
const calls: Call[] = [];
let created = 0;
let closed = 0;
let onClose = (): void => {};
let leader = 1;
/** So many questions for metadata fail from now on. */
let unanswered = 0;
/** How they fail. */
let silence = "";
/** Brokers in the order in which each producer asks them. */
let orders: string[][] = [];
/** What the n-th send does; the default is an acknowledgement. */
let answer: (call: number) => Promise<void>;
const messages: Message[] = Array.from({ length: 40 }, (_, n) => ({
  topic: n % 2 ? "alerts" : "events",
  key: `key ${n}`,
  value: "{}",
}));

function createProducer(brokers: readonly string[]): KafkaProducer {
  created++;
  orders.push([...brokers]);
  const topic = () => ({
    partitionsCount: partitions,
    partitions: Array.from({ length: partitions }, () => ({ leader })),
  });
  const metadata = () =>
    unanswered-- > 0
      ? Promise.reject(new Error(silence))
      : Promise.resolve({
          brokers: new Map([
            [1, {}],
            [2, {}],
          ]),
          topics: new Map([
            ["events", topic()],
            ["alerts", topic()],
          ]),
        });
  const send = async (call: Call): Promise<object> => {
    calls.push(call);
    await answer(calls.length - 1);
    return {};
  };
  const close = (_force: boolean, done: () => void): void => {
    closed++;
    onClose();
    done();
  };
  return { metadata, send, close } as unknown as KafkaProducer;
}

/** A publisher that asks for metadata when it first needs it. */
const publisher = (warn: KafkaOptions["warn"] = () => {}): KafkaPublisher =>
  new KafkaPublisher({
    brokers: ["kafka-1:9092", "kafka-2:9092", "kafka-3:9092"],
    topics: ["events", "alerts"],
    warn,
    createProducer,
  });

const keys = (call: Call | undefined): string[] => (call?.messages ?? []).map(({ key }) => key).sort();
const placeOf = ({ topic, partition }: { topic: string; partition: number }): string =>
  `${topic}/${partition}`;

beforeEach(() => {
  calls.length = 0;
  created = 0;
  closed = 0;
  onClose = () => {};
  leader = 1;
  unanswered = 0;
  orders = [];
  silence = "Connection closed";
  answer = () => Promise.resolve();
});

describe("a publish", () => {
  it("asks all in-sync replicas, once, with every message", async () => {
    await publisher().publish(messages);
    expect(calls).toHaveLength(1);
    expect(calls[0]?.acks).toBe(ProduceAcks.ALL);
    expect(keys(calls[0])).toEqual(messages.map(({ key }) => key).sort());
  });

  it("resolves no sooner than the acknowledgement", async () => {
    let acknowledge = (): void => {};
    answer = () => new Promise((resolve) => (acknowledge = resolve));
    let done = false;
    const published = publisher()
      .publish(messages)
      .then(() => (done = true));
    for (let turn = 0; turn < 50; turn++) await Promise.resolve();
    expect(done).toBe(false);
    acknowledge();
    await published;
  });

  it("is rejected when no send is acknowledged for 20 s", async () => {
    answer = () => Promise.reject(new Error("NOT_ENOUGH_REPLICAS"));
    await expect(publisher().publish(messages)).rejects.toThrow("NOT_ENOUGH_REPLICAS");
    expect(Date.now()).toBeGreaterThan(19_000);
    expect(Date.now()).toBeLessThanOrEqual(20_000);
    expect(calls.length).toBeGreaterThan(10);
    expect(calls.every(({ acks }) => acks === ProduceAcks.ALL)).toBe(true);
  });

  it("is rejected after 7 s when a stop was asked for", async () => {
    answer = () => Promise.reject(new Error("NOT_ENOUGH_REPLICAS"));
    const draining = publisher();
    draining.drain();
    await expect(draining.publish(messages)).rejects.toThrow("NOT_ENOUGH_REPLICAS");
    expect(Date.now()).toBeLessThanOrEqual(7_000);
  });

  it("is rejected when a partition has no leader, and sends nothing", async () => {
    leader = -1;
    await expect(publisher().publish(messages)).rejects.toThrow("has no leader");
    expect(calls).toEqual([]);
  });

  it("sends again what was not acknowledged, and nothing else, where it was", async () => {
    const safe = new Set(["events/0", "alerts/0", "alerts/3"]);
    answer = (call) =>
      call === 0
        ? Promise.reject(
            Object.assign(new Error("a broker stopped"), {
              produced: {
                offsets: [...safe].map((place) => {
                  const [topic, partition] = place.split("/");
                  return { topic, partition: Number(partition) };
                }),
              },
            }),
          )
        : Promise.resolve();
    await publisher().publish(messages);
    expect(calls).toHaveLength(2);
    const left = calls[0]!.messages.filter((message) => !safe.has(placeOf(message)));
    expect(left.length).toBeGreaterThan(0);
    expect(left.length).toBeLessThan(messages.length);
    expect(calls[1]?.messages).toEqual(left);
  });

  it("sends everything again when an error tells nothing", async () => {
    answer = (call) => (call === 0 ? Promise.reject(new Error("connection lost")) : Promise.resolve());
    await publisher().publish(messages);
    expect(calls).toHaveLength(2);
    expect(keys(calls[1])).toEqual(keys(calls[0]));
  });

  it("goes on with a new producer when one timed out", async () => {
    answer = (call) => (call === 0 ? Promise.reject(new Error("Request timed out")) : Promise.resolve());
    await publisher().publish(messages);
    expect({ created, closed, calls: calls.length }).toEqual({ created: 2, closed: 1, calls: 2 });
  });

  it("asks another broker first when one gave no metadata in time: it may hang", async () => {
    unanswered = 3;
    silence = "the request for metadata timed out";
    await publisher().publish(messages);
    expect(orders.map(([first]) => first?.split(":")[0])).toEqual([
      "kafka-1",
      "kafka-2",
      "kafka-3",
      "kafka-1",
    ]);
    expect(orders.every((order) => new Set(order).size === 3)).toBe(true);
  });

  it("is sent anew where its partitions have another leader, though the old one says nothing", async () => {
    // Closing a producer ends what waits for it.
    let hangs: ((error: Error) => void) | undefined;
    answer = (call) => (call === 0 ? new Promise((_, reject) => (hangs = reject)) : Promise.resolve());
    onClose = () => hangs?.(new Error("Connection closed"));
    const made = publisher();
    const published = made.publish(messages);
    await vi.waitFor(() => expect(calls).toHaveLength(1));
    vi.setSystemTime(Date.now() + 2_000);
    // The same leader: an answer may yet come.
    await made.refresh();
    expect({ created, closed }).toEqual({ created: 1, closed: 0 });
    leader = 2;
    await made.refresh();
    await published;
    expect({ created, closed, calls: calls.length }).toEqual({ created: 2, closed: 1, calls: 2 });
  });

  it("is rejected when a part stays unacknowledged", async () => {
    const produced = { offsets: [{ topic: "events", partition: 0 }] };
    answer = () => Promise.reject(Object.assign(new Error("one partition is down"), { produced }));
    await expect(publisher().publish(messages)).rejects.toThrow("one partition is down");
  });
});

describe("a key's partition", () => {
  it("stays, or is one that was added", () => {
    fc.assert(
      fc.property(
        fc.string(),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 1, max: 40 }),
        (key, few, more) => {
          const [before, after] = [partitionOf(key, few), partitionOf(key, few + more)];
          expect(before).toBeLessThan(few);
          if (after !== before) expect(after).toBeGreaterThanOrEqual(few);
        },
      ),
    );
  });

  it("is each one about as often", () => {
    const counts = [0, 0, 0, 0, 0, 0];
    for (let n = 0; n < 60_000; n++) counts[partitionOf(`event-${n}`, 6)]!++;
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500);
  });
});

describe("the connection to Kafka", () => {
  const connected = async (warned: string[] = []): Promise<KafkaPublisher> => {
    const made = publisher((_, message) => void warned.push(message));
    expect(made.connected).toBe(false);
    await made.publish(messages);
    expect(made.connected).toBe(true);
    return made;
  };
  /** So many sends fail from now on. */
  const lose = (sends: number): void => {
    const until = calls.length + sends;
    answer = (call) => (call < until ? Promise.reject(new Error("Connection closed")) : Promise.resolve());
  };

  it("is not lost when many posts lose the same broker at once", async () => {
    const made = await connected();
    const posts = 20;
    lose(posts);
    // The library tells all who ask at once of the same failure.
    unanswered = posts;
    const seen: boolean[] = [];
    await Promise.all(
      Array.from({ length: posts }, () => made.publish(messages).then(() => seen.push(made.connected))),
    );
    expect(seen).toEqual(Array.from({ length: posts }, () => true));
  });

  it("is lost when nobody answers three times in a row, and is back with the first answer", async () => {
    const warned: string[] = [];
    const made = await connected(warned);
    warned.length = 0;
    lose(4);
    unanswered = 3;
    await made.publish(messages);
    expect(made.connected).toBe(true);
    const retrying = "Kafka did not acknowledge; retrying";
    expect(warned).toEqual([
      ...[retrying, retrying, retrying, "lost the connection to Kafka"],
      ...[retrying, "connected to Kafka"],
    ]);
  });
});
