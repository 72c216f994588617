// Reads from whichever ClickHouse replica answers, and remembers it.

import { ClickHouseError, ClickHouseLogLevel, createClient } from "@clickhouse/client";
import type { Database } from "../common/env.ts";
import { HttpError } from "../common/http.ts";

export type Row = Record<string, unknown>;

/** What the API needs of a database. */
export interface Reader {
  query(sql: string): Promise<Row[]>;
  /** Whether any replica answers. */
  ping(): Promise<boolean>;
}

/** One replica: runs a statement, within a time. */
export type Replica = (sql: string, timeoutMs: number) => Promise<Row[]>;

const queryTimeoutMs = 15_000;
const pingTimeoutMs = 1_000;
/** Settings that 18.16 knows too. A query that needs more is refused with its reason. */
const settings = {
  max_execution_time: 10,
  max_result_rows: "10000",
  max_result_bytes: String(64 * 1024 * 1024),
  max_rows_to_read: "2000000000",
  max_memory_usage: String(2 * 1024 * 1024 * 1024),
  readonly: "2",
} as const;
/** Errors of one replica's state, not of the query: unknown table or database, too busy, its peers unreachable. */
const elsewhere = new Set(["60", "81", "202", "209", "210", "279"]);
/** The limits above: timeout, rows, result, memory. */
const tooMuch = new Set(["158", "159", "160", "241", "396"]);

/** A replica over HTTP. */
export function connect(url: string, database: Database): Replica {
  const client = createClient({
    url,
    username: database.username,
    password: database.password,
    database: database.database,
    request_timeout: queryTimeoutMs,
    max_open_connections: 20,
    clickhouse_settings: settings,
    log: { level: ClickHouseLogLevel.OFF },
  });
  return async (sql, timeoutMs) => {
    const result = await client.query({
      query: sql,
      format: "JSONEachRow",
      abort_signal: AbortSignal.timeout(timeoutMs),
    });
    return result.json<Row>();
  };
}

/** Fails over between replicas; a query goes first to the one that answered last. */
export class Replicas implements Reader {
  readonly #replicas: readonly Replica[];
  #preferred = 0;

  constructor(replicas: readonly Replica[]) {
    this.#replicas = replicas;
  }

  async query(sql: string): Promise<Row[]> {
    let last: unknown;
    for (const index of this.#order()) {
      try {
        const rows = await this.#replicas[index]!(sql, queryTimeoutMs);
        this.#preferred = index;
        return rows;
      } catch (error) {
        const code = serverErrorCode(error);
        if (code && tooMuch.has(code)) {
          throw new HttpError(
            422,
            "too_much",
            `the query needs too much (error ${code}); narrow from and to`,
          );
        }
        if (code && !elsewhere.has(code)) throw error;
        last = error;
      }
    }
    const message = "no ClickHouse replica answers; try again";
    throw Object.assign(new HttpError(503, "database_unreachable", message), { cause: last });
  }

  /** Asks all at once; also moves away from a replica that went silent before a query has to wait for it. */
  async ping(): Promise<boolean> {
    const asked = this.#replicas.map((replica, index) =>
      replica("SELECT 1", pingTimeoutMs).then(() => index),
    );
    void Promise.allSettled(asked).then((answers) => {
      const alive = answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
      if (!alive.includes(this.#preferred)) this.#preferred = alive[0] ?? 0;
    });
    return Promise.any(asked).then(
      () => true,
      () => false,
    );
  }

  #order(): number[] {
    return this.#replicas.map((_, offset) => (this.#preferred + offset) % this.#replicas.length);
  }
}

/** The number of a server's error, if it is one; the client can't read those of 18.16. */
function serverErrorCode(error: unknown): string | undefined {
  if (error instanceof ClickHouseError) return error.code;
  return error instanceof Error ? /^Code: (\d+), e\.displayText/.exec(error.message)?.[1] : undefined;
}
