// The nine nodes on AWS: three zones, a machine for each node, and what they share.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { OverlayAddress } from "../edge/overlay.ts";
import { PublicEntry } from "../edge/public-entry.ts";
import { type OwnImage } from "../images.ts";
import { Access } from "../network/access.ts";
import { PrivateDns } from "../network/dns.ts";
import { Endpoints } from "../network/endpoints.ts";
import { FlowLogs } from "../network/flow-logs.ts";
import { SecurityGroups } from "../network/security-groups.ts";
import { Vpc } from "../network/vpc.ts";
import { type KeeperCloud, vipUser } from "../render/keepalived.ts";
import { Backups } from "../storage/backups.ts";
import { encryptionKey } from "../storage/key.ts";
import { type Node, type Topology, zones } from "../topology.ts";
import { machineAnchor } from "./anchor.ts";
import { type Nodes, type Place } from "./host.ts";
import { debianImage, Machine } from "./machine.ts";
import { Registry } from "./registry.ts";

/** The network interface of an EC2 machine of today's types, as Debian names it. */
const networkInterface = "ens5";

export interface AwsNodesArgs {
  readonly config: AwsConfig;
  /** Name of the stack: part of every name and tag. */
  readonly stack: string;
  readonly topology: Topology;
  /** Names of the three availability zones. */
  readonly zones: readonly string[];
  /** Images that the team brings instead of ours. @default all are ours */
  readonly replacements?: Readonly<Partial<Record<OwnImage, string>>>;
}

/** The provider of everything on AWS: the configured region, and the tags that everything carries. */
export function awsProvider(config: AwsConfig, stack: string): aws.Provider {
  return new aws.Provider("aws", {
    region: config.region as aws.Region,
    defaultTags: { tags: { project: "siem-ha", stack, tier: config.tier } },
  });
}

/**
 * The configured zones, or the region's first three.
 * @throws RunError for a region that has fewer.
 */
export async function zonesOf(config: AwsConfig, provider: aws.Provider): Promise<readonly string[]> {
  if (config.zones !== undefined) return config.zones;
  const found = await aws.getAvailabilityZones(
    // Local Zones and Wavelength Zones have no room for this.
    { state: "available", filters: [{ name: "zone-type", values: ["availability-zone"] }] },
    { provider },
  );
  if (found.names.length < zones) {
    throw new pulumi.RunError(
      `The region ${config.region} has ${found.names.length} availability zones (${found.names.join(", ")}), and the platform needs ${zones}: with fewer, one lost zone can take a quorum. Nothing was touched. Choose another region in siem-ha:aws region.`,
    );
  }
  return [...found.names].sort().slice(0, zones);
}

export class AwsNodes extends pulumi.ComponentResource implements Nodes {
  /** The public entry's name, if the configuration asks for one. */
  readonly publicEntry: PublicEntry | undefined;
  readonly #places = new Map<string, Place>();
  readonly #machines = new Map<string, Machine>();
  readonly #overlay: OverlayAddress;
  readonly #topology: Topology;

