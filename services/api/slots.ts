// Bounds how many requests read the database at once, so that no tenant can use it up for the others.

import { clientGone, HttpError } from "../common/http.ts";

export interface SlotLimits {
  /** Requests of all tenants that read at once. */
  readonly total: number;
  /** Requests of one tenant that read at once; less than `total`, so that there is always room for another. */
  readonly perTenant: number;
  /** How long a request waits for a slot, milliseconds. */
  readonly waitMs: number;
  /** Requests of one tenant that wait; one more is refused at once. */
  readonly waitingPerTenant: number;
  /** How long a client may take to read its answer, milliseconds; then it is cut off, because that takes up a slot too. */
  readonly answerMs: number;
}

/**
 * Sized for a container of 512 MB, of which node gives its heap half. Each slot may hold an answer of 8 MiB: as bytes while
 * it comes, outside the heap, then as rows, which may be two bytes a character, then as text until the client has read it.
 */
export const defaultSlots: SlotLimits = {
  total: 8,
  perTenant: 4,
  waitMs: 2_000,
  waitingPerTenant: 16,
  answerMs: 60_000,
};

interface Waiting {
  readonly tenant: string;
  readonly enter: () => void;
}

/** Hands out the slots, first come, first served among the tenants that have room. */
export class Slots {
  readonly #limits: SlotLimits;
  readonly #running = new Map<string, number>();
  #total = 0;
  #queue: Waiting[] = [];

  constructor(limits: SlotLimits = defaultSlots) {
    this.#limits = limits;
  }

  /**
   * Does the work in a slot.
   * @param answered until when the slot is taken after the work. @default no longer
   * @throws HttpError 429 when the tenant has as many as it may have, 503 when all tenants together do
   */
  async run<T>(
    tenant: string,
    signal: AbortSignal,
    work: () => Promise<T>,
    answered: Promise<void> = Promise.resolve(),
  ): Promise<T> {
    await this.#enter(tenant, signal);
    try {
      return await work();
    } finally {
      void answered.then(() => this.#leave(tenant));
    }
  }

  #enter(tenant: string, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return Promise.reject(clientGone());
    if (this.#hasRoom(tenant)) {
      this.#take(tenant);
      return Promise.resolve();
    }
    const waiting = this.#queue.filter((other) => other.tenant === tenant).length;
    if (waiting >= this.#limits.waitingPerTenant) return Promise.reject(this.#refusal(tenant));
    return new Promise((resolve, reject) => {
      const giveUp = (error: Error): void => {
        this.#queue = this.#queue.filter((other) => other !== entry);
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
        reject(error);
      };
      const onAbort = (): void => giveUp(clientGone());
      const timer = setTimeout(() => giveUp(this.#refusal(tenant)), this.#limits.waitMs);
      const entry: Waiting = {
        tenant,
        enter: () => {
          clearTimeout(timer);
          signal.removeEventListener("abort", onAbort);
          this.#take(tenant);
          resolve();
        },
      };
      this.#queue.push(entry);
      signal.addEventListener("abort", onAbort);
    });
  }

  #leave(tenant: string): void {
    const left = this.#running.get(tenant)! - 1;
    if (left === 0) this.#running.delete(tenant);
    else this.#running.set(tenant, left);
    this.#total--;
    const next = this.#queue.findIndex((waiting) => this.#hasRoom(waiting.tenant));
    if (next !== -1) this.#queue.splice(next, 1)[0]!.enter();
  }

  #hasRoom(tenant: string): boolean {
    return this.#total < this.#limits.total && (this.#running.get(tenant) ?? 0) < this.#limits.perTenant;
  }

  #take(tenant: string): void {
    this.#total++;
    this.#running.set(tenant, (this.#running.get(tenant) ?? 0) + 1);
  }

  #refusal(tenant: string): HttpError {
    const { perTenant } = this.#limits;
    if ((this.#running.get(tenant) ?? 0) < perTenant) {
      return new HttpError(503, "busy", "the API is busy with other requests; try again");
    }
    const message = `this tenant has ${perTenant} requests running here already; send fewer at once, and try again`;
    return new HttpError(429, "tenant_busy", message, {}, { "retry-after": "2" });
  }
}
