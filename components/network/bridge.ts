// The local stack's network: a bridge on which every node has a fixed address and the VIP belongs to nobody yet.

import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type Host } from "../host/host.ts";
import { names, type Topology } from "../topology.ts";

export interface BridgeArgs {
  readonly host: Host;
  readonly topology: Topology;
}

/**
 * Docker's own address management hands out only the dynamic range, so it can never take a node's address or the VIP.
 * Protected like the anchors: a changed subnet would delete every container on it.
 */
export function bridge(args: BridgeArgs, opts?: pulumi.CustomResourceOptions): docker.Network {
  const { network, vip } = args.topology;
  if (network === undefined) throw new Error("this topology is of machines, which need no bridge");
  return new docker.Network(
    "network",
    {
      name: network.name,
      driver: "bridge",
      ipamConfigs: [
        {
          subnet: network.subnet,
          gateway: network.gateway,
          ipRange: network.dynamicRange,
          auxAddress: { vip: vip.address },
        },
      ],
      labels: [{ label: names.label, value: args.host.stack }],
    },
    { ...opts, provider: args.host.provider, deleteBeforeReplace: true, protect: true },
  );
}
