// Tells from Docker's events how a container came to its end: asked to, killed, or by itself. Pure.

import { type Fate } from "./decide.ts";

/** An event of Docker's about a container. */
export interface ContainerEvent {
  readonly action: "kill" | "die" | "stop" | "start" | "destroy";
  readonly id: string;
  /** Number of the signal, of a `kill`. */
  readonly signal?: number;
  /** When it happened, milliseconds since 1970. */
  readonly at: number;
}

const SIGINT = 2;
const SIGKILL = 9;
const SIGUSR1 = 10;
const SIGTERM = 15;
/** What `docker stop` sends to images of ours and of others; HAProxy's says SIGUSR1. */
const terminating: ReadonlySet<number> = new Set([SIGINT, SIGUSR1, SIGTERM]);
/** A signal to terminate explains an end that comes within this time. */
const explainsMs = 10 * 60_000;

interface Signals {
  readonly terminatedAt?: number;
  readonly killedAt?: number;
}

/** The fates so far; {@link Fates.learn} is told every event, in order. */
export class Fates {
  readonly #fates: Map<string, Fate>;
  readonly #signals = new Map<string, Signals>();
  /** Our own restarts: what they end was nobody else's will. */
  readonly #ours = new Map<string, number>();

  /** @param known what was known before this process began */
  constructor(known: Iterable<readonly [string, Fate]> = []) {
    this.#fates = new Map(known);
  }

  get all(): ReadonlyMap<string, Fate> {
    return this.#fates;
  }

  /** From now until then the container's end is our own doing. */
  own(id: string, until: number): void {
    this.#ours.set(id, until);
  }

  learn({ action, id, signal, at }: ContainerEvent): void {
    const ours = at <= (this.#ours.get(id) ?? 0);
    const signals = this.#signals.get(id) ?? {};
    switch (action) {
      case "kill":
        if (signal === SIGKILL) this.#signals.set(id, { ...signals, killedAt: at });
        else if (signal !== undefined && terminating.has(signal))
          this.#signals.set(id, { ...signals, terminatedAt: at });
        break;
      case "die": {
        const recent = (time: number | undefined) => time !== undefined && at - time <= explainsMs;
        this.#fates.set(
          id,
          ours
            ? "ended"
            : recent(signals.terminatedAt)
              ? "stopped"
              : recent(signals.killedAt)
                ? "killed"
                : "ended",
        );
        this.#signals.delete(id);
        break;
      }
      case "stop":
        // `docker stop` says so itself, whatever signals it took.
        this.#fates.set(id, ours ? "ended" : "stopped");
        break;
      case "start":
        this.#fates.delete(id);
        this.#signals.delete(id);
        this.#ours.delete(id);
        break;
      case "destroy":
        this.#fates.delete(id);
        this.#signals.delete(id);
        this.#ours.delete(id);
    }
  }
}