  constructor(name: string, args: AwsNodesArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:AwsNodes", name, {}, opts);
    const { config, stack, topology } = args;
    const child = { parent: this };
    this.#topology = topology;
    const key = encryptionKey("data", { config, stack }, child);
    const vpc = new Vpc("vpc", { config, stack, zones: args.zones }, child);
    const groups = new SecurityGroups("firewall", { config, stack, vpcId: vpc.vpcId, topology }, child);
    const endpoints = new Endpoints(
      "endpoints",
      {
        config,
        stack,
        vpcId: vpc.vpcId,
        privateSubnetIds: vpc.privateSubnetIds,
        securityGroupId: groups.endpoint,
      },
      child,
    );
    const dns = new PrivateDns("dns", { config, stack, vpcId: vpc.vpcId, topology }, child);
    if (config.tier === "prod") {
      new FlowLogs("flow-logs", { stack, vpcId: vpc.vpcId, kmsKeyArn: key }, child);
    }
    const ami = debianImage(config, child);
    const access = new Access(
      "access",
      {
        config,
        stack,
        publicSubnetIds: vpc.publicSubnetIds,
        privateSubnetIds: vpc.privateSubnetIds,
        securityGroupId: groups.access,
        ami,
        kmsKeyArn: key,
        after: [...vpc.ready, ...groups.ready],
      },
      child,
    );
    const registry = new Registry(
      "registry",
      { config, stack, key, ...(args.replacements === undefined ? {} : { replacements: args.replacements }) },
      child,
    );
    if (config.backup !== undefined) {
      new Backups("backups", { config, stack, retentionDays: config.backup.retentionDays, key }, child);
    }
    this.#overlay = new OverlayAddress(
      "vip",
      { config, stack, vip: topology.vip.address, routeTables: vpc.routeTables },
      child,
    );
    const pair = new Set(topology.keepalived.map((keeper) => keeper.node.name));
    for (const node of topology.nodes) {
      const zone = args.zones[node.zone - 1];
      const subnetId = vpc.privateSubnetIds[node.zone - 1];
      if (zone === undefined || subnetId === undefined) throw new Error(`zone ${node.zone} has no subnet`);
      const holder = pair.has(node.name);
      const machine = new Machine(
        node.alias,
        {
          config,
          stack,
          node,
          zone,
          subnetId,
          securityGroupIds: [groups.ofRole[node.role]],
          ami,
          ...(holder ? { policies: { vip: this.#overlay.policy() }, metadataUid: vipUser.uid } : {}),
          kmsKeyId: key,
          proxyCommand: access.proxyCommand,
          waitFor: [...vpc.ready, ...groups.ready, ...dns.ready, ...access.ready, ...endpoints.ready],
          alarmTopicArn: this.#overlay.topicArn,
          ownImage: (image, host) => registry.pulledOn(host, node.alias, image, child),
        },
        child,
      );
      this.#machines.set(node.name, machine);
      const anchor = machineAnchor({ host: machine, node }, child);
      this.#places.set(node.name, {
        host: machine,
        anchor,
        networkInterface,
        networkMode: (joins) => (joins === "anchor" ? pulumi.interpolate`container:${anchor.id}` : "host"),
      });
    }
    const first = topology.keepalived[0];
    if (first === undefined) throw new Error("this topology has no load balancer that could hold the VIP");
    this.#overlay.route(this.machine(first.node).interfaceId);
    this.publicEntry =
      config.entry.loadBalancer === undefined || groups.publicEntry === undefined
        ? undefined
        : new PublicEntry(
            "public-entry",
            {
              config,
              stack,
              vpcId: vpc.vpcId,
              subnetIds: (config.entry.loadBalancer.public
                ? vpc.publicSubnetIds
                : vpc.privateSubnetIds
              ).slice(0, topology.haproxy.length),
              securityGroupId: groups.publicEntry,
              targets: Object.fromEntries(
                topology.haproxy.map(({ node }) => [node.alias, this.machine(node).machine.id]),
              ),
              after: vpc.ready,
            },
            child,
          );
    this.registerOutputs();
  }

  at(node: Node): Place {
    const place = this.#places.get(node.name);
    if (place === undefined) throw new Error(`${node.name} is not a node of this topology`);
    return place;
  }

  machine(node: Node): Machine {
    const machine = this.#machines.get(node.name);
    if (machine === undefined) throw new Error(`${node.name} is not a machine of this topology`);
    return machine;
  }

  /** What the keeper on a load balancer must know, so that the routes follow the address. */
  keeperCloud(node: Node): pulumi.Output<KeeperCloud> {
    return this.#overlay.cloud(this.machine(node).interfaceId);
  }

  /** How each node's Docker daemon is reached, for the operator commands. */
  reachable(): Record<string, pulumi.Output<Record<string, string>>> {
    return Object.fromEntries(
      this.#topology.nodes.map((node) => {
        const { address, environment } = this.machine(node);
        return [node.alias, pulumi.all({ ...environment, address })];
      }),
    );
  }
}
