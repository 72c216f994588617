// What `npm run bench -- growth` writes: times beside each other, and how they grow with the number of resources.

import { describe, expect, it } from "vitest";
import { tableOf } from "../../bench/growth.ts";

const small = {
  nodes: 9,
  resources: 100,
  up: { ours: 3, bare: 2 },
  preview: { ours: 1.5, bare: 1 },
};
const large = {
  nodes: 90,
  resources: 950,
  up: { ours: 12, bare: 10 },
  preview: { ours: 9, bare: 4 },
};

describe("the table of growth", () => {
  it("has a row a size, and compares the largest with the smallest", () => {
    expect(tableOf([small, large]).split("\n")).toEqual([
      "| nodes | resources | up | bare up | ratio | preview | bare preview | ratio |",
      "| ----- | --------- | -- | ------- | ----- | ------- | ------------ | ----- |",
      "| 9 | 100 | 3.00 s | 2.00 s | 1.50 | 1.50 s | 1.00 s | 1.50 |",
      "| 90 | 950 | 12.00 s | 10.00 s | 1.20 | 9.00 s | 4.00 s | 2.25 |",
      "",
      "From 9 to 90 nodes there are 9.50 × as many resources: up takes 4.00 × as long (ours), 5.00 × as long (bare); preview takes 6.00 × as long (ours), 4.00 × as long (bare).",
    ]);
  });
});
