// The price table has no gaps and no slips of a digit.

import { describe, expect, it } from "vitest";
import {
  bastionHourly,
  instanceTypes,
  pricedRegions,
  prices,
  priceSource,
} from "../../components/aws-prices.ts";

const sizes = ["small", "medium", "large", "xlarge", "2xlarge", "4xlarge"];

describe("the price table", () => {
  it("has a price of every type in every region, dearer in Frankfurt", () => {
    for (const [name, { hourly }] of Object.entries(instanceTypes)) {
      for (const region of pricedRegions) expect(hourly[region], name).toBeGreaterThan(0);
      expect(hourly["eu-central-1"], name).toBeGreaterThan(hourly["us-east-1"]);
      expect(hourly["eu-central-1"] / hourly["us-east-1"], name).toBeLessThan(1.25);
    }
  });

  it("doubles within a family, as AWS's does", () => {
    const names = Object.keys(instanceTypes);
    let compared = 0;
    for (const name of names) {
      const [family, size] = name.split(".") as [string, string];
      const next = instanceTypes[`${family}.${sizes[sizes.indexOf(size) + 1]}`];
      const own = instanceTypes[name];
      if (next === undefined || own === undefined) continue;
      compared++;
      expect(next.memoryGib, name).toBe(own.memoryGib * 2);
      for (const region of pricedRegions) {
        expect(next.hourly[region] / own.hourly[region], name).toBeCloseTo(2, 2);
      }
    }
    expect(compared).toBe(names.length - new Set(names.map((name) => name.split(".")[0])).size);
  });

  it("knows Graviton by its name, and finds it cheaper for the same size", () => {
    for (const [name, { architecture }] of Object.entries(instanceTypes)) {
      expect(architecture, name).toBe(/^[a-z]\dg/.test(name) ? "arm64" : "x86-64");
    }
    for (const [arm, intel] of [
      ["t4g.medium", "t3.medium"],
      ["m7g.large", "m6i.large"],
      ["r6g.xlarge", "r6i.xlarge"],
    ] as const) {
      expect(instanceTypes[arm]?.hourly["us-east-1"]).toBeLessThan(
        instanceTypes[intel]?.hourly["us-east-1"] ?? 0,
      );
    }
    expect(bastionHourly.arm64["us-east-1"]).toBeLessThan(bastionHourly["x86-64"]["us-east-1"]);
  });

  it("has the same other prices everywhere, none of them free", () => {
    const [first, ...rest] = pricedRegions.map((region) => prices[region]);
    for (const other of rest) expect(Object.keys(other)).toEqual(Object.keys(first ?? {}));
    for (const region of pricedRegions) {
      for (const [what, price] of Object.entries(prices[region])) expect(price, what).toBeGreaterThan(0);
    }
  });

  it("says when it was compiled, and from where", () => {
    expect(new Date(priceSource.compiled).toISOString().slice(0, 10)).toBe(priceSource.compiled);
    for (const url of priceSource.urls) expect(new URL(url).hostname).toBe("aws.amazon.com");
  });
});
