// The whole network of prod made through AWS's API, emulated, and read back: what it refuses, mocks would let pass.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AwsConfig } from "../../components/config.ts";
import { PublicEntry } from "../../components/edge/public-entry.ts";
import { planAddresses } from "../../components/network/addresses.ts";
import { PrivateDns } from "../../components/network/dns.ts";
import { Endpoints } from "../../components/network/endpoints.ts";
import { FlowLogs } from "../../components/network/flow-logs.ts";
import { type Rule, rules } from "../../components/network/rules.ts";
import { SecurityGroups } from "../../components/network/security-groups.ts";
import { Vpc } from "../../components/network/vpc.ts";
import { type Topology } from "../../components/topology.ts";
import { field, fields, type Moto, startMoto, withoutMoto } from "../aws-emulation/moto.ts";
import {
  type Maker,
  prodConfig,
  publicEntry,
  record,
  region,
  topologyOf,
  valueOf,
  zoneNames,
} from "./mocked.ts";

const configWith = (certificateArn: string) =>
  prodConfig({
    entry: {
      clients: ["10.0.0.0/8", "172.16.5.0/24"],
      loadBalancer: { ...publicEntry, certificateArn },
    },
    admin: { access: "bastion", clients: ["198.51.100.7/32", "10.99.0.0/24"] },
  });

type Inputs = Readonly<Record<string, unknown>>;
const text = (inputs: Inputs, key: string): string => {
  const value = inputs[key];
  if (typeof value !== "string" && typeof value !== "number")
    throw new Error(`${key} is not there, or no text`);
  return String(value);
};
/** `Name.1`, `Name.2`, … as the query API takes lists. */
const list = (name: string, values: unknown): Record<string, string> =>
  Object.fromEntries((values as readonly string[]).map((value, index) => [`${name}.${index + 1}`, value]));

