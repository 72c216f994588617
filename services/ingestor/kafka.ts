// The producer: acknowledged by all in-sync replicas, or an error; it outlives brokers that stop and restart.

import { setTimeout as sleep } from "node:timers/promises";
import { type ClusterMetadata, Producer, ProduceAcks, stringSerializers } from "@platformatic/kafka";
import type { Message } from "./batch.ts";

export interface KafkaOptions {
  readonly brokers: readonly string[];
  readonly topics: readonly string[];
  readonly warn: (details: object, message: string) => void;
  /** @default a producer of the library */
  readonly createProducer?: () => KafkaProducer;
}

/** A killed broker stalls its partitions for about ZooKeeper's session timeout; requests wait that long. */
const giveUpMs = 20_000;
/** After a stop was asked for, so that it ends within 10 s. */
const giveUpDrainingMs = 7_000;
const retryMs = 250;
const refreshMs = 2_000;
/** Failed refreshes in a row before the producer counts as disconnected. */
const tolerated = 3;

type StringProducer = Producer<string, string, string, string>;
/** What the publisher needs of the library's producer. */
export type KafkaProducer = Pick<StringProducer, "send" | "metadata" | "close">;
type Placed = Message & { readonly partition: number };

/** Publishes to fixed topics. Retries are ours: the library's own go to the broker they first knew. */
export class KafkaPublisher {
  readonly #options: KafkaOptions;
  #producer: KafkaProducer;
  #metadata: ClusterMetadata | undefined;
  #failures = tolerated;
  #refreshing: Promise<void> | undefined;
  #stopped = false;
  #giveUpAt = Number.POSITIVE_INFINITY;

  constructor(options: KafkaOptions) {
    this.#options = options;
    this.#producer = this.#create();
  }

  /** Whether Kafka answered lately and every topic exists. */
  get connected(): boolean {
    return this.#failures < tolerated;
  }

  /** Keeps asking for metadata in the background, so that Kafka may start later and move. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      await this.#refresh();
      await sleep(this.connected ? refreshMs : retryMs * 2);
    }
  }

  /** Resolves when every message is acknowledged. What was acknowledged is not sent again by a retry. */
  async publish(messages: readonly Message[]): Promise<void> {
    const deadline = Date.now() + giveUpMs;
    let pending = messages;
    for (;;) {
      const producer = this.#producer;
      let placed: Placed[] = [];
      try {
        placed = this.#place(pending);
        await producer.send({ messages: placed, acks: ProduceAcks.ALL });
        return;
      } catch (error) {
        if (placed.length > 0) pending = unacknowledged(placed, error);
        if (pending.length === 0) return;
        this.#options.warn(
          { cause: causes(error), messages: pending.length },
          "Kafka did not acknowledge; retrying",
        );
        // A connection that timed out never recovers in the library.
        if (/timed out/i.test(causes(error))) this.#renew(producer);
        if (Date.now() + retryMs > Math.min(deadline, this.#giveUpAt)) throw error;
        await sleep(retryMs);
        await this.#refresh();
      }
    }
  }

  /** From now on requests wait only as long as a graceful stop allows. */
  drain(): void {
    this.#giveUpAt = Date.now() + giveUpDrainingMs;
    setTimeout(() => this.#renew(this.#producer), giveUpDrainingMs).unref();
  }

  async close(): Promise<void> {
    this.#stopped = true;
    await new Promise<void>((resolve) => this.#producer.close(true, () => resolve()));
  }

  #create(): KafkaProducer {
    if (this.#options.createProducer) return this.#options.createProducer();
    return new Producer({
      clientId: "siem-ingestor",
      bootstrapBrokers: [...this.#options.brokers],
      serializers: stringSerializers,
      retries: 0,
      repeatOnStaleMetadata: false,
      metadataMaxAge: 60_000,
      connectTimeout: 2_000,
      requestTimeout: 8_000,
      timeout: 6_000,
    });
  }

  #renew(old: KafkaProducer): void {
    if (old !== this.#producer || this.#stopped) return;
    this.#producer = this.#create();
    // Nobody need wait for what the old one was asked.
    this.#refreshing = undefined;
    old.close(true, () => {});
  }

  /** One at a time: one lost connection, on which many wait, is one failure. */
  #refresh(): Promise<void> {
    if (this.#refreshing) return this.#refreshing;
    const asked = this.#askForMetadata().finally(() => {
      if (this.#refreshing === asked) this.#refreshing = undefined;
    });
    return (this.#refreshing = asked);
  }

  async #askForMetadata(): Promise<void> {
    const producer = this.#producer;
    try {
      this.#metadata = await producer.metadata({ topics: [...this.#options.topics], forceUpdate: true });
      if (!this.connected) this.#options.warn({ brokers: this.#metadata.brokers.size }, "connected to Kafka");
      this.#failures = 0;
    } catch (error) {
      this.#failures++;
      if (this.#failures === tolerated)
        this.#options.warn({ cause: causes(error) }, "lost the connection to Kafka");
      if (/timed out/i.test(causes(error))) this.#renew(producer);
    }
  }

  /** Chooses partitions here, so that an error tells which messages are safe. */
  #place(messages: readonly Message[]): Placed[] {
    return messages.map((message) => {
      const topic = this.#metadata?.topics.get(message.topic);
      if (!topic) throw new Error(`no metadata of topic ${message.topic}`);
      const partition = hash(message.key) % topic.partitionsCount;
      const leader = topic.partitions[partition]?.leader ?? -1;
      // The library would throw out of a callback, and so end the process.
      if (!this.#metadata?.brokers.has(leader))
        throw new Error(`${message.topic}/${partition} has no leader`);
      return { ...message, partition };
    });
  }
}

function unacknowledged(placed: readonly Placed[], error: unknown): Placed[] {
  const produced = (error as { produced?: { offsets?: { topic: string; partition: number }[] } }).produced;
  const safe = new Set(produced?.offsets?.map(({ topic, partition }) => `${topic}/${partition}`));
  return placed.filter(({ topic, partition }) => !safe.has(`${topic}/${partition}`));
}

/** FNV-1a: the library's murmur2 counts in BigInt and costs more than the rest of a send. */
function hash(key: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) value = Math.imul(value ^ key.charCodeAt(i), 0x01000193);
  return value >>> 0;
}

/** What went wrong in one line, with what lies behind it. */
export function causes(error: unknown): string {
  const nested = error instanceof AggregateError ? (error.errors as unknown[]) : [];
  const cause = error instanceof Error && error.cause ? [error.cause] : [];
  const own = error instanceof Error ? error.message : String(error);
  return [own, ...[...nested, ...cause].map(causes)].join(" < ").slice(0, 500);
}
