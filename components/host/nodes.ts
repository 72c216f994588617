// The nine nodes of the local target: one anchor each on one network.

import * as pulumi from "@pulumi/pulumi";
import { bridge } from "../network/bridge.ts";
import { type Node, type Topology } from "../topology.ts";
import { anchor } from "./anchor.ts";
import { type Host, type Nodes, type Place } from "./host.ts";

export interface LocalNodesArgs {
  readonly host: Host;
  readonly topology: Topology;
}

export class LocalNodes extends pulumi.ComponentResource implements Nodes {
  readonly #places = new Map<string, Place>();

  constructor(name: string, args: LocalNodesArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Nodes", name, {}, opts);
    const { host, topology } = args;
    const network = bridge({ host, topology }, { parent: this });
    for (const node of topology.nodes) {
      const pause = anchor({ host, topology, node, network }, { parent: this });
      this.#places.set(node.name, {
        host,
        anchor: pause,
        networkInterface: "eth0",
        // The anchor's namespace is the node's.
        networkMode: () => pulumi.interpolate`container:${pause.id}`,
      });
    }
    this.registerOutputs();
  }

  at(node: Node): Place {
    const place = this.#places.get(node.name);
    if (place === undefined) throw new Error(`${node.name} is not a node of this topology`);
    return place;
  }
}
