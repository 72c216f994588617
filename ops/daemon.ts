// The Docker daemon as the operator commands see it: what of a stack is there, and commands inside containers.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import Docker from "dockerode";
import pLimit from "p-limit";
import { type SiemConfig, topologyOf } from "../components/config.ts";
import { addressIn, reachAt } from "../components/host/host.ts";
import { names, type Node, plan } from "../components/topology.ts";
import { root } from "./workspace.ts";

/**
 * So many commands run at once. Each takes a tenth of a second of a processor, and while it is begun this process stands
 * still: a hundred at once made every answer of a `verify` wait for five seconds.
 */
const commandsAtOnce = pLimit(6);
const execute = promisify(execFile);

/** Connects to a daemon given as `unix:///path`. */
export function connect(dockerHost: string): Docker {
  return new Docker({ socketPath: dockerHost.replace(/^unix:\/\//, "") });
}

const filtersOf = (stack: string) => ({ label: [`${names.label}=${stack}`] });

/** Names of everything in Docker that carries the stack's label. */
export async function inventory(docker: Docker, stack: string) {
  const filters = filtersOf(stack);
  const [containers, volumes, networks] = await Promise.all([
    docker.listContainers({ all: true, filters }),
    docker.listVolumes({ filters: JSON.stringify(filters) as never }),
    docker.listNetworks({ filters }),
  ]);
  return {
    containers: containers.map((c) => ({ id: c.Id, name: c.Names[0]?.slice(1) ?? c.Id, state: c.State })),
    volumes: volumes.Volumes.map((v) => v.Name),
    networks: networks.map((n) => ({ id: n.Id, name: n.Name })),
  };
}

/** Removes a container as it is, running or not, with the volumes that have no name. */
export async function removeContainer(docker: Docker, id: string): Promise<void> {
  try {
    await docker.getContainer(id).remove({ force: true, v: true });
  } catch (error) {
    // It ended just now, and removed itself; or somebody else is removing it.
    if (![404, 409].includes((error as { statusCode?: number }).statusCode ?? 0)) throw error;
  }
}

/** Environment in which a stack's shell lines find the Docker daemon of every node. */
export type Reach = Readonly<Record<string, string>>;

/** One daemon for all nodes. */
export function localReach(dockerHost: string): Reach {
  return reachAt(plan().nodes, () => dockerHost);
}

/** How the nodes of a stack are reached: its own daemon, or what the machines' stack says. */
export async function reachOf(config: SiemConfig, stack: Stack): Promise<Reach> {
  if (config.target === "local") return localReach(config.local.dockerHost);
  const machines = (await stack.outputs())["machines"]?.value as
    Readonly<Record<string, Readonly<Record<string, string>>>> | undefined;
  if (machines === undefined) {
    throw new Error(`the stack ${stack.name} has no machines yet: npm run up -- -s ${stack.name}`);
  }
  const environment: Record<string, string> = {};
  for (const { address: _address, ...rest } of Object.values(machines)) Object.assign(environment, rest);
  return {
    ...environment,
    ...reachAt(topologyOf(config).nodes, (node) => machines[node.alias]?.["address"] ?? ""),
    // The ssh that knows the machines' keys and the way to them.
    PATH: `${join(root, "ops/ssh")}:${process.env["PATH"] ?? ""}`,
  };
}

/** Runs a command in a replica's container. @throws with the command's own message when it fails. */
export async function inContainer(
  reach: Reach,
  replica: { readonly name: string; readonly node: Node },
  command: readonly string[],
  /** Standard input. @default none */
  input?: string,
): Promise<string> {
  const attached = input === undefined ? [] : ["--interactive"];
  try {
    const { stdout } = await commandsAtOnce(() => {
      const running = execute(
        "docker",
        ["-H", addressIn(reach, replica.node), "exec", ...attached, replica.name, ...command],
        { env: { ...process.env, ...reach }, timeout: 30_000 },
      );
      // One that ended before it had read has an exit code that says more.
      running.child.stdin?.on("error", () => undefined).end(input);
      return running;
    });
    return stdout.trim();
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`${replica.name}: ${(stderr?.trim() || message).split("\n").at(-1)}`, { cause: error });
  }
}

/** Runs a shell line such as a gate's probe; resolves to its output. */
export async function shell(reach: Reach, line: string): Promise<string> {
  const { stdout } = await commandsAtOnce(() =>
    execute("sh", ["-c", line], { env: { ...process.env, ...reach }, timeout: 30_000 }),
  );
  return stdout.trim();
}
