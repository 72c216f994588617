// What stands behind Keepalived on a node of the pair: its settings, and its word for the witness. On every target.

import * as pulumi from "@pulumi/pulumi";
import { ports } from "../ports.ts";
import { type KeeperCloud, keeperFiles, renderKeeperSettings } from "../render/keepalived.ts";
import { limitMb } from "../services/memory.ts";
import { type Node, type Topology } from "../topology.ts";
import { witnessUrl } from "./witness.ts";

export interface KeeperArgs {
  readonly topology: Topology;
  /** One of the pair. */
  readonly node: Node;
  /** What the witness knows its callers by. */
  readonly token: pulumi.Input<string>;
  /** Routes that have to follow the address. @default the network follows it by itself (ARP) */
  readonly cloud?: pulumi.Output<KeeperCloud>;
}

/** What a keeper adds to its Keepalived container. */
export interface Keeper {
  readonly files: Readonly<Record<string, pulumi.Output<string>>>;
  readonly memoryMb: number;
}

/** The keeper of the address on one node. */
export function keeperOf({ topology, node, token, cloud }: KeeperArgs): Keeper {
  const peers = topology.keepalived.map((keeper) => keeper.node).filter((peer) => peer.name !== node.name);
  const common = {
    node: node.alias,
    rank: peers.every((peer) => node.index < peer.index) ? "first" : "later",
    address: node.address,
    vip: topology.vip.address,
    peers: peers.map((peer) => peer.address),
    port: ports.witness.number,
    witness: witnessUrl(topology),
  } as const;
  return {
    files: {
      [keeperFiles.settings]:
        cloud === undefined
          ? pulumi.output(renderKeeperSettings(common))
          : cloud.apply((known) => renderKeeperSettings({ ...common, cloud: known })),
      [keeperFiles.token]: pulumi.secret(token),
    },
    memoryMb: cloud === undefined ? limitMb.keepalived : limitMb.keepalivedInCloud,
  };
}
