// The producer: acknowledged by all in-sync replicas, or an error; it outlives brokers that stop and restart.

import { setTimeout as sleep } from "node:timers/promises";
import { type ClusterMetadata, Producer, ProduceAcks, stringSerializers } from "@platformatic/kafka";
import type { Message } from "./batch.ts";
import { within } from "./within.ts";

export interface KafkaOptions {
  readonly brokers: readonly string[];
  readonly topics: readonly string[];
  readonly warn: (details: object, message: string) => void;
  /** @default a producer of the library */
  readonly createProducer?: (brokers: readonly string[]) => KafkaProducer;
}

/** A lost broker stalls its partitions for about as long as its session in ZooKeeper lasts. */
const giveUpMs = 20_000;
/** After a stop was asked for, so that it ends within 10 s. */
const giveUpDrainingMs = 7_000;
const retryMs = 250;
/** How often it asks who leads which partition. */
const refreshMs = 500;
/** How long an answer to that may take; a broker that hangs gives none. */
const metadataMs = 1_500;
/** What waits for longer is sent anew, where another broker leads its partition by now: the old one may hang. */
const patienceMs = 1_000;
/** Failed refreshes in a row before the producer counts as disconnected. */
const tolerated = 3;

type StringProducer = Producer<string, string, string, string>;
/** What the publisher needs of the library's producer. */
export type KafkaProducer = Pick<StringProducer, "send" | "metadata" | "close">;
type Placed = Message & { readonly partition: number };

/** What was sent and is not answered yet. */
interface InFlight {
  readonly producer: KafkaProducer;
  readonly since: number;
  /** Topic and partition, and the broker that led it then. */
  readonly sent: ReadonlyMap<string, { readonly message: Placed; readonly leader: number }>;
}

/** Publishes to fixed topics. Retries are ours: the library's own go to the broker they first knew. */
export class KafkaPublisher {
  readonly #options: KafkaOptions;
  #producer: KafkaProducer;
  #metadata: ClusterMetadata | undefined;
  #failures = tolerated;
  #refreshing: Promise<void> | undefined;
  #stopped = false;
  #giveUpAt = Number.POSITIVE_INFINITY;
  readonly #inFlight = new Set<InFlight>();
  /** How many brokers gave no metadata in time; the next one is asked first. */
  #silent = 0;

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
      await this.refresh();
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
        await this.#send(producer, placed);
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
        await this.refresh();
      }
    }
  }

  async #send(producer: KafkaProducer, messages: Placed[]): Promise<void> {
    const sent = new Map(
      messages.map((message) => [placeOf(message), { message, leader: this.#leaderOf(message) }]),
    );
    const inFlight = { producer, since: Date.now(), sent };
    this.#inFlight.add(inFlight);
    try {
      await producer.send({ messages, acks: ProduceAcks.ALL });
    } finally {
      this.#inFlight.delete(inFlight);
    }
  }

  /** Gives up what waits for a broker that leads no more: one that hangs would keep it until the time is over. */
  #giveUpMoved(): void {
    const moved = ({ producer, since, sent }: InFlight): boolean =>
      producer === this.#producer &&
      Date.now() - since > patienceMs &&
      [...sent.values()].some(({ message, leader }) => {
        const now = this.#leaderOf(message);
        return now !== -1 && now !== leader;
      });
    if ([...this.#inFlight].some(moved)) this.#renew(this.#producer);
  }

  #leaderOf({ topic, partition }: Placed): number {
    return this.#metadata?.topics.get(topic)?.partitions[partition]?.leader ?? -1;
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
    // The library asks the first of them for metadata, for as long as that one takes connections, as one that hangs does.
    const first = this.#silent % this.#options.brokers.length;
    const brokers = [...this.#options.brokers.slice(first), ...this.#options.brokers.slice(0, first)];
    if (this.#options.createProducer) return this.#options.createProducer(brokers);
    return new Producer({
      clientId: "siem-ingestor",
      bootstrapBrokers: brokers,
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

  /** Asks who leads what. One at a time: one lost connection, on which many wait, is one failure. */
  refresh(): Promise<void> {
    if (this.#refreshing) return this.#refreshing;
    const asked = this.#askForMetadata().finally(() => {
      if (this.#refreshing === asked) this.#refreshing = undefined;
    });
    return (this.#refreshing = asked);
  }

  async #askForMetadata(): Promise<void> {
    const producer = this.#producer;
    try {
      this.#metadata = await within(
        metadataMs,
        producer.metadata({ topics: [...this.#options.topics], forceUpdate: true }),
      );
      if (!this.connected) this.#options.warn({ brokers: this.#metadata.brokers.size }, "connected to Kafka");
      this.#failures = 0;
      this.#giveUpMoved();
    } catch (error) {
      this.#failures++;
      if (this.#failures === tolerated)
        this.#options.warn({ cause: causes(error) }, "lost the connection to Kafka");
      if (!/timed out/i.test(causes(error))) return;
      this.#silent++;
      this.#renew(producer);
    }
  }

  /** Chooses partitions here, so that an error tells which messages are safe. */
  #place(messages: readonly Message[]): Placed[] {
    return messages.map((message) => {
      const topic = this.#metadata?.topics.get(message.topic);
      if (!topic) throw new Error(`no metadata of topic ${message.topic}`);
      const partition = partitionOf(message.key, topic.partitionsCount);
      const leader = topic.partitions[partition]?.leader ?? -1;
      // The library would throw out of a callback, and so end the process.
      if (!this.#metadata?.brokers.has(leader))
        throw new Error(`${message.topic}/${partition} has no leader`);
      return { ...message, partition };
    });
  }
}

const placeOf = ({ topic, partition }: { topic: string; partition: number }) => `${topic}/${partition}`;

function unacknowledged(placed: readonly Placed[], error: unknown): Placed[] {
  const produced = (error as { produced?: { offsets?: { topic: string; partition: number }[] } }).produced;
  const safe = new Set(produced?.offsets?.map(placeOf));
  return placed.filter((message) => !safe.has(placeOf(message)));
}

/**
 * The partition of a key: of all its weights the greatest. Of copies the first one counts, and partitions know no order
 * among them but this: where one was added, a key stays, or goes to that one (decision 10).
 */
export function partitionOf(key: string, partitions: number): number {
  const hashed = hash(key);
  let most = -1;
  let found = 0;
  for (let partition = 0; partition < partitions; partition++) {
    const weight = mixed(hashed ^ Math.imul(partition + 1, 0x9e3779b1));
    if (weight <= most) continue;
    most = weight;
    found = partition;
  }
  return found;
}

/** FNV-1a: the library's murmur2 counts in BigInt and costs more than the rest of a send. */
function hash(key: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) value = Math.imul(value ^ key.charCodeAt(i), 0x01000193);
  return value;
}

/** MurmurHash3's last step: each bit of what goes in changes half of those that come out. */
function mixed(value: number): number {
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

/** What went wrong in one line, with what lies behind it. */
export function causes(error: unknown): string {
  const nested = error instanceof AggregateError ? (error.errors as unknown[]) : [];
  const cause = error instanceof Error && error.cause ? [error.cause] : [];
  const own = error instanceof Error ? error.message : String(error);
  return [own, ...[...nested, ...cause].map(causes)].join(" < ").slice(0, 500);
}
