// Properties of the plan: whatever the options, names, addresses and ports never collide and quorums survive a zone.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ports, slotPort } from "../../components/ports.ts";
import { plan, type Topology } from "../../components/topology.ts";

const options = fc.record({
  prefix: fc.constantFrom("", "test-", "a1-"),
  net: fc
    .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 0, max: 255 }))
    .map(([a, b]) => `10.${a}.${b}`),
  portOffset: fc.integer({ min: 0, max: 9000 }),
});

const guestsOf = (t: Topology) => [
  ...t.haproxy,
  ...t.keepalived,
  ...t.api,
  ...t.ingestor,
  ...t.zookeeper,
  ...t.kafka,
  ...t.clickhouse,
];

describe("plan", () => {
  it("has nine nodes, three a zone, one of each role in every zone", () => {
    const { nodes } = plan();
    expect(nodes).toHaveLength(9);
    for (const zone of [1, 2, 3]) {
      expect(nodes.filter((node) => node.zone === zone).map((node) => node.role)).toEqual([
        "lb",
        "stream",
        "store",
      ]);
    }
  });

  it("never gives a name, an address or a published port twice", () => {
    fc.assert(
      fc.property(options, (given) => {
        const topology = plan(given);
        const distinct = (values: readonly unknown[]) => expect(new Set(values).size).toBe(values.length);
        distinct([...topology.nodes.map((n) => n.name), ...guestsOf(topology).map((g) => g.name)]);
        distinct([...topology.nodes.map((n) => n.address), topology.vip.address, topology.network?.gateway]);
        const external = topology.nodes.flatMap((n) => n.published.map((p) => p.external));
        distinct(external);
        for (const port of external) expect(port).toBeLessThan(65536);
      }),
    );
  });

  it("keeps every fixed address out of the range that Docker hands out", () => {
    const { nodes, vip, network } = plan();
    expect(network?.dynamicRange).toBe("172.25.0.64/26");
    for (const address of [...nodes.map((n) => n.address), vip.address, network?.gateway]) {
      const last = Number(address?.split(".")[3]);
      expect(last < 64 || last > 127, address).toBe(true);
    }
  });

  it("survives the loss of any zone with a majority of every quorum", () => {
    const topology = plan();
    for (const service of [topology.zookeeper, topology.kafka, topology.clickhouse]) {
      for (const zone of [1, 2, 3]) {
        const left = service.filter((replica) => replica.node.zone !== zone).length;
        expect(left).toBeGreaterThan(service.length / 2);
      }
    }
  });

  it("gives the anchors every name that a guest is reached by", () => {
    for (const guest of guestsOf(plan())) expect(guest.node.aliases).toContain(guest.alias);
  });
});

describe("ports", () => {
  it("has no number twice, the replicas' slots included", () => {
    const fixed = Object.values(ports).map((port) => port.number);
    const slots = [1, 2, 3].flatMap((slot) => [slotPort("api", slot), slotPort("ingestor", slot)]);
    expect(new Set([...fixed, ...slots]).size).toBe(fixed.length + slots.length);
  });

  it("refuses a slot that would run into the next service", () => {
    expect(() => slotPort("api", 100)).toThrow(/from 1 to 99, but is 100/);
    expect(() => slotPort("api", 0)).toThrow(/but is 0/);
  });
});
