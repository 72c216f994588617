// A script on the deploying side that uses the Docker daemons of named nodes: gates, topics, schemas, configurations.

import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import { type Node } from "../topology.ts";
import { type Nodes, reach } from "./host.ts";
import { wrapperFirst } from "./ssh.ts";

export interface ScriptArgs {
  readonly nodes: Nodes;
  /** The nodes whose daemons it uses, by `dockerOn`. */
  readonly uses: readonly Node[];
  /** POSIX shell. It runs again when it, its input or its environment changes. */
  readonly shell: pulumi.Input<string>;
  /** Standard input: the place for secrets. */
  readonly stdin?: pulumi.Input<string>;
  readonly environment?: Readonly<Record<string, pulumi.Input<string>>>;
  /** Other things whose change runs it again. */
  readonly triggers?: readonly unknown[];
}

/** The script as a resource. */
export function script(
  name: string,
  args: ScriptArgs,
  opts: pulumi.CustomResourceOptions,
): command.local.Command {
  return new command.local.Command(
    name,
    {
      create: pulumi.interpolate`${wrapperFirst}\n${args.shell}`,
      ...(args.stdin === undefined ? {} : { stdin: args.stdin }),
      environment: { ...reach(args.nodes, args.uses), ...args.environment },
      ...(args.triggers === undefined ? {} : { triggers: [...args.triggers] }),
    },
    opts,
  );
}
