// How clients reach the platform: the VIP where it can be reached, published ports where it can't.

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { plan } from "../../components/topology.ts";
import { entry, firstSteps } from "../../ops/entry.ts";
import { parseLine } from "../../services/ingestor/logline.ts";

describe("entry", () => {
  it("is the VIP on Linux", () => {
    expect(entry(plan(), parseConfig({ target: "local" }), "linux")).toMatchObject({
      api: "http://172.25.0.222:8080",
      throughVip: true,
    });
  });

  it("is a port that the first balancer publishes where Docker runs in a virtual machine", () => {
    const config = parseConfig({ target: "local", local: { portOffset: 500 } });
    const { api, ingest, throughVip } = entry(plan(config.local), config, "darwin");
    expect({ api, ingest, throughVip }).toEqual({
      api: "http://127.0.0.1:8580",
      ingest: "http://127.0.0.1:8581",
      throughVip: false,
    });
    const published = plan(config.local).nodes[0]?.published.map((port) => port.external);
    expect(published).toContain(8580);
    expect(published).toContain(8581);
  });
});

describe("the first steps", () => {
  const steps = (stack: string, now: string) =>
    firstSteps(entry(plan(), parseConfig({ target: "local" }), "linux"), stack, new Date(now));

  it.each(["2026-12-01T01:12:10.400Z", "2027-02-28T23:59:59Z", "2028-01-31T00:00:00Z"])(
    "send a line of this very minute: %s",
    (now) => {
      const [, line] = /-d '(.*)'/.exec(steps("local", now)) ?? [];
      expect(parseLine(line!, new Date(now))).toMatchObject({
        event_timestamp: Math.floor(Date.parse(now) / 1000),
        source_ip: "192.0.2.7",
        event_outcome: "failure",
      });
    },
  );

  it("are for the stack that is up, and show no token", () => {
    expect(steps("local", "2026-12-01T00:00:00Z")).not.toMatch(/-s |eyJ/);
    const others = steps("test", "2026-12-01T00:00:00Z");
    expect(others.match(/npm run .*/g)).toEqual([
      "npm run secret -- -s test statsPassword)",
      "npm run send -- -s test FILE",
      "npm run --silent token -- -s test --tenant demo)",
    ]);
  });
});
