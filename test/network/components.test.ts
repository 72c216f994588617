// Security groups, names, and the public entry under mocks: exact counts, and the inputs that decide.

import { describe, expect, it } from "vitest";
import { type AwsConfig } from "../../components/config.ts";
import { PublicEntry } from "../../components/edge/public-entry.ts";
import { addressesByName, PrivateDns } from "../../components/network/dns.ts";
import { rules } from "../../components/network/rules.ts";
import { SecurityGroups } from "../../components/network/security-groups.ts";
import {
  awsConfig,
  counts,
  inputsOf,
  prodConfig,
  publicEntry,
  record,
  topologyOf,
  valueOf,
  waitsFor,
} from "./mocked.ts";

describe("security groups", () => {
  const make = (config: AwsConfig) =>
    record(
      (opts) =>
        new SecurityGroups(
          "groups",
          { config, stack: "test", vpcId: "vpc-1", topology: topologyOf(config) },
          opts,
        ),
    );

  it("are one a role, one for the way in and one for the endpoints, with these rules", async () => {
    const { resources, result } = await make(awsConfig());
    expect(counts(resources)).toEqual({
      SecurityGroup: 5,
      SecurityGroupIngressRule: 26,
      SecurityGroupEgressRule: 36,
    });
    expect(await valueOf(result.ofRole.store)).toBe("SecurityGroup/groups-store");
    expect(await valueOf(result.access)).toBe("SecurityGroup/groups-access");
    expect(await valueOf(result.endpoint)).toBe("SecurityGroup/groups-endpoint");
    expect(result.publicEntry).toBeUndefined();
    expect(result.ready).toHaveLength(26 + 36);
  });

  it("have one more for the public entry", async () => {
    const { resources, result } = await make(prodConfig({ entry: { loadBalancer: publicEntry } }));
    // Two listeners from everywhere, and two ports of the load balancers behind them.
    expect(counts(resources)).toEqual({
      SecurityGroup: 6,
      SecurityGroupIngressRule: 26 + 2 + 2,
      SecurityGroupEgressRule: 36 + 2,
    });
    expect(result.publicEntry && (await valueOf(result.publicEntry))).toBe(
      "SecurityGroup/groups-publicEntry",
    );
  });

  it("have no rules of their own: those are resources, one each, all described", async () => {
    const config = prodConfig({ entry: { loadBalancer: publicEntry } });
    const { resources } = await make(config);
    for (const [name, inputs] of Object.entries(inputsOf(resources, "SecurityGroup"))) {
      expect(inputs["ingress"], name).toBeUndefined();
      expect(inputs["egress"], name).toBeUndefined();
      expect(inputs["vpcId"], name).toBe("vpc-1");
      expect(inputs["description"], name).toMatch(/^[A-Z][A-Za-z: ]+$/);
    }
    const made = {
      ...inputsOf(resources, "SecurityGroupIngressRule"),
      ...inputsOf(resources, "SecurityGroupEgressRule"),
    };
    for (const rule of rules(config, topologyOf(config))) {
      const inputs = made[`groups-${rule.name}`];
      expect(inputs, rule.name).toMatchObject({
        securityGroupId: `SecurityGroup/groups-${rule.group}`,
        ipProtocol: rule.protocol,
        fromPort: rule.fromPort,
        toPort: rule.toPort,
        description: rule.description,
      });
      const { peer } = rule;
      // Exactly one peer: EC2 takes no more.
      expect([inputs?.["referencedSecurityGroupId"], inputs?.["cidrIpv4"]], rule.name).toEqual(
        "group" in peer ? [`SecurityGroup/groups-${peer.group}`, undefined] : [undefined, peer.cidr],
      );
    }
    const ways = resources.filter(({ type }) => type.endsWith("Rule"));
    for (const { type, name } of ways) expect(name.includes("-in-"), name).toBe(type.includes("Ingress"));
  });
});

describe("private names", () => {
  const config = awsConfig();
  const topology = topologyOf(config);
  const make = () =>
    record((opts) => new PrivateDns("dns", { config, stack: "test", vpcId: "vpc-1", topology }, opts));

  it("are two zones that only the VPC sees, with a record for every name", async () => {
    const { resources, result } = await make();
    // 9 nodes; 3 API, 3 ingestor, 2 HAProxy, 2 Keepalived; 3 ZooKeeper, 3 Kafka; 3 ClickHouse and all of them; VIP.
    expect(counts(resources)).toEqual({ Zone: 2, Record: 9 + 10 + 6 + 4 + 1 });
    expect(inputsOf(resources, "Zone")).toMatchObject({
      "dns-zone": { name: "siem.internal", vpcs: [{ vpcId: "vpc-1" }] },
      "dns-vip-zone": { name: "siem.vip", vpcs: [{ vpcId: "vpc-1" }] },
    });
    expect(result.ready).toHaveLength(30);
  });

  it("lead to the machines' addresses, and one leads to all three of ClickHouse", async () => {
    const records = inputsOf((await make()).resources, "Record");
    expect(records["dns-kafka-2"]).toMatchObject({
      zoneId: "Z-dns-zone",
      name: "kafka-2.siem.internal",
      type: "A",
      ttl: 60,
      records: ["10.42.16.21"],
    });
    expect(records["dns-lb-node-3"]?.["records"]).toEqual(["10.42.32.11"]);
    expect(records["dns-clickhouse-cluster"]?.["records"]).toEqual([
      "10.42.0.31",
      "10.42.16.31",
      "10.42.32.31",
    ]);
  });

  it("give the virtual IP its own name", async () => {
    expect(inputsOf((await make()).resources, "Record")["dns-vip"]).toMatchObject({
      zoneId: "Z-dns-vip-zone",
      name: "siem.vip",
      records: ["172.25.0.222"],
    });
  });

  it("cover every name that a guest is reached by", () => {
    const found = addressesByName(topology);
    for (const node of topology.nodes) {
      for (const name of [node.alias, ...node.aliases]) expect(found.get(name), name).toContain(node.address);
    }
  });
});

