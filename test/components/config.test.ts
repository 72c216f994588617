// Every wrong configuration gets a message that says what is wrong, what was given and what is allowed.

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";

const message = (values: Record<string, unknown>): string => {
  try {
    parseConfig(values);
  } catch (error) {
    return (error as Error).message;
  }
  return "";
};

describe("parseConfig", () => {
  it("needs nothing but the target", () => {
    const config = parseConfig({ target: "local" });
    expect(config.kafka).toEqual({
      heapMb: 256,
      replicationFactor: 3,
      minInsyncReplicas: 2,
      retentionHours: 168,
      segmentBytes: 1073741824,
      topics: { "ingest-events": { partitions: 6 }, alerts: { partitions: 3 } },
    });
    expect(config.local).toMatchObject({ prefix: "", net: "172.25.0", portOffset: 0 });
  });

  it.each<[string, Record<string, unknown>, RegExp[]]>([
    ["no target", {}, [/siem-ha:target/, /"local"/]],
    ["another target", { target: "moon" }, [/siem-ha:target/, /"local"/, /but is "moon"/]],
    [
      "an unknown key",
      { target: "local", kafak: {} },
      [/kafak/, /allowed: target, local, aws, zookeeper, kafka/],
    ],
    [
      "an unknown nested key",
      { target: "local", kafka: { heap: 1 } },
      [/"heap"/, /allowed: heapMb, replicationFactor/],
    ],
    [
      "a quorum that can't survive",
      { target: "local", kafka: { minInsyncReplicas: 3 } },
      [/with 3 copies .* can be at most 2/, /but is 3/],
    ],
    [
      "a single copy that two must acknowledge",
      { target: "local", kafka: { replicationFactor: 1 } },
      [/with one copy .* can only be 1/, /but is 2/],
    ],
    [
      "a network that is public after all",
      { target: "local", local: { net: "172.99.1" } },
      [/private range/],
    ],
    ["a network with a leading zero", { target: "local", local: { net: "10.01.1" } }, [/private range/]],
    [
      "no partitions",
      { target: "local", kafka: { topics: { alerts: { partitions: 0 } } } },
      [/alerts\.partitions/, /but is 0/],
    ],
    [
      "a public network",
      { target: "local", local: { net: "8.8.8" } },
      [/three octets of a private range/, /but is "8\.8\.8"/],
    ],
    ["a moving image tag", { target: "local", api: { image: "team/api:latest" } }, [/tag latest moves/]],
    ["an image without tag", { target: "local", api: { image: "team/api" } }, [/exact tag or a digest/]],
    [
      "a remote daemon",
      { target: "local", local: { dockerHost: "tcp://example:2375" } },
      [/a socket of this machine/],
    ],
    [
      "text for a number",
      { target: "local", zookeeper: { heapMb: "lots" } },
      [/zookeeper\.heapMb/, /but is "lots"/],
    ],
  ])("refuses %s", (_name, values, patterns) => {
    const said = message(values);
    expect(said).toContain("nothing was touched");
    for (const pattern of patterns) expect(said).toMatch(pattern);
  });

  it("names every problem at once", () => {
    const said = message({ target: "local", zookeeper: { heapMb: 1 }, kafka: { heapMb: 2 } });
    expect(said).toMatch(/zookeeper\.heapMb/);
    expect(said).toMatch(/kafka\.heapMb/);
  });
});
