// Tells which of two containers was started first, also where the clock was set back between the two. Docker's times
// alone can't: a machine that is an hour ahead until it has asked the time gives what it starts later an earlier one.

import { type Container } from "./decide.ts";

/** A container's last start by the clock, and how often that had been set back by then. */
export interface Start {
  readonly at: number;
  readonly era: number;
}

/** A clock that loses more than this in one look was set back. */
const setBackMs = 500;

/** The starts seen so far; {@link Starts.learn} is told what is there at every look. */
export class Starts {
  readonly #starts: Map<string, Start>;
  #era: number;
  /** What the clock said last before this process began. */
  readonly #before: number;
  /** The clock's lead over one that is never set. */
  #lead: number | undefined;

  constructor(saved: Readonly<Record<string, Start>> = {}, before = 0) {
    this.#starts = new Map(Object.entries(saved));
    this.#era = Math.max(0, ...[...this.#starts.values()].map(({ era }) => era));
    this.#before = before;
  }

  get all(): ReadonlyMap<string, Start> {
    return this.#starts;
  }

  /** @param uptime milliseconds of a clock that is never set */
  learn(containers: readonly Container[], now: number, uptime: number): void {
    const lead = now - uptime;
    if (this.#lead === undefined ? now < this.#before - setBackMs : lead < this.#lead - setBackMs)
      this.#era++;
    this.#lead = lead;
    const there = new Set(containers.map(({ id }) => id));
    for (const id of this.#starts.keys()) if (!there.has(id)) this.#starts.delete(id);
    for (const { id, startedAt } of containers) {
      if (this.#starts.get(id)?.at === startedAt) continue;
      // What starts in the future was started before the clock was set back.
      this.#starts.set(id, { at: startedAt, era: startedAt > now ? this.#era - 1 : this.#era });
    }
  }
}
