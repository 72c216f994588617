// What the contract says of figures, and how they look to a person.

import { describe, expect, it } from "vitest";
import {
  renderLine,
  renderMarkdown,
  renderTable,
  renderTotals,
  summarize,
} from "../../../ops/chaos/report.ts";
import { afterwards, exitCodeOf, judge, type Measured, type Result } from "../../../ops/chaos/verdict.ts";
import { withSection } from "../../../ops/section.ts";

const calm = { requests: 1000, failed: 0, outageMs: 0, longestGapMs: 30, errors: {} };
const kept: Measured = {
  vip: calm,
  posts: { ...calm, failed: 2, longestGapMs: 1230 },
  reads: calm,
  firstAnswerMs: 0,
  healthySeconds: 4.2,
  unhealthy: [],
  acknowledged: 500,
  settledSeconds: 1.5,
  lost: [],
  twice: [],
  uninvited: [],
  wrong: [],
  overlap: { longestMs: 12, totalMs: 12 },
  manualSteps: [],
  takeovers: 0,
};
const promise = { limit: "outage", ms: 100, what: "100 ms" } as const;
const resultOf = (measured: Measured, scenario = "haproxy-holder-kill"): Result => ({
  scenario,
  breaks: "HAProxy is killed",
  heals: "by the supervisor",
  began: "2026-11-21T21:00:00.000Z",
  seconds: 9.5,
  promise,
  measured,
  ...judge({ promise }, measured),
});

describe("the contract", () => {
  it("is kept where nothing is lost", () => {
    expect(judge({ promise }, kept)).toEqual({ broken: [], missed: [] });
  });

  it.each<[string, Partial<Measured>, RegExp]>([
    ["an acknowledged event is lost", { lost: ["a"] }, /^1 acknowledged events are lost: a$/],
    ["readers see one twice", { twice: ["a", "b", "c", "d"] }, /twice: a, b, c, and 1 more$/],
    ["readers see one that nobody sent", { uninvited: ["z"] }, /nobody sent: z$/],
    ["two nodes have the address for too long", { overlap: { longestMs: 1001, totalMs: 1001 } }, /1001 ms/],
    [
      "it is never well again",
      { healthySeconds: undefined, unhealthy: ["kafka: 2 partitions"] },
      /not healthy after 180 s: kafka: 2 partitions/,
    ],
    ["a good post is refused", { wrong: ["a good post was answered 400"] }, /answered 400/],
    [
      "a person has to do something",
      { manualSteps: ["docker start kafka-1"] },
      /^a person has to: docker start kafka-1$/,
    ],
    ["nothing was acknowledged", { acknowledged: 0 }, /nothing is proved/],
    ["nothing was answered", { vip: { ...calm, failed: 1000 } }, /no request .* was answered/],
  ])("is broken where %s", (_what, change, text) => {
    const { broken } = judge({}, { ...kept, ...change });
    expect(broken).toHaveLength(1);
    expect(broken[0]).toMatch(text);
  });

  it("is broken where the address moves though nothing of it was hit", () => {
    const still = { promise: { limit: "takeovers", most: 0 } } as const;
    expect(judge(still, kept).broken).toEqual([]);
    expect(judge(still, { ...kept, takeovers: 2 }).broken).toEqual([
      "the VIP moved 2 times, though nothing of it was hit (allowed: 0)",
    ]);
    expect(judge({ promise }, { ...kept, takeovers: 2 }).broken).toEqual([]);
  });

  it("is broken too by what is lost or comes twice only later", () => {
    const none = { lost: [], twice: [], uninvited: [], wrong: [] };
    expect(afterwards(resultOf(kept), none)).toEqual(resultOf(kept));
    expect(afterwards(resultOf(kept), { ...none, lost: ["a"] }).broken).toEqual([
      "1 acknowledged events are lost: a",
    ]);
    const before = resultOf({ ...kept, twice: ["b"] });
    expect(afterwards(before, { ...none, twice: ["b", "c"] }).measured?.twice).toEqual(["b", "c"]);
    expect(afterwards(before, none).broken).toEqual(before.broken);
  });

  it("is not kept where it was not tested, unless that needs root or a flag", () => {
    const skip = { ...resultOf(kept), measured: undefined, skipped: "no nftables" } as unknown as Result;
    expect(exitCodeOf([resultOf(kept), skip], false)).toBe(1);
    expect(exitCodeOf([resultOf(kept), { ...skip, needs: "root" }], false)).toBe(0);
    expect(exitCodeOf([{ ...skip, needs: "root" }], false)).toBe(1);
    expect(exitCodeOf([], false)).toBe(1);
  });

  it("keeps time limits apart: they count only strictly", () => {
    const slow = resultOf({ ...kept, vip: { ...calm, failed: 12, outageMs: 101 } });
    expect(slow.broken).toEqual([]);
    expect(slow.missed).toEqual(["the VIP was out for 101 ms (limit: 100 ms, 100 ms)"]);
    expect(exitCodeOf([resultOf(kept), slow], false)).toBe(0);
    expect(exitCodeOf([resultOf(kept), slow], true)).toBe(1);
    const atLimit = resultOf({ ...kept, vip: { ...calm, failed: 12, outageMs: 100 } });
    expect(exitCodeOf([atLimit], true)).toBe(0);
    expect(exitCodeOf([resultOf({ ...kept, lost: ["a"] })], false)).toBe(1);
  });

  it("allows a reload no failed request", () => {
    const none = { promise: { limit: "failed requests", most: 0 } } as const;
    expect(judge(none, kept).missed).toEqual([]);
    expect(judge(none, { ...kept, vip: { ...calm, failed: 1 } }).missed).toEqual([
      "1 of 1000 requests failed (limit: 0)",
    ]);
  });
});

