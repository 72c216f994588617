// A supervisor on every host: mends what Docker's restart policy leaves broken. See services/supervisor. A watchdog
// beside it, the same program, starts it again where it was killed.

import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { cpuShares } from "../services/cpu.ts";
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
 * Whoever has a daemon's socket is root on its host: so these two have no network, no right beside it, a file system
 * that can't be written, and a few lines of code. They act on nothing but the stack's own containers.
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
      const { supervisor, watchdog } = topology;
      const aliasOf = (alias: string) => (hosts.size === 1 ? alias : `${node.alias}-${alias}`);
      const state = volume(
        `${aliasOf(supervisor.alias)}-state`,
        { host, volumeName: `${supervisor.name}-state`, keep: false },
        { parent: this },
      );
      const on = { host, state: state.name, parent: this, after: args.after ?? [] };
      supervise(aliasOf(supervisor.alias), { ...on, ...supervisor });
      supervise(aliasOf(watchdog.alias), { ...on, ...watchdog, watches: supervisor.name });
    }
    this.registerOutputs();
  }
}

interface SuperviseArgs {
  readonly host: Host;
  readonly name: string;
  readonly alias: string;
  /** The only container that it looks after. @default all of the stack on this host but itself */
  readonly watches?: string;
  /** Name of the volume in which it remembers what was stopped. */
  readonly state: pulumi.Input<string>;
  readonly parent: pulumi.Resource;
  readonly after: readonly pulumi.Resource[];
}

function supervise(resource: string, args: SuperviseArgs): void {
  const { host, name, alias, watches, state, parent, after } = args;
  new docker.Container(
    resource,
    {
      name,
      image: host.ownImage("supervisor"),
      networkMode: "none",
      envs: [
        `STACK=${host.stack}`,
        `STATE_FILE=${stateDirectory}/${alias}.json`,
        ...(watches === undefined ? [] : [`WATCHES=${watches}`]),
      ],
      volumes: [
        { hostPath: socketOf(host), containerPath: socket },
        { volumeName: state, containerPath: stateDirectory },
      ],
      readOnly: true,
      restart: "always",
      capabilities: { drops: ["ALL"] },
      securityOpts: ["no-new-privileges"],
      logDriver: "json-file",
      logOpts: { "max-size": "10m", "max-file": "3" },
      memory: limitMb.supervisor,
      memorySwap: limitMb.supervisor,
      cpuShares: cpuShares.supervisor,
      wait: false,
      destroyGraceSeconds: 5,
      labels: [{ label: names.label, value: host.stack }],
    },
    { parent, ...tiedTo(host), deleteBeforeReplace: true, dependsOn: [...after] },
  );
}

/** Where the daemon's socket is on its own host. */
function socketOf(host: Host): pulumi.Output<string> {
  return pulumi.output(host.address).apply((address) => /^unix:\/\/(.+)/.exec(address)?.[1] ?? socket);
}
