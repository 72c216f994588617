// Reads from whichever ClickHouse replica answers and is up to date, and remembers it.

import { randomUUID } from "node:crypto";
import type { Readable } from "node:stream";
import {
  type ClickHouseClientConfigOptions,
  ClickHouseError,
  ClickHouseLogLevel,
  createClient,
} from "@clickhouse/client";
import { names } from "../../components/topology.ts";
import type { Database } from "../common/env.ts";
import { clientGone, HttpError } from "../common/http.ts";
import type { Statement } from "./query.ts";

export type Row = Record<string, unknown>;

/** What the API needs of a database. */
export interface Reader {
  /** The signal says that nobody waits for the rows any more. */
  query(statement: Statement, signal: AbortSignal): Promise<Row[]>;
  /** Whether any replica answers. */
  ping(): Promise<boolean>;
}

/**
 * One replica: runs a statement until the signal ends it.
 * @param connection one that is kept for the next statement too, or one of its own. @default kept
 */
export type Replica = (sql: string, signal: AbortSignal, connection?: "kept" | "own") => Promise<Row[]>;

/** A little more than the server gives itself, so that its reason arrives. */
const attemptTimeoutMs = 12_000;
const pingTimeoutMs = 1_000;
const killTimeoutMs = 2_000;
/** Pings in a row that a replica misses before its running queries are taken to another one. */
const missesUntilCut = 2;
/** A replica that is further behind the others, seconds, is asked last. */
const maxDelaySeconds = 30;
/**
 * The largest answer that is read, as the JSON that comes: control characters are six bytes there and one in the
 * database. `defaultSlots` says how many of them the process has room for.
 */
export const maxAnswerBytes = 8 * 1024 * 1024;
/**
 * Settings that 18.16 knows too. A query that needs more is refused with its reason. How much memory one may have is
 * the server's to say: it knows what it has.
 */
const settings = {
  max_execution_time: 10,
  max_result_rows: "10000",
  // As they are in the database: what has more than this has more in JSON, too.
  max_result_bytes: String(maxAnswerBytes),
  max_rows_to_read: "2000000000",
  // The ids of a whole page, of the longest kind, with room to spare.
  max_query_size: String(4 * 1024 * 1024),
  // An error in the middle of a result would come after "200 OK".
  wait_end_of_query: 1,
  readonly: "2",
} as const;
/** The limits above, where less of the range helps: rows, time. Memory: see `memoryOf`. */
const tooMuch = new Set(["158", "159", "160"]);
/** The size of the result, where fewer rows help. */
const tooBig = "396";
const outOfMemory = "241";
/**
 * The statement itself is wrong, so every replica would say the same: number or type of a function's arguments, unknown
 * function, unknown name, types that don't fit, syntax, a column that is neither a key nor aggregated, no common type.
 * Any other error may be one of the replica's own state: a disk, a table, a password, a version.
 */
const wrong = new Set(["42", "43", "46", "47", "53", "62", "215", "386"]);
/** Of each replica's reason, what is logged: 18.16 adds its stack. */
const reasonChars = 500;
/** What every replica has; one that was made anew on an empty disk lacks them until its data is brought back. */
const tables = [names.eventsTable, names.alertsTable];
/** How far this replica is behind; one that has lost ZooKeeper gets nothing new and can't know. */
const stateQuery = `SELECT count() AS tables, max(absolute_delay) AS delay, max(is_readonly) AS cut_off FROM system.replicas WHERE database = currentDatabase() AND table IN (${tables.map((table) => `'${table}'`).join(", ")})`;

