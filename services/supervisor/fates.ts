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
const minutes = 60_000;
/**
 * What `docker stop` sends to images of ours and of others (HAProxy's says SIGUSR1), and for how long it explains an end,
 * milliseconds. Nothing of ours takes longer than a minute over SIGTERM. The others are too often no wish to end it:
 * SIGUSR1 asks Keepalived for its state. Where it does take longer, `docker stop` still says so itself.
 */
const terminating: ReadonlyMap<number, number> = new Map([
  [SIGINT, 15_000],
  [SIGUSR1, 15_000],
  [SIGTERM, 1.5 * minutes],
]);
const killMs = 10 * minutes;
/** Docker may tell of a stop before it tells of the end that it has brought. */
const crossedMs = 5_000;

/** A time in which an end is explained, milliseconds since 1970. */
interface Span {
  readonly from: number;
  readonly until: number;
}

interface Signals {
  readonly terminated?: Span;
  readonly killed?: Span;
}

/** Where the clock was set back meanwhile, nothing is explained. */
function covers(span: Span | undefined, at: number): boolean {
  return span !== undefined && span.from <= at && at <= span.until;
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
        if (signal === SIGKILL)
          this.#signals.set(id, { ...signals, killed: { from: at, until: at + killMs } });
        else this.#terminates(id, at, terminating.get(signal ?? 0) ?? 0);
        break;
      case "die": {
        const { terminated, killed } = signals;
        const fate = covers(terminated, at) ? "stopped" : covers(killed, at) ? "killed" : "ended";
        this.#fates.set(id, ours ? "ended" : fate);
        this.#signals.delete(id);
        break;
      }
      case "stop":
        // `docker stop` says so itself, whatever signals it took.
        this.#fates.set(id, ours ? "ended" : "stopped");
        this.#terminates(id, at - crossedMs, 2 * crossedMs);
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

  #terminates(id: string, from: number, forMs: number): void {
    const signals = this.#signals.get(id);
    const until = from + forMs;
    // A second signal takes nothing back of the first.
    if (forMs > 0 && !covers(signals?.terminated, until))
      this.#signals.set(id, { ...signals, terminated: { from, until } });
  }
}
