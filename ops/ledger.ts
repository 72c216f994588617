// Keeps account of events, id by id: what was acknowledged, what was refused, what nobody knows; and settles it
// against what readers see.

import { setTimeout as sleep } from "node:timers/promises";

/** Where the platform is reached, and as whom. */
export interface Client {
  readonly api: string;
  readonly ingest: string;
  readonly token: string;
}

/** An answer of the platform; status 0 is none, with the reason as text. */
export interface Answer {
  readonly status: number;
  readonly text: string;
  /** How long the client was asked to wait before it tries again. */
  readonly retryAfterSeconds?: number;
}

/** Asks once. Never throws: no answer is an answer too. */
export async function asked(url: string, init: RequestInit, timeoutMs: number): Promise<Answer> {
  try {
    const answer = await fetch(url, { ...init, signal: AbortSignal.timeout(timeoutMs) });
    // It may be a date as well, which nobody here sends.
    const wait = Number(answer.headers.get("retry-after") ?? NaN);
    return {
      status: answer.status,
      text: await answer.text(),
      ...(Number.isNaN(wait) ? {} : { retryAfterSeconds: wait }),
    };
  } catch (error) {
    const { cause, message } = error as Error;
    return { status: 0, text: (cause as Error | undefined)?.message ?? message };
  }
}

export interface Post {
  readonly type: "application/json" | "application/x-ndjson" | "text/plain";
  readonly body: string | Uint8Array<ArrayBuffer>;
}

/** Posts once. Never throws: no answer is an answer too. */
export function post(
  { ingest, token }: Pick<Client, "ingest" | "token">,
  { type, body }: Post,
  timeoutMs = 15_000,
): Promise<Answer> {
  return asked(
    `${ingest}/v1/events`,
    { method: "POST", headers: { authorization: `Bearer ${token}`, "content-type": type }, body },
    timeoutMs,
  );
}

/** Answers that say nothing about the events: a client tries again. */
export function isPassing(status: number): boolean {
  return status === 0 || status === 429 || status >= 500;
}

export interface Care {
  /** How long it tries, milliseconds. @default 90 s */
  readonly patienceMs?: number;
  /** How long it waits for one answer, milliseconds. @default 15 s */
  readonly timeoutMs?: number;
  /** Is told of every attempt. */
  readonly attempted?: (answer: Answer, began: number) => void;
}

/** Posts until the platform has decided, as a careful client does. @throws when it has not after its patience. */
export async function postUntilDecided(client: Client, given: Post, care: Care = {}): Promise<Answer> {
  const { patienceMs = 90_000, timeoutMs, attempted } = care;
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const began = Date.now();
    const answer = await post(client, given, timeoutMs);
    attempted?.(answer, began);
    if (!isPassing(answer.status)) return answer;
    if (Date.now() > deadline) {
      throw new Error(`undecided for ${patienceMs / 1000} s; last: ${answer.status} ${answer.text}`);
    }
    await sleep(200);
  }
}

/** An event as the API shows it. */
export interface ReadEvent {
  readonly event_id: string;
  readonly raw_event: string;
  readonly event_timestamp: number;
}

/** Every event of the token's tenant, page by page. */
export async function readAll({ api, token }: Client, limit = 200): Promise<ReadEvent[]> {
  const events: ReadEvent[] = [];
  const to = Math.floor(Date.now() / 1000) + 86_400;
  let cursor: string | null = null;
  const deadline = Date.now() + 120_000;
  do {
    const query = new URLSearchParams({ from: "0", to: String(to), limit: String(limit) });
    if (cursor !== null) query.set("cursor", cursor);
    const answer: Answer = await asked(
      `${api}/v1/events?${query.toString()}`,
      { headers: { authorization: `Bearer ${token}` } },
      20_000,
    );
    if (isPassing(answer.status) && Date.now() < deadline) {
      await sleep(300);
      continue;
    }
    if (answer.status !== 200) throw new Error(`the API answered ${answer.status}: ${answer.text}`);
    const page = JSON.parse(answer.text) as { events: ReadEvent[]; next_cursor: string | null };
    events.push(...page.events);
    cursor = page.next_cursor;
    if (cursor === null) break;
  } while (Date.now() < deadline);
  if (cursor !== null) throw new Error(`not read to the end in 120 s (${events.length} events)`);
  return events;
}

/** What readers see, beside what was promised. */
export interface Settlement {
  /** Acknowledged, but not there. */
  readonly lost: readonly string[];
  /** There more than once. */
  readonly twice: readonly string[];
  /** There, though refused or never sent. */
  readonly uninvited: readonly string[];
}

export class Ledger {
  readonly #acknowledged = new Set<string>();
  /** Sent, and nobody knows: may be there or not, once. */
  readonly #open = new Set<string>();

  get acknowledged(): number {
    return this.#acknowledged.size;
  }

  /** These were sent; until it is said otherwise, they may or may not be stored. */
  open(ids: readonly string[]): void {
    for (const id of ids) if (!this.#acknowledged.has(id)) this.#open.add(id);
  }

  acknowledge(ids: readonly string[]): void {
    for (const id of ids) {
      this.#open.delete(id);
      this.#acknowledged.add(id);
    }
  }

  /** These were refused: none may ever be seen. */
  refuse(ids: readonly string[]): void {
    for (const id of ids) this.#open.delete(id);
  }

  settle(seen: readonly string[]): Settlement {
    const times = new Map<string, number>();
    for (const id of seen) times.set(id, (times.get(id) ?? 0) + 1);
    return {
      lost: [...this.#acknowledged].filter((id) => !times.has(id)),
      twice: [...times].filter(([, count]) => count > 1).map(([id]) => id),
      uninvited: [...times.keys()].filter((id) => !this.#acknowledged.has(id) && !this.#open.has(id)),
    };
  }
}
