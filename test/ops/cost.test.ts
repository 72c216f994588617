// The estimate counts what the stack makes, by hand-calculated examples, and reacts to the configuration.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import {
  crossingsPerEvent,
  estimate,
  renderAssumptions,
  renderEstimate,
  trafficFrom,
  typicalTraffic,
} from "../../ops/cost.ts";

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO0 somebody";
function config(aws: Record<string, unknown> = {}, kafka: Record<string, unknown> = {}) {
  const parsed = parseConfig({
    target: "aws",
    kafka,
    aws: { region: "us-east-1", tier: "dev", admin: { sshPublicKeys: [key] }, ...aws },
  });
  if (parsed.aws === undefined) throw new Error("not an AWS configuration");
  return { aws: parsed.aws, kafka: parsed.kafka };
}
const production = { tier: "prod", alarmEmail: "siem@example.com", backup: { retentionDays: 20 } };
const kinds = (of: ReturnType<typeof estimate>) => {
  const sums: Record<string, number> = {};
  for (const { kind, monthly } of of.lines) sums[kind] = (sums[kind] ?? 0) + monthly;
  return sums;
};

describe("estimate", () => {
  it("is the sum of what a development stack has", () => {
    const result = estimate(config());
    const sums = kinds(result);
    expect(Object.keys(sums)).toEqual([
      "instances",
      "volumes",
      "NAT gateways",
      "interface endpoints",
      "public addresses",
      "traffic between zones",
      "registry",
      "keys",
      "monitoring",
      "DNS",
    ]);
    // 3 × (0.0416 + 0.096 + 0.192) × 730; (3 × (20 + 100 + 200) + 9 × 30) × 0.08; 0.045 × (730 + 50).
    expect(sums["instances"]).toBeCloseTo(721.82, 2);
    expect(sums["volumes"]).toBeCloseTo(98.4, 2);
    expect(sums["NAT gateways"]).toBeCloseTo(35.1, 2);
    // 20 GB × 30.4167 days × 6 crossings; 1 GB × 30.4167 × 4/3; 50 GB × 2/3; 0.02 each.
    expect(sums["traffic between zones"]).toBeCloseTo(73 + 0.8111 + 0.6667, 2);
    expect(result.total).toBeCloseTo(
      Object.values(sums).reduce((a, b) => a + b, 0),
      6,
    );
  });

  it("adds what only production has", () => {
    const dev = kinds(estimate(config()));
    const prod = kinds(estimate(config(production)));
    expect(prod["NAT gateways"]).toBeCloseTo((dev["NAT gateways"] ?? 0) + 2 * 730 * 0.045, 6);
    // Half of 960 GB, and 20 days of 5 %: twice the half.
    expect(prod["backups"]).toBeCloseTo(960 * 0.05, 6);
    expect(prod["flow logs"]).toBeCloseTo(30 * 0.5 + 90 * 0.03, 6);
    expect(prod["public addresses"]).toBeCloseTo(3 * 730 * 0.005, 6);
  });

  it("adds the public entry and the bastion where there are any", () => {
    const loadBalancer = {
      public: true,
      clients: ["198.51.100.0/24"],
      certificateArn: "arn:aws:acm:us-east-1:123456789012:certificate/0a1b2c3d",
    };
    const sums = kinds(estimate(config({ entry: { loadBalancer } })));
    expect(sums["load balancer"]).toBeCloseTo(730 * 0.0225 + 21 * (730 / 24) * 0.006, 6);
    expect(sums["public addresses"]).toBeCloseTo(3 * 730 * 0.005, 6);
    expect(sums["traffic to the internet"]).toBeCloseTo((730 / 24) * 0.09, 6);
    const bastion = kinds(
      estimate(config({ admin: { sshPublicKeys: [key], access: "bastion", clients: ["198.51.100.7/32"] } })),
    );
    const none = kinds(estimate(config()));
    expect((bastion["instances"] ?? 0) - (none["instances"] ?? 0)).toBeCloseTo(730 * 0.0104, 6);
    expect(bastion["public addresses"]).toBeCloseTo(2 * 730 * 0.005, 6);
  });

  it("counts an event's way: two of three hops and every copy cross a zone", () => {
    expect(crossingsPerEvent(3)).toBeCloseTo(6, 9);
    expect(crossingsPerEvent(1)).toBeCloseTo(4, 9);
    const three = kinds(estimate(config()))["traffic between zones"] ?? 0;
    const two = kinds(estimate(config({}, { replicationFactor: 2, minInsyncReplicas: 1 })));
    expect(three - (two["traffic between zones"] ?? 0)).toBeCloseTo(20 * (730 / 24) * 0.02, 6);
  });

  it("never gets cheaper with more of anything", () => {
    const amount = fc.double({ min: 0, max: 1, noNaN: true });
    const fields = Object.keys(typicalTraffic) as (keyof typeof typicalTraffic)[];
    fc.assert(
      fc.property(fc.constantFrom(...fields), amount, amount, (field, a, b) => {
        const cost = (value: number) =>
          estimate(config(production), { ...typicalTraffic, [field]: value }).total;
        const [less, more] = a < b ? [a, b] : [b, a];
        expect(cost(more)).toBeGreaterThanOrEqual(cost(less) - 1e-9);
      }),
    );
    for (const field of fields) {
      const more = { ...typicalTraffic, [field]: typicalTraffic[field] + 0.1 };
      expect(estimate(config(production), more).total, field).toBeGreaterThan(
        estimate(config(production)).total,
      );
    }
  });

  it("does not guess the prices of a region it doesn't know", () => {
    const elsewhere = config({ region: "ap-south-1" });
    expect(() => estimate(elsewhere)).toThrow(
      "there are no prices of ap-south-1; there are those of eu-central-1 and us-east-1: choose the nearer one with --prices-of",
    );
    const result = estimate(elsewhere, typicalTraffic, "eu-central-1");
    expect(result.region).toBe("eu-central-1");
    expect(renderAssumptions(result, elsewhere.aws, typicalTraffic)).toContain(
      "of eu-central-1, although the stack is in ap-south-1, compiled on ",
    );
  });
});

