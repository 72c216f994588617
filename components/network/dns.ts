// Names inside the VPC: every node, every name that a guest is reached by, and the virtual IP.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { type Topology } from "../topology.ts";

/** Short, because a client that asks again soon finds a machine's new address soon. */
const ttl = 60;

export interface PrivateDnsArgs {
  readonly config: AwsConfig;
  readonly stack: string;
  readonly vpcId: pulumi.Input<string>;
  readonly topology: Topology;
}

/** Every name of the topology with its addresses: a node's own name, and those of the guests on it. */
export function addressesByName(topology: Topology): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const node of topology.nodes) {
    for (const name of [node.alias, ...node.aliases]) {
      found.set(name, [...(found.get(name) ?? []), node.address]);
    }
  }
  return found;
}

/** Two zones that only this VPC sees: the machines' search domain, and the virtual IP under its own name. */
export class PrivateDns extends pulumi.ComponentResource {
  /** The records: guests that look up each other should start after them. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: PrivateDnsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:PrivateDns", name, {}, opts);
    const { config, stack, topology } = args;
    const zone = (key: string, domain: string, comment: string) =>
      new aws.route53.Zone(
        `${name}-${key}`,
        { name: domain, comment, vpcs: [{ vpcId: args.vpcId }], tags: { Name: `${stack}-${key}` } },
        { parent: this },
      );
    const record = (key: string, zoneId: pulumi.Output<string>, domain: string, records: readonly string[]) =>
      new aws.route53.Record(
        `${name}-${key}`,
        { zoneId, name: domain, type: "A", ttl, records: [...records] },
        { parent: this },
      );

    const nodes = zone("zone", config.domain, `Nodes of the stack ${stack}`);
    const vip = zone("vip-zone", topology.vip.name, `Virtual IP of the stack ${stack}`);
    this.ready = [
      ...[...addressesByName(topology)].map(([alias, addresses]) =>
        record(alias, nodes.zoneId, `${alias}.${config.domain}`, addresses),
      ),
      record("vip", vip.zoneId, topology.vip.name, [topology.vip.address]),
    ];
    this.registerOutputs();
  }
}
