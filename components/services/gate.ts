// Gates: what `up` waits for before it touches the next replica, or says that a service is ready.

import type * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { dockerOn, type Nodes } from "../host/host.ts";
import { script, type ScriptArgs } from "../host/script.ts";
import { type Node, type Replica } from "../topology.ts";

export interface GateArgs {
  readonly nodes: Nodes;
  /** The nodes whose daemons the probe asks. */
  readonly asks: readonly Node[];
  /** Shell that succeeds once the replica is back as a full member of its ensemble. */
  readonly probe: string;
  /** What is being waited for, for the message when the time is over. */
  readonly what: string;
  /** The containers whose replacement runs this gate again. */
  readonly containers: readonly docker.Container[];
  /** The next replica: where it doesn't exist yet there is nothing to protect, and the gate passes. */
  readonly next?: Replica;
  /** How long to wait, seconds. @default 180 */
  readonly seconds?: number;
  /** What is done before the wait begins. @default nothing */
  readonly first?: Pick<ScriptArgs, "shell" | "stdin" | "environment">;
}

/** The shell of a gate: pure, so that it can be tested without Docker. */
export function renderGate(args: Pick<GateArgs, "probe" | "what" | "next" | "seconds">): string {
  const seconds = args.seconds ?? 180;
  const pass =
    args.next === undefined
      ? ""
      : // A machine that doesn't answer says nothing about what is on it.
        `case "$(${dockerOn(args.next.node)} container inspect ${args.next.name} 2>&1 >/dev/null)" in *"No such container"*) exit 0 ;; esac\n`;
  return `${pass}probe() { ${args.probe}; }
deadline=$(($(date +%s) + ${seconds}))
until last=$(probe 2>&1); do
  if [ $(date +%s) -ge $deadline ]; then
    echo "waited ${seconds} s for ${args.what}; the last check said: $last" >&2
    exit 1
  fi
  sleep 0.3
done
`;
}

/** A gate as a resource. */
export function gate(
  name: string,
  args: GateArgs,
  opts: pulumi.CustomResourceOptions,
): command.local.Command {
  return script(
    name,
    {
      nodes: args.nodes,
      uses: args.next === undefined ? args.asks : [...args.asks, args.next.node],
      ...args.first,
      shell:
        args.first === undefined
          ? renderGate(args)
          : pulumi.interpolate`${args.first.shell}\n${renderGate(args)}`,
      triggers: args.containers.map((container) => container.id),
    },
    opts,
  );
}

/** Shell: runs a command, fed by standard input, in the replica and ends with it; falls through if it doesn't run. */
export function onceOn(replica: Replica, command: string): string {
  const docker = dockerOn(replica.node);
  return `${docker} exec ${replica.name} true 2>/dev/null && exec ${docker} exec -i ${replica.name} ${command}`;
}