/** A replica over HTTP. */
export function connect(url: string, database: Database): Replica {
  const options: ClickHouseClientConfigOptions = {
    url,
    username: database.username,
    password: database.password,
    database: database.database,
    request_timeout: attemptTimeoutMs,
    max_open_connections: 20,
    clickhouse_settings: settings,
    log: { level: ClickHouseLogLevel.OFF },
  };
  const client = createClient(options);
  const clients = { kept: client, own: createClient({ ...options, keep_alive: { enabled: false } }) };
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
  return async (sql, signal, connection = "kept") => {
    signal.throwIfAborted();
    const id = randomUUID();
    let stream: Readable | undefined;
    const onAbort = (): void => {
      kill(id);
      stream?.destroy();
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      // Unlike JSONEachRow, a JSON answer that was cut off anywhere can't be parsed.
      ({ stream } = await clients[connection].exec({
        query: `${sql}\nFORMAT JSON`,
        query_id: id,
        abort_signal: signal,
      }));
      // The client heeds the signal only until the head of an answer is there.
      if (signal.aborted) stream.destroy();
      const { data } = JSON.parse(await textOf(stream)) as { data?: Row[] };
      if (!Array.isArray(data)) throw new Error(`${url} answered something else than rows`);
      return data;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  };
}

/** @throws HttpError 422 as soon as there is more than may be */
async function textOf(stream: Readable): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let size = 0;
  for await (const part of stream as AsyncIterable<Buffer>) {
    size += part.length;
    // Leaving the loop ends the connection.
    if (size > maxAnswerBytes) throw tooLarge();
    // As it comes: all of it at once would hold up the others.
    text += decoder.decode(part, { stream: true });
  }
  return text + decoder.decode();
}

function tooLarge(): HttpError {
  return new HttpError(422, "too_much", "the answer is too large; ask for fewer rows with limit");
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
    const reasons: string[] = [];
    let full = false;
    for (const state of this.#order()) {
      if (signal.aborted) throw clientGone();
      const timeout = AbortSignal.timeout(attemptTimeoutMs);
      try {
        const rows = await state.replica(statement, AbortSignal.any([signal, state.cut.signal, timeout]));
        this.#preferred = state;
        return rows;
      } catch (error) {
        if (signal.aborted) throw clientGone();
        if (error instanceof HttpError) throw error;
        const code = serverErrorCode(error) ?? "";
        const memory = code === outOfMemory ? memoryOf(error) : undefined;
        if (tooMuch.has(code) || memory === "query") {
          const message = `the query needs too much (error ${code}); narrow from and to`;
          throw new HttpError(422, "too_much", message);
        }
        if (code === tooBig) throw tooLarge();
        if (wrong.has(code)) throw error;
        full ||= memory === "server";
        reasons.push(reasonOf(error));
      }
    }
    const refusal = full
      ? new HttpError(503, "busy", "the database is busy with other queries; try again")
      : new HttpError(503, "database_unreachable", "no ClickHouse replica can answer; try again");
    throw Object.assign(refusal, { cause: new Error(reasons.join("; ")) });
  }

  /** Asks all at once, and moves away from a replica that went silent or lags before a query has to wait for it. */
  ping(): Promise<boolean> {
    this.#pinging ??= this.#ping();
    return this.#pinging;
  }

  #ping(): Promise<boolean> {
    const asked = this.#states.map(async (state) => {
      try {
        // A server that stops takes no new connection, and answers on old ones for as long as they are used: 18.16
        // waits ten seconds for each.
        const [row] = await state.replica(stateQuery, AbortSignal.timeout(pingTimeoutMs), "own");
        state.fresh =
          Number(row?.["tables"]) === tables.length &&
          Number(row?.["cut_off"]) === 0 &&
          Number(row?.["delay"]) <= maxDelaySeconds;
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

/**
 * Whose memory is used up: this query's own, or what the server has for all queries, of a user or together. Servers say
 * "Memory limit (for query) exceeded", "(for user)", "(total)"; newer ones "Query memory limit exceeded", "User", "(total)".
 */
function memoryOf(error: unknown): "query" | "server" {
  const message = error instanceof Error ? error.message : "";
  const [, after, before] = /(?:Memory limit \((.+?)\)|(\S+) memory limit) exceeded/.exec(message) ?? [];
  const whose = after ?? before ?? "query";
  return /query/i.test(whose) ? "query" : "server";
}

/** Why a replica gave no rows, on one line. */
function reasonOf(error: unknown): string {
  const code = error instanceof ClickHouseError ? `Code: ${error.code}, ` : "";
  const text = error instanceof Error ? error.message || error.name : String(error);
  return `${code}${text}`.replace(/\s+/g, " ").slice(0, reasonChars);
}
