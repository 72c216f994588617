// The witness on lb-node-3: settles who holds the virtual IP when the load balancers don't see each other.

import { createHmac } from "node:crypto";
import * as pulumi from "@pulumi/pulumi";
import { guest } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { ports } from "../ports.ts";
import { gate } from "../services/gate.ts";
import { cpuShares } from "../services/cpu.ts";
import { limitMb } from "../services/memory.ts";
import { type Topology } from "../topology.ts";

export interface WitnessArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  /** What its callers show; see `witnessToken`. */
  readonly token: pulumi.Output<string>;
  /** @default nothing to wait for */
  readonly after?: readonly pulumi.Resource[];
}

/** Base URL of the witness, by address: it has to work when names don't. */
export function witnessUrl(topology: Topology): string {
  return `http://${topology.witness.node.address}:${ports.witness.number}`;
}

/** A token for the witness made from another secret of the stack, which can't be read back from it. */
export function witnessToken(secret: pulumi.Output<string>): pulumi.Output<string> {
  return secret.apply((text) => createHmac("sha256", text).update("witness of the virtual IP").digest("hex"));
}

/** Shell: the witness answers. */
export function witnessAnswers(topology: Topology): string {
  const { node } = topology.witness;
  return `${dockerOn(node)} exec ${node.name} timeout 3 wget -q -O - http://127.0.0.1:${ports.witness.number}/health`;
}

export class Witness extends pulumi.ComponentResource {
  readonly url: string;
  /** Resolves once the witness answers. */
  readonly ready: pulumi.Resource;

  constructor(name: string, args: WitnessArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:edge:Witness", name, {}, opts);
    const { topology, nodes } = args;
    const { node, name: containerName } = topology.witness;
    const place = nodes.at(node);
    const file = "/run/secrets/witness_token";
    const health = `http://127.0.0.1:${ports.witness.number}/health`;
    const container = guest(
      name,
      {
        place,
        containerName,
        image: place.host.ownImage("witness"),
        environment: { SERVER_ADDR: `0.0.0.0:${ports.witness.number}`, WITNESS_TOKEN_FILE: file },
        files: { [file]: args.token },
        memoryMb: limitMb.witness,
        cpuShares: cpuShares.witness,
        liveness: ["node", "-e", `fetch("${health}").then(()=>process.exit(0),()=>process.exit(1))`],
        graceSeconds: 5,
      },
      { parent: this, dependsOn: [...(args.after ?? [])] },
    );
    this.url = witnessUrl(topology);
    this.ready = gate(
      `${name}-ready`,
      {
        nodes,
        asks: [node],
        probe: witnessAnswers(topology),
        what: `${name} to answer`,
        containers: [container],
      },
      { parent: this },
    );
    this.registerOutputs();
  }
}
