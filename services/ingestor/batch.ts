// Joins the events of concurrent requests into few produce calls: one call per event manages 1k/s, batches 40k/s.

import { HttpError } from "../common/http.ts";
import type { Pause } from "../common/loop-share.ts";
import type { Budget } from "./budget.ts";

/** One Kafka message. */
export interface Message {
  readonly topic: string;
  readonly key: string;
  readonly value: string;
}

/** Resolves when Kafka has acknowledged every message, and rejects otherwise. */
export type Publish = (messages: readonly Message[]) => Promise<void>;

/** A broker takes 1 MiB a partition and call (message.max.bytes); a batch below it fits wherever it goes. */
const maxBatchBytes = 900_000;
const lingerMs = 5;

/** Size on the wire, with room for Kafka's framing. */
export function sizeOf(message: Message): number {
  return Buffer.byteLength(message.value) + Buffer.byteLength(message.key) + 64;
}

interface Batch {
  readonly messages: Message[];
  bytes: number;
  readonly done: Promise<void>;
  readonly settle: (result: Promise<void>) => void;
}

/** Collects messages for a few milliseconds; several batches are in flight at once. */
export class Batcher {
  readonly #publish: Publish;
  readonly #budget: Budget;
  readonly #pause: Pause;
  #open: Batch | undefined;
  readonly #unsettled = new Set<Promise<void>>();

  /** @param pause asked after each message: a batch that is full is sent at once, which is work */
  constructor(publish: Publish, budget: Budget, pause: Pause) {
    this.#publish = publish;
    this.#budget = budget;
    this.#pause = pause;
  }

  /**
   * Resolves when all of these messages are acknowledged; rejects when any is not.
   * @param sizes what {@link sizeOf} says of each
   * @throws HttpError 429 when the queue has no room for all of them; then none is sent.
   */
  async add(messages: readonly Message[], sizes: readonly number[]): Promise<void> {
    if (!this.#budget.take(sizes.reduce((sum, size) => sum + size, 0))) throw queueFull();
    const batches = new Set<Batch>();
    for (const [index, message] of messages.entries()) {
      batches.add(this.#place(message, sizes[index]!));
      await this.#pause();
    }
    // Not before each has settled: whoever is told of a failure and sends all again finds the room free.
    const results = await Promise.allSettled([...batches].map((batch) => batch.done));
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
  }

  /** Resolves when nothing waits for Kafka any more. */
  async idle(): Promise<void> {
    while (this.#unsettled.size > 0) await Promise.allSettled([...this.#unsettled]);
  }

  #place(message: Message, bytes: number): Batch {
    if (this.#open && this.#open.bytes + bytes > maxBatchBytes) this.#flush();
    const batch = (this.#open ??= this.#start());
    batch.messages.push(message);
    batch.bytes += bytes;
    return batch;
  }

  #start(): Batch {
    let settle: Batch["settle"] = () => {};
    const done = new Promise<void>((resolve) => (settle = resolve));
    const batch = { messages: [], bytes: 0, done, settle };
    this.#unsettled.add(done);
    const forget = (): void => {
      this.#unsettled.delete(done);
      this.#budget.give(batch.bytes);
    };
    done.then(forget, forget);
    setTimeout(() => {
      if (this.#open === batch) this.#flush();
    }, lingerMs);
    return batch;
  }

  #flush(): void {
    const batch = this.#open!;
    this.#open = undefined;
    batch.settle(this.#publish(batch.messages));
  }
}

/** This replica's queue is full. */
export function queueFull(): HttpError {
  return new HttpError(
    429,
    "queue_full",
    "too many events wait here; nothing was taken, try again more slowly",
  );
}
