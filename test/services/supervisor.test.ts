// What the supervisor decides, as a table: what is, how it came to be, and what is done about it.

import { describe, expect, it } from "vitest";
import {
  backOffMs,
  type Container,
  decide,
  endedDelayMs,
  type Fate,
  killedDelayMs,
  rejoinDelayMs,
  stuckMs,
  type World,
} from "../../services/supervisor/decide.ts";
import { type ContainerEvent, Fates } from "../../services/supervisor/fates.ts";
import { Starts } from "../../services/supervisor/starts.ts";

const now = 1_000_000_000;
const address = "172.25.0.222/24 eth0";
const anchor: Container = {
  id: "a1",
  name: "lb-node-1",
  image: "busybox",
  state: "running",
  startedAt: now - 60_000,
  finishedAt: 0,
  hostNetwork: false,
};
const guest: Container = {
  ...anchor,
  id: "g1",
  name: "keepalived-1",
  startedAt: now - 50_000,
  joins: "a1",
};
const dead = (container: Container, agoMs: number): Container => ({
  ...container,
  state: "exited",
  finishedAt: now - agoMs,
});

interface Case {
  readonly containers: readonly Container[];
  readonly fates?: Readonly<Record<string, Fate>>;
  readonly frozen?: Readonly<Record<string, number>>;
  readonly released?: Readonly<Record<string, number>>;
  readonly failures?: Readonly<Record<string, { count: number; until: number }>>;
  readonly stuck?: Readonly<Record<string, { count: number; until: number }>>;
  readonly unrouted?: readonly string[];
  readonly eras?: Readonly<Record<string, number>>;
  readonly heldUntil?: number;
}
const decided = ({
  containers,
  fates = {},
  frozen = {},
  released = {},
  failures = {},
  stuck = {},
  unrouted = [],
  eras = {},
  heldUntil = 0,
}: Case) => {
  const world: World = {
    now,
    containers,
    heldUntil,
    fates: new Map(Object.entries(fates)),
    frozen: new Map(Object.entries(frozen)),
    released: new Map(Object.entries(released)),
    failures: new Map(Object.entries(failures)),
    stuck: new Map(Object.entries(stuck)),
    unrouted: new Set(unrouted),
    eras: new Map(Object.entries(eras)),
  };
  const { actions, again, complaints } = decide(world);
  return {
    actions: actions.map((action) => `${action.do} ${action.container.name}`),
    inMs: again === undefined ? undefined : again - now,
    complaints: complaints.length,
  };
};
const nothing = { actions: [], inMs: undefined, complaints: 0 };
const at = (inMs: number) => ({ ...nothing, inMs });
const does = (...actions: string[]) => ({ ...nothing, actions });
const long = 60_000;

describe("a network that has lost its way out", () => {
  const all = { containers: [anchor], unrouted: ["a1"] };
  it("gets it again, not in a hold, and not at once where that failed", () => {
    expect(decided({ containers: [anchor] })).toEqual(nothing);
    expect(decided(all)).toEqual(does("route lb-node-1"));
    expect(decided({ ...all, heldUntil: now + 5_000 })).toEqual(at(5_000));
    expect(decided({ ...all, failures: { a1: { count: 1, until: now + 700 } } })).toEqual(at(700));
    expect(decided({ ...all, containers: [{ ...anchor, state: "paused" }] })).toEqual(nothing);
  });
});