describe("the report", () => {
  const again = resultOf({
    ...kept,
    vip: { ...calm, failed: 9, outageMs: 85 },
    healthySeconds: 6,
    acknowledged: 100,
  });
  const other = resultOf({ ...kept, lost: ["e|1"] }, "clickhouse-kill");
  const skipped: Result = {
    scenario: "store-disk-full",
    breaks: "the disk is full",
    heals: "when the fault ends",
    began: "2026-11-21T21:00:00.000Z",
    seconds: 1,
    skipped: "only root may mount a disk of a size",
    broken: [],
    missed: [],
  };

  it("puts runs of one scenario together by the worst of each", () => {
    const [first, second] = summarize([resultOf(kept), other, again]);
    expect(first).toMatchObject({ runs: 2, acknowledged: 600, lost: 0 });
    expect(first?.worst).toMatchObject({
      vipOutageMs: 85,
      vipFailed: 9,
      vipRequests: 2000,
      healthySeconds: 6,
    });
    expect(second).toMatchObject({ scenario: "clickhouse-kill", runs: 1, lost: 1 });
  });

  it("says that something was never well again, whatever the other runs were", () => {
    const never = resultOf({ ...kept, healthySeconds: undefined });
    expect(summarize([resultOf(kept), never])[0]?.worst?.healthySeconds).toBeUndefined();
    expect(renderTotals([resultOf(kept), never], 301)).toContain("at least once never");
  });

  it("has a line for each, a table, and what it comes to", () => {
    expect(renderLine(again, 301)).toContain(
      "VIP out 85 ms (limit 100 ms; 0.28 × 301 ms of VRRP's), 9 of 1000 failed",
    );
    expect(renderLine(other, 301)).toContain("BROKEN: 1 acknowledged events are lost: e|1");
    expect(renderLine(skipped, 301)).toBe("skipped: only root may mount a disk of a size");
    expect(renderTable([again, other, skipped], 301)).toMatch(/store-disk-full.*skipped: only root/);
    expect(renderTable([again], 301)).toMatch(/│ 85 ms +│ 0\.85 × 100 ms +│ 0\.28 × 301 ms +│/);
    const totals = renderTotals([again, other, skipped], 301);
    expect(totals).toContain("2 runs of 2 scenarios; 600 events acknowledged, **1 lost, 0 seen twice**.");
    expect(totals).toContain("**The contract was broken by** clickhouse-kill");
    expect(renderTotals([again], 301)).toContain("The contract was kept every time.");
  });

  it("shows an outage without a limit of its own beside VRRP's, and none where there was no outage", () => {
    const { promise: _none, ...free } = resultOf({ ...kept, vip: { ...calm, failed: 9, outageMs: 602 } });
    expect(renderTable([free], 301)).toMatch(/│ 602 ms +│ no limit is promised +│ 2\.00 × 301 ms +│/);
    expect(renderLine(free, 301)).toContain("VIP out 602 ms (no limit is promised; 2.00 × 301 ms of VRRP's)");
    const { promise: _other, ...calmly } = resultOf(kept);
    expect(renderTable([calmly], 301)).toMatch(/│ 0 ms +│ no limit is promised +│ – +│/);
  });

  it("shows manual steps by scenario and in the sum", () => {
    const helped = resultOf({ ...kept, manualSteps: ["docker start siem-api-1"] }, "supervisor-and-api-kill");
    expect(renderTotals([resultOf(kept)], 301)).toContain("Manual steps: 0.");
    expect(renderTotals([resultOf(kept), helped], 301)).toContain(
      "Manual steps: 1 (supervisor-and-api-kill).",
    );
    expect(renderLine(helped, 301)).toContain("manual steps: 1");
    expect(renderTable([helped], 301)).toMatch(/│ 12 ms +│ 1 +│ 500 +│/);
  });

  it("says what was not tested, and claims nothing for it", () => {
    expect(renderTotals([skipped], 301)).toContain(
      "1 not tested**: store-disk-full (only root may mount a disk of a size).",
    );
    expect(renderTotals([skipped], 301)).toContain("Nothing was tested");
    expect(renderTotals([skipped], 301)).not.toContain("kept");
    const partly = renderTotals([again, { ...skipped, needs: "root" }], 301);
    expect(partly).toContain("\n1 not tested: store-disk-full");
    expect(partly).toContain("The contract was kept every time that it was tested.");
  });

  it("gives the outage of a lost node as a ratio to VRRP's limit", () => {
    const lost = resultOf({ ...kept, vip: { ...calm, failed: 30, outageMs: 301 } }, "lb-node-holder-kill");
    expect(renderTotals([lost], 301)).toContain("301 ms, 1.00 × VRRP's own limit of 301 ms");
  });

  it("names the command, the date, the machine and the seed, and every scenario in a row of its own", () => {
    const text = renderMarkdown("Each one once", [again, other, skipped], {
      command: "npm run chaos -- --all",
      date: "2026-11-21 21:30 UTC",
      machine: "2 × a processor",
      stack: "local",
      seed: 7,
      vrrpLimitMs: 301,
    });
    expect(text).toContain(
      "`npm run chaos -- --all` on 2026-11-21 21:30 UTC, stack `local`, seed 7; 2 × a processor.",
    );
    const rows = text.split("\n").filter((line) => /^\| (haproxy|clickhouse|store)/.test(line));
    expect(rows).toHaveLength(6);
    const widths = rows.slice(0, 3).map((row) => row.split(/(?<!\\)\|/).length);
    expect(new Set(widths).size).toBe(1);
  });
});

describe("a section of a document", () => {
  it("comes at the end, and the next time in its own place", () => {
    const first = withSection("# Title\n\ntext\n", "a", "one");
    expect(first).toBe("# Title\n\ntext\n\n<!-- a begin -->\n\none\n\n<!-- a end -->\n");
    const both = withSection(first, "b", "two");
    expect(withSection(both, "a", "other")).toBe(both.replace("one", "other"));
  });
});
