// Statements as text: every literal says exactly what was given, and none is without a tenant.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { integer, literal, select, type Statement } from "../../services/api/query.ts";
import type { Reader } from "../../services/api/replicas.ts";
import { toTenantId } from "../../services/common/auth.ts";

/** What a server reads back from a literal; throws if the literal ends early. */
function unescape(text: string): string {
  expect(text).toMatch(/^'(?:[^'\\]|\\x[\da-f]{2})*'$/s);
  return text
    .slice(1, -1)
    .replace(/(?:\\x[\da-f]{2})+/g, (bytes) => Buffer.from(bytes.replaceAll("\\x", ""), "hex").toString());
}

describe("literals", () => {
  it("escape any text without loss", () => {
    const nasty = fc.string({
      unit: fc.constantFrom("'", "\\", "\0", "\n", "x", "0", "-", ";", "\u2028", "é"),
    });
    fc.assert(
      fc.property(fc.oneof(nasty, fc.string({ unit: "grapheme" }), fc.string({ unit: "binary" })), (text) => {
        fc.pre(!/\p{Surrogate}/u.test(text));
        expect(unescape(literal(text))).toBe(text);
        expect(literal(text)).not.toMatch(/\p{Cc}/u);
      }),
    );
    expect(() => literal("\ud800")).toThrow(RangeError);
  });

  it("of numbers are whole and not negative", () => {
    expect(integer(4_294_967_295)).toBe("4294967295");
    for (const wrong of [-1, 0.5, NaN, Infinity, 2 ** 53]) expect(() => integer(wrong)).toThrow(RangeError);
  });
});

describe("a statement", () => {
  const spec = { table: "events_replicated", columns: ["event_id"], limit: 1 };

  it("can't be built without a tenant", () => {
    // @ts-expect-error a plain string is no tenant
    expect(() => select("", spec)).toThrow("tenant");
    // @ts-expect-error nor is any other
    expect(select("acme", spec)).toContain("acme");
    expect(select(toTenantId("acme"), spec)).toContain("WHERE tenant_id = 'acme'");
    expect(() => toTenantId("a'b")).toThrow();
  });

  it("is the only thing that a reader takes", () => {
    const read = (reader: Reader, statement: Statement) =>
      reader.query(statement, new AbortController().signal);
    // @ts-expect-error text is no statement
    const wrong = (reader: Reader) => read(reader, "SELECT * FROM events_replicated");
    expect(wrong).toBeTypeOf("function");
  });

  it("names tables and columns of this program only", () => {
    const acme = toTenantId("acme");
    expect(() => select(acme, { ...spec, table: "system.users" })).toThrow("not a column or table");
    expect(() => select(acme, { ...spec, equal: { "1=1 OR a": "b" } })).toThrow("not a column or table");
  });

  it("can ask for certain rows, each with its time and its id", () => {
    const among = { idColumn: "event_id", keys: [{ timestamp: 7, id: "a'b" }] };
    expect(select(toTenantId("acme"), { ...spec, among })).toContain(
      "(event_timestamp, event_id) IN ((7, 'a\\x27b'))",
    );
  });
});
