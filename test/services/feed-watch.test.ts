// Whether something in Kafka is unread for too long, against a Kafka that the test writes: what counts, and what doesn't.

import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { kGetApi, kGetBootstrapConnection } from "@platformatic/kafka";
import { CarefulAdmin, type FeedAdmin, FeedWatch, lagOf } from "../../services/ingestor/feed-watch.ts";

// The watch sleeps only between checks; how long is what a test looks at.
const naps: number[] = [];
let afterNap: (count: number) => void;
vi.mock("node:timers/promises", () => ({
  setTimeout: (ms: number) => Promise.resolve(naps.push(ms)).then(afterNap),
}));

const hour = 3_600_000;
const now = 1000 * hour;
/** Half of it is four days. */
const retentionHours = 192;
const old = now - 96 * hour - 1;
const young = now - 96 * hour;

/** The times of a partition's messages, and the offset of the first. */
interface Partition {
  readonly start: number;
  readonly times: number[];
}
let logs: Record<string, Partition[]>;
/** What was committed, by group and partition. A group that isn't here never committed. */
let committed: Record<string, (number | undefined)[]>;
let leader: number;
/** What happens before a question is answered. */
let before: (question: string) => void | Promise<void>;
let opened: number;
let closed: number;
const warnings: string[] = [];
const details: object[] = [];

const readers = [
  { group: "readers", topic: "events" },
  { group: "also", topic: "events" },
  { group: "alarms", topic: "alerts" },
];

function createAdmin(): FeedAdmin {
  opened++;
  type Asked = { name: string; partitions: { partitionIndex: number; timestamp: bigint }[] }[];
  const offset = ({ start, times }: Partition, timestamp: bigint): number => {
    if (timestamp === -2n) return start;
    if (timestamp === -1n) return start + times.length;
    const found = times.findIndex((time) => BigInt(time) >= timestamp);
    return found < 0 ? -1 : start + found;
  };
  const admin = {
    metadata: async ({ topics }: { topics: string[] }) => {
      await before("metadata");
      return {
        brokers: new Map([[1, {}]]),
        topics: new Map(
          topics.map((topic) => {
            const partitions = logs[topic]!.map(() => ({ leader }));
            return [topic, { partitions, partitionsCount: partitions.length }];
          }),
        ),
      };
    },
    listOffsets: async ({ topics }: { topics: Asked }) => {
      const { timestamp: asked } = topics[0]!.partitions[0]!;
      await before(asked === -2n ? "starts" : asked === -1n ? "ends" : "times");
      return topics.map(({ name, partitions }) => ({
        name,
        partitions: partitions.map(({ partitionIndex, timestamp }) => ({
          partitionIndex,
          offset: BigInt(offset(logs[name]![partitionIndex]!, timestamp)),
        })),
      }));
    },
    listConsumerGroupOffsets: async ({
      groups,
    }: {
      groups: { groupId: string; topics: { name: string; partitionIndexes: number[] }[] }[];
    }) => {
      await before("groups");
      return groups.map(({ groupId, topics }) => ({
        groupId,
        topics: topics.map(({ name, partitionIndexes }) => ({
          name,
          partitions: partitionIndexes.map((partitionIndex) => ({
            partitionIndex,
            committedOffset: BigInt(committed[groupId]?.[partitionIndex] ?? -1),
          })),
        })),
      }));
    },
    close: () => Promise.resolve(void closed++),
  };
  return admin as unknown as FeedAdmin;
}

const watch = (): FeedWatch =>
  new FeedWatch({
    brokers: ["kafka:9092"],
    readers,
    retentionHours,
    warn: (what, message) => {
      details.push(what);
      warnings.push(message);
    },
    createAdmin,
  });

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date"], now });
  logs = { events: [{ start: 0, times: [] }], alerts: [{ start: 0, times: [] }] };
  committed = {};
  leader = 1;
  before = () => undefined;
  afterNap = () => undefined;
  opened = closed = 0;
  for (const list of [warnings, details, naps]) list.length = 0;
});
afterEach(() => void vi.useRealTimers());

