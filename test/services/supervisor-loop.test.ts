// The supervisor's loop: what wakes it, what it takes from Docker's events, and that nothing keeps it from acting. The
// daemon is a small one in memory, and all clocks are the test's.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Container } from "../../services/supervisor/decide.ts";
import { type Happening } from "../../services/supervisor/engine.ts";
import { type ContainerEvent } from "../../services/supervisor/fates.ts";
import { Supervisor, type SupervisorOptions } from "../../services/supervisor/supervisor.ts";

const hour = 3_600_000;
const began = Date.UTC(2030, 0, 1);
const address = "172.25.0.222/24 eth0";

/** As much of a daemon as the supervisor needs. */
class Daemon {
  readonly containers = new Map<string, Container>();
  readonly did: string[] = [];
  /** Whose network has lost its way out. */
  readonly unrouted = new Set<string>();
  /** What it was asked to tell from, milliseconds since 1970. */
  readonly since: number[] = [];
  looks = 0;
  /** How long a look takes, milliseconds. */
  lookMs = 0;
  /** What is wrong with the network's tools. */
  releaseError: string | undefined;
  /** All that it has told so far. */
  readonly history: Happening[] = [];
  #told: Happening[] = [];
  #tell: (() => void) | undefined;

  readonly engine: SupervisorOptions["engine"] = {
    containers: async () => {
      this.looks++;
      const seen = [...this.containers.values()];
      if (this.lookMs > 0) await new Promise((resolve) => setTimeout(resolve, this.lookMs));
      return seen;
    },
    heldUntil: () => Promise.resolve(0),
    happenings: (sinceNano) => {
      this.since.push(sinceNano / 1e6);
      return this.#happenings();
    },
    start: ({ id, name }) => {
      this.did.push(`start ${name}`);
      this.set(id, { state: "running", startedAt: Date.now() });
      this.tell(id, "start");
      return Promise.resolve();
    },
    restart: ({ id, name }) => {
      this.did.push(`restart ${name}`);
      this.set(id, { state: "running", startedAt: Date.now() });
      return Promise.resolve();
    },
    isRouted: ({ id }) => Promise.resolve(!this.unrouted.has(id)),
    route: ({ id, name }) => {
      this.did.push(`route ${name}`);
      this.unrouted.delete(id);
      return Promise.resolve();
    },
    release: ({ name }) => {
      this.did.push(`release ${name}`);
      return this.releaseError === undefined
        ? Promise.resolve(true)
        : Promise.reject(new Error(this.releaseError));
    },
  };

  set(id: string, changed: Partial<Container>): void {
    const container = this.containers.get(id);
    if (container !== undefined) this.containers.set(id, { ...container, ...changed });
  }

  /** Tells of an event, by default one of now. */
  tell(id: string, action: ContainerEvent["action"], signal?: number, at = Date.now()): void {
    this.say({
      // No two at once: a number of this size counts in quarters of a microsecond.
      nano: at * 1e6 + this.history.length * 1000,
      event: { action, id, at, ...(signal === undefined ? {} : { signal }) },
    });
  }

  say(happening: Happening): void {
    this.history.push(happening);
    this.#told.push(happening);
    this.#tell?.();
  }

  /** A container ends, and Docker tells of it. */
  end(id: string, ...signals: number[]): void {
    for (const signal of signals) this.tell(id, "kill", signal);
    this.set(id, { state: "exited", finishedAt: Date.now() });
    this.tell(id, "die");
  }

