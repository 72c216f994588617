// The Docker daemon as the operator commands see it: what of a stack is there, and commands inside containers.

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import Docker from "dockerode";
import { addressIn, reachAt } from "../components/host/host.ts";
import { names, type Node, plan } from "../components/topology.ts";

const run = promisify(execFile);

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

/** Environment in which a stack's shell lines find the Docker daemon of every node. */
export type Reach = Readonly<Record<string, string>>;

/** One daemon for all nodes. */
export function localReach(dockerHost: string): Reach {
  return reachAt(plan().nodes, () => dockerHost);
}

/** Runs a command in a replica's container. @throws with the command's own message when it fails. */
export async function inContainer(
  reach: Reach,
  replica: { readonly name: string; readonly node: Node },
  command: readonly string[],
): Promise<string> {
  try {
    const { stdout } = await run(
      "docker",
      ["-H", addressIn(reach, replica.node), "exec", replica.name, ...command],
      { env: { ...process.env, ...reach }, timeout: 30_000 },
    );
    return stdout.trim();
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`${replica.name}: ${(stderr?.trim() || message).split("\n").at(-1)}`, { cause: error });
  }
}

/** Runs a shell line such as a gate's probe; resolves to its output. */
export async function shell(reach: Reach, line: string): Promise<string> {
  const { stdout } = await run("sh", ["-c", line], { env: { ...process.env, ...reach }, timeout: 30_000 });
  return stdout.trim();
}