describe("the supervisor decides", () => {
  const table: Readonly<Record<string, [Case, object]>> = {
    "nothing where all is well": [{ containers: [anchor, guest] }, nothing],
    "to start a guest that was killed, after a moment": [
      { containers: [anchor, dead(guest, 100)], fates: { g1: "killed" } },
      at(killedDelayMs - 100),
    ],
    "to start it once that moment is over": [
      { containers: [anchor, dead(guest, long)], fates: { g1: "killed" } },
      does("start keepalived-1"),
    ],
    "to start an anchor that was killed, and to let its guests wait for it": [
      { containers: [dead(anchor, long), dead(guest, long)], fates: { a1: "killed", g1: "killed" } },
      does("start lb-node-1"),
    ],
    "nothing about what was stopped, however long ago": [
      { containers: [anchor, dead(guest, long)], fates: { g1: "stopped" } },
      nothing,
    ],
    "nothing about an anchor that was stopped, and its guests": [
      { containers: [dead(anchor, long), guest], fates: { a1: "stopped" } },
      nothing,
    ],
    "to leave what ended by itself to Docker first": [
      { containers: [anchor, dead(guest, 100)], fates: { g1: "ended" } },
      at(endedDelayMs - 100),
    ],
    "to start what Docker has not started": [
      { containers: [anchor, dead(guest, long)] },
      does("start keepalived-1"),
    ],
    "nothing about what Docker is starting, making or removing": [
      {
        containers: [
          anchor,
          ...(["restarting", "created", "removing"] as const).map((state, i) => ({
            ...guest,
            id: `g${i}`,
            state,
            startedAt: 0,
          })),
        ],
      },
      nothing,
    ],
    "to re-join a guest of an anchor that was started after it": [
      { containers: [{ ...anchor, startedAt: now - 10_000 }, guest] },
      does("restart keepalived-1"),
    ],
    "to wait a moment for whoever restarts the guests too": [
      { containers: [{ ...anchor, startedAt: now - 100 }, guest] },
      at(rejoinDelayMs - 100),
    ],
    "to start a guest that died while its anchor was down, counted from the anchor's start": [
      {
        containers: [{ ...anchor, startedAt: now - 100 }, dead(guest, long)],
        fates: { g1: "killed" },
      },
      at(killedDelayMs - 100),
    ],
    "nothing about guests of an anchor in the machine's own network, which outlives it": [
      { containers: [{ ...anchor, startedAt: now - 10_000, hostNetwork: true }, guest] },
      nothing,
    ],
    "to start a guest that could not start before its anchor in the machine's network did": [
      { containers: [{ ...anchor, startedAt: now - 10_000, hostNetwork: true }, dead(guest, long)] },
      does("start keepalived-1"),
    ],
    "to complain of a guest whose anchor is gone, because it can't be helped": [
      { containers: [dead(guest, long)] },
      { ...nothing, complaints: 1 },
    ],
    "nothing while somebody is at work, and to look again then": [
      {
        containers: [{ ...anchor, startedAt: now - 10_000 }, guest, { ...dead(guest, long), id: "g2" }],
        fates: { g2: "killed" },
        heldUntil: now + 5_000,
      },
      at(5_000),
    ],
    "to take the address off a node whose keeper of it has ended, at once": [
      { containers: [anchor, { ...dead(guest, 0), address }], fates: { g1: "stopped" } },
      does("release keepalived-1"),
    ],
    "to take it off in a hold too": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "killed" },
        heldUntil: now + 5_000,
      },
      { ...at(5_000), actions: ["release keepalived-1"] },
    ],
    "to take it off once": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "stopped" },
        released: { g1: now - long },
      },
      nothing,
    ],
    "to take it off again after the next end": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "stopped" },
        released: { g1: now - 2 * long },
      },
      does("release keepalived-1"),
    ],
    "to take it off a node whose keeper of it is frozen, at once": [
      { containers: [anchor, { ...guest, state: "paused", address }], frozen: { g1: now } },
      does("release keepalived-1"),
    ],
    "to take it off a node that is frozen with its anchor": [
      {
        containers: [
          { ...anchor, state: "paused" },
          { ...guest, state: "paused", address },
        ],
        frozen: { n1: now - 1_000, g1: now - 1_000 },
      },
      does("release keepalived-1"),
    ],
    "to take it off once for each freeze": [
      {
        containers: [anchor, { ...guest, state: "paused", address }],
        frozen: { g1: now - long },
        released: { g1: now - long },
      },
      nothing,
    ],
    "to take it off again for the next freeze": [
      {
        containers: [anchor, { ...guest, state: "paused", address }],
        frozen: { g1: now - 1_000 },
        released: { g1: now - long },
      },
      does("release keepalived-1"),
    ],
    "nothing about others that are frozen": [
      { containers: [anchor, { ...guest, state: "paused" }], frozen: { g1: now - long } },
      nothing,
    ],
    "no release where the network has ended with the anchor": [
      { containers: [dead(anchor, long), { ...dead(guest, long), address }], fates: { a1: "stopped" } },
      nothing,
    ],
    "to wait longer after each start that has not helped": [
      {
        containers: [anchor, dead(guest, long)],
        fates: { g1: "killed" },
        failures: { g1: { count: 3, until: now + 4_000 } },
      },
      at(4_000),
    ],
    "to wait a moment before it tries again to take an address off, without holding up the start": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "killed" },
        stuck: { g1: { count: 2, until: now + 400 } },
      },
      { ...at(400), actions: ["start keepalived-1"] },
    ],
    "to take an address off though the start beside it has failed": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "killed" },
        failures: { g1: { count: 3, until: now + 4_000 } },
      },
      { ...at(4_000), actions: ["release keepalived-1"] },
    ],
    // From here on the clock was set back by an hour.
    "nothing about a guest that was started after its anchor by a clock that was set back meanwhile": [
      { containers: [{ ...anchor, startedAt: now - 10_000 }, guest], eras: { a1: 0, g1: 1 } },
      nothing,
    ],
    "to re-join a guest of an anchor that was started after it by a clock that was set back": [
      { containers: [anchor, { ...guest, startedAt: now + 3_600_000 }], eras: { a1: 1, g1: 0 } },
      does("restart keepalived-1"),
    ],
    "to start at once what ended in the future, and to take its address off": [
      {
        containers: [anchor, { ...dead(guest, -3_600_000), address }],
        fates: { g1: "killed" },
      },
      does("release keepalived-1", "start keepalived-1"),
    ],
    "to start a guest that was killed though its anchor started in the future": [
      {
        containers: [{ ...anchor, startedAt: now + 3_600_000 }, dead(guest, long)],
        fates: { g1: "killed" },
      },
      does("start keepalived-1"),
    ],
    "not to wait for an hour after a start that has not helped": [
      {
        containers: [anchor, { ...dead(guest, long), address }],
        fates: { g1: "killed" },
        failures: { g1: { count: 3, until: now + 3_604_000 } },
        stuck: { g1: { count: 3, until: now + 3_600_800 } },
      },
      does("release keepalived-1", "start keepalived-1"),
    ],
    "about an anchor by its name too": [
      {
        containers: [
          { ...anchor, startedAt: now - 10_000 },
          { ...guest, joins: "lb-node-1" },
        ],
      },
      does("restart keepalived-1"),
    ],
  };
  it.each(Object.entries(table))("%s", (_what, [given, expected]) => {
    expect(decided(given)).toEqual(expected);
  });

  it("to back off, but not for ever", () => {
    expect([1, 2, 3, 20].map(backOffMs)).toEqual([1_000, 2_000, 4_000, 60_000]);
    expect([1, 2, 3, 20].map(stuckMs)).toEqual([200, 400, 800, 2_000]);
  });
});

