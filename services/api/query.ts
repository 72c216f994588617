// Builds every statement the API runs. None can be built without a tenant, and every value passes `literal`.

import type { TenantId } from "../common/auth.ts";

declare const brand: unique symbol;
/** A statement of {@link select} or {@link unionOf}: a reader takes nothing else. */
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

export interface Select {
  readonly table: string;
  /** Column names or expressions, written in this program; never a client's. */
  readonly columns: readonly string[];
  readonly range?: Range | undefined;
  /** Columns that must equal these values. */
  readonly equal?: Readonly<Record<string, string | number | undefined>>;
  /** A substring of raw_event, character by character: there are no wildcards. */
  readonly contains?: string | undefined;
  /** Only what sorts after this, with newest first. */
  readonly after?: { readonly idColumn: string; readonly timestamp: number; readonly id: string } | undefined;
  readonly groupBy?: string;
  readonly orderBy?: string;
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
  return [
    `SELECT ${spec.columns.join(", ")} FROM ${identifier(spec.table)}`,
    `WHERE ${where.join(" AND ")}`,
    spec.groupBy ? `GROUP BY ${spec.groupBy}` : "",
    spec.orderBy ? `ORDER BY ${spec.orderBy}` : "",
    `LIMIT ${integer(spec.limit)}`,
  ]
    .filter(Boolean)
    .join(" ") as Statement;
}

/** Several statements with the same columns as one, so that they share one set of limits. Rows come in any order. */
export function unionOf(statements: readonly Statement[]): Statement {
  return statements.map((statement) => `SELECT * FROM (${statement})`).join(" UNION ALL ") as Statement;
}

function identifier(name: string): string {
  if (!/^[a-z_]\w*$/.test(name)) throw new Error(`not a column or table: ${name}`);
  return name;
}
