// The scenarios: none is missing, each has a name of its own, and each hits what it says.

import { describe, expect, it } from "vitest";
import { plan } from "../../../components/topology.ts";
import { cut } from "../../../ops/chaos/network.ts";
import { partsOf } from "../../../ops/chaos/parts.ts";
import { pairsOf, placesOf, type Parts, scenariosOf, vrrpLimit } from "../../../ops/chaos/scenarios.ts";

const topology = plan({ prefix: "x-" });
const scenarios = scenariosOf(topology);
const parts: Parts = {
  holder: 2,
  backup: 1,
  controller: 3,
  "partition leader": 1,
  "other broker": 2,
  "ZooKeeper's leader": 3,
  "a ZooKeeper follower": 1,
};
const stepsOf = (name: string) => scenarios.find((scenario) => scenario.name === name)?.steps ?? [];
const victimsOf = (name: string) =>
  scenarios
    .filter((scenario) => scenario.name === name)
    .flatMap(({ steps }) => steps.flat())
    .flatMap((fault) => ("victims" in fault ? fault.victims : "side" in fault ? fault.side : []));

describe("the scenarios", () => {
  it("have unique names that a command line takes as they are", () => {
    const names = scenarios.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z0-9-]+$/);
  });

  it("break every service in every way, and every kind of node, zone and network", () => {
    const names = new Set(scenarios.map(({ name }) => name));
    const wanted = [
      ...["haproxy", "keepalived"].flatMap((service) =>
        ["holder", "backup"].flatMap((which) =>
          ["stop", "restart", "kill", "pause"].map((what) => `${service}-${which}-${what}`),
        ),
      ),
      "haproxy-reload",
      // What is stopped as a node is started as one: that is its restart.
      ...["holder", "backup", "witness"].flatMap((which) => [
        ...["kill", "stop", "pause", "restart"].map((what) => `lb-anchor-${which}-${what}`),
        ...["kill", "pause", "restart"].map((what) => `lb-node-${which}-${what}`),
      ]),
      ...["witness-kill", "witness-stop", "witness-pause", "witness-and-holder-kill"],
      "lb-anchors-loop",
      ...[
        "api",
        "ingestor",
        "kafka-controller",
        "kafka-partition-leader",
        "kafka-other-broker",
        "zookeeper-leader",
        "zookeeper-follower",
        "clickhouse",
      ].flatMap((who) => ["kill", "stop", "pause"].map((what) => `${who}-${what}`)),
      ...["stream-node-kill", "store-node-kill", "zone-1-kill", "zone-2-kill", "zone-3-kill"],
      ...["lb-node", "stream-node", "store-node", "zone", "lb-pair", "lb-quorum"].map(
        (what) => `cut-${what}`,
      ),
      ...["lb-node", "stream-node"].map((what) => `link-down-up-${what}`),
      ...["clickhouse", "kafka", "zookeeper", "zone-2"].map((who) => `${who}-power-cut`),
      ...["store-disk-full", "broker-and-clickhouse-kill", "haproxy-and-ingestor-kill"],
      ...["supervisor-and-api-kill", "watchdog-and-ingestor-kill", "storm", "daemon-restart"],
    ];
    expect([...names].sort()).toEqual(wanted.sort());
  });

  it("hit each API and each ingestor", () => {
    for (const service of ["api", "ingestor"] as const) {
      const hit = victimsOf(`${service}-pause`).flatMap(
        (victim) => placesOf(victim, topology, parts).containers,
      );
      expect(hit).toEqual(topology[service].map(({ name }) => name));
    }
  });

  it("hit what is there, whoever plays which part", () => {
    const containers = new Set(
      [
        ...[
          ...topology.nodes,
          ...topology.haproxy,
          ...topology.keepalived,
          ...topology.api,
          ...topology.ingestor,
          ...[topology.witness, topology.supervisor, topology.watchdog],
        ],
        ...[...topology.zookeeper, ...topology.kafka, ...topology.clickhouse],
      ].map(({ name }) => name),
    );
    for (const { name } of scenarios) {
      for (const victim of victimsOf(name)) {
        const { containers: found, anchors } = placesOf(victim, topology, parts);
        expect([...found, ...anchors].length, name).toBeGreaterThan(0);
        for (const one of [...found, ...anchors]) expect(containers, name).toContain(one);
      }
    }
  });

  it("find a part by who plays it now", () => {
    const of = (name: string) => victimsOf(name).map((victim) => placesOf(victim, topology, parts));
    expect(of("haproxy-holder-kill")).toEqual([{ containers: ["x-haproxy-2"], anchors: [] }]);
    expect(of("kafka-controller-stop")).toEqual([{ containers: ["x-kafka-3"], anchors: [] }]);
    expect(of("lb-node-holder-kill")).toEqual([{ containers: [], anchors: ["x-lb-node-2"] }]);
    expect(of("zone-3-kill")).toEqual([
      { containers: [], anchors: ["x-lb-node-3", "x-stream-node-3", "x-store-node-3"] },
    ]);
  });

  it("promise what the contract says", () => {
    const promise = (name: string) => scenarios.find((scenario) => scenario.name === name)?.promise;
    for (const what of ["stop", "restart", "kill"])
      expect(promise(`haproxy-holder-${what}`)).toMatchObject({ limit: "outage", ms: 100 });
    expect(promise("haproxy-reload")).toEqual({ limit: "failed requests", most: 0 });
    // VRRP's 3 × 100 ms, and the skew of priority 253, with 15 % on top.
    expect(vrrpLimit(topology)).toBeCloseTo(301.17, 1);
    expect(promise("lb-node-holder-kill")).toMatchObject({ limit: "outage", ms: 346 });
    for (const name of ["lb-anchors-loop", "cut-lb-node", "cut-zone", "keepalived-holder-kill"])
      expect(promise(name), name).toMatchObject({ ms: 346 });
    for (const zone of [1, 2, 3]) expect(promise(`zone-${zone}-kill`)).toMatchObject({ ms: 346 });
    // Both claim the address then, and the witness decides, or one lets go before its lease ends.
    expect(promise("cut-lb-pair")).toMatchObject({ limit: "outage", ms: 1_000 });
    expect(promise("cut-lb-quorum")).toMatchObject({ limit: "outage", ms: 1_500 });
    expect(promise("haproxy-holder-pause")).toMatchObject({ limit: "outage", ms: 500 });
  });

  it("promise that the address stays where nothing of it is hit, a busy machine included", () => {
    const still = scenarios.flatMap(({ name, promise }) => (promise?.limit === "takeovers" ? [name] : []));
    expect(still).toContain("storm");
    expect(still).toContain("clickhouse-kill");
    expect(still).toContain("cut-stream-node");
    expect(still.filter((name) => /haproxy|keepalived|witness|lb|zone|daemon/.test(name))).toEqual([]);
    const [[fault] = []] = stepsOf("storm");
    expect(fault).toEqual({ do: "keep busy", containers: 40, seconds: 150 });
  });

  it("say who heals them", () => {
    for (const { name, heals, steps } of scenarios) {
      const faults = steps.flat();
      const lasts = faults.some((fault) => "seconds" in fault);
      const reboots = faults.some(
        (fault) => fault.do === "restart" && fault.victims.some(({ kind }) => kind === "node"),
      );
      // The link is up again when the fault ends; its route is not.
      if (faults.some((fault) => fault.do === "take the link down"))
        expect(heals, name).toBe("by the supervisor");
      else if (lasts || reboots) expect(heals, name).toBe("when the fault ends");
    }
  });

  it("have a fast half of about six", () => {
    expect(scenarios.filter(({ fast }) => fast === true).map(({ name }) => name)).toEqual([
      "haproxy-holder-kill",
      "lb-node-holder-kill",
      "ingestor-kill",
      "kafka-partition-leader-kill",
      "clickhouse-kill",
      "cut-lb-pair",
    ]);
  });

  it("are had two at once only where they break different things", () => {
    const pairs = pairsOf(scenarios);
    expect(new Set(pairs.map(({ name }) => name)).size).toBe(pairs.length);
    const areaOf = new Map(scenarios.map(({ name, area }) => [name, area]));
    for (const { name, steps } of pairs) {
      const [one = "", other = ""] = name.split("+");
      expect(areaOf.get(one), name).toBeDefined();
      expect(areaOf.get(one), name).not.toBe(areaOf.get(other));
      expect(steps.flat(), name).toEqual(expect.arrayContaining([...stepsOf(one), ...stepsOf(other)].flat()));
    }
  });

  it("are had two at once step by step", () => {
    const pair = pairsOf(scenarios).find(({ name }) => name === "haproxy-holder-kill+api-kill");
    const [proxy, api] = [stepsOf("haproxy-holder-kill"), stepsOf("api-kill")];
    expect(api).toHaveLength(3);
    expect(pair?.breaks).toMatch(/^each API in turn .*; with its first step HAProxy /);
    expect(pair?.steps).toEqual([[...(api[0] ?? []), ...(proxy[0] ?? [])], ...api.slice(1)]);
  });
});

