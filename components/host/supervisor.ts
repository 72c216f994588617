// A supervisor on every host: mends what Docker's restart policy leaves broken. See services/supervisor.

import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { limitMb } from "../services/memory.ts";
import { names, type Node, type Topology } from "../topology.ts";
import { tiedTo, volume } from "./guest.ts";
import { type Host, type Nodes } from "./host.ts";

export interface SupervisorsArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  /** @default nothing to wait for */
  readonly after?: readonly pulumi.Resource[];
}

const socket = "/var/run/docker.sock";
const stateDirectory = "/var/lib/siem-ha";

/**
 * Whoever has a daemon's socket is root on its host: so this one has no network, no right beside it, a file system that
 * can't be written, and a few lines of code. It acts on nothing but the stack's own containers.
 */
export class Supervisors extends pulumi.ComponentResource {
  constructor(name: string, args: SupervisorsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Supervisors", name, {}, opts);
    const { topology, nodes } = args;
    const hosts = new Map<Host, Node>();
    for (const node of topology.nodes) {
      const { host } = nodes.at(node);
      if (!hosts.has(host)) hosts.set(host, node);
    }
    for (const [host, node] of hosts) {
      const { name: containerName } = topology.supervisor;
      const alias =
        hosts.size === 1 ? topology.supervisor.alias : `${node.alias}-${topology.supervisor.alias}`;
      const state = volume(
        `${alias}-state`,
        { host, volumeName: `${containerName}-state`, keep: false },
        { parent: this },
      );
      new docker.Container(
        alias,
        {
          name: containerName,
          image: host.ownImage("supervisor"),
          networkMode: "none",
          envs: [`STACK=${host.stack}`, `STATE_FILE=${stateDirectory}/supervisor.json`],
          volumes: [
            { hostPath: socketOf(host), containerPath: socket },
            { volumeName: state.name, containerPath: stateDirectory },
          ],
          readOnly: true,
          restart: "always",
          capabilities: { drops: ["ALL"] },
          securityOpts: ["no-new-privileges"],
          logDriver: "json-file",
          logOpts: { "max-size": "10m", "max-file": "3" },
          memory: limitMb.supervisor,
          memorySwap: limitMb.supervisor,
          wait: false,
          destroyGraceSeconds: 5,
          labels: [{ label: names.label, value: host.stack }],
        },
        { parent: this, ...tiedTo(host), deleteBeforeReplace: true, dependsOn: [...(args.after ?? [])] },
      );
    }
    this.registerOutputs();
  }
}

/** Where the daemon's socket is on its own host. */
function socketOf(host: Host): pulumi.Output<string> {
  return pulumi.output(host.address).apply((address) => /^unix:\/\/(.+)/.exec(address)?.[1] ?? socket);
}