/** The calls that the real provider would make, for every type of this plan that moto has. */
function maker(moto: Moto): {
  readonly make: Maker;
  /** Types that moto does not have. */
  readonly unmade: Set<string>;
  /** What moto refused, in its words. */
  readonly refused: string[];
} {
  const ec2 = (action: string, parameters: Record<string, string>) =>
    moto.call("ec2", region, action, parameters);
  const elb = (action: string, parameters: Record<string, string>) =>
    moto.call("elasticloadbalancing", region, action, parameters);
  const iam = (action: string, parameters: Record<string, string>) =>
    moto.call("iam", region, action, parameters);
  const unmade = new Set<string>();
  const refused: string[] = [];
  const authorize = async (direction: "Ingress" | "Egress", inputs: Inputs) => {
    const peer: Record<string, string> =
      inputs["cidrIpv4"] === undefined
        ? {
            "IpPermissions.1.Groups.1.GroupId": text(inputs, "referencedSecurityGroupId"),
            "IpPermissions.1.Groups.1.Description": text(inputs, "description"),
          }
        : {
            "IpPermissions.1.IpRanges.1.CidrIp": text(inputs, "cidrIpv4"),
            "IpPermissions.1.IpRanges.1.Description": text(inputs, "description"),
          };
    const body = await ec2(`AuthorizeSecurityGroup${direction}`, {
      GroupId: text(inputs, "securityGroupId"),
      "IpPermissions.1.IpProtocol": text(inputs, "ipProtocol"),
      "IpPermissions.1.FromPort": text(inputs, "fromPort"),
      "IpPermissions.1.ToPort": text(inputs, "toPort"),
      ...peer,
    });
    return { id: field(body, "securityGroupRuleId") };
  };
  const makers: Record<string, (inputs: Inputs, name: string) => ReturnType<Maker>> = {
    Vpc: async (inputs) => {
      const id = field(await ec2("CreateVpc", { CidrBlock: text(inputs, "cidrBlock") }), "vpcId");
      const tables = await ec2("DescribeRouteTables", { "Filter.1.Name": "vpc-id", "Filter.1.Value.1": id });
      return { id, state: { defaultRouteTableId: field(tables, "routeTableId") } };
    },
    InternetGateway: async (inputs) => {
      const id = field(await ec2("CreateInternetGateway", {}), "internetGatewayId");
      await ec2("AttachInternetGateway", { InternetGatewayId: id, VpcId: text(inputs, "vpcId") });
      return { id };
    },
    VpcDhcpOptions: async (inputs) => ({
      id: field(
        await ec2("CreateDhcpOptions", {
          "DhcpConfiguration.1.Key": "domain-name",
          "DhcpConfiguration.1.Value.1": text(inputs, "domainName"),
        }),
        "dhcpOptionsId",
      ),
    }),
    VpcDhcpOptionsAssociation: async (inputs, name) => {
      await ec2("AssociateDhcpOptions", {
        DhcpOptionsId: text(inputs, "dhcpOptionsId"),
        VpcId: text(inputs, "vpcId"),
      });
      return { id: name };
    },
    DefaultRouteTable: (inputs) => Promise.resolve({ id: text(inputs, "defaultRouteTableId") }),
    RouteTable: async (inputs) => ({
      id: field(await ec2("CreateRouteTable", { VpcId: text(inputs, "vpcId") }), "routeTableId"),
    }),
    Route: async (inputs, name) => {
      await ec2("CreateRoute", {
        RouteTableId: text(inputs, "routeTableId"),
        DestinationCidrBlock: text(inputs, "destinationCidrBlock"),
        ...(inputs["gatewayId"] === undefined
          ? { NatGatewayId: text(inputs, "natGatewayId") }
          : { GatewayId: text(inputs, "gatewayId") }),
      });
      return { id: name };
    },
    Subnet: async (inputs) => ({
      id: field(
        await ec2("CreateSubnet", {
          VpcId: text(inputs, "vpcId"),
          CidrBlock: text(inputs, "cidrBlock"),
          AvailabilityZone: text(inputs, "availabilityZone"),
        }),
        "subnetId",
      ),
    }),
    RouteTableAssociation: async (inputs) => ({
      id: field(
        await ec2("AssociateRouteTable", {
          RouteTableId: text(inputs, "routeTableId"),
          SubnetId: text(inputs, "subnetId"),
        }),
        "associationId",
      ),
    }),
    Eip: async () => ({ id: field(await ec2("AllocateAddress", { Domain: "vpc" }), "allocationId") }),
    NatGateway: async (inputs) => ({
      id: field(
        await ec2("CreateNatGateway", {
          SubnetId: text(inputs, "subnetId"),
          AllocationId: text(inputs, "allocationId"),
        }),
        "natGatewayId",
      ),
    }),
    VpcEndpoint: async (inputs) => ({
      id: field(
        await ec2("CreateVpcEndpoint", {
          VpcId: text(inputs, "vpcId"),
          ServiceName: text(inputs, "serviceName"),
          VpcEndpointType: text(inputs, "vpcEndpointType"),
          ...list("RouteTableId", inputs["routeTableIds"] ?? []),
          ...list("SubnetId", inputs["subnetIds"] ?? []),
          ...list("SecurityGroupId", inputs["securityGroupIds"] ?? []),
          ...(inputs["policy"] === undefined ? {} : { PolicyDocument: text(inputs, "policy") }),
        }),
        "vpcEndpointId",
      ),
    }),
    SecurityGroup: async (inputs, name) => {
      const id = field(
        await ec2("CreateSecurityGroup", {
          GroupName: name,
          GroupDescription: text(inputs, "description"),
          VpcId: text(inputs, "vpcId"),
        }),
        "groupId",
      );
      // The provider takes away the rule that EC2 gives every new group: everything, everywhere out.
      await ec2("RevokeSecurityGroupEgress", {
        GroupId: id,
        "IpPermissions.1.IpProtocol": "-1",
        "IpPermissions.1.IpRanges.1.CidrIp": "0.0.0.0/0",
      });
      return { id };
    },
    SecurityGroupIngressRule: (inputs) => authorize("Ingress", inputs),
    SecurityGroupEgressRule: (inputs) => authorize("Egress", inputs),
    LogGroup: async (inputs) => {
      await moto.callJson("logs", region, "Logs_20140328.CreateLogGroup", {
        logGroupName: text(inputs, "name"),
      });
      return { id: text(inputs, "name") };
    },
    Role: async (inputs, name) => {
      const body = await iam("CreateRole", {
        RoleName: name,
        AssumeRolePolicyDocument: text(inputs, "assumeRolePolicy"),
      });
      return { id: name, state: { arn: field(body, "Arn") } };
    },
    RolePolicy: async (inputs, name) => {
      await iam("PutRolePolicy", {
        RoleName: text(inputs, "role"),
        PolicyName: name,
        PolicyDocument: text(inputs, "policy"),
      });
      return { id: name };
    },
    FlowLog: async (inputs) => {
      const body = await ec2("CreateFlowLogs", {
        ResourceType: "VPC",
        "ResourceId.1": text(inputs, "vpcId"),
        TrafficType: text(inputs, "trafficType"),
        LogDestination: text(inputs, "logDestination"),
        DeliverLogsPermissionArn: text(inputs, "iamRoleArn"),
        MaxAggregationInterval: text(inputs, "maxAggregationInterval"),
      });
      const [id] = fields(body, "item");
      return { id: id ?? field(body, "flowLogIdSet") };
    },
    LoadBalancer: async (inputs, name) => {
      const body = await elb("CreateLoadBalancer", {
        Name: name,
        Type: text(inputs, "loadBalancerType"),
        Scheme: inputs["internal"] === true ? "internal" : "internet-facing",
        ...list("Subnets.member", inputs["subnets"]),
        ...list("SecurityGroups.member", inputs["securityGroups"]),
      });
      const arn = field(body, "LoadBalancerArn");
      return { id: arn, state: { arn, dnsName: field(body, "DNSName") } };
    },
    TargetGroup: async (inputs, name) => {
      const check = inputs["healthCheck"] as Inputs;
      const body = await elb("CreateTargetGroup", {
        Name: name,
        Protocol: text(inputs, "protocol"),
        Port: text(inputs, "port"),
        VpcId: text(inputs, "vpcId"),
        TargetType: text(inputs, "targetType"),
        HealthCheckProtocol: text(check, "protocol"),
        HealthCheckPath: text(check, "path"),
        HealthCheckPort: text(check, "port"),
        HealthCheckIntervalSeconds: text(check, "interval"),
        HealthCheckTimeoutSeconds: text(check, "timeout"),
        HealthyThresholdCount: text(check, "healthyThreshold"),
        UnhealthyThresholdCount: text(check, "unhealthyThreshold"),
        "Matcher.HttpCode": text(check, "matcher"),
      });
      const arn = field(body, "TargetGroupArn");
      return { id: arn, state: { arn } };
    },
    TargetGroupAttachment: async (inputs, name) => {
      await elb("RegisterTargets", {
        TargetGroupArn: text(inputs, "targetGroupArn"),
        "Targets.member.1.Id": text(inputs, "targetId"),
        "Targets.member.1.Port": text(inputs, "port"),
      });
      return { id: name };
    },
    Listener: async (inputs) => {
      const [action] = inputs["defaultActions"] as Inputs[];
      if (action === undefined) throw new Error("a listener without an action");
      const body = await elb("CreateListener", {
        LoadBalancerArn: text(inputs, "loadBalancerArn"),
        Port: text(inputs, "port"),
        Protocol: text(inputs, "protocol"),
        SslPolicy: text(inputs, "sslPolicy"),
        "Certificates.member.1.CertificateArn": text(inputs, "certificateArn"),
        "DefaultActions.member.1.Type": text(action, "type"),
        "DefaultActions.member.1.TargetGroupArn": text(action, "targetGroupArn"),
      });
      return { id: field(body, "ListenerArn") };
    },
    Zone: async (inputs) => {
      const [vpc] = inputs["vpcs"] as Inputs[];
      const body = await route53(
        moto,
        "hostedzone",
        `<CreateHostedZoneRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><Name>${text(inputs, "name")}</Name><VPC><VPCRegion>${region}</VPCRegion><VPCId>${text(vpc ?? {}, "vpcId")}</VPCId></VPC><CallerReference>${text(inputs, "name")}</CallerReference><HostedZoneConfig><PrivateZone>true</PrivateZone></HostedZoneConfig></CreateHostedZoneRequest>`,
      );
      const zoneId = field(body, "Id").replace("/hostedzone/", "");
      return { id: zoneId, state: { zoneId } };
    },
    Record: async (inputs, name) => {
      const addresses = (inputs["records"] as string[])
        .map((address) => `<ResourceRecord><Value>${address}</Value></ResourceRecord>`)
        .join("");
      await route53(
        moto,
        `hostedzone/${text(inputs, "zoneId")}/rrset`,
        `<ChangeResourceRecordSetsRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeBatch><Changes><Change><Action>CREATE</Action><ResourceRecordSet><Name>${text(inputs, "name")}</Name><Type>A</Type><TTL>${text(inputs, "ttl")}</TTL><ResourceRecords>${addresses}</ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>`,
      );
      return { id: name };
    },
  };
  return {
    unmade,
    refused,
    make: async (type, name, inputs) => {
      const word = type.split(":").at(-1) ?? type;
      const make = makers[word];
      if (make === undefined) unmade.add(word);
      else {
        try {
          return await make(inputs, name);
        } catch (error) {
          refused.push(`${word} ${name}: ${(error as Error).message}`);
        }
      }
      return { id: name };
    },
  };
}

