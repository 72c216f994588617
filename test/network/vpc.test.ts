// The network's components under mocks: exact counts for both tiers, and the inputs that decide.

import type * as pulumi from "@pulumi/pulumi";
import { beforeAll, describe, expect, it } from "vitest";
import { Endpoints } from "../../components/network/endpoints.ts";
import { FlowLogs } from "../../components/network/flow-logs.ts";
import { Vpc } from "../../components/network/vpc.ts";
import {
  account,
  awsConfig,
  counts,
  inputsOf,
  prodConfig,
  record,
  type Registered,
  region,
  valueOf,
  waitsFor,
  zoneNames,
} from "./mocked.ts";

const network = (config: ReturnType<typeof awsConfig>, zones: readonly string[] = zoneNames) =>
  record((opts) => new Vpc("vpc", { config, stack: "test", zones }, opts));

describe("the VPC", () => {
  let dev: Awaited<ReturnType<typeof network>>;
  let prod: Awaited<ReturnType<typeof network>>;
  beforeAll(async () => {
    dev = await network(awsConfig());
    prod = await network(prodConfig());
  });

  const same = {
    Vpc: 1,
    InternetGateway: 1,
    DefaultSecurityGroup: 1,
    VpcDhcpOptions: 1,
    VpcDhcpOptionsAssociation: 1,
    DefaultRouteTable: 1,
    // One for the public subnets, one for each private one.
    RouteTable: 1 + 3,
    Route: 1 + 3,
    Subnet: 6,
    RouteTableAssociation: 6,
    // Three blocks of machine addresses in each private subnet.
    SubnetCidrReservation: 9,
    VpcEndpoint: 1,
  };
  it("has exactly these resources in dev", () => {
    expect(counts(dev.resources)).toEqual({ ...same, Eip: 1, NatGateway: 1 });
  });
  it("has exactly these resources in prod", () => {
    expect(counts(prod.resources)).toEqual({ ...same, Eip: 3, NatGateway: 3 });
  });

  it("lets nobody in by a public address of a machine, and has names inside", () => {
    for (const { name, inputs } of prod.resources.filter(({ type }) => type.endsWith(":Subnet"))) {
      expect(inputs["mapPublicIpOnLaunch"], name).toBe(false);
    }
    expect(inputsOf(prod.resources, "Vpc")["vpc"]).toMatchObject({
      cidrBlock: "10.42.0.0/16",
      enableDnsSupport: true,
      enableDnsHostnames: true,
    });
    expect(inputsOf(prod.resources, "VpcDhcpOptions")["vpc-dhcp"]).toMatchObject({
      domainName: "siem.internal",
      domainNameServers: ["AmazonProvidedDNS"],
      ntpServers: ["169.254.169.123"],
    });
  });

  it("empties the default security group", () => {
    expect(inputsOf(dev.resources, "DefaultSecurityGroup")["vpc-default"]).toMatchObject({
      vpcId: "Vpc/vpc",
      ingress: [],
      egress: [],
    });
  });

  it("puts each zone's subnets into it, in the blocks of the address plan", () => {
    const placed = Object.entries(inputsOf(prod.resources, "Subnet")).map(([name, inputs]) => [
      name,
      inputs["availabilityZone"],
      inputs["cidrBlock"],
    ]);
    expect(placed.sort()).toEqual([
      ["vpc-private-1", "eu-central-1a", "10.42.0.0/20"],
      ["vpc-private-2", "eu-central-1b", "10.42.16.0/20"],
      ["vpc-private-3", "eu-central-1c", "10.42.32.0/20"],
      ["vpc-public-1", "eu-central-1a", "10.42.64.0/20"],
      ["vpc-public-2", "eu-central-1b", "10.42.80.0/20"],
      ["vpc-public-3", "eu-central-1c", "10.42.96.0/20"],
    ]);
  });

  const routes = (resources: readonly Registered[]) =>
    Object.entries(inputsOf(resources, "Route"))
      .map(([name, i]) => [
        name,
        i["routeTableId"],
        i["destinationCidrBlock"],
        i["gatewayId"] ?? i["natGatewayId"],
      ])
      .sort();
  it("leaves each zone through its own NAT gateway in prod", () => {
    expect(routes(prod.resources)).toEqual([
      ["vpc-private-1-internet", "RouteTable/vpc-private-1", "0.0.0.0/0", "NatGateway/vpc-nat-1"],
      ["vpc-private-2-internet", "RouteTable/vpc-private-2", "0.0.0.0/0", "NatGateway/vpc-nat-2"],
      ["vpc-private-3-internet", "RouteTable/vpc-private-3", "0.0.0.0/0", "NatGateway/vpc-nat-3"],
      ["vpc-public-internet", "RouteTable/vpc-public", "0.0.0.0/0", "InternetGateway/vpc-internet"],
    ]);
    const nats = inputsOf(prod.resources, "NatGateway");
    for (const zone of [1, 2, 3]) {
      expect(nats[`vpc-nat-${zone}`]).toMatchObject({
        subnetId: `Subnet/vpc-public-${zone}`,
        allocationId: `Eip/vpc-nat-${zone}`,
      });
    }
  });
  it("leaves all zones through the first one's in dev", () => {
    expect(routes(dev.resources).map((route) => route[3])).toEqual([
      "NatGateway/vpc-nat-1",
      "NatGateway/vpc-nat-1",
      "NatGateway/vpc-nat-1",
      "InternetGateway/vpc-internet",
    ]);
  });
  it("gives each subnet the table of its own", () => {
    const tables = Object.values(inputsOf(dev.resources, "RouteTableAssociation")).map((inputs) => [
      inputs["subnetId"],
      inputs["routeTableId"],
    ]);
    expect(tables.sort()).toEqual([
      ["Subnet/vpc-private-1", "RouteTable/vpc-private-1"],
      ["Subnet/vpc-private-2", "RouteTable/vpc-private-2"],
      ["Subnet/vpc-private-3", "RouteTable/vpc-private-3"],
      ["Subnet/vpc-public-1", "RouteTable/vpc-public"],
      ["Subnet/vpc-public-2", "RouteTable/vpc-public"],
      ["Subnet/vpc-public-3", "RouteTable/vpc-public"],
    ]);
  });

  it("hands out every route table of the VPC, the main one too, which has no routes of its own", async () => {
    const tables = await Promise.all(
      Object.entries(prod.result.routeTables).map(async ([name, id]) => [name, await valueOf(id)]),
    );
    expect(tables).toEqual([
      ["main", "DefaultRouteTable/vpc-main"],
      ["public", "RouteTable/vpc-public"],
      ["private-1", "RouteTable/vpc-private-1"],
      ["private-2", "RouteTable/vpc-private-2"],
      ["private-3", "RouteTable/vpc-private-3"],
    ]);
    const main = inputsOf(prod.resources, "DefaultRouteTable")["vpc-main"];
    expect(main).toMatchObject({ defaultRouteTableId: "rtb-main" });
    // Inline routes, even none, would take the overlay address's routes away.
    for (const { name, inputs } of prod.resources.filter(({ type }) => /RouteTable$/.test(type))) {
      expect(inputs["routes"], name).toBeUndefined();
    }
  });

  it("makes a NAT gateway only once the internet is there, and its address too", async () => {
    for (const resource of prod.resources) {
      if (resource.type.endsWith(":NatGateway"))
        expect(await waitsFor(resource)).toEqual(["vpc-public-internet"]);
      if (resource.type.endsWith(":Eip")) expect(await waitsFor(resource)).toEqual(["vpc-internet"]);
    }
  });

  it("makes machines wait for their way out", async () => {
    const names = await Promise.all(
      prod.result.ready.map(async (one) => (await valueOf(one.urn)).split("::").at(-1)),
    );
    expect(names).toEqual(
      expect.arrayContaining(["vpc-private-1-internet", "vpc-private-2-internet", "vpc-private-3-internet"]),
    );
  });

  it("keeps the machines' addresses for them before it gives a private subnet away", async () => {
    const reserved = Object.values(inputsOf(dev.resources, "SubnetCidrReservation"));
    for (const inputs of reserved) expect(inputs["reservationType"]).toBe("explicit");
    expect(
      reserved.filter((inputs) => inputs["subnetId"] === "Subnet/vpc-private-2").map((i) => i["cidrBlock"]),
    ).toEqual(["10.42.16.8/29", "10.42.16.16/28", "10.42.16.32/28"]);
    // What takes the subnet's id waits for its reservations too.
    const [first] = dev.result.privateSubnetIds;
    if (first === undefined) throw new Error("no private subnet");
    const known = first as unknown as { allResources(): Promise<Set<pulumi.Resource>> };
    const after = await Promise.all(
      [...(await known.allResources())].map(async ({ urn }) => (await valueOf(urn)).split("::").at(-1)),
    );
    expect(after.sort()).toEqual([
      "vpc-private-1",
      "vpc-private-1-machines-1",
      "vpc-private-1-machines-2",
      "vpc-private-1-machines-3",
    ]);
  });

  it("reaches S3 from every private subnet without NAT", () => {
    expect(inputsOf(dev.resources, "VpcEndpoint")["vpc-s3"]).toMatchObject({
      serviceName: "com.amazonaws.eu-central-1.s3",
      vpcEndpointType: "Gateway",
      routeTableIds: ["RouteTable/vpc-private-1", "RouteTable/vpc-private-2", "RouteTable/vpc-private-3"],
    });
  });

  it("changes nothing that is there when the tier grows", () => {
    const later = new Map(
      prod.resources.map((resource) => [`${resource.type} ${resource.name}`, resource.inputs]),
    );
    for (const { type, name, inputs } of dev.resources) {
      const now = later.get(`${type} ${name}`);
      // Only two zones' way out moves; a route's target changes in place.
      if (/^vpc-private-[23]-internet$/.test(name)) continue;
      expect(now, `${type} ${name}`).toEqual(inputs);
    }
  });

  it("changes neither NAT gateways nor subnets when a zone is another one", async () => {
    const other = await network(prodConfig(), ["eu-central-1a", "eu-central-1b", "eu-central-1d"]);
    const changed = other.resources.filter(({ type, name, inputs }) => {
      const before = prod.resources.find((resource) => resource.type === type && resource.name === name);
      return JSON.stringify(before?.inputs) !== JSON.stringify(inputs);
    });
    expect(changed.map(({ name }) => name)).toEqual(["vpc-public-3", "vpc-private-3"]);
  });

  it("tags everything that AWS shows in a list", () => {
    for (const { type, name, inputs } of prod.resources) {
      if (/:(Route|RouteTableAssociation|VpcDhcpOptionsAssociation|SubnetCidrReservation)$/.test(type))
        continue;
      expect((inputs["tags"] as Record<string, string>)["Name"], `${type} ${name}`).toMatch(/^test-/);
    }
  });
});

