// Gates: what `up` waits for before it touches the next replica, or says that a service is ready.

import * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type Host } from "../host/host.ts";

export interface GateArgs {
  readonly host: Host;
  /** Shell that succeeds once the replica is back as a full member of its ensemble. */
  readonly probe: string;
  /** What is being waited for, for the message when the time is over. */
  readonly what: string;
  /** The containers whose replacement runs this gate again. */
  readonly containers: readonly docker.Container[];
  /** Container name of the next replica: where it doesn't exist yet there is nothing to protect, and the gate passes. */
  readonly next?: string;
  /** How long to wait, seconds. @default 180 */
  readonly seconds?: number;
}

/** The shell of a gate: pure, so that it can be tested without Docker. */
export function renderGate(args: Omit<GateArgs, "host" | "containers">): string {
  const seconds = args.seconds ?? 180;
  const pass =
    args.next === undefined ? "" : `docker container inspect ${args.next} >/dev/null 2>&1 || exit 0\n`;
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
  return new command.local.Command(
    name,
    {
      create: renderGate(args),
      environment: { ...args.host.environment },
      triggers: args.containers.map((container) => container.id),
    },
    opts,
  );
}
