// Faults are taken back: when their time is over, when breaking failed half-way, and at once on a Ctrl-C.

import type Docker from "dockerode";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { plan } from "../../../components/topology.ts";
import { Faults } from "../../../ops/chaos/faults.ts";
import { type Fault, type Parts, type Victim } from "../../../ops/chaos/scenarios.ts";

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
  let faults: Faults;
  beforeEach(() => {
    vi.useFakeTimers();
    calls = [];
    failing = {};
    const getContainer = (name: string) =>
      Object.fromEntries(
        ["kill", "stop", "start", "pause", "unpause", "restart"].map((verb) => [
          verb,
          () => {
            const call = `${verb} ${name}`;
            calls.push(call);
            const statusCode = failing[call];
            return statusCode === undefined
              ? Promise.resolve()
              : Promise.reject(Object.assign(new Error(`no ${call}`), { statusCode }));
          },
        ]),
      );
    const docker = { getContainer } as unknown as Docker;
    faults = new Faults({
      tools: { docker, dockerHost: "unix:///nowhere", label: "x", image: "x" },
      topology,
      log: () => undefined,
      lost: () => undefined,
    });
  });
  afterEach(() => {
    vi.useRealTimers();
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
});
