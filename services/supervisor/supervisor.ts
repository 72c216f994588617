// The loop: learns what happens, decides, acts, and looks again. Survives the daemon's restarts and its own.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Action,
  backOffMs,
  type Container,
  decide,
  type Failure,
  type Fate,
  stuckMs,
} from "./decide.ts";
import { type Engine } from "./engine.ts";
import { type ContainerEvent, Fates } from "./fates.ts";
import { type Start, Starts } from "./starts.ts";

export interface SupervisorOptions {
  readonly engine: Pick<Engine, keyof Engine>;
  /** Where it remembers what an operator has stopped. */
  readonly stateFile: string;
  readonly log: (line: string) => void;
}

/** Looks at everything that often, whatever Docker told it. */
const resyncMs = 15_000;
/** Docker tells nothing of interfaces, and each look at them is a process in the container: so it looks that seldom. */
const routesMs = 60_000;
/** One that ends within this time after it was started has not been helped. */
const lastsMs = 30_000;
/** How long it tries to reach a daemon that it has lost; longer than it takes until it looks again. */
const lostMs = resyncMs + 5_000;
/** How much of what happened before it began it asks for. */
const historyMs = 10 * 60_000;
/** Docker may tell of two events in the wrong order, so it asks again for what it should know already. */
const againMs = 1_000;
/** Docker remembers 256 events, and can tell of no others again. */
const repeatable = 256;

/** What survives its own restart. */
interface Saved {
  /** Containers that were stopped on purpose: id → the end that was meant. */
  readonly stopped: Readonly<Record<string, number>>;
  /** When the last event was that it has seen, nanoseconds since 1970. */
  readonly nano: number;
  /** The containers' last starts: id → start. */
  readonly starts: Readonly<Record<string, Start>>;
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #fates = new Fates();
  readonly #frozen = new Map<string, number>();
  readonly #released = new Map<string, number>();
  readonly #failures = new Map<string, Failure>();
  readonly #stuck = new Map<string, Failure>();
  readonly #unrouted = new Set<string>();
  #routesAt = -Infinity;
  /** When it last started each container itself. */
  readonly #startedAt = new Map<string, number>();
  readonly #busy = new Set<string>();
  readonly #complained = new Set<string>();
  /** The last events that it has seen, so that it learns none twice. */
  readonly #seen = new Set<string>();
  readonly #starts: Starts;
  #saved: Saved;
  /** What is in the file, as far as it knows. */
  #written = "";
  #unwritable = false;
  #nano: number;
  /** The next look, and when it is on the clock of `performance`, which is never set. */
  #next: { readonly timer: NodeJS.Timeout; readonly due: number } | undefined;
  #looking = false;
  #lookAgain = false;
  #held = false;
  #reachedAt = performance.now();

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#saved = read(options.stateFile);
    this.#starts = new Starts(this.#saved.starts, this.#saved.nano / 1e6);
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
        // The clock may have been set back since the last one.
        const since = Math.min(this.#nano, Date.now() * 1e6) - againMs * 1e6;
        for await (const { event, nano } of engine.happenings(since)) {
          pause = 250;
          this.#nano = nano;
          if (event !== undefined) {
            if (this.#repeated(event, nano)) continue;
            if (event.action === "die") this.#died(event.id, event.at);
            this.#fates.learn(event);
            if (event.action === "destroy") this.#forget(event.id);
          }
          if (event?.action !== "kill") this.#look(0);
        }
      } catch (error) {
        if (performance.now() - this.#reachedAt > lostMs) throw error;
        log(`lost the daemon: ${messageOf(error)}; tries again`);
      }
      await sleep(pause);
    }
  }

