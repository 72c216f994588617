// Looks whether what is in Kafka is read in time: Kafka deletes what is too old, read or not, and posts are refused
// before that (docs/decisions/0011-full-disks.md).

import { setTimeout as sleep } from "node:timers/promises";
import { Admin, type Broker, type Callback, type Connection, kGetConnection } from "@platformatic/kafka";
import type { Reader } from "../../components/topology.ts";
import { causes } from "./kafka.ts";
import { within } from "./within.ts";

export interface FeedWatchOptions {
  readonly brokers: readonly string[];
  readonly readers: readonly Reader[];
  /** How long Kafka keeps a message. */
  readonly retentionHours: number;
  readonly warn: (details: object, message: string) => void;
  /** @default an admin of the library */
  readonly createAdmin?: () => FeedAdmin;
}

/** What a check needs of the library's admin. */
export type FeedAdmin = Pick<Admin, "metadata" | "listOffsets" | "listConsumerGroupOffsets" | "close">;

/** A reader with messages that it should have read long ago. */
interface Late extends Reader {
  readonly messages: number;
}

/** Between checks while all is read in time, and while it isn't or nobody knows yet. */
const paces = { calm: 60_000, close: 5_000 } as const;
/** For one check as a whole. */
const giveUpMs = 30_000;
/** Failed checks in a row before it is logged: one may fail while a broker restarts. */
const tolerated = 3;
/** Instead of a time, in a question for offsets. */
const [latest, earliest] = [-1n, -2n];

/** Knows whether a message that its reader has not read is older than half of Kafka's retention. */
export class FeedWatch {
  readonly #options: FeedWatchOptions;
  /** Undefined until a check has succeeded. */
  #stands: boolean | undefined;
  #failures = 0;
  #stopped = false;

  constructor(options: FeedWatchOptions) {
    this.#options = options;
  }

  /** What the last check that succeeded found: one that fails says nothing about the feed. */
  get stands(): boolean {
    return this.#stands === true;
  }

  get retentionHours(): number {
    return this.#options.retentionHours;
  }

