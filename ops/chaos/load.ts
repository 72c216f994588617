// The steady load under which everything is broken: careful senders and readers, all of them through the virtual IP.

import { setTimeout as sleep } from "node:timers/promises";
import { type Answer, asked, type Client, Ledger, postUntilDecided } from "../ledger.ts";
import { type Attempt } from "./outage.ts";

const senders = 3;
const readers = 2;
const eventsPerPost = 5;
const pauseMs = 60;
/** One post in so many is sent again although it was acknowledged, as senders do that lost the answer. */
const repeatEvery = 10;
/** A client without a read timeout waits for ever when the address moves under its request. */
const readTimeoutMs = 4_000;
const patienceMs = 180_000;
/** In such a time there are many posts and reads. */
const lateMs = 1_500;

/** What an answer is to somebody who counts failures. */
const errorOf = ({ status, text }: Answer): string => (status === 0 ? text : `status ${status}`);

/** Senders and readers of one tenant, from `start` to `stop`. */
export class Load {
  readonly ledger = new Ledger();
  readonly posts: Attempt[] = [];
  readonly reads: Attempt[] = [];
  /** Answers that must never come: a good post was refused, or its sender lost patience. */
  readonly wrong: string[] = [];
  readonly #client: Client;
  readonly #name: string;
  #going = false;
  #running: Promise<unknown> = Promise.resolve();

  /** @param name begins every event's id; no other load has the same */
  constructor(client: Client, name: string) {
    this.#client = client;
    this.#name = name;
  }

  start(): void {
    this.#going = true;
    const all = [
      ...Array.from({ length: senders }, (_, index) => this.#send(index)),
      ...Array.from({ length: readers }, () => this.#read()),
    ];
    this.#running = Promise.all(all);
  }

  /** Waits until posts and reads have been answered, this many of each. @throws after half a minute */
  async flows(count = 5): Promise<void> {
    const good = (attempts: readonly Attempt[]) => attempts.filter(({ error }) => error === undefined).length;
    const deadline = Date.now() + 30_000;
    while (good(this.posts) < count || good(this.reads) < count) {
      if (Date.now() > deadline) {
        const last = [this.posts.at(-1)?.error, this.reads.at(-1)?.error].filter(Boolean).join("; ");
        throw new Error(`no load gets through the VIP: ${last || "no answer"}`);
      }
      await sleep(20);
    }
  }

  /** What has not been answered by success of late: posts, reads, or neither. */
  missing(): string[] {
    const since = Date.now() - lateMs;
    const late = (attempts: readonly Attempt[]) =>
      !attempts.slice(-100).some(({ at, ms, error }) => error === undefined && at + ms >= since);
    return [
      ...(late(this.posts) ? ["no post was acknowledged of late"] : []),
      ...(late(this.reads) ? ["no read was answered of late"] : []),
    ];
  }

  /** Ends it when the last post is decided. */
  async stop(): Promise<void> {
    this.#going = false;
    await this.#running;
  }

  async #send(sender: number): Promise<void> {
    for (let count = 0; this.#going; count++) {
      const ids = Array.from(
        { length: eventsPerPost },
        (_, event) => `${this.#name}-${sender}-${count}-${event}`,
      );
      const event_timestamp = Math.floor(Date.now() / 1000);
      const body = JSON.stringify(
        ids.map((event_id) => ({
          event_id,
          event_timestamp,
          source_type: "chaos",
          raw_event: `${event_id} of a chaos run`,
        })),
      );
      this.ledger.open(ids);
      for (let again = 0; again < (count % repeatEvery === 0 ? 2 : 1); again++) {
        try {
          const answer = await postUntilDecided(
            this.#client,
            { type: "application/json", body },
            {
              patienceMs,
              timeoutMs: readTimeoutMs,
              attempted: (given, at) => this.posts.push(attemptOf(given, at, given.status === 202)),
            },
          );
          if (answer.status === 202) this.ledger.acknowledge(ids);
          else this.wrong.push(`a good post was answered ${answer.status}: ${answer.text.slice(0, 200)}`);
        } catch (error) {
          this.wrong.push((error as Error).message);
        }
      }
      await sleep(pauseMs);
    }
  }

  async #read(): Promise<void> {
    const { api, token } = this.#client;
    while (this.#going) {
      const at = Date.now();
      const answer = await asked(
        `${api}/v1/events?limit=20`,
        { headers: { authorization: `Bearer ${token}` } },
        readTimeoutMs,
      );
      this.reads.push(attemptOf(answer, at, answer.status === 200));
      await sleep(pauseMs);
    }
  }
}

function attemptOf(answer: Answer, at: number, ok: boolean): Attempt {
  return { at, ms: Date.now() - at, ...(ok ? {} : { error: errorOf(answer) }) };
}
