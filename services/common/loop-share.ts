// Shares the event loop: whoever works through thousands of events asks between them, so that other requests and the
// health check never wait for long.

/** Milliseconds of each turn of the event loop that such work takes, all of it together. */
export const sliceMs = 8;

/** Asked between two pieces of work: waits, if this turn of the event loop has had its part of them. */
export type Pause = () => Promise<void> | undefined;

/** Those that wait begin a turn each, first come, first served, and have it until its part is used up. */
export class LoopShare {
  readonly #now: () => number;
  readonly #nextTurn: (callback: () => void) => void;
  readonly #waiting: (() => void)[] = [];
  /** When this turn's part is used up. @default nobody has begun */
  #until: number | undefined;

  constructor(now = () => performance.now(), nextTurn: (callback: () => void) => void = setImmediate) {
    this.#now = now;
    this.#nextTurn = nextTurn;
  }

  readonly pause: Pause = () => {
    if (this.#until === undefined) this.#begin();
    else if (this.#now() >= this.#until) return new Promise((resolve) => this.#waiting.push(resolve));
    return undefined;
  };

  #begin(): void {
    this.#until = this.#now() + sliceMs;
    this.#nextTurn(() => {
      this.#until = undefined;
      const next = this.#waiting.shift();
      if (next === undefined) return;
      this.#begin();
      next();
    });
  }
}

/** The process has one event loop. */
export const { pause } = new LoopShare();
