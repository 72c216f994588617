// Faults are taken back: when their time is over, when breaking failed half-way, and at once on a Ctrl-C, but never before
// they are made. What can't be taken back is said.

import type Docker from "dockerode";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { plan } from "../../../components/topology.ts";
import { CannotBreak, Faults } from "../../../ops/chaos/faults.ts";
import { linkDown, linkUp, mend, refused } from "../../../ops/chaos/network.ts";
import { type Fault, type Parts, type Victim } from "../../../ops/chaos/scenarios.ts";
import { besideVolumes, inNetwork, keepBusy } from "../../../ops/chaos/tools.ts";

vi.mock("../../../ops/chaos/tools.ts", () => ({
  besideVolumes: vi.fn(),
  inNetwork: vi.fn(),
  keepBusy: vi.fn(),
}));
vi.mock("../../../ops/hold.ts", () => ({
  withHold: async (_docker: unknown, _stack: string, work: () => Promise<unknown>) => {
    held = true;
    return work().finally(() => (held = false));
  },
}));
let held = false;
// Vitest's clock rules only the global timers.
vi.mock("node:timers/promises", () => ({
  setTimeout: (ms: number, value: unknown, { signal }: { signal?: AbortSignal } = {}) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, ms, value);
      const end = () => {
        clearTimeout(timer);
        reject(new Error("aborted"));
      };
      if (signal?.aborted === true) end();
      else signal?.addEventListener("abort", end);
    }),
}));

const topology = plan();
const parts: Parts = {
  holder: 1,
  backup: 2,
  controller: 1,
  "partition leader": 2,
  "other broker": 3,
  "ZooKeeper's leader": 1,
  "a ZooKeeper follower": 2,
};
const api = (which: number): Victim => ({ kind: "replica", service: "api", which });

