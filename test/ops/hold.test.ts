// The hold on the supervisor: there while somebody works, with a deadline, and gone afterwards whatever happened.

import type Docker from "dockerode";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { withHold } from "../../ops/hold.ts";
import { holdLabel, holdUntilLabel } from "../../services/supervisor/labels.ts";

/** As much of a daemon as a hold needs. */
class Daemon {
  readonly volumes = new Map<string, Record<string, string>>();
  /** How many there were at least at any time since the first. */
  least = Infinity;

  asDocker(): Docker {
    return {
      createVolume: ({ Name, Labels }: { Name: string; Labels: Record<string, string> }) => {
        if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(Name)) return Promise.reject(new Error(`bad name ${Name}`));
        // As Docker does: an existing one keeps its labels.
        if (!this.volumes.has(Name)) this.volumes.set(Name, Labels);
        return Promise.resolve();
      },
      getVolume: (name: string) => ({
        remove: () => {
          if (!this.volumes.delete(name)) {
            return Promise.reject(Object.assign(new Error("no such volume"), { statusCode: 404 }));
          }
          this.least = Math.min(this.least, this.volumes.size);
          return Promise.resolve();
        },
      }),
    } as unknown as Docker;
  }

  /** How long the hold still lasts, seconds. */
  left(): number {
    const ends = [...this.volumes.values()]
      .filter((labels) => labels[holdLabel] === "local")
      .map((labels) => Number(labels[holdUntilLabel]) - Date.now() / 1000);
    return Math.max(0, ...ends);
  }
}

describe("a hold", () => {
  let daemon: Daemon;
  beforeEach(() => {
    vi.useFakeTimers();
    daemon = new Daemon();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("is there while the work lasts, is renewed without a gap, and is taken back", async () => {
    const result = await withHold(daemon.asDocker(), "local", async () => {
      for (let minute = 0; minute < 10; minute++) {
        expect(daemon.left()).toBeGreaterThan(100);
        await vi.advanceTimersByTimeAsync(60_000);
      }
      expect(daemon.volumes.size).toBe(1);
      expect(daemon.least).toBe(1);
      return "done";
    });
    expect(result).toBe("done");
    expect(daemon.volumes.size).toBe(0);
  });

  it("is taken back after work that failed", async () => {
    const failing = withHold(daemon.asDocker(), "local", () => Promise.reject(new Error("no")));
    await expect(failing).rejects.toThrow("no");
    expect(daemon.volumes.size).toBe(0);
  });

  it("replaces what a killed one has left, deadline and all", async () => {
    daemon.volumes.set("local-hold-a", { [holdLabel]: "local", [holdUntilLabel]: "1" });
    await withHold(daemon.asDocker(), "local", () => {
      expect(daemon.left()).toBeGreaterThan(100);
      return Promise.resolve();
    });
    expect(daemon.volumes.size).toBe(0);
  });

  it("takes the label of a stack with a prefix, which can be in no volume's name", async () => {
    await withHold(daemon.asDocker(), "test-/test", () => {
      expect([...daemon.volumes.values()].map((labels) => labels[holdLabel])).toEqual(["test-/test"]);
      return Promise.resolve();
    });
    expect(daemon.volumes.size).toBe(0);
  });
});
