// What a host is: a Docker daemon plus what is needed to run guests and one-off commands on it.

import type * as docker from "@pulumi/docker";
import type * as pulumi from "@pulumi/pulumi";
import { type OwnImage, type publicImages } from "../images.ts";
import { type Node } from "../topology.ts";

export interface Host {
  readonly provider: docker.Provider;
  /** The daemon as `docker -H` takes it: `unix:///var/run/docker.sock`, `ssh://ops@…`. */
  readonly address: pulumi.Input<string>;
  /** What the `docker` command needs besides to reach it, such as the known host keys. */
  readonly environment: Readonly<Record<string, pulumi.Input<string>>>;
  /** Value of the label that marks everything this stack makes in Docker. */
  readonly stack: string;
  /** The machine below, whose loss takes all of its containers with it. @default the host outlives the stack */
  readonly machine?: pulumi.CustomResource;
  /** Image id of each public image on this host. */
  image(name: keyof typeof publicImages): pulumi.Output<string>;
  /** Reference of one of our own images on this host, built or pulled before it resolves. */
  ownImage(name: OwnImage): pulumi.Output<string>;
}

/** Where a node's guests run. */
export interface Place {
  readonly host: Host;
  /** The node's pause container. */
  readonly anchor: docker.Container;
  /** The network interface that carries the node's address, and the VIP when it holds it. */
  readonly networkInterface: string;
  /** Docker's network mode for a guest: it shares the node's namespace, or joins the anchor itself (the VIP pair). */
  networkMode(joins: "node" | "anchor"): pulumi.Input<string>;
}

/** The nodes, wherever they are: everything above sees only this. */
export interface Nodes {
  at(node: Node): Place;
}

/** Shell: the `docker` command on a node's host; `reach` gives the environment that it needs. */
export function dockerOn(node: Node): string {
  return `docker -H "$${addressVariable(node)}"`;
}

function addressVariable(node: Node): string {
  return `DOCKER_${node.alias.toUpperCase().replaceAll("-", "_")}`;
}

/** Environment with which `dockerOn` reaches these nodes. */
export function reach(nodes: Nodes, targets: readonly Node[]): Record<string, pulumi.Input<string>> {
  return Object.fromEntries(
    targets.flatMap((node) => {
      const { host } = nodes.at(node);
      return [[addressVariable(node), host.address] as const, ...Object.entries(host.environment)];
    }),
  );
}

/** The same with plain addresses, for the operator commands. */
export function reachAt(targets: readonly Node[], address: (node: Node) => string): Record<string, string> {
  return Object.fromEntries(targets.map((node) => [addressVariable(node), address(node)]));
}

/** The address of a node's daemon in such an environment. */
export function addressIn(environment: Readonly<Record<string, string>>, node: Node): string {
  const address = environment[addressVariable(node)];
  if (address === undefined) throw new Error(`nothing says how to reach the Docker daemon of ${node.name}`);
  return address;
}
