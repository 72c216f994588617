// How clients reach the platform: the VIP where it can be reached, published ports where it can't.

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { plan } from "../../components/topology.ts";
import { entry } from "../../ops/entry.ts";

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
