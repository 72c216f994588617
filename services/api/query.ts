// Builds every statement the API runs. None can be built without a tenant, and every value passes `literal`.

import type { TenantId } from "../common/auth.ts";

declare const brand: unique symbol;
/** A statement of {@link select}: a reader takes nothing else. */
export type Statement = string & { readonly [brand]: true };

/** A string as a ClickHouse literal. Both 18.16 and current servers read it back unchanged. */
export function literal(value: string): string {
  if (/\p{Surrogate}/u.test(value)) throw new RangeError("text has half of a surrogate pair");
  // Quotes, backslashes and control characters are written as bytes, so that none can end or change the literal.
  const escaped = value.replace(/[\\']|\p{Cc}/gu, (char) =>
    Buffer.from(char).toString("hex").replace(/../g, "\\x$&"),
  );
  return `'${escaped}'`;
}

/** An integer as a literal; the columns are unsigned. */
export function integer(value: number): string {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not an unsigned integer: ${value}`);
  return String(value);
}

/** Inclusive, in unix seconds. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** What names an event or an alert of a tenant. */
export interface Key {
  /** Unix seconds. */
  readonly timestamp: number;
  readonly id: string;
}

export interface Select {
  readonly table: string;
  /** Of an event's copies only the one that counts, which costs a look at all columns of the key in the whole range. */
  readonly final?: boolean;
  /** Column names or expressions, written in this program; never a client's. */
  readonly columns: readonly string[];
  readonly range?: Range | undefined;
  /** Columns that must equal these values. */
  readonly equal?: Readonly<Record<string, string | number | undefined>>;
  /** A substring of raw_event, character by character: there are no wildcards. */
  readonly contains?: string | undefined;
  /** Only what sorts after this, with newest first. */
  readonly after?: (Key & { readonly idColumn: string }) | undefined;
  /** Only these rows. */
  readonly among?: { readonly idColumn: string; readonly keys: readonly Key[] } | undefined;
  readonly groupBy?: string;
  readonly orderBy?: string;
  /** At most so many of what has the same value. */
  readonly limitBy?: { readonly rows: number; readonly column: string };
  readonly limit: number;
}

/** The one way to read a table: always within one tenant. */
export function select(tenant: TenantId, spec: Select): Statement {
  if (!tenant) throw new Error("a query needs a tenant");
  const where = [`tenant_id = ${literal(tenant)}`];
  if (spec.range) {
    where.push(
      `event_timestamp >= ${integer(spec.range.from)}`,
      `event_timestamp <= ${integer(spec.range.to)}`,
    );
  }
  for (const [column, value] of Object.entries(spec.equal ?? {})) {
    if (value === undefined) continue;
    where.push(`${identifier(column)} = ${typeof value === "number" ? integer(value) : literal(value)}`);
  }
  // Servers don't agree on where nothing is found in a text; it is in every one.
  if (spec.contains) where.push(`position(raw_event, ${literal(spec.contains)}) > 0`);
  if (spec.after) {
    const { idColumn, timestamp, id } = spec.after;
    const at = integer(timestamp);
    const older = `event_timestamp = ${at} AND ${identifier(idColumn)} < ${literal(id)}`;
    where.push(`event_timestamp <= ${at}`, `(event_timestamp < ${at} OR (${older}))`);
  }
  if (spec.among) {
    const { idColumn, keys } = spec.among;
    const tuples = keys.map(({ timestamp, id }) => `(${integer(timestamp)}, ${literal(id)})`);
    where.push(`(event_timestamp, ${identifier(idColumn)}) IN (${tuples.join(", ")})`);
  }
  return [
    `SELECT ${spec.columns.join(", ")} FROM ${identifier(spec.table)}${spec.final ? " FINAL" : ""}`,
    `WHERE ${where.join(" AND ")}`,
    spec.groupBy ? `GROUP BY ${spec.groupBy}` : "",
    spec.orderBy ? `ORDER BY ${spec.orderBy}` : "",
    spec.limitBy ? `LIMIT ${integer(spec.limitBy.rows)} BY ${identifier(spec.limitBy.column)}` : "",
    `LIMIT ${integer(spec.limit)}`,
  ]
    .filter(Boolean)
    .join(" ") as Statement;
}

function identifier(name: string): string {
  if (!/^[a-z_]\w*$/.test(name)) throw new Error(`not a column or table: ${name}`);
  return name;
}