describe("the parts", () => {
  const modes = new Map([
    [1, "follower"],
    [2, "leader"],
    [3, "follower"],
  ]);
  it("are looked up", () => {
    expect(partsOf(topology, ["x-lb-node-1"], { controller: 1, leader: 2 }, modes)).toEqual({
      holder: 1,
      backup: 2,
      controller: 1,
      "partition leader": 2,
      "other broker": 3,
      "ZooKeeper's leader": 2,
      "a ZooKeeper follower": 1,
    });
  });
  it("are refused where nobody plays one", () => {
    expect(() => partsOf(topology, [], { controller: 1, leader: 2 }, modes)).toThrow(
      "nobody is holder now (VIP: nowhere)",
    );
  });
});

describe("a cut", () => {
  const card = (n: number) => ({ node: `n${n}`, mac: `02:42:00:00:00:0${n}`, address: `172.25.0.${n}` });
  it("of a side from everything drops what comes and what goes, but not what the side says to itself", () => {
    const rules = cut([card(1), card(2)]);
    expect([...rules.keys()]).toEqual(["n1", "n2"]);
    const text = rules.get("n1") ?? "";
    expect(text).toContain("hook ingress");
    expect(text).toContain("ether saddr != { 02:42:00:00:00:01, 02:42:00:00:00:02 } drop");
    expect(text).toContain("hook egress");
    expect(text).toContain("arp daddr ip != { 172.25.0.1, 172.25.0.2 } drop");
    expect(text).toContain("ether daddr != { 02:42:00:00:00:01, 02:42:00:00:00:02, ff:ff:ff:ff:ff:ff } drop");
  });
  it("between two sides drops each other's frames on both, and nobody else's", () => {
    const rules = cut([card(1)], [card(2), card(3)]);
    expect([...rules.keys()]).toEqual(["n1", "n2", "n3"]);
    expect(rules.get("n1")).toContain("ether saddr { 02:42:00:00:00:02, 02:42:00:00:00:03 } drop");
    expect(rules.get("n3")).toContain("ether saddr { 02:42:00:00:00:01 } drop");
    for (const text of rules.values()) expect(text).not.toContain("egress");
  });
});
