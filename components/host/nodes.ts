// The nine nodes of the local target: one anchor each on one network.

import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { bridge } from "../network/bridge.ts";
import { type Node, type Topology } from "../topology.ts";
import { anchor } from "./anchor.ts";
import { type Host } from "./host.ts";

/** Finds the anchor whose namespace a node's guests join. */
export interface Anchors {
  of(node: Node): docker.Container;
}

export interface LocalNodesArgs {
  readonly host: Host;
  readonly topology: Topology;
}

export class LocalNodes extends pulumi.ComponentResource implements Anchors {
  readonly #anchors = new Map<string, docker.Container>();

  constructor(name: string, args: LocalNodesArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Nodes", name, {}, opts);
    const { host, topology } = args;
    const network = bridge({ host, topology }, { parent: this });
    for (const node of topology.nodes) {
      this.#anchors.set(node.name, anchor({ host, topology, node, network }, { parent: this }));
    }
    this.registerOutputs();
  }

  of(node: Node): docker.Container {
    const container = this.#anchors.get(node.name);
    if (container === undefined) throw new Error(`${node.name} is not a node of this topology`);
    return container;
  }
}
