// The lease that settles who may hold the virtual IP: one holder at a time, for as long as it renews.

/** The lease as callers see it. */
export interface Lease {
  readonly holder: string | null;
  /** Time until it ends by itself, milliseconds; 0 when nobody has it. */
  readonly expiresInMs: number;
  /** Grants so far, a fresh witness's notes included. A refused caller that sees it grow knows that the holder lives. */
  readonly grants: number;
  /** Refusals so far. A holder that sees it grow knows that another node claims the address too. */
  readonly refusals: number;
}

export type Decision = Lease & {
  readonly granted: boolean;
  /**
   * Set while a fresh witness may not grant yet: it can't know what its predecessor promised. It has noted the caller as
   * the holder to be, and refuses others.
   */
  readonly waitMs?: number;
};

/** Longest lease that is given, and so how long a restarted witness has to wait: what the keepers ask for, no more. */
export const longestLeaseMs = 1_500;
/** Shortest one: below, ordinary delays would end it. */
export const shortestLeaseMs = 500;

export class LeaseTable {
  readonly #now: () => number;
  readonly #startedAt: number;
  #holder: string | null = null;
  #endsAt = 0;
  #grants = 0;
  #refusals = 0;

  /** @param now milliseconds of a clock that is never set back */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#startedAt = now();
  }

  look(): Lease {
    const expiresInMs = Math.max(0, Math.ceil(this.#endsAt - this.#now()));
    return {
      holder: expiresInMs === 0 ? null : this.#holder,
      expiresInMs,
      grants: this.#grants,
      refusals: this.#refusals,
    };
  }

  /**
   * Grants the lease to a caller if nobody else has it. A fresh witness only notes it as the caller's, without a promise:
   * two that ask are both alive, and one of them can be told so.
   */
  ask(caller: string, ttlMs: number): Decision {
    const { holder } = this.look();
    if (holder !== null && holder !== caller) {
      this.#refusals++;
      return { granted: false, ...this.look() };
    }
    this.#holder = caller;
    this.#endsAt = this.#now() + ttlMs;
    this.#grants++;
    const waitMs = Math.ceil(this.#startedAt + longestLeaseMs - this.#now());
    return waitMs > 0 ? { granted: false, ...this.look(), waitMs } : { granted: true, ...this.look() };
  }

  /** Ends a caller's lease early, so that the next holder need not wait; somebody else's stays. */
  release(caller: string): Lease {
    if (this.#holder === caller) this.#endsAt = 0;
    return this.look();
  }
}