describe("how a container came to its end", () => {
  const event = (action: ContainerEvent["action"], signal?: number, when = now): ContainerEvent => ({
    action,
    id: "g1",
    at: when,
    ...(signal === undefined ? {} : { signal }),
  });
  const usr1 = [event("kill", 10, now - 60_000)];
  it.each<[string, ContainerEvent[], Fate | undefined]>([
    ["docker kill", [event("kill", 9), event("die")], "killed"],
    ["docker stop", [event("kill", 15), event("die"), event("stop")], "stopped"],
    [
      "docker stop that took force",
      [event("kill", 15), event("kill", 9), event("die"), event("stop")],
      "stopped",
    ],
    ["docker stop of HAProxy", [event("kill", 10), event("die"), event("stop")], "stopped"],
    [
      "docker stop with a signal of the image's own",
      [event("kill", 3), event("die"), event("stop")],
      "stopped",
    ],
    ["docker kill --signal TERM", [event("kill", 15), event("die")], "stopped"],
    ["a reload, then docker kill", [event("kill", 12), event("kill", 9), event("die")], "killed"],
    ["a crash", [event("die")], "ended"],
    [
      "a crash long after a signal that was ignored",
      [event("kill", 15, now - 3_600_000), event("die")],
      "ended",
    ],
    [
      "docker kill after a signal that asked Keepalived for its state",
      [...usr1, event("kill", 9), event("die")],
      "killed",
    ],
    ["a crash after it", [...usr1, event("die")], "ended"],
    ["a crash after SIGINT that was ignored", [event("kill", 2, now - 60_000), event("die")], "ended"],
    ["SIGTERM, taken a minute over", [event("kill", 15, now - 60_000), event("die")], "stopped"],
    [
      "SIGTERM, taken a minute over, and another signal meanwhile",
      [event("kill", 15, now - 60_000), event("kill", 2, now - 30_000), event("die")],
      "stopped",
    ],
    [
      "docker stop that took long",
      [event("kill", 15, now - 600_000), event("kill", 9), event("die"), event("stop")],
      "stopped",
    ],
    ["docker stop, told in the wrong order", [event("kill", 3), event("stop"), event("die")], "stopped"],
    ["a crash after the clock was set back", [event("kill", 15, now + 3_600_000), event("die")], "ended"],
    ["a crash after a start", [event("kill", 9), event("die"), event("start"), event("die")], "ended"],
    ["docker restart", [event("kill", 15), event("die"), event("stop"), event("start")], undefined],
    ["docker rm --force", [event("kill", 9), event("die"), event("destroy")], undefined],
  ])("%s", (_what, events, expected) => {
    const fates = new Fates();
    for (const one of events) fates.learn(one);
    expect(fates.all.get("g1")).toBe(expected);
  });

  it("is nobody's will where the supervisor restarts it itself and dies on the way", () => {
    const fates = new Fates();
    fates.own("g1", now + 1_000);
    for (const one of [event("kill", 15), event("die"), event("stop")]) fates.learn(one);
    expect(fates.all.get("g1")).toBe("ended");
    // And later it is somebody's again.
    for (const one of [event("start"), event("kill", 15), event("die"), event("stop")]) fates.learn(one);
    expect(fates.all.get("g1")).toBe("stopped");
  });
});

