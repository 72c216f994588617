// A node's pause container: on one daemon it owns the node's name, address and ports; on a machine it is only a shell
// in the machine's namespace, and what the load balancers join.

import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { limitMb } from "../services/memory.ts";
import { names, type Node, type Topology } from "../topology.ts";
import { tiedTo } from "./guest.ts";
import { type Host } from "./host.ts";

export interface AnchorArgs {
  readonly host: Host;
  readonly topology: Topology;
  readonly node: Node;
  readonly network: docker.Network;
}

const confined = {
  command: ["tail", "-f", "/dev/null"],
  // It takes in the orphans of what is run in the anchor: a probe's `timeout` leaves one, and `tail` would keep it.
  init: true,
  capabilities: { drops: ["ALL"] },
  securityOpts: ["no-new-privileges"],
  logDriver: "json-file",
  logOpts: { "max-size": "1m", "max-file": "1" },
  memory: limitMb.anchor,
  memorySwap: limitMb.anchor,
};

/**
 * One anchor. Its inputs come from the topology alone and hold every name and port from birth: any change to them
 * replaces it and destroys the node's guests, so no feature switch may reach this function. It is protected: a plan
 * that would replace or delete it fails, in a preview too, before anything is touched.
 */
export function anchor(args: AnchorArgs, opts?: pulumi.CustomResourceOptions): docker.Container {
  const { host, topology, node } = args;
  return new docker.Container(
    node.alias,
    {
      name: node.name,
      hostname: node.alias,
      image: host.image("anchor"),
      restart: "always",
      networksAdvanced: [
        { name: args.network.name, ipv4Address: node.address, aliases: [node.alias, ...node.aliases] },
      ],
      hosts: [{ host: topology.vip.name, ip: topology.vip.address }],
      ports: node.published.map((port) => ({ ...port, ip: "127.0.0.1", protocol: "tcp" })),
      ...confined,
      labels: [{ label: names.label, value: host.stack }],
    },
    { ...opts, provider: host.provider, deleteBeforeReplace: true, protect: true },
  );
}

/** The anchor on a machine: nothing of the machine depends on it but what joins it, so it may be replaced. */
export function machineAnchor(
  args: { readonly host: Host; readonly node: Node },
  opts?: pulumi.CustomResourceOptions,
): docker.Container {
  const { host, node } = args;
  return new docker.Container(
    `${node.alias}-anchor`,
    {
      name: node.name,
      image: host.image("anchor"),
      restart: "always",
      networkMode: "host",
      ...confined,
      labels: [{ label: names.label, value: host.stack }],
    },
    { ...opts, ...tiedTo(host), deleteBeforeReplace: true },
  );
}
