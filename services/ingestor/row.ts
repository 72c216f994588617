// Writes a row as ClickHouse reads it. One that it can't parse would be acknowledged, and set aside where no tenant sees it
// (decision 21), so what can't be a row never gets as far as Kafka.

import { toUSVString } from "node:util";

type Column = "String" | "UInt8" | "UInt32";
/** A table's columns, in its order. */
export type Columns = Readonly<Record<string, Column>>;
const largest = { UInt8: 0xff, UInt32: 0xffffffff } as const;

/**
 * One row in the format JSONEachRow: exactly these columns, whole numbers that fit, and text without half of a
 * surrogate pair, the one thing that JSON.stringify writes and ClickHouse refuses.
 * @throws when a value is missing or of another type: then the request fails, and nothing of it is sent.
 */
export function toRow<C extends Columns>(columns: C, values: Readonly<Record<keyof C, unknown>>): string {
  const row: Record<string, string | number> = {};
  for (const [name, column] of Object.entries(columns)) row[name] = toCell(name, column, values[name]);
  return JSON.stringify(row);
}

function toCell(name: string, column: Column, value: unknown): string | number {
  if (column === "String") {
    if (typeof value === "string") return toUSVString(value);
  } else if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= largest[column]) {
    return value as number;
  }
  throw new TypeError(`column ${name} must be a ${column}, but is ${typeof value} ${String(value)}`);
}
