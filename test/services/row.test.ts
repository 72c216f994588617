// A row is one that ClickHouse can parse, or there is none.

import { describe, expect, it } from "vitest";
import { toRow } from "../../services/ingestor/row.ts";

const columns = { name: "String", flag: "UInt8", time: "UInt32" } as const;

describe("a row", () => {
  it("has its columns and nothing else, and no half of a surrogate pair", () => {
    const values = { more: "x", time: 0xffffffff, name: "a\ud800\0\u{1f600}\udc00", flag: 255 };
    expect(toRow(columns, values)).toBe(
      `{"name":"a\ufffd\\u0000\u{1f600}\ufffd","flag":255,"time":4294967295}`,
    );
  });

  it.each([
    ["name", undefined],
    ["name", null],
    ["name", 7],
    ["flag", true],
    ["flag", 256],
    ["flag", "1"],
    ["time", -1],
    ["time", 0.5],
    ["time", Number.NaN],
    ["time", 2 ** 32],
    ["time", undefined],
  ])("is refused with %s = %s", (name, value) => {
    expect(() => toRow(columns, { name: "", flag: 0, time: 0, [name]: value })).toThrow(`column ${name} `);
  });
});
