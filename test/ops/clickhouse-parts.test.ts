// Which of the parts that a replica has set aside are missing: those whose rows no active part has.

import { describe, expect, it } from "vitest";
import { rangeOf, uncovered } from "../../ops/clickhouse-parts.ts";

describe("a part that was set aside", () => {
  it.each([
    ["202611_5_9_1", { partition: "202611", from: 5, to: 9 }],
    ["broken_202611_5_5_0", { partition: "202611", from: 5, to: 5 }],
    ["broken-on-start_202611_5_5_0_try1", { partition: "202611", from: 5, to: 5 }],
    ["covered-by-broken_202611_5_5_0", { partition: "202611", from: 5, to: 5 }],
    // Its insert failed, or it is not wanted here.
    ["noquorum_202611_5_5_0", undefined],
    ["ignored_202611_5_5_0", undefined],
    ["tmp_merge_202611_5_9_1", undefined],
  ])("%s", (name, range) => expect(rangeOf(name)).toEqual(range));

  it("is missing where no active part of its month has all of its blocks", () => {
    const broken = [
      "broken_202611_5_9_1",
      "broken_202611_12_12_0",
      "202610_1_1_0",
      "noquorum_202611_99_99_0",
    ];
    expect(uncovered(broken, ["202611_1_10_2", "202611_11_11_0"])).toEqual([
      "broken_202611_12_12_0",
      "202610_1_1_0",
    ]);
    expect(uncovered(broken, ["202611_1_12_3", "202610_1_3_1"])).toEqual([]);
  });
});
