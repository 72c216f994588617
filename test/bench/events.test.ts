// The memory table of `npm run bench -- events`: one row for all replicas of a service, and for nothing else.

import { describe, expect, it } from "vitest";
import { kindOf } from "../../bench/events.ts";
import { plan } from "../../components/topology.ts";

const kinds = [
  "anchors",
  "clickhouse",
  "clickhouse-retention",
  "haproxy",
  "kafka",
  "keepalived",
  "siem-api",
  "siem-ingestor",
  "supervisor",
  "watchdog",
  "witness",
  "zookeeper",
];

function containersOf(prefix: string): string[] {
  const { network: _network, vip: _vip, ...placed } = plan({ prefix });
  return Object.values(placed)
    .flat()
    .map(({ name }) => name);
}

describe("the kind of a container", () => {
  it("is the same for all replicas, also of what runs beside a replica", () => {
    expect([...new Set(containersOf("").map(kindOf))].sort()).toEqual(kinds);
  });

  it("is not confused by a number in the stack's prefix", () => {
    const found = containersOf("team-2-").map(kindOf);
    expect(new Set(found).size).toBe(kinds.length);
    expect(found).toContain("team-2-clickhouse-retention");
  });
});
