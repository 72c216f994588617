// The steady load under which everything is broken: careful senders and readers, all of them through the virtual IP.

import { setTimeout as sleep } from "node:timers/promises";
import { type Answer, asked, type Client, isPassing, Ledger, postUntilDecided } from "../ledger.ts";
import { type Attempt } from "./outage.ts";

const senders = 3;
const readers = 2;
const eventsPerPost = 5;
/** Readers ask for so many events at a time, and after so many pages again for the newest. */
const eventsPerPage = 20;
const pagesPerWalk = 5;
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
  /** Ids that a reader was shown twice within one walk from page to page, where each comes at most once. */
  readonly twice = new Set<string>();
  /** Ids that a reader was shown and that were never sent. */
  readonly uninvited = new Set<string>();
  readonly #sent = new Set<string>();
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
      for (const id of ids) this.#sent.add(id);
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
    let walk: { readonly seen: Set<string>; pages: number; cursor?: string } | undefined;
    while (this.#going) {
      walk ??= { seen: new Set(), pages: 0 };
      const query = new URLSearchParams({ limit: String(eventsPerPage) });
      if (walk.cursor !== undefined) query.set("cursor", walk.cursor);
      const at = Date.now();
      const answer = await asked(
        `${api}/v1/events?${query.toString()}`,
        { headers: { authorization: `Bearer ${token}` } },
        readTimeoutMs,
      );
      this.reads.push(attemptOf(answer, at, answer.status === 200));
      if (answer.status === 200) {
        const next = this.#look(answer.text, walk.seen);
        walk = next === undefined || ++walk.pages === pagesPerWalk ? undefined : { ...walk, cursor: next };
      } else if (!isPassing(answer.status)) {
        walk = undefined;
      }
      await sleep(pauseMs);
    }
  }

  /** Looks at a page's events. @param seen ids of the pages before @returns where the next page begins, if there is one */
  #look(text: string, seen: Set<string>): string | undefined {
    let page: {
      readonly events: readonly { readonly event_id: string }[];
      readonly next_cursor: string | null;
    };
    try {
      page = JSON.parse(text) as typeof page;
      for (const { event_id } of page.events) {
        if (seen.has(event_id)) this.twice.add(event_id);
        seen.add(event_id);
        if (!this.#sent.has(event_id)) this.uninvited.add(event_id);
      }
    } catch {
      this.wrong.push(`a reader was given no page: ${text.slice(0, 200)}`);
      return undefined;
    }
    return page.next_cursor ?? undefined;
  }
}

function attemptOf(answer: Answer, at: number, ok: boolean): Attempt {
  return { at, ms: Date.now() - at, ...(ok ? {} : { error: errorOf(answer) }) };
}