describe("a fault", () => {
  let calls: string[] = [];
  /** Calls that fail, and how. */
  let failing: Record<string, number> = {};
  /** Calls that take so long, milliseconds; they have happened when they end. */
  let slow: Record<string, number> = {};
  let daemon: "answers" | "silent" = "answers";
  /** Containers that don't run. */
  let states: Record<string, string> = {};
  let faults: Faults;
  let lost: string[] = [];
  /** What is done in a node's network fails so. */
  let network: (node: string, line: string) => Error | undefined = () => undefined;
  beforeEach(() => {
    vi.useFakeTimers();
    calls = [];
    failing = {};
    states = {};
    slow = {};
    lost = [];
    network = () => undefined;
    const getContainer = (name: string) => ({
      inspect: () =>
        Promise.resolve({
          State: { Running: true },
          NetworkSettings: {
            Networks: { "siem-net": { MacAddress: "02:42:00:00:00:01", IPAddress: "172.25.0.11" } },
          },
        }),
      ...Object.fromEntries(
        ["kill", "stop", "start", "pause", "unpause", "restart", "remove"].map((verb) => [
          verb,
          async () => {
            const call = `${verb} ${name}`;
            if (slow[call] !== undefined) await new Promise((resolve) => setTimeout(resolve, slow[call]));
            calls.push(call);
            const statusCode = failing[call];
            if (statusCode !== undefined) throw Object.assign(new Error(`no ${call}`), { statusCode });
          },
        ]),
      ),
    });
    const container = (id: string, name: string, NetworkMode: string) => ({
      ...{ Id: id, Names: [`/${name}`], State: states[name] ?? "running" },
      HostConfig: { NetworkMode },
    });
    daemon = "answers";
    const listContainers = () =>
      daemon === "silent"
        ? Promise.reject(new Error("no answer"))
        : Promise.resolve([
            container("1", "lb-node-1", "siem-net"),
            container("2", "haproxy-1", "container:1"),
          ]);
    vi.mocked(inNetwork).mockImplementation((_tools, node, line) => {
      const error = network(node, line);
      const words: Record<string, string> = { [mend]: "mend", [linkDown]: "link down", [linkUp]: "link up" };
      calls.push(`${words[line] ?? "cut"} ${node}`);
      return error === undefined ? Promise.resolve("1700000000.5\n") : Promise.reject(error);
    });
    const docker = { getContainer, listContainers } as unknown as Docker;
    faults = new Faults({
      tools: { docker, dockerHost: "unix:///nowhere", label: "x", image: "x" },
      topology,
      log: () => undefined,
      lost: (node) => lost.push(node),
    });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("that cuts the power kills, takes from the disk what was not synced, and starts again, while nobody else does", async () => {
    vi.mocked(besideVolumes).mockImplementation((_tools, name, line, input) => {
      calls.push(line.includes("truncate") ? `cut ${name} back to ${input}` : `list ${name}`);
      return Promise.resolve("3");
    });
    const victims: Victim[] = [{ kind: "replica", service: "kafka", which: 2 }];
    const applied = faults.apply({ do: "cut the power", victims, seconds: 8 }, parts);
    await vi.advanceTimersByTimeAsync(19_000);
    expect(calls).toEqual(["list kafka-2"]);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(calls.slice(1)).toEqual(["kill kafka-2", "cut kafka-2 back to 3"]);
    expect(held).toBe(true);
    await vi.advanceTimersByTimeAsync(8_000);
    await applied;
    expect(calls.slice(3)).toEqual(["start kafka-2"]);
    expect(held).toBe(false);
  });

  const pause: Fault = { do: "pause", victims: [api(1), api(2)], seconds: 10 };

  it("lasts as long as it says, and is taken back then", async () => {
    const applied = faults.apply(pause, parts);
    await vi.advanceTimersByTimeAsync(9_000);
    expect(calls).toEqual(["pause siem-api-1", "pause siem-api-2"]);
    expect(faults.pending).toBe(true);
    await vi.advanceTimersByTimeAsync(1_100);
    await applied;
    expect(calls.slice(2)).toEqual(["unpause siem-api-1", "unpause siem-api-2"]);
    expect(faults.pending).toBe(false);
  });

  it("is taken back at once, and only once, when the command is interrupted", async () => {
    const applied = faults.apply(pause, parts);
    await vi.advanceTimersByTimeAsync(1_000);
    await faults.undoAll();
    expect(calls.slice(2)).toEqual(["unpause siem-api-1", "unpause siem-api-2"]);
    await vi.advanceTimersByTimeAsync(10_000);
    await applied;
    expect(calls).toHaveLength(4);
    await expect(faults.apply(pause, parts)).rejects.toThrow("interrupted");
    expect(calls).toHaveLength(4);
  });

  it("is taken back where breaking it failed half-way", async () => {
    failing = { "pause siem-api-2": 500, "unpause siem-api-2": 409 };
    await expect(faults.apply(pause, parts)).rejects.toThrow("no pause siem-api-2");
    expect(calls).toContain("unpause siem-api-1");
    expect(faults.pending).toBe(false);
  });

  it("takes a node's card down, and up again when its time is over", async () => {
    const victims: Victim[] = [{ kind: "node", role: "lb", which: "holder" }];
    const applied = faults.apply({ do: "take the link down", victims, seconds: 4 }, parts);
    await vi.advanceTimersByTimeAsync(3_900);
    expect(calls).toEqual(["link down lb-node-1"]);
    await vi.advanceTimersByTimeAsync(200);
    expect(await applied).toBe(1_700_000_000_500);
    expect(calls.slice(1)).toEqual(["link up lb-node-1"]);
  });

  it("removes the containers that it kept busy, also those that have gone by themselves", async () => {
    vi.mocked(keepBusy).mockImplementation((_tools, _what, count) =>
      Promise.resolve(Array.from({ length: count }, (_, index) => `busy-${index + 1}`)),
    );
    failing = { "remove busy-2": 404 };
    const storm = faults.apply({ do: "keep busy", containers: 3, seconds: 10 }, parts);
    await vi.advanceTimersByTimeAsync(9_000);
    expect(faults.byHand).toEqual(["docker -H unix:///nowhere rm --force busy-1 busy-2 busy-3"]);
    expect(calls).toEqual([]);
    await vi.advanceTimersByTimeAsync(1_100);
    await storm;
    expect(calls.sort()).toEqual(["remove busy-1", "remove busy-2", "remove busy-3"]);
    expect(faults.pending).toBe(false);
  });

  it("starts what it stopped, and nothing that it killed", async () => {
    const stopped = faults.apply({ do: "stop", victims: [api(3)], seconds: 1 }, parts);
    await vi.advanceTimersByTimeAsync(1_100);
    await stopped;
    await faults.apply({ do: "kill", victims: [api(1)] }, parts);
    expect(calls).toEqual(["stop siem-api-3", "start siem-api-3", "kill siem-api-1"]);
  });

  it("does not mind that somebody else has started it", async () => {
    failing = { "start siem-api-3": 304 };
    const stopped = faults.apply({ do: "stop", victims: [api(3)], seconds: 1 }, parts);
    await vi.advanceTimersByTimeAsync(1_100);
    await expect(stopped).resolves.toBeGreaterThan(0);
  });

  it("says that a replica that is not there can't be broken", async () => {
    await expect(faults.apply({ do: "kill", victims: [api(7)] }, parts)).rejects.toThrow("there is no api 7");
    expect(calls).toEqual([]);
  });

  it("is not taken back before it is made, however slowly that goes", async () => {
    slow = { "stop siem-api-3": 10_000 };
    const stopped = faults.apply({ do: "stop", victims: [api(3)], seconds: 4 }, parts);
    await vi.advanceTimersByTimeAsync(1_000);
    const undone = faults.undoAll();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(calls).toEqual([]);
    await vi.advanceTimersByTimeAsync(4_500);
    expect(await undone).toEqual([]);
    await stopped;
    expect(calls).toEqual(["stop siem-api-3", "start siem-api-3"]);
    expect(faults.pending).toBe(false);
  });

  it("is not made at all once everything is taken back", async () => {
    const applied = faults.apply(pause, parts);
    // It has still to be looked up what is to be broken.
    const undone = faults.undoAll();
    await expect(applied).rejects.toThrow("interrupted");
    expect(await undone).toEqual([]);
    expect(calls).toEqual([]);
  });

  it("is named, with what to do by hand, where it can't be taken back; it may be tried again", async () => {
    const applied = faults.apply(pause, parts);
    const rejected = expect(applied).rejects.toThrow("no unpause siem-api-2");
    await vi.advanceTimersByTimeAsync(1_000);
    failing = { "unpause siem-api-2": 418 };
    expect(await faults.undoAll()).toEqual([
      "no unpause siem-api-2; by hand: docker -H unix:///nowhere unpause siem-api-1 siem-api-2",
    ]);
    await rejected;
    expect(faults.byHand).toHaveLength(1);
    failing = {};
    expect(await faults.undoAll()).toEqual([]);
    expect(faults.pending).toBe(false);
  });

  it("is given up on after a minute of being made, and that is said", async () => {
    slow = { "stop siem-api-3": 600_000 };
    void faults.apply({ do: "stop", victims: [api(3)], seconds: 4 }, parts).catch(() => undefined);
    await vi.advanceTimersByTimeAsync(1_000);
    const undone = faults.undoAll();
    await vi.advanceTimersByTimeAsync(121_000);
    expect(await undone).toEqual([
      "it was still being broken after 60 s, and may be so yet; by hand: docker -H unix:///nowhere start siem-api-3",
    ]);
    expect(calls).toContain("start siem-api-3");
  });

  it("ends at once, and nothing is over, where another one at the same moment can't be had", async () => {
    const applied = faults.apply(pause, parts);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await faults.takeBack()).toEqual([]);
    await applied;
    expect(calls.slice(2)).toEqual(["unpause siem-api-1", "unpause siem-api-2"]);
    await expect(faults.apply({ do: "kill", victims: [api(1)] }, parts)).resolves.toBeGreaterThan(0);
  });

  it("leaves to people what is down or frozen, and starts none of it itself", async () => {
    states = { "lb-node-1": "exited", "haproxy-1": "paused" };
    expect(await faults.leftToPeople(["kafka: silent"])).toEqual([
      "docker -H unix:///nowhere start lb-node-1",
      "docker -H unix:///nowhere unpause haproxy-1",
    ]);
    expect(calls).toEqual([]);
    states = {};
    expect(await faults.leftToPeople(["kafka: silent"])).toEqual(["find out about kafka: silent"]);
    daemon = "silent";
    expect(await faults.leftToPeople(["kafka: silent"])).toEqual([
      "docker -H unix:///nowhere ps: it does not answer",
      "find out about kafka: silent",
    ]);
  });

  describe("of a whole node", () => {
    const kill: Fault = { do: "kill", victims: [{ kind: "node", role: "lb", which: 1 }] };
    const cutOff: Fault = { do: "cut", side: [{ kind: "node", role: "lb", which: 1 }], seconds: 5 };

    it("cuts it off and kills it, and there is nothing to be mended", async () => {
      await expect(faults.apply(kill, parts)).resolves.toBe(1_700_000_000_500);
      expect(calls).toEqual(["cut lb-node-1", "kill lb-node-1", "kill haproxy-1"]);
      expect(lost).toEqual(["lb-node-1"]);
      expect(faults.pending).toBe(false);
    });

    it("is mended where it could not be killed", async () => {
      failing = { "kill lb-node-1": 500 };
      await expect(faults.apply(kill, parts)).rejects.toThrow("no kill lb-node-1");
      expect(calls.at(-1)).toBe("mend lb-node-1");
      expect(lost).toEqual([]);
      expect(faults.pending).toBe(false);
    });

    it("is mended where it was interrupted", async () => {
      slow = { "kill lb-node-1": 3_000 };
      const applied = faults.apply(kill, parts);
      await vi.advanceTimersByTimeAsync(1_000);
      const undone = faults.undoAll();
      await vi.advanceTimersByTimeAsync(2_500);
      expect(await undone).toEqual([]);
      await applied;
      expect(calls.slice(-2)).toEqual(["kill lb-node-1", "mend lb-node-1"]);
    });

    it("can't be had where nftables refuses it, and fails where anything else does; both are mended", async () => {
      const because = (code: number) => (_node: string, line: string) =>
        line === mend ? undefined : new Error("no", { cause: { code } });
      network = because(refused);
      await expect(faults.apply(cutOff, parts)).rejects.toThrow(CannotBreak);
      network = because(125);
      await expect(faults.apply(cutOff, parts)).rejects.not.toThrow(CannotBreak);
      expect(calls).toEqual(["cut lb-node-1", "mend lb-node-1", "cut lb-node-1", "mend lb-node-1"]);
    });

    it("fails, and is not skipped, where a cut that was refused can't be mended", async () => {
      network = () => new Error("no", { cause: { code: refused } });
      const error: unknown = await faults.apply(cutOff, parts).catch((reason: unknown) => reason);
      expect(error).not.toBeInstanceOf(CannotBreak);
      expect((error as Error).message).toContain("is not taken back");
      expect(faults.byHand).toEqual(["docker -H unix:///nowhere restart lb-node-1"]);
    });
  });

  it("of a daemon is refused where that is not the usual one", async () => {
    await expect(faults.apply({ do: "restart the daemon" }, parts)).rejects.toThrow(
      "only the daemon at unix:///var/run/docker.sock can be restarted, and the stack is on unix:///nowhere",
    );
  });
});