describe("which was started first", () => {
  const hour = 3_600_000;
  const eras = (starts: Starts) => Object.fromEntries([...starts.all].map(([id, { era }]) => [id, era]));
  const started = (container: Container, startedAt: number): Container => ({ ...container, startedAt });

  it("is a matter of Docker's times while the clock only goes on", () => {
    const starts = new Starts();
    starts.learn([anchor, guest], now, 1_000);
    // It was set forward, and asking it takes a moment more or less.
    starts.learn([anchor, started(guest, now + hour)], now + hour, 2_000);
    starts.learn([anchor, started(guest, now + hour)], now + hour + 800, 3_000);
    expect(eras(starts)).toEqual({ a1: 0, g1: 0 });
  });

  it("is seen where the clock was set back between two looks, and through its own restart", () => {
    const starts = new Starts();
    starts.learn([anchor, guest], now, 1_000);
    const back = started(guest, now - hour + 500);
    starts.learn([anchor, back], now - hour + 1_000, 2_000);
    expect(eras(starts)).toEqual({ a1: 0, g1: 1 });
    const saved = JSON.parse(JSON.stringify(Object.fromEntries(starts.all))) as ConstructorParameters<
      typeof Starts
    >[0];
    const again = new Starts(saved, now - hour);
    again.learn([started(anchor, now + 1_000), back], now + 2_000, 1_000);
    expect(eras(again)).toEqual({ a1: 1, g1: 1 });
  });

  it("is seen where the clock was set back while it did not run", () => {
    const starts = new Starts({ a1: { at: now, era: 0 } }, now + 1_000);
    starts.learn([started(anchor, now), started(guest, now - hour)], now - hour + 1_000, 1_000);
    expect(eras(starts)).toEqual({ a1: 0, g1: 1 });
  });

  it("is seen where one was started in the future, though it knows nothing of before", () => {
    const starts = new Starts();
    starts.learn([started(anchor, now + hour), guest], now, 1_000);
    expect(eras(starts)).toEqual({ a1: -1, g1: 0 });
  });

  it("is forgotten with the container", () => {
    const starts = new Starts();
    starts.learn([anchor, guest], now, 1_000);
    starts.learn([anchor], now + 1_000, 2_000);
    expect([...starts.all.keys()]).toEqual(["a1"]);
  });
});