describe("the endpoint of EC2's API", () => {
  it.each([awsConfig(), prodConfig()])(
    "stands in the load balancers' zones, in every tier",
    async (config) => {
      const { resources } = await record(
        (opts) =>
          new Endpoints(
            "endpoints",
            {
              config,
              stack: "test",
              vpcId: "vpc-1",
              privateSubnetIds: ["subnet-1", "subnet-2", "subnet-3"],
              securityGroupId: "sg-1",
            },
            opts,
          ),
      );
      expect(counts(resources)).toEqual({ VpcEndpoint: 1 });
      const inputs = inputsOf(resources, "VpcEndpoint")["endpoints-ec2"];
      expect(inputs).toMatchObject({
        serviceName: "com.amazonaws.eu-central-1.ec2",
        vpcEndpointType: "Interface",
        privateDnsEnabled: true,
        subnetIds: ["subnet-1", "subnet-2"],
        securityGroupIds: ["sg-1"],
      });
      const policy = JSON.parse(String(inputs?.["policy"])) as {
        Statement: { Action: string; Resource: string }[];
      };
      expect(policy.Statement.map(({ Action, Resource }) => [Action, Resource])).toEqual([
        ["ec2:DescribeRouteTables", "*"],
        ["ec2:ReplaceRoute", `arn:aws:ec2:${region}:${account}:route-table/*`],
      ]);
    },
  );
});