describe("a feed", () => {
  /** One partition of events, and how far both its readers have come. */
  const cases: [string, Partition, number | undefined, boolean][] = [
    ["without messages, that nobody read", { start: 0, times: [] }, undefined, false],
    ["that was emptied, and nobody read", { start: 10, times: [] }, undefined, false],
    ["that was emptied before it was read", { start: 10, times: [] }, 4, false],
    ["with young messages that nobody read", { start: 0, times: [young, now] }, undefined, false],
    ["with young messages that are unread", { start: 0, times: [old, young, now] }, 1, false],
    ["with old messages that nobody read", { start: 0, times: [old, young] }, undefined, true],
    ["with an old message that is unread", { start: 0, times: [old, old, young] }, 1, true],
    ["with old messages that are read, then young ones", { start: 0, times: [old, old, young] }, 2, false],
    ["with old messages only, and one is unread", { start: 0, times: [old, old] }, 1, true],
    ["with old messages only, that are read", { start: 0, times: [old, old] }, 2, false],
    ["whose unread messages were deleted, and the rest is young", { start: 10, times: [young] }, 4, false],
    ["whose unread messages were deleted, and the rest is old", { start: 10, times: [old] }, 4, true],
    ["of which old ones were deleted and nobody read", { start: 10, times: [old, young] }, undefined, true],
    ["that was made anew, and its group is ahead of it", { start: 0, times: [old] }, 7, false],
  ];
  it.each(cases)("%s", async (_name, partition, at, stands) => {
    logs["events"] = [partition];
    committed = { readers: [at], also: [at], alarms: [0] };
    const feed = watch();
    await feed.check();
    expect([feed.stands, warnings.length]).toEqual([stands, stands ? 1 : 0]);
    expect([opened, closed]).toEqual([1, 1]);
  });

  it("stands for one partition of one group alone, and tells which group and how many messages", async () => {
    logs["events"] = [
      { start: 0, times: [old, old, old, young] },
      { start: 5, times: [old, old, young] },
    ];
    committed = { readers: [4, 8], also: [1, 5], alarms: [0] };
    const feed = watch();
    await feed.check();
    expect(feed.stands).toBe(true);
    expect(details).toEqual([{ late: [{ group: "also", topic: "events", messages: 4 }], retentionHours }]);
    expect(warnings[0]).toContain("more than 96 hours behind");
  });

  it("stands for the topic of alerts too", async () => {
    logs["alerts"] = [{ start: 0, times: [old] }];
    const feed = watch();
    await feed.check();
    expect(details).toMatchObject([{ late: [{ group: "alarms", topic: "alerts", messages: 1 }] }]);
  });

  it.each(["metadata", "starts", "ends", "times", "groups"])(
    "does not stand for what arrives at the question of %s",
    async (moment) => {
      logs["events"] = [{ start: 0, times: [old] }];
      committed = { readers: [1], also: [1] };
      before = (question) => void (question === moment && logs["events"]![0]!.times.push(now));
      const feed = watch();
      await feed.check();
      expect(feed.stands).toBe(false);
      expect(logs["events"][0]!.times).toHaveLength(2);
    },
  );

  it("does not stand for what is read while it is looked at", async () => {
    logs["events"] = [{ start: 0, times: [old, young] }];
    before = (question) => void (question === "times" && (committed = { readers: [2], also: [2] }));
    const feed = watch();
    await feed.check();
    expect(feed.stands).toBe(false);
  });
});

