// Reads from whichever ClickHouse replica answers and is up to date, and remembers it.

import { randomUUID } from "node:crypto";
import { ClickHouseError, ClickHouseLogLevel, createClient, type ResultSet } from "@clickhouse/client";
import type { Database } from "../common/env.ts";
import { HttpError } from "../common/http.ts";
import type { Statement } from "./query.ts";
import { clientGone } from "./slots.ts";

export type Row = Record<string, unknown>;

/** What the API needs of a database. */
export interface Reader {
  /** The signal says that nobody waits for the rows any more. */
  query(statement: Statement, signal: AbortSignal): Promise<Row[]>;
  /** Whether any replica answers. */
  ping(): Promise<boolean>;
}

/** One replica: runs a statement until the signal ends it. */
export type Replica = (sql: string, signal: AbortSignal) => Promise<Row[]>;

/** A little more than the server gives itself, so that its reason arrives. */
const attemptTimeoutMs = 12_000;
const pingTimeoutMs = 1_000;
const killTimeoutMs = 2_000;
/** Pings in a row that a replica misses before its running queries are taken to another one. */
const missesUntilCut = 2;
/** A replica that is further behind the others, seconds, is asked last. */
const maxDelaySeconds = 30;
/** Settings that 18.16 knows too. A query that needs more is refused with its reason. */
const settings = {
  max_execution_time: 10,
  max_result_rows: "10000",
  max_result_bytes: String(16 * 1024 * 1024),
  max_rows_to_read: "2000000000",
  max_memory_usage: String(2 * 1024 * 1024 * 1024),
  // The ids of a whole page, of the longest kind, with room to spare.
  max_query_size: String(4 * 1024 * 1024),
  // An error in the middle of a result would come after "200 OK".
  wait_end_of_query: 1,
  readonly: "2",
} as const;
/** Errors of one replica's state, not of the query: unknown table or database, too busy, its peers unreachable. */
const elsewhere = new Set(["60", "81", "202", "209", "210", "279"]);
/** The limits above: rows, timeout, memory; and the size of the result, where fewer rows help. */
const tooMuch = new Set(["158", "159", "160", "241"]);
const tooBig = "396";
/** How far this replica is behind; one that has lost ZooKeeper gets nothing new and can't know. */
const stateQuery =
  "SELECT max(absolute_delay) AS delay, max(is_readonly) AS cut_off FROM system.replicas WHERE database = currentDatabase()";

/** A replica over HTTP. */
export function connect(url: string, database: Database): Replica {
  const client = createClient({
    url,
    username: database.username,
    password: database.password,
    database: database.database,
    request_timeout: attemptTimeoutMs,
    max_open_connections: 20,
    clickhouse_settings: settings,
    log: { level: ClickHouseLogLevel.OFF },
  });
  // 18.16 goes on with a query whose client has gone, and has no setting against it.
  const kill = (id: string): void => {
    client
      .command({
        query: `KILL QUERY WHERE query_id = '${id}' ASYNC`,
        clickhouse_settings: { readonly: "0" },
        abort_signal: AbortSignal.timeout(killTimeoutMs),
      })
      .catch(() => {
        // The server ends it after max_execution_time all the same.
      });
  };
  return async (sql, signal) => {
    signal.throwIfAborted();
    const id = randomUUID();
    let result: ResultSet<"JSON"> | undefined;
    const onAbort = (): void => {
      kill(id);
      result?.close();
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      // Unlike JSONEachRow, a JSON answer that was cut off anywhere can't be parsed.
      result = await client.query({ query: sql, format: "JSON", query_id: id, abort_signal: signal });
      const answer = result.json<Row>();
      // The client heeds the signal only until the head of an answer is there.
      if (signal.aborted) result.close();
      const { data } = await answer;
      if (!Array.isArray(data)) throw new Error(`${url} answered something else than rows`);
      return data;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  };
}

interface State {
  readonly replica: Replica;
  /** Ends the queries that run there. */
  cut: AbortController;
  misses: number;
  /** Up to date when it was last asked. */
  fresh: boolean;
}

/** Fails over between replicas; a query goes first to the one that answered last, and last to those that lag. */
export class Replicas implements Reader {
  readonly #states: readonly State[];
  #preferred: State;
  #pinging: Promise<boolean> | undefined;

  constructor(replicas: readonly Replica[]) {
    this.#states = replicas.map((replica) => ({
      replica,
      cut: new AbortController(),
      misses: 0,
      fresh: true,
    }));
    if (!this.#states[0]) throw new Error("there must be at least one replica");
    this.#preferred = this.#states[0];
  }

  async query(statement: Statement, signal: AbortSignal): Promise<Row[]> {
    let last: unknown;
    for (const state of this.#order()) {
      if (signal.aborted) throw clientGone();
      const timeout = AbortSignal.timeout(attemptTimeoutMs);
      try {
        const rows = await state.replica(statement, AbortSignal.any([signal, state.cut.signal, timeout]));
        this.#preferred = state;
        return rows;
      } catch (error) {
        if (signal.aborted) throw clientGone();
        const code = serverErrorCode(error);
        if (code && tooMuch.has(code)) {
          const message = `the query needs too much (error ${code}); narrow from and to`;
          throw new HttpError(422, "too_much", message);
        }
        if (code === tooBig) {
          throw new HttpError(422, "too_much", "the answer is too large; ask for fewer rows with limit");
        }
        if (code && !elsewhere.has(code)) throw error;
        last = error;
      }
    }
    const message = "no ClickHouse replica answers; try again";
    throw Object.assign(new HttpError(503, "database_unreachable", message), { cause: last });
  }

  /** Asks all at once, and moves away from a replica that went silent or lags before a query has to wait for it. */
  ping(): Promise<boolean> {
    this.#pinging ??= this.#ping();
    return this.#pinging;
  }

  #ping(): Promise<boolean> {
    const asked = this.#states.map(async (state) => {
      try {
        const [row] = await state.replica(stateQuery, AbortSignal.timeout(pingTimeoutMs));
        state.fresh = Number(row?.["cut_off"]) === 0 && Number(row?.["delay"]) <= maxDelaySeconds;
        state.misses = 0;
      } catch (error) {
        state.misses++;
        if (state.misses >= missesUntilCut) {
          state.cut.abort();
          state.cut = new AbortController();
        }
        throw error;
      }
    });
    void Promise.allSettled(asked).then(() => {
      this.#pinging = undefined;
      this.#preferred = this.#order()[0]!;
    });
    return Promise.any(asked).then(
      () => true,
      () => false,
    );
  }

  /** Those that answer and are up to date, then those that lag, then the silent; the preferred first of its kind. */
  #order(): State[] {
    const rank = (state: State): number => (state.misses > 0 ? 2 : state.fresh ? 0 : 1);
    const start = this.#states.indexOf(this.#preferred);
    return [...this.#states.slice(start), ...this.#states.slice(0, start)].sort((a, b) => rank(a) - rank(b));
  }
}

/** The number of a server's error, if it is one; the client can't read those of 18.16. */
function serverErrorCode(error: unknown): string | undefined {
  if (error instanceof ClickHouseError) return error.code;
  return error instanceof Error ? /^Code: (\d+), e\.displayText/.exec(error.message)?.[1] : undefined;
}
