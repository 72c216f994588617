// Strict mocks for the network's components: what they registered, below what, and after what.

import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig, parseConfig } from "../../components/config.ts";
import { planAddresses } from "../../components/network/addresses.ts";
import { plan, type Topology } from "../../components/topology.ts";
import { account, type Answers, type Maker, recordWith, type Registered, valueOf } from "../recorded.ts";

export { account, type Maker, type Registered, valueOf } from "../recorded.ts";

export const region = "eu-central-1";
export const zoneNames = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] as const;
const key = `ssh-ed25519 ${"A".repeat(68)} operator@example`;

/** A valid configuration, checked like an operator's. */
export function awsConfig(given: Readonly<Record<string, unknown>> = {}): AwsConfig {
  const { admin, ...rest } = given as { admin?: object };
  const config = parseConfig({
    target: "aws",
    aws: { region, tier: "dev", ...rest, admin: { sshPublicKeys: [key], ...admin } },
  });
  if (config.aws === undefined) throw new Error("the configuration has no AWS part");
  return config.aws;
}

/** The same with what prod must have besides. */
export const prodConfig = (given: Readonly<Record<string, unknown>> = {}): AwsConfig =>
  awsConfig({ tier: "prod", alarmEmail: "soc@example.org", backup: { retentionDays: 35 }, ...given });

export const publicEntry = {
  public: true,
  clients: ["0.0.0.0/0"],
  certificateArn: `arn:aws:acm:${region}:${account}:certificate/0a1b2c3d-0000-0000-0000-000000000000`,
};

export function topologyOf(config: AwsConfig): Topology {
  return plan({ machines: { address: planAddresses(config.cidr).address, vip: config.vip } });
}

/** Outputs that AWS adds to the inputs. A type that is not here throws. */
const answers: Answers = {
  "aws:ec2/vpc:Vpc": () => ({ defaultRouteTableId: "rtb-main", defaultSecurityGroupId: "sg-default" }),
  "aws:ec2/internetGateway:InternetGateway": () => ({}),
  "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": () => ({}),
  "aws:ec2/vpcDhcpOptions:VpcDhcpOptions": () => ({}),
  "aws:ec2/vpcDhcpOptionsAssociation:VpcDhcpOptionsAssociation": () => ({}),
  "aws:ec2/defaultRouteTable:DefaultRouteTable": () => ({}),
  "aws:ec2/routeTable:RouteTable": () => ({}),
  "aws:ec2/route:Route": () => ({}),
  "aws:ec2/routeTableAssociation:RouteTableAssociation": () => ({}),
  "aws:ec2/subnet:Subnet": () => ({}),
  "aws:ec2/subnetCidrReservation:SubnetCidrReservation": () => ({}),
  "aws:ec2/eip:Eip": () => ({ publicIp: "198.51.100.9" }),
  "aws:ec2/natGateway:NatGateway": () => ({}),
  "aws:ec2/vpcEndpoint:VpcEndpoint": () => ({}),
  "aws:ec2/securityGroup:SecurityGroup": () => ({}),
  "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": () => ({}),
  "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": () => ({}),
  "aws:route53/zone:Zone": (name) => ({ zoneId: `Z-${name}` }),
  "aws:route53/record:Record": () => ({}),
  "aws:cloudwatch/logGroup:LogGroup": () => ({
    arn: `arn:aws:logs:${region}:${account}:log-group:/siem-ha/test/flow-logs`,
  }),
  "aws:iam/role:Role": (name) => ({ arn: `arn:aws:iam::${account}:role/${name}` }),
  "aws:iam/rolePolicy:RolePolicy": () => ({}),
  "aws:ec2/flowLog:FlowLog": () => ({}),
  "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint": () => ({}),
  "aws:ec2/instance:Instance": () => ({}),
  "command:local:Command": () => ({ stdout: `ssh-ed25519 ${"B".repeat(68)}`, stderr: "" }),
  "aws:lb/loadBalancer:LoadBalancer": (name) => ({
    arn: `arn:aws:elasticloadbalancing:${region}:${account}:loadbalancer/net/${name}`,
    dnsName: `${name}.elb.example.org`,
  }),
  "aws:lb/targetGroup:TargetGroup": (name) => ({
    arn: `arn:aws:elasticloadbalancing:${region}:${account}:targetgroup/${name}`,
  }),
  "aws:lb/targetGroupAttachment:TargetGroupAttachment": () => ({}),
  "aws:lb/listener:Listener": () => ({}),
};

/** Runs the construction under mocks that know the types of the network. */
export const record = <T>(construct: (opts: pulumi.ComponentResourceOptions) => T, make?: Maker) =>
  recordWith(answers, construct, make);

/** How many of each type there are, by the type's last word. */
export function counts(resources: readonly Registered[]): Record<string, number> {
  const result: Record<string, number> = {};
  for (const { type } of resources) {
    const word = type.split(":").at(-1) ?? type;
    result[word] = (result[word] ?? 0) + 1;
  }
  return result;
}

/** The inputs of the resources of a type (its last word), by name. */
export function inputsOf(
  resources: readonly Registered[],
  word: string,
): Record<string, Readonly<Record<string, unknown>>> {
  return Object.fromEntries(
    resources.filter(({ type }) => type.endsWith(`:${word}`)).map(({ name, inputs }) => [name, inputs]),
  );
}

/** Names of what a resource waits for by `dependsOn`. */
export async function waitsFor(resource: Registered): Promise<string[]> {
  const given = (await valueOf(pulumi.output(resource.opts.dependsOn ?? []))) as unknown;
  const list = (Array.isArray(given) ? given : [given]) as pulumi.Resource[];
  return Promise.all(
    list.map(async (dependency) => {
      const urn = await valueOf(dependency.urn);
      return urn.split("::").at(-1) ?? urn;
    }),
  );
}