  async *#happenings(): AsyncGenerator<Happening> {
    for (;;) {
      const next = this.#told.shift();
      if (next !== undefined) yield next;
      else await new Promise<void>((resolve) => (this.#tell = resolve));
    }
  }
}

describe("the supervisor's loop", () => {
  let daemon: Daemon;
  let directory: string;
  let stateFile: string;
  let said: string[];
  const begin = () => {
    void new Supervisor({ engine: daemon.engine, stateFile, log: (line) => said.push(line) }).run();
  };
  const pass = (ms: number) => vi.advanceTimersByTimeAsync(ms);
  const back = (ms: number) => vi.setSystemTime(Date.now() - ms);
  beforeEach(() => {
    vi.useFakeTimers({
      now: began,
      toFake: ["setTimeout", "clearTimeout", "Date", "performance"],
    });
    directory = mkdtempSync(join(tmpdir(), "siem-ha-supervisor-"));
    stateFile = join(directory, "supervisor.json");
    said = [];
    daemon = new Daemon();
    const anchor: Container = {
      id: "a1",
      name: "lb-node-1",
      image: "busybox",
      state: "running",
      startedAt: began - 60_000,
      finishedAt: 0,
      hostNetwork: false,
    };
    daemon.containers.set("a1", anchor);
    daemon.containers.set("g1", {
      ...anchor,
      id: "g1",
      name: "keepalived-1",
      startedAt: began - 50_000,
      joins: "a1",
      address,
    });
  });
  afterEach(() => {
    vi.useRealTimers();
    rmSync(directory, { recursive: true, force: true });
  });

  it("looks when something happens, and every fifteen seconds", async () => {
    begin();
    await pass(1_000);
    expect(daemon.looks).toBe(1);
    daemon.end("g1", 9);
    await pass(600);
    expect(daemon.did).toEqual(["release keepalived-1", "start keepalived-1"]);
    await pass(1_000);
    const { looks } = daemon;
    await pass(14_000);
    expect(daemon.looks).toBe(looks + 1);
  });

  it("looks at routes once a minute, of running containers with a network of their own, and mends them", async () => {
    daemon.set("a1", { network: { address: "172.25.0.11/24", gateway: "172.25.0.1" } });
    daemon.unrouted.add("g1");
    begin();
    await pass(1_000);
    daemon.unrouted.add("a1");
    await pass(30_000);
    expect(daemon.did).toEqual([]);
    await pass(60_000);
    expect(daemon.did).toEqual(["route lb-node-1"]);
    await pass(120_000);
    expect(daemon.did).toEqual(["route lb-node-1"]);
  });

  it("does not forget what happens in the moment in which a look ends", async () => {
    daemon.lookMs = 100;
    begin();
    // The look lasts from 250 to 350 ms; what happens now is to be looked at in the next millisecond.
    await pass(249);
    await pass(101 - 0.5);
    daemon.end("g1", 9);
    await pass(1_200);
    expect(daemon.did).toContain("start keepalived-1");
  });

  it.each([0, 0.2, 0.5, 0.8, 1, 1.5, 2])(
    "does not forget what happens %f ms before a look ends",
    async (beforeMs) => {
      daemon.lookMs = 100;
      begin();
      setTimeout(() => daemon.end("g1", 9), 350 - beforeMs);
      await pass(1_600);
      expect(daemon.did).toContain("start keepalived-1");
    },
  );

  describe("after the clock was set back by an hour", () => {
    beforeEach(async () => {
      begin();
      daemon.tell("a1", "start");
      await pass(5_000);
      back(hour);
    });

    it("notices what is killed at once", async () => {
      daemon.end("g1", 9);
      await pass(600);
      expect(daemon.did).toEqual(["release keepalived-1", "start keepalived-1"]);
    });

    it("knows a stop when it sees one", async () => {
      daemon.end("g1", 15);
      daemon.tell("g1", "stop");
      await pass(20_000);
      expect(daemon.did).toEqual(["release keepalived-1"]);
    });

    it("takes no guest that was started since for an orphan, ever", async () => {
      daemon.end("g1", 9);
      await pass(1_000);
      daemon.did.length = 0;
      await pass(hour + 60_000);
      expect(daemon.did).toEqual([]);
    });

    it("re-joins the guests of an anchor that is restarted", async () => {
      daemon.set("a1", { startedAt: Date.now() });
      daemon.tell("a1", "start");
      await pass(1_000);
      expect(daemon.did).toEqual(["restart keepalived-1"]);
    });
  });

  it("asks for nothing of the future when its clock was set back while it did not run", async () => {
    writeFileSync(stateFile, JSON.stringify({ stopped: {}, nano: (began + hour) * 1e6 }));
    begin();
    await pass(300);
    expect(daemon.since[0]).toBeLessThanOrEqual(began);
    daemon.end("g1", 9);
    await pass(600);
    expect(daemon.did).toContain("start keepalived-1");
  });

  it("learns what Docker tells in the wrong order, and nothing twice", async () => {
    begin();
    await pass(1_000);
    const at = Date.now();
    daemon.say({ nano: (at + 1) * 1e6, event: { action: "start", id: "a1", at: at + 1 } });
    daemon.end("g1", 15);
    await pass(1_000);
    expect(daemon.did).toEqual(["release keepalived-1"]);
    daemon.set("g1", { state: "running", startedAt: Date.now() });
    daemon.tell("g1", "start");
    daemon.end("g1", 9);
    await pass(1_000);
    daemon.did.length = 0;
    // It does not last, and then the connection is lost.
    daemon.end("g1", 9);
    await pass(10);
    for (const happening of [...daemon.history, ...daemon.history]) daemon.say(happening);
    await pass(1_100);
    // One failure is what it has counted.
    expect(daemon.did).toEqual(["release keepalived-1", "start keepalived-1"]);
  });

  it("remembers through its own restart what was stopped, though Docker tells again only of the end", async () => {
    const finishedAt = began - 500;
    daemon.set("g1", { state: "exited", finishedAt });
    writeFileSync(stateFile, JSON.stringify({ stopped: { g1: finishedAt }, nano: finishedAt * 1e6 }));
    daemon.tell("g1", "die", undefined, finishedAt);
    begin();
    await pass(20_000);
    expect(daemon.did).toEqual(["release keepalived-1"]);
  });

  it("acts though it can't write its state, says so once, and writes it when it can", async () => {
    stateFile = join(directory, "full/supervisor.json");
    begin();
    await pass(1_000);
    daemon.end("g1", 9);
    await pass(20_000);
    expect(daemon.did).toEqual(["release keepalived-1", "start keepalived-1"]);
    expect(said.filter((line) => line.includes("can't write"))).toHaveLength(1);
    mkdirSync(join(directory, "full"));
    await pass(20_000);
    expect(existsSync(stateFile)).toBe(true);
    expect(JSON.parse(readFileSync(stateFile, "utf8"))).toMatchObject({ stopped: {} });
    expect(said.filter((line) => line.includes("remembers again"))).toHaveLength(1);
    rmSync(join(directory, "full"), { recursive: true });
    daemon.end("g1", 9);
    await pass(20_000);
    expect(said.filter((line) => line.includes("can't write"))).toHaveLength(2);
  });

  it("tries to take an address off again and again, but not all the time, and starts its keeper meanwhile", async () => {
    daemon.releaseError = "no such image";
    // What can't be started either, so that it goes on.
    const start = daemon.engine.start;
    begin();
    await pass(1_000);
    daemon.engine.start = (container) => {
      daemon.did.push(`start ${container.name}`);
      return Promise.reject(new Error("no"));
    };
    daemon.end("g1", 9);
    await pass(600);
    expect(daemon.did.filter((what) => what.startsWith("start"))).toHaveLength(1);
    await pass(10_000);
    const tries = daemon.did.filter((what) => what.startsWith("release")).length;
    expect(tries).toBeGreaterThanOrEqual(6);
    expect(tries).toBeLessThanOrEqual(10);
    // At 0.5, 1.5, 3.5 and 7.5 s: its own failures count, not those beside it.
    expect(daemon.did.filter((what) => what.startsWith("start"))).toHaveLength(4);
    daemon.releaseError = undefined;
    daemon.engine.start = start;
    // It has lasted.
    await pass(90_000);
    daemon.did.length = 0;
    daemon.end("g1", 9);
    await pass(600);
    expect(daemon.did).toEqual(["release keepalived-1", "start keepalived-1"]);
  });
});