describe("flow logs", () => {
  const logs = (kmsKeyArn?: string) =>
    record((opts) => new FlowLogs("flow-logs", { stack: "test", vpcId: "vpc-1", kmsKeyArn }, opts));

  it("write every flow into one group, which is kept for a while", async () => {
    const { resources } = await logs();
    expect(counts(resources)).toEqual({ LogGroup: 1, Role: 1, RolePolicy: 1, FlowLog: 1 });
    expect(inputsOf(resources, "LogGroup")["flow-logs"]).toMatchObject({
      name: "/siem-ha/test/flow-logs",
      retentionInDays: 90,
    });
    expect(inputsOf(resources, "LogGroup")["flow-logs"]).not.toHaveProperty("kmsKeyId");
    expect(inputsOf(resources, "FlowLog")["flow-logs"]).toMatchObject({
      vpcId: "vpc-1",
      trafficType: "ALL",
      iamRoleArn: `arn:aws:iam::${account}:role/flow-logs`,
    });
    const flow = resources.find(({ type }) => type.endsWith(":FlowLog"));
    expect(flow && (await waitsFor(flow))).toEqual(["flow-logs"]);
  });

  it("are encrypted with the key that is given", async () => {
    const arn = `arn:aws:kms:${region}:${account}:key/0a1b`;
    const { resources } = await logs(arn);
    expect(inputsOf(resources, "LogGroup")["flow-logs"]).toMatchObject({ kmsKeyId: arn });
  });

  it("may be written by this account's flow logs only, and only there", async () => {
    const { resources } = await logs();
    const trust = JSON.parse(
      String(inputsOf(resources, "Role")["flow-logs"]?.["assumeRolePolicy"]),
    ) as unknown;
    expect(trust).toMatchObject({
      Statement: [
        {
          Principal: { Service: "vpc-flow-logs.amazonaws.com" },
          Condition: {
            StringEquals: { "aws:SourceAccount": account },
            ArnLike: { "aws:SourceArn": `arn:aws:ec2:*:${account}:vpc-flow-log/*` },
          },
        },
      ],
    });
    const policy = JSON.parse(String(inputsOf(resources, "RolePolicy")["flow-logs"]?.["policy"])) as {
      Statement: { Action: string[]; Resource: string }[];
    };
    expect(policy.Statement).toHaveLength(1);
    expect(policy.Statement[0]?.Resource).toBe(
      `arn:aws:logs:${region}:${account}:log-group:/siem-ha/test/flow-logs:*`,
    );
    expect(policy.Statement[0]?.Action.join()).not.toContain("*");
  });
});