describe("the printed estimate", () => {
  it("has a sum for each kind, says that it is an estimate, from when, and what it assumes", () => {
    const parsed = config(production);
    const result = estimate(parsed);
    const table = renderEstimate(result);
    for (const [kind, sum] of Object.entries(kinds(result))) {
      expect(table).toMatch(new RegExp(`│ ${kind} .*│ +${sum.toFixed(2).replace(".", "\\.")} │`));
    }
    expect(table).toContain(result.total.toFixed(2));
    const text = renderAssumptions(result, parsed.aws, { ...typicalTraffic, ingestGbPerDay: 77 });
    expect(text).toMatch(/^An estimate, not a quote: .* of us-east-1, compiled on \d{4}-\d\d-\d\d\.$/m);
    expect(text).toContain("--ingest-gb-day 77: events that arrive");
    expect(text.match(/^ {2}--/gm)).toHaveLength(Object.keys(typicalTraffic).length);
  });
});

describe("trafficFrom", () => {
  it("takes what is given and leaves the rest typical", () => {
    expect(trafficFrom({ ingestGbPerDay: "100" })).toEqual({ ...typicalTraffic, ingestGbPerDay: 100 });
  });
  it.each([
    ["ingestGbPerDay", "-1", '--ingest-gb-day must be a number from 0, but is "-1"'],
    ["ingestGbPerDay", "much", '--ingest-gb-day must be a number from 0, but is "much"'],
    ["natGbPerMonth", "", '--nat-gb must be a number from 0, but is ""'],
    ["usedShare", "50", '--used-share must be a number from 0 to 1, but is "50"'],
  ])("refuses %s %s", (field, value, message) => {
    expect(() => trafficFrom({ [field]: value })).toThrow(message);
  });
});