describe("the public entry", () => {
  const make = (config: AwsConfig) =>
    record(
      (opts) =>
        new PublicEntry(
          "public-entry",
          {
            config,
            stack: "test",
            vpcId: "vpc-1",
            subnetIds: ["subnet-1", "subnet-2"],
            securityGroupId: "sg-1",
            targets: { "lb-node-1": "i-1", "lb-node-2": "i-2" },
            after: [],
          },
          opts,
        ),
    );
  const tls = prodConfig({ entry: { loadBalancer: publicEntry } });

  it("is one load balancer with both machines behind both entries", async () => {
    const { resources } = await make(tls);
    expect(counts(resources)).toEqual({
      LoadBalancer: 1,
      TargetGroup: 2,
      TargetGroupAttachment: 4,
      Listener: 2,
    });
    expect(inputsOf(resources, "LoadBalancer")["public-entry"]).toMatchObject({
      loadBalancerType: "network",
      internal: false,
      subnets: ["subnet-1", "subnet-2"],
      securityGroups: ["sg-1"],
      enableCrossZoneLoadBalancing: true,
      enableDeletionProtection: true,
    });
    expect(
      Object.values(inputsOf(resources, "TargetGroupAttachment"))
        .map(({ targetId, port }) => `${String(targetId)} ${String(port)}`)
        .sort(),
    ).toEqual(["i-1 8080", "i-1 8081", "i-2 8080", "i-2 8081"]);
  });

  it("ends TLS with the certificate, in a modern version only", async () => {
    const { resources, result } = await make(tls);
    const listeners = Object.values(inputsOf(resources, "Listener"));
    expect(listeners.map(({ port, protocol }) => [port, protocol])).toEqual([
      [443, "TLS"],
      [8443, "TLS"],
    ]);
    for (const listener of listeners) {
      expect(listener).toMatchObject({
        certificateArn: publicEntry.certificateArn,
        sslPolicy: "ELBSecurityPolicy-TLS13-1-2-2021-06",
      });
    }
    expect(await valueOf(result.apiUrl)).toBe("https://public-entry.elb.example.org:443");
    expect(await valueOf(result.ingestUrl)).toBe("https://public-entry.elb.example.org:8443");
  });

  it("speaks plain TCP without one, inside", async () => {
    const { resources, result } = await make(
      awsConfig({ entry: { loadBalancer: { public: false, clients: ["10.0.0.0/8"] } } }),
    );
    expect(inputsOf(resources, "LoadBalancer")["public-entry"]).toMatchObject({
      internal: true,
      enableDeletionProtection: false,
    });
    for (const listener of Object.values(inputsOf(resources, "Listener"))) {
      expect(listener["protocol"]).toBe("TCP");
      expect(listener["certificateArn"]).toBeUndefined();
    }
    expect(await valueOf(result.apiUrl)).toBe("http://public-entry.elb.example.org:8080");
  });

  it("asks HAProxy itself, and keeps the clients' addresses", async () => {
    for (const [name, inputs] of Object.entries(inputsOf((await make(tls)).resources, "TargetGroup"))) {
      expect(inputs, name).toMatchObject({
        targetType: "instance",
        protocol: "TCP",
        preserveClientIp: "true",
        vpcId: "vpc-1",
        healthCheck: { protocol: "HTTP", port: "traffic-port", matcher: "200-599" },
      });
      // What AWS allows for the names it is given: 32 characters, seven of them random.
      expect(name.length).toBeLessThanOrEqual(32 - 8);
    }
  });

  it("is refused where the configuration has none", async () => {
    await expect(make(awsConfig())).rejects.toThrow(/needs entry\.loadBalancer/);
  });

  it("waits for what it is told to", async () => {
    const { resources } = await record((opts) => {
      const topology = topologyOf(tls);
      const groups = new SecurityGroups(
        "groups",
        { config: tls, stack: "test", vpcId: "vpc-1", topology },
        opts,
      );
      return new PublicEntry(
        "public-entry",
        {
          config: tls,
          stack: "test",
          vpcId: "vpc-1",
          subnetIds: ["subnet-1"],
          securityGroupId: "sg-1",
          targets: {},
          after: groups.ready,
        },
        opts,
      );
    });
    const balancer = resources.find(({ type }) => type.endsWith(":LoadBalancer"));
    expect(balancer && (await waitsFor(balancer))).toHaveLength(26 + 2 + 2 + 36 + 2);
  });
});