  /** Keeps checking in the background. */
  async run(): Promise<void> {
    while (!this.#stopped && this.#options.readers.length > 0) {
      await this.check();
      await sleep(this.#stands === false ? paces.calm : paces.close, undefined, { ref: false });
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Looks once. Never rejects. */
  async check(): Promise<void> {
    const { warn } = this.#options;
    // A new one each time: the library's never forgets a connection that timed out, and old metadata mislead it.
    const admin = this.#options.createAdmin?.() ?? careful(this.#options.brokers);
    try {
      this.#decide(await within(giveUpMs, this.#late(admin)));
      if (this.#failures >= tolerated) warn({}, "it is known again whether Kafka is read in time");
      this.#failures = 0;
    } catch (error) {
      if (++this.#failures === tolerated) {
        const details = { cause: causes(error), stands: this.#stands ?? "unknown" };
        warn(
          details,
          "it is not known whether Kafka is read in time; the last that was known goes on to count",
        );
      }
    } finally {
      admin.close().catch(() => undefined);
    }
  }

  #decide(late: readonly Late[]): void {
    const { warn, retentionHours } = this.#options;
    const stands = late.length > 0;
    if (stands && !this.stands) {
      const message = `the readers of Kafka are more than ${retentionHours / 2} hours behind; nothing is taken until they have caught up (docs/retention.md)`;
      warn({ late, retentionHours }, message);
    } else if (!stands && this.stands)
      warn({}, "the readers of Kafka have caught up; events are taken again");
    this.#stands = stands;
  }

  /** Who has not read something that is older than half the retention. */
  async #late(admin: FeedAdmin): Promise<Late[]> {
    const { readers, retentionHours } = this.#options;
    const halfMs = retentionHours * 1_800_000;
    const found = await placesOf(admin, readers, () => BigInt(Date.now() - halfMs));
    return found.flatMap(({ reader: { group, topic }, partitions }) => {
      let messages = 0n;
      for (const { start, end, since, committed } of partitions) {
        // Before its first commit a group has -1; it begins where the partition does. With -1 nothing is young, and
        // everything up to the end is old.
        const old = (since < 0n ? end : since) - largest(committed, start);
        if (old > 0n) messages += old;
      }
      return messages > 0n ? [{ group, topic, messages: Number(messages) }] : [];
    });
  }
}

/** How far a consumer group is behind. */
export interface Lag extends Reader {
  readonly unread: number;
  /** What Kafka deleted before the group had read it, while it is still there. */
  readonly deletedUnread: number;
}

/** What each group has yet to read at this moment. @throws when Kafka doesn't say */
export async function lagOf(
  brokers: readonly string[],
  readers: readonly Reader[],
  admin: FeedAdmin = careful(brokers),
): Promise<Lag[]> {
  try {
    const found = await within(giveUpMs, placesOf(admin, readers));
    return found.map(({ reader: { group, topic }, partitions }) => {
      let [unread, deletedUnread] = [0n, 0n];
      for (const { start, end, committed } of partitions) {
        const next = largest(committed, 0n);
        if (start > next) deletedUnread += start - next;
        // One that is ahead of a topic which was made anew has nothing to read.
        if (end > largest(next, start)) unread += end - largest(next, start);
      }
      return { group, topic, unread: Number(unread), deletedUnread: Number(deletedUnread) };
    });
  } finally {
    admin.close().catch(() => undefined);
  }
}

/** Where a partition begins and ends, where it was at a time, and what a group has committed there; -1 for nothing. */
interface Place {
  readonly start: bigint;
  readonly end: bigint;
  readonly since: bigint;
  readonly committed: bigint;
}

/**
 * The partitions of each reader. The ends are asked for before the times, and the readers last, so that what arrives or
 * is read meanwhile can't look like something old that nobody reads.
 * @param time of `since`, in ms. @default the end
 */
async function placesOf(
  admin: FeedAdmin,
  readers: readonly Reader[],
  time?: () => bigint,
): Promise<{ readonly reader: Reader; readonly partitions: readonly Place[] }[]> {
  const partitions = await partitionsOf(admin, [...new Set(readers.map(({ topic }) => topic))]);
  const offsets = (timestamp: bigint) => offsetsOf(admin, partitions, timestamp);
  const [starts, ends] = await Promise.all([offsets(earliest), offsets(latest)]);
  const since = time === undefined ? ends : await offsets(time());
  const groups = await admin.listConsumerGroupOffsets({
    groups: readers.map(({ group, topic }) => ({
      groupId: group,
      topics: [{ name: topic, partitionIndexes: [...partitions.get(topic)!] }],
    })),
  });
  return readers.map((reader) => {
    const { group, topic } = reader;
    const said = groups.find(({ groupId }) => groupId === group)?.topics.find(({ name }) => name === topic);
    return {
      reader,
      partitions: partitions.get(topic)!.map((partition) => {
        const at = `${topic}/${partition}`;
        const found = said?.partitions.find(({ partitionIndex }) => partitionIndex === partition);
        if (!found) throw new Error(`no answer about the place of ${group} in ${at}`);
        return {
          ...{ start: starts.get(at)!, end: ends.get(at)!, since: since.get(at)! },
          committed: found.committedOffset,
        };
      }),
    };
  });
}

/** An admin for one look. */
function careful(brokers: readonly string[]): FeedAdmin {
  return new CarefulAdmin({
    clientId: "siem-ingestor-feed-watch",
    bootstrapBrokers: [...brokers],
    retries: false,
    // One check, one view of the cluster.
    metadataMaxAge: 2 * giveUpMs,
    connectTimeout: 2_000,
    requestTimeout: 8_000,
    timeout: 6_000,
  });
}

/** The library would throw out of a callback for a broker that its metadata don't have yet, and so end the process. */
export class CarefulAdmin extends Admin {
  override [kGetConnection](broker: Broker | undefined, callback: Callback<Connection>): void {
    if (broker) super[kGetConnection](broker, callback);
    else callback(new Error("a broker is needed that the metadata don't have"));
  }
}

/** The partitions of each topic. @throws when one has no leader to ask */
async function partitionsOf(
  admin: FeedAdmin,
  topics: readonly string[],
): Promise<ReadonlyMap<string, readonly number[]>> {
  const found = await admin.metadata({ topics: [...topics], forceUpdate: true });
  const partitionsIn = (topic: string): number[] => {
    const metadata = found.topics.get(topic);
    if (!metadata) throw new Error(`no metadata of topic ${topic}`);
    return Array.from({ length: metadata.partitionsCount }, (_, partition) => {
      if (!found.brokers.has(metadata.partitions[partition]?.leader ?? -1))
        throw new Error(`${topic}/${partition} has no leader`);
      return partition;
    });
  };
  return new Map(topics.map((topic) => [topic, partitionsIn(topic)]));
}

/** By `topic/partition`, the first offset of this time or later; -1 where there is none. */
async function offsetsOf(
  admin: FeedAdmin,
  partitions: ReadonlyMap<string, readonly number[]>,
  timestamp: bigint,
): Promise<ReadonlyMap<string, bigint>> {
  const wanted = [...partitions].map(([name, indexes]) => ({
    name,
    partitions: indexes.map((partitionIndex) => ({ partitionIndex, timestamp })),
  }));
  const said = await admin.listOffsets({ topics: wanted });
  const offsets = new Map(
    said.flatMap((topic) =>
      topic.partitions.map(
        ({ partitionIndex, offset }) => [`${topic.name}/${partitionIndex}`, offset] as const,
      ),
    ),
  );
  for (const [topic, indexes] of partitions) {
    for (const partition of indexes) {
      if (!offsets.has(`${topic}/${partition}`)) throw new Error(`no answer about ${topic}/${partition}`);
    }
  }
  return offsets;
}

function largest(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