describe("a watch", () => {
  const stand = (): void => void (logs["events"] = [{ start: 0, times: [old] }]);
  const readOn = (): void => void (committed = { readers: [1], also: [1] });

  it("says once when it begins to stand, and once when it ends", async () => {
    const feed = watch();
    await feed.check();
    expect(warnings).toEqual([]);
    stand();
    for (let round = 0; round < 3; round++) await feed.check();
    expect(feed.stands).toBe(true);
    expect(warnings).toHaveLength(1);
    readOn();
    for (let round = 0; round < 3; round++) await feed.check();
    expect(feed.stands).toBe(false);
    expect(warnings.slice(1)).toEqual(["the readers of Kafka have caught up; events are taken again"]);
  });

  const faults: [string, () => void][] = [
    ["can't reach Kafka", () => (before = () => Promise.reject(new Error("Cannot connect to any broker.")))],
    [
      "is told of no coordinator",
      () =>
        (before = (question) =>
          question === "groups" ? Promise.reject(new Error("COORDINATOR_NOT_AVAILABLE")) : undefined),
    ],
    ["finds a partition without a leader", () => (leader = -1)],
    ["finds a leader that is no broker", () => (leader = 2)],
  ];
  it.each(faults)("that %s keeps what it knew, and says so once", async (_name, fail) => {
    for (const stands of [false, true]) {
      warnings.length = 0;
      before = () => undefined;
      leader = 1;
      if (stands) stand();
      const feed = watch();
      await feed.check();
      expect(feed.stands).toBe(stands);
      warnings.length = 0;
      fail();
      for (let round = 0; round < 5; round++) await feed.check();
      expect(feed.stands).toBe(stands);
      expect(warnings).toEqual([expect.stringContaining("it is not known")]);
      expect(details.at(-1)).toMatchObject({ stands });
      before = () => undefined;
      leader = 1;
      for (let round = 0; round < 2; round++) await feed.check();
      expect(warnings.slice(1)).toEqual([expect.stringContaining("it is known again")]);
    }
    expect(closed).toBe(opened);
  });

  it("that never learned anything refuses nothing", async () => {
    stand();
    before = () => Promise.reject(new Error("no"));
    const feed = watch();
    for (let round = 0; round < 5; round++) await feed.check();
    expect(feed.stands).toBe(false);
    expect(details.at(-1)).toMatchObject({ stands: "unknown" });
  });

  it("gives up a question that is never answered, and asks again", async () => {
    vi.useFakeTimers({ toFake: ["Date", "setTimeout", "clearTimeout"], now });
    stand();
    before = () => new Promise(() => undefined);
    const feed = watch();
    let done = false;
    const check = feed.check().then(() => (done = true));
    await vi.advanceTimersByTimeAsync(29_999);
    expect([done, closed]).toEqual([false, 0]);
    await vi.advanceTimersByTimeAsync(1);
    await check;
    expect([feed.stands, closed]).toEqual([false, 1]);
    before = () => undefined;
    await feed.check();
    expect(feed.stands).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("looks every minute, and every five seconds before it knows anything and while the feed stands", async () => {
    before = () => Promise.reject(new Error("not yet"));
    const feed = watch();
    afterNap = (count) => {
      if (count === 2) before = () => undefined;
      if (count === 3) stand();
      if (count === 5) readOn();
      // A failure does not make it hurry.
      if (count === 6) before = () => Promise.reject(new Error("no"));
      if (count === 7) feed.stop();
    };
    await feed.run();
    expect(naps).toEqual([5_000, 5_000, 60_000, 5_000, 5_000, 60_000, 60_000]);
  });

  it("that has no readers to look at asks nothing", async () => {
    await new FeedWatch({
      brokers: ["kafka:9092"],
      readers: [],
      retentionHours,
      warn: () => {},
      createAdmin,
    }).run();
    expect(opened).toBe(0);
  });
});

describe("an admin", () => {
  /** The library with answers in place of its connections: no broker in the metadata, but one that coordinates. */
  class Told extends CarefulAdmin {
    override [kGetBootstrapConnection](callback: (error: null, connection: never) => void): void {
      callback(null, {} as never);
    }
    override [kGetApi](name: string, callback: (error: null, api: never) => void): void {
      const answers: Record<string, object> = {
        Metadata: { clusterId: "c", controllerId: 1, brokers: [], topics: [] },
        FindCoordinator: { coordinators: [{ key: "readers", nodeId: 7, host: "kafka", port: 9092 }] },
      };
      const api = (...args: unknown[]): void =>
        (args.at(-1) as (error: null, answer: object) => void)(null, answers[name]!);
      callback(null, api as never);
    }
  }

  it("rejects where the library would end the process: at a broker that it was not told of", async () => {
    const admin = new Told({ clientId: "test", bootstrapBrokers: ["kafka:9092"], retries: false });
    const asked = admin.listConsumerGroupOffsets({ groups: ["readers"] });
    await expect(asked).rejects.toMatchObject({
      errors: [{ message: "a broker is needed that the metadata don't have" }],
    });
  });
});

describe("the lag of a group", () => {
  const cases: [string, Partition, number | undefined, number, number][] = [
    ["that has read all", { start: 3, times: [old, now] }, 5, 0, 0],
    ["that has yet to read two", { start: 3, times: [old, young, now] }, 4, 2, 0],
    ["that never committed", { start: 0, times: [old, young, now] }, undefined, 3, 0],
    ["from which some was deleted unread", { start: 10, times: [young, now] }, 4, 2, 6],
    ["from which all was deleted unread", { start: 10, times: [] }, 4, 0, 6],
    ["that is ahead of a topic made anew", { start: 0, times: [now] }, 7, 0, 0],
  ];
  it.each(cases)("%s", async (_name, partition, at, unread, deletedUnread) => {
    logs["events"] = [partition];
    const [reader] = readers;
    committed[reader!.group] = at === undefined ? [] : [at];
    expect(await lagOf([], [reader!], createAdmin())).toEqual([{ ...reader, unread, deletedUnread }]);
  });
});
