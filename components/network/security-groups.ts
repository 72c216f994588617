// The machines' firewalls: one security group a role, one described resource a rule.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { type Role, type Topology } from "../topology.ts";
import { type Group, groupsOf, rules } from "./rules.ts";

const descriptions: Readonly<Record<Group, string>> = {
  lb: "Load balancer nodes",
  stream: "Stream nodes: ZooKeeper and Kafka",
  store: "Store nodes: ClickHouse",
  access: "The way in for operators",
  endpoint: "Endpoints of AWS APIs",
  publicEntry: "The public entry",
};

export interface SecurityGroupsArgs {
  readonly config: AwsConfig;
  readonly stack: string;
  readonly vpcId: pulumi.Input<string>;
  readonly topology: Topology;
}

export class SecurityGroups extends pulumi.ComponentResource {
  readonly ofRole: Readonly<Record<Role, pulumi.Output<string>>>;
  /** Of the Instance Connect Endpoint or the bastion. */
  readonly access: pulumi.Output<string>;
  /** Of the endpoints of AWS's APIs. */
  readonly endpoint: pulumi.Output<string>;
  /** Of the public entry, if there is one. */
  readonly publicEntry: pulumi.Output<string> | undefined;
  /** The rules: nothing that needs the network should start before them. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: SecurityGroupsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:SecurityGroups", name, {}, opts);
    const { config, stack } = args;
    const groups = new Map(
      groupsOf(config).map((key) => [
        key,
        new aws.ec2.SecurityGroup(
          `${name}-${key}`,
          // No rules here: those are resources of their own, and two ways to say one thing undo each other.
          { vpcId: args.vpcId, description: descriptions[key], tags: { Name: `${stack}-${key}` } },
          { parent: this },
        ).id,
      ]),
    );
    const idOf = (key: Group): pulumi.Output<string> => {
      const id = groups.get(key);
      if (id === undefined) throw new Error(`this configuration has no security group ${key}`);
      return id;
    };
    this.ofRole = { lb: idOf("lb"), stream: idOf("stream"), store: idOf("store") };
    this.access = idOf("access");
    this.endpoint = idOf("endpoint");
    this.publicEntry = groups.get("publicEntry");
    this.ready = rules(config, args.topology).map((rule) => {
      const { peer } = rule;
      const inputs = {
        securityGroupId: idOf(rule.group),
        ipProtocol: rule.protocol,
        fromPort: rule.fromPort,
        toPort: rule.toPort,
        description: rule.description,
        ...("group" in peer ? { referencedSecurityGroupId: idOf(peer.group) } : { cidrIpv4: peer.cidr }),
        tags: { Name: `${stack}-${rule.name}` },
      };
      const Kind =
        rule.direction === "in" ? aws.vpc.SecurityGroupIngressRule : aws.vpc.SecurityGroupEgressRule;
      return new Kind(`${name}-${rule.name}`, inputs, { parent: this });
    });
    this.registerOutputs();
  }
}
