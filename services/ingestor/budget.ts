// Bounds what a replica holds in memory: bodies being read, unfinished log lines, and rows that wait for Kafka.

/**
 * Bytes at most, counted as they were sent. In memory each takes up to four (text of two bytes a character, and its
 * copy for the wire), and a replica's container has 512 MiB.
 */
export const maxHeldBytes = 64 * 1024 * 1024;

/** A number of bytes that its users share. */
export class Budget {
  readonly #most: number;
  #held = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** What is held now. */
  get held(): number {
    return this.#held;
  }

  /** Takes so many bytes, or none and answers false. */
  take(bytes: number): boolean {
    if (this.#held + bytes > this.#most) return false;
    this.#held += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#held -= bytes;
  }
}

/** One user's part of a budget. */
export class Share {
  readonly #budget: Budget;
  #bytes = 0;
  #open = true;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  /** Takes more, or none and answers false: because there is none left, or because the share was given back. */
  grow(bytes: number): boolean {
    if (!this.#open || !this.#budget.take(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }

  /** Gives everything back; it may grow again. */
  clear(): void {
    this.#budget.give(this.#bytes);
    this.#bytes = 0;
  }

  /** Gives everything back for good. */
  close(): void {
    this.#open = false;
    this.clear();
  }
}
