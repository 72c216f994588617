// Joins the events of concurrent requests into few produce calls: one call per event manages 1k/s, batches 40k/s.

import { HttpError } from "../common/http.ts";

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
/** What waits for Kafka at most; then clients are told to come back. */
const maxPendingBytes = 64 * 1024 * 1024;

/** Size on the wire, with room for Kafka's framing. */
function sizeOf(message: Message): number {
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
  #open: Batch | undefined;
  #pendingBytes = 0;

  constructor(publish: Publish) {
    this.#publish = publish;
  }

  /** Resolves when all of these messages are acknowledged; rejects when any is not. */
  async add(messages: readonly Message[]): Promise<void> {
    if (this.#pendingBytes > maxPendingBytes) {
      throw new HttpError(503, "overloaded", "too many events wait for Kafka; try again");
    }
    const batches = new Set(messages.map((message) => this.#place(message)));
    await Promise.all([...batches].map((batch) => batch.done));
  }

  #place(message: Message): Batch {
    const bytes = sizeOf(message);
    if (this.#open && this.#open.bytes + bytes > maxBatchBytes) this.#flush();
    const batch = (this.#open ??= this.#start());
    batch.messages.push(message);
    batch.bytes += bytes;
    this.#pendingBytes += bytes;
    return batch;
  }

  #start(): Batch {
    let settle: Batch["settle"] = () => {};
    const done = new Promise<void>((resolve) => (settle = resolve));
    const batch = { messages: [], bytes: 0, done, settle };
    setTimeout(() => {
      if (this.#open === batch) this.#flush();
    }, lingerMs);
    return batch;
  }

  #flush(): void {
    const batch = this.#open!;
    this.#open = undefined;
    batch.settle(this.#publish(batch.messages).finally(() => (this.#pendingBytes -= batch.bytes)));
  }
}