/** Route 53 has no query API: paths and XML. */
async function route53(moto: Moto, path: string, xml?: string): Promise<string> {
  const response = await fetch(`${moto.url}/2013-04-01/${path}`, {
    method: xml === undefined ? "GET" : "POST",
    ...(xml === undefined ? {} : { body: xml }),
    headers: {
      "content-type": "text/xml",
      authorization:
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/route53/aws4_request, SignedHeaders=host, Signature=0",
    },
  });
  const body = await response.text();
  if (response.status >= 300) throw new Error(`moto refuses ${path} (${response.status}): ${body}`);
  return body;
}

describe.skipIf(await withoutMoto())("the network of prod, made in an emulated AWS", () => {
  let moto: Moto;
  let made: ReturnType<typeof maker>;
  let config: AwsConfig;
  let topology: Topology;
  let vpcId: string;
  let groupIds: Readonly<Record<string, string>>;
  let tables: Readonly<Record<string, string>>;

  beforeAll(async () => {
    moto = await startMoto();
    const certificate = (await moto.callJson("acm", region, "CertificateManager.RequestCertificate", {
      DomainName: "siem.example.org",
    })) as { CertificateArn: string };
    config = configWith(certificate.CertificateArn);
    topology = topologyOf(config);
    const instances = await moto.call("ec2", region, "RunInstances", {
      ImageId: "ami-12c6146b",
      MinCount: "2",
      MaxCount: "2",
    });
    const [one, two] = fields(instances, "instanceId");
    made = maker(moto);
    const { result } = await record((opts) => {
      const given = { config, stack: "test", topology };
      const vpc = new Vpc("vpc", { ...given, zones: zoneNames }, opts);
      const { vpcId, privateSubnetIds, publicSubnetIds } = vpc;
      const groups = new SecurityGroups("groups", { ...given, vpcId }, opts);
      new Endpoints(
        "endpoints",
        { ...given, vpcId, privateSubnetIds, securityGroupId: groups.endpoint },
        opts,
      );
      new PrivateDns("dns", { ...given, vpcId }, opts);
      new FlowLogs("flow-logs", { stack: "test", vpcId }, opts);
      if (groups.publicEntry === undefined) throw new Error("prod has a public entry here");
      new PublicEntry(
        "public-entry",
        {
          ...given,
          vpcId,
          subnetIds: publicSubnetIds.slice(0, 2),
          securityGroupId: groups.publicEntry,
          targets: { "lb-node-1": one ?? "", "lb-node-2": two ?? "" },
          after: vpc.ready,
        },
        opts,
      );
      return { vpc, groups };
    }, made.make);
    vpcId = await valueOf(result.vpc.vpcId);
    const named = async (outputs: Readonly<Record<string, Parameters<typeof valueOf<string>>[0]>>) =>
      Object.fromEntries(
        await Promise.all(
          Object.entries(outputs).map(async ([name, id]) => [name, await valueOf(id)] as const),
        ),
      );
    tables = await named(result.vpc.routeTables);
    const { ofRole, access, endpoint, publicEntry: entry } = result.groups;
    groupIds = await named({
      ...ofRole,
      access,
      endpoint,
      ...(entry === undefined ? {} : { publicEntry: entry }),
    });
  }, 180_000);
  afterAll(() => moto.stop());

  const describeIn = (action: string, more: Record<string, string> = {}) =>
    moto.call("ec2", region, action, { "Filter.1.Name": "vpc-id", "Filter.1.Value.1": vpcId, ...more });

  it("is taken as it is, all but what the emulator does not have", () => {
    expect(made.refused).toEqual([]);
    expect([...made.unmade].sort()).toEqual(["DefaultSecurityGroup", "SubnetCidrReservation"]);
  });

  it("has six subnets in three zones, as planned", async () => {
    const plan = planAddresses(config.cidr);
    const body = await describeIn("DescribeSubnets");
    expect(fields(body, "cidrBlock").sort()).toEqual([...plan.public, ...plan.private].sort());
    expect(fields(body, "availabilityZone").sort()).toEqual([...zoneNames, ...zoneNames].sort());
  });

  it("would have been refused with one subnet more in the same place", async () => {
    const again = await moto.tryCall("ec2", region, "CreateSubnet", {
      VpcId: vpcId,
      CidrBlock: "10.42.8.0/21",
    });
    expect(again.status).toBe(400);
    expect(again.body).toContain("InvalidSubnet.Conflict");
  });

  it("has room for a fourth zone and for another tier", async () => {
    for (const block of ["10.42.48.0/20", "10.42.112.0/20", "10.42.128.0/20", "10.42.240.0/20"]) {
      const body = await moto.call("ec2", region, "CreateSubnet", { VpcId: vpcId, CidrBlock: block });
      await moto.call("ec2", region, "DeleteSubnet", { SubnetId: field(body, "subnetId") });
    }
  });

  it("has five route tables, every one of the VPC, and each takes the overlay address", async () => {
    const body = await describeIn("DescribeRouteTables");
    const all = new Set(Object.values(tables));
    expect(all.size).toBe(5);
    expect(new Set(fields(body, "routeTableId"))).toEqual(all);
    const subnets = await describeIn("DescribeSubnets");
    const eni = field(
      await moto.call("ec2", region, "CreateNetworkInterface", { SubnetId: field(subnets, "subnetId") }),
      "networkInterfaceId",
    );
    for (const RouteTableId of all) {
      await moto.call("ec2", region, "CreateRoute", {
        RouteTableId,
        DestinationCidrBlock: `${config.vip}/32`,
        NetworkInterfaceId: eni,
      });
    }
    const after = await describeIn("DescribeRouteTables");
    expect(fields(after, "destinationCidrBlock").filter((to) => to === `${config.vip}/32`)).toHaveLength(5);
    expect(fields(after, "natGatewayId").filter((id) => id !== "")).toHaveLength(3);
    expect(new Set(fields(after, "natGatewayId").filter((id) => id !== "")).size).toBe(3);
  });

  /** What a group's rules say, whichever form they have. */
  const said = (
    group: string,
    rule: Pick<Rule, "direction" | "protocol" | "fromPort" | "toPort">,
    peer: string,
  ) => [group, rule.direction, rule.protocol, rule.fromPort, rule.toPort, peer].join(" ");

  it("has exactly the planned rules in its security groups, none from the emulator's defaults", async () => {
    const names = new Map(Object.entries(groupIds).map(([name, id]) => [id, name]));
    const found: string[] = [];
    for (const [name, id] of Object.entries(groupIds)) {
      const body = await moto.call("ec2", region, "DescribeSecurityGroupRules", {
        "Filter.1.Name": "group-id",
        "Filter.1.Value.1": id,
      });
      for (const item of body.split("<securityGroupRuleId>").slice(1)) {
        const peer =
          fields(item, "cidrIpv4")[0] ??
          names.get(/<referencedGroupInfo>[^]*?<groupId>([^<]+)/.exec(item)?.[1] ?? "");
        found.push(
          said(
            name,
            {
              direction: field(item, "isEgress") === "true" ? "out" : "in",
              protocol: field(item, "ipProtocol") as Rule["protocol"],
              fromPort: Number(field(item, "fromPort")),
              toPort: Number(field(item, "toPort")),
            },
            peer ?? "nobody",
          ),
        );
      }
    }
    const planned = rules(config, topology).map((rule) =>
      said(rule.group, rule, "group" in rule.peer ? rule.peer.group : rule.peer.cidr),
    );
    expect(found.sort()).toEqual(planned.sort());
  });

  it("would have been refused with a rule twice, and with a range that is none", async () => {
    const rule = (cidr: string) =>
      moto.tryCall("ec2", region, "AuthorizeSecurityGroupIngress", {
        GroupId: groupIds["lb"] ?? "",
        "IpPermissions.1.IpProtocol": "tcp",
        "IpPermissions.1.FromPort": "8080",
        "IpPermissions.1.ToPort": "8080",
        "IpPermissions.1.IpRanges.1.CidrIp": cidr,
      });
    expect((await rule("10.0.0.0/8")).body).toContain("InvalidPermission.Duplicate");
    expect((await rule("10.0.0.0/33")).status).toBe(400);
  });

  it("has both endpoints, the one of S3 in every private table", async () => {
    const body = await describeIn("DescribeVpcEndpoints");
    expect(fields(body, "serviceName").sort()).toEqual([
      "com.amazonaws.eu-central-1.ec2",
      "com.amazonaws.eu-central-1.s3",
    ]);
    for (const zone of [1, 2, 3]) expect(body).toContain(tables[`private-${zone}`]);
  });

  it("answers every name with the planned addresses", async () => {
    const zones = await route53(moto, "hostedzone");
    expect(fields(zones, "Name").sort()).toEqual(["siem.internal.", "siem.vip."]);
    const records = await Promise.all(
      fields(zones, "Id").map((id) => route53(moto, `${id.replace(/^\//, "")}/rrset`)),
    );
    const all = records.join("\n");
    for (const node of topology.nodes) expect(all).toContain(`<Name>${node.alias}.siem.internal.</Name>`);
    expect(all).toMatch(
      /clickhouse-cluster\.siem\.internal\.[^]*?10\.42\.0\.31[^]*?10\.42\.16\.31[^]*?10\.42\.32\.31/,
    );
    expect(all).toMatch(/<Name>siem\.vip\.<\/Name>[^]*172\.25\.0\.222/);
  });

  it("writes the flow logs of the whole VPC", async () => {
    const body = await moto.call("ec2", region, "DescribeFlowLogs");
    expect(fields(body, "resourceId")).toEqual([vpcId]);
    expect(fields(body, "trafficType")).toEqual(["ALL"]);
  });

  it("has a load balancer whose two listeners lead to both machines", async () => {
    const groups = await moto.call("elasticloadbalancing", region, "DescribeTargetGroups");
    expect(fields(groups, "TargetGroupArn")).toHaveLength(2);
    for (const TargetGroupArn of fields(groups, "TargetGroupArn")) {
      const health = await moto.call("elasticloadbalancing", region, "DescribeTargetHealth", {
        TargetGroupArn,
      });
      expect(new Set(fields(health, "Id")).size).toBe(2);
    }
    const balancers = await moto.call("elasticloadbalancing", region, "DescribeLoadBalancers");
    const listeners = await moto.call("elasticloadbalancing", region, "DescribeListeners", {
      LoadBalancerArn: field(balancers, "LoadBalancerArn"),
    });
    expect(fields(listeners, "Protocol")).toEqual(["TLS", "TLS"]);
  });
});