  /** Whether it knows this event already. How old it is says nothing: the clock may have been set back. */
  #repeated({ action, id, signal }: ContainerEvent, nano: number): boolean {
    const key = `${nano} ${id} ${action} ${signal ?? ""}`;
    if (this.#seen.has(key)) return true;
    this.#seen.add(key);
    for (const oldest of this.#seen) {
      if (this.#seen.size <= repeatable) break;
      this.#seen.delete(oldest);
    }
    return false;
  }

  /** Looks soon, and no later than it meant to before. */
  #look(inMs: number): void {
    const due = performance.now() + inMs;
    if (this.#next !== undefined && this.#next.due <= due) return;
    clearTimeout(this.#next?.timer);
    const timer = setTimeout(() => {
      this.#next = undefined;
      void this.#lookNow();
    }, inMs);
    this.#next = { timer, due };
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
      this.#reachedAt = performance.now();
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
    const [containers, heldUntil] = await Promise.all([engine.containers(), engine.heldUntil(Date.now())]);
    // Not before: nothing of what was found may be yet to come.
    const now = Date.now();
    this.#starts.learn(containers, now, performance.now());
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
      // Of that very end it knew more then than what Docker tells again.
      if (this.#saved.stopped[id] === finishedAt) fates.set(id, "stopped");
    }
    this.#save(containers, fates);
    const paused = containers.filter(({ state }) => state === "paused").map(({ id }) => id);
    for (const id of this.#frozen.keys()) if (!paused.includes(id)) this.#frozen.delete(id);
    for (const id of paused) if (!this.#frozen.has(id)) this.#frozen.set(id, now);
    if (performance.now() - this.#routesAt >= routesMs) {
      this.#routesAt = performance.now();
      void this.#lookAtRoutes(containers);
    }
    const { actions, complaints, again } = decide({
      now,
      containers,
      heldUntil,
      fates,
      frozen: this.#frozen,
      released: this.#released,
      failures: this.#failures,
      stuck: this.#stuck,
      unrouted: this.#unrouted,
      eras: new Map([...this.#starts.all].map(([id, { era }]) => [id, era])),
    });
    for (const complaint of complaints.filter((text) => !this.#complained.has(text))) {
      this.#complained.add(complaint);
      log(complaint);
    }
    for (const action of actions) void this.#act(action);
    return Math.max(20, Math.min(resyncMs, (again ?? Infinity) - Date.now()));
  }

  async #lookAtRoutes(containers: readonly Container[]): Promise<void> {
    const { engine, log } = this.#options;
    // One after the other: there is no hurry, and they are processes.
    for (const container of containers) {
      if (container.state !== "running" || container.network === undefined) continue;
      try {
        if (await engine.isRouted(container)) continue;
        this.#unrouted.add(container.id);
        this.#look(0);
      } catch (error) {
        log(`can't see the routes of ${container.name}: ${messageOf(error)}`);
      }
    }
  }

  async #act(action: Action): Promise<void> {
    const { engine, log } = this.#options;
    const { container, anchor, why } = action;
    const { id, name } = container;
    const key = `${action.do === "release" ? "release" : "start"} ${id}`;
    // An address that two nodes have goes first; Docker does both more slowly at once.
    if (this.#busy.has(key) || this.#busy.has(`release ${id}`)) return;
    this.#busy.add(key);
    try {
      const began = Date.now();
      switch (action.do) {
        case "release":
          if (anchor !== undefined && (await engine.release(container, anchor)))
            log(`took ${container.address ?? ""} off ${anchor.name} in ${Date.now() - began} ms: ${why}`);
          this.#released.set(id, action.since ?? container.finishedAt);
          this.#stuck.delete(id);
          break;
        case "route":
          await engine.route(container);
          this.#unrouted.delete(id);
          log(`gave ${name} its address and route again in ${Date.now() - began} ms: ${why}`);
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
      const { until } = action.do === "release" ? fail(this.#stuck, id, stuckMs) : this.#failed(id);
      log(
        `can't ${action.do} ${name}: ${messageOf(error)}; not before ${new Date(until).toISOString()} again`,
      );
    } finally {
      this.#busy.delete(key);
      this.#look(0);
    }
  }

  #died(id: string, at: number): void {
    if (Math.abs(at - (this.#startedAt.get(id) ?? -Infinity)) < lastsMs && !this.#busy.has(`start ${id}`))
      this.#failed(id);
  }

  #failed(id: string): Failure {
    return fail(this.#failures, id, backOffMs);
  }

  #forget(id: string): void {
    for (const map of [this.#released, this.#failures, this.#stuck, this.#startedAt, this.#unrouted])
      map.delete(id);
  }

  #save(containers: readonly Container[], fates: ReadonlyMap<string, Fate>): void {
    const stopped = Object.fromEntries(
      containers
        .filter(({ id, state }) => (state === "exited" || state === "dead") && fates.get(id) === "stopped")
        .map(({ id, finishedAt }) => [id, finishedAt]),
    );
    this.#saved = { stopped, nano: this.#nano, starts: Object.fromEntries(this.#starts.all) };
    const text = JSON.stringify(this.#saved);
    if (text === this.#written) return;
    const { stateFile, log } = this.#options;
    try {
      // Whole or not at all: it may be killed at any moment.
      writeFileSync(`${stateFile}.new`, text);
      renameSync(`${stateFile}.new`, stateFile);
      this.#written = text;
      if (this.#unwritable) log("remembers again what was stopped");
      this.#unwritable = false;
    } catch (error) {
      // A full disk is no reason to leave dead what was killed.
      if (!this.#unwritable)
        log(`can't write down what was stopped, and knows it only until it ends: ${messageOf(error)}`);
      this.#unwritable = true;
    }
  }
}

function read(file: string): Saved {
  const nothing: Saved = { stopped: {}, nano: 0, starts: {} };
  try {
    return { ...nothing, ...(JSON.parse(readFileSync(file, "utf8")) as Partial<Saved>) };
  } catch {
    return nothing;
  }
}

function fail(failures: Map<string, Failure>, id: string, backOff: (count: number) => number): Failure {
  const count = (failures.get(id)?.count ?? 0) + 1;
  const failure = { count, until: Date.now() + backOff(count) };
  failures.set(id, failure);
  return failure;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
