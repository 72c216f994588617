// Bounds how many do a piece of work at once, so that what it needs in memory has a bound too.

/** So many turns at once; whoever finds none free gets the next one, first come, first served. */
export class Turns {
  #free: number;
  readonly #queue: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  /** Does the work as soon as there is a turn for it. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#queue.push(resolve));
    try {
      return await work();
    } finally {
      // A turn that someone waits for is handed on, so that nobody who comes now can take it.
      const next = this.#queue.shift();
      if (next) next();
      else this.#free++;
    }
  }
}
