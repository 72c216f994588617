// The loop: learns what happens, decides, acts, and looks again. Survives the daemon's restarts and its own.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { type Action, backOffMs, type Container, decide, type Fate } from "./decide.ts";
import { type Engine } from "./engine.ts";
import { Fates } from "./fates.ts";

export interface SupervisorOptions {
  readonly engine: Engine;
  /** Where it remembers what an operator has stopped. */
  readonly stateFile: string;
  readonly log: (line: string) => void;
}

/** Looks at everything that often, whatever Docker told it. */
const resyncMs = 15_000;
/** One that ends within this time after it was started has not been helped. */
const lastsMs = 30_000;
/** How long it tries to reach a daemon that it has lost; longer than it takes until it looks again. */
const lostMs = resyncMs + 5_000;
/** How much of what happened before it began it asks for. */
const historyMs = 10 * 60_000;

/** What survives its own restart. */
interface Saved {
  /** Containers that were stopped on purpose: id → the end that was meant. */
  readonly stopped: Readonly<Record<string, number>>;
  readonly nano: number;
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #fates = new Fates();
  readonly #frozen = new Map<string, number>();
  readonly #released = new Map<string, number>();
  readonly #failures = new Map<string, { count: number; until: number }>();
  /** When it last started each container itself. */
  readonly #startedAt = new Map<string, number>();
  readonly #busy = new Set<string>();
  readonly #complained = new Set<string>();
  #saved: Saved;
  #nano: number;
  #timer: NodeJS.Timeout | undefined;
  #looking = false;
  #lookAgain = false;
  #held = false;
  #reachedAt = Date.now();

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#saved = read(options.stateFile);
    this.#nano = Math.max(this.#saved.nano, (Date.now() - historyMs) * 1e6);
  }

  /**
   * Runs until it has lost the daemon.
   * @throws when the daemon can't be reached for a while. A daemon that starts makes a new socket, and a container sees
   * that only after a restart of its own; Docker restarts it.
   */
  async run(): Promise<never> {
    const { engine, log } = this.#options;
    for (let pause = 250; ; pause = Math.min(pause * 2, 5_000)) {
      try {
        // First what happened meanwhile: it says what was meant to be down.
        this.#look(250);
        for await (const { event, nano } of engine.happenings(this.#nano)) {
          pause = 250;
          // Asked for again after a lost connection, Docker repeats the last one.
          if (nano <= this.#nano) continue;
          this.#nano = nano;
          if (event !== undefined) {
            if (event.action === "die") this.#died(event.id, event.at);
            this.#fates.learn(event);
            if (event.action === "destroy") this.#forget(event.id);
          }
          if (event?.action !== "kill") this.#look(0);
        }
      } catch (error) {
        if (Date.now() - this.#reachedAt > lostMs) throw error;
        log(`lost the daemon: ${messageOf(error)}; tries again`);
      }
      await sleep(pause);
    }
  }

  /** Looks soon, and no later than it meant to before. */
  #look(inMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#lookNow(), inMs);
  }

  async #lookNow(): Promise<void> {
    if (this.#looking) {
      this.#lookAgain = true;
      return;
    }
    this.#looking = true;
    let nextMs = resyncMs;
    try {
      nextMs = await this.#reconcile();
      this.#reachedAt = Date.now();
    } catch (error) {
      // The events say when the daemon is back; this only waits.
      this.#options.log(`can't look: ${messageOf(error)}`);
      nextMs = 2_000;
    } finally {
      this.#looking = false;
      this.#look(this.#lookAgain ? 0 : nextMs);
      this.#lookAgain = false;
    }
  }

  /** @returns how long until it looks again, milliseconds. */
  async #reconcile(): Promise<number> {
    const { engine, log } = this.#options;
    const now = Date.now();
    const [containers, heldUntil] = await Promise.all([engine.containers(), engine.heldUntil(now)]);
    if (heldUntil > now !== this.#held) {
      this.#held = heldUntil > now;
      log(
        this.#held
          ? `stands back until ${new Date(heldUntil).toISOString()}: somebody is at work`
          : "is on duty",
      );
    }
    for (const { id, startedAt } of containers) {
      if (startedAt > 0 && now - startedAt > lastsMs && (this.#failures.get(id)?.until ?? now) < now)
        this.#failures.delete(id);
    }
    const fates = new Map(this.#fates.all);
    for (const { id, finishedAt } of containers) {
      if (!fates.has(id) && this.#saved.stopped[id] === finishedAt) fates.set(id, "stopped");
    }
    this.#save(containers, fates);
    const paused = containers.filter(({ state }) => state === "paused").map(({ id }) => id);
    for (const id of this.#frozen.keys()) if (!paused.includes(id)) this.#frozen.delete(id);
    for (const id of paused) if (!this.#frozen.has(id)) this.#frozen.set(id, now);
    const { actions, complaints, again } = decide({
      now,
      containers,
      heldUntil,
      fates,
      frozen: this.#frozen,
      released: this.#released,
      failures: this.#failures,
    });
    for (const complaint of complaints.filter((text) => !this.#complained.has(text))) {
      this.#complained.add(complaint);
      log(complaint);
    }
    for (const action of actions) void this.#act(action);
    return Math.max(20, Math.min(resyncMs, (again ?? Infinity) - Date.now()));
  }

  async #act(action: Action): Promise<void> {
    const { engine, log } = this.#options;
    const { container, anchor, why } = action;
    const { id, name } = container;
    const key = `${action.do === "release" ? "release" : "start"} ${id}`;
    if (this.#busy.has(key)) return;
    this.#busy.add(key);
    try {
      const began = Date.now();
      switch (action.do) {
        case "release":
          if (anchor !== undefined && (await engine.release(container, anchor)))
            log(`took ${container.address ?? ""} off ${anchor.name} in ${Date.now() - began} ms: ${why}`);
          this.#released.set(id, action.since ?? container.finishedAt);
          break;
        case "start":
          this.#startedAt.set(id, began);
          await engine.start(container);
          log(`started ${name} in ${Date.now() - began} ms: ${why}`);
          break;
        case "restart":
          this.#startedAt.set(id, began);
          this.#fates.own(id, began + 60_000);
          await engine.restart(container);
          log(`restarted ${name} in ${Date.now() - began} ms: ${why}`);
      }
    } catch (error) {
      const { until } = this.#failed(id);
      log(
        `can't ${action.do} ${name}: ${messageOf(error)}; not before ${new Date(until).toISOString()} again`,
      );
    } finally {
      this.#busy.delete(key);
      this.#look(0);
    }
  }

  #died(id: string, at: number): void {
    if (at - (this.#startedAt.get(id) ?? -Infinity) < lastsMs && !this.#busy.has(`start ${id}`))
      this.#failed(id);
  }

  #failed(id: string): { count: number; until: number } {
    const count = (this.#failures.get(id)?.count ?? 0) + 1;
    const failure = { count, until: Date.now() + backOffMs(count) };
    this.#failures.set(id, failure);
    return failure;
  }

  #forget(id: string): void {
    for (const map of [this.#released, this.#failures, this.#startedAt]) map.delete(id);
  }

  #save(containers: readonly Container[], fates: ReadonlyMap<string, Fate>): void {
    const stopped = Object.fromEntries(
      containers
        .filter(({ id, state }) => (state === "exited" || state === "dead") && fates.get(id) === "stopped")
        .map(({ id, finishedAt }) => [id, finishedAt]),
    );
    const saved = { stopped, nano: this.#nano };
    if (JSON.stringify(saved) === JSON.stringify(this.#saved)) return;
    this.#saved = saved;
    // Whole or not at all: it may be killed at any moment.
    writeFileSync(`${this.#options.stateFile}.new`, JSON.stringify(saved));
    renameSync(`${this.#options.stateFile}.new`, this.#options.stateFile);
  }
}

function read(file: string): Saved {
  try {
    return { stopped: {}, nano: 0, ...(JSON.parse(readFileSync(file, "utf8")) as Partial<Saved>) };
  } catch {
    return { stopped: {}, nano: 0 };
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
