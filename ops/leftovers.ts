// What an operation that was interrupted or failed left half-made in Docker: it would be in the way for ever.

import { setTimeout as sleep } from "node:timers/promises";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import type Docker from "dockerode";
import { type SiemConfig } from "../components/config.ts";
import { names } from "../components/topology.ts";
import { connect, inventory, removeContainer } from "./daemon.ts";
import { forgetPending, recorded } from "./workspace.ts";

export interface LeftoversArgs {
  /** Value of the label on everything the stack made. */
  readonly label: string;
  readonly config: SiemConfig;
  /** Whether an engine of this stack was killed: its plugins may still be at the last thing they were asked for. */
  readonly killed: boolean;
  readonly log: (line: string) => void;
}

/** Plugins notice within two seconds that their engine is gone. */
const settling = 2500;

/** What is there, once nobody makes anything any more. */
export async function settled(docker: Docker, label: string) {
  for (let before = ""; ;) {
    const found = await inventory(docker, label);
    // What each is doing changes for ever: some are started again and again.
    const now = JSON.stringify([found.containers, found.networks].map((all) => all.map(({ id }) => id)));
    if (now === before) return found;
    before = now;
    await sleep(settling);
  }
}

/** Everything that the stack has in Docker, as far as its state tells whose it is. */
export interface Found {
  /** Begun by this state and never finished, or made and never started: to be removed. */
  readonly containers: readonly { readonly id: string; readonly name: string }[];
  readonly networks: readonly { readonly id: string; readonly name: string }[];
  /** Containers that this state knows nothing of. */
  readonly strangers: readonly string[];
}

interface Container {
  readonly id: string;
  readonly name: string;
  /** As Docker lists it; `created` is one that has never run, because Docker refused to start it. */
  readonly state: string;
}

/**
 * Tells leftovers from strangers. A container that never started is a leftover even where the state knows it: the
 * engine could only replace it, and an anchor is protected from that; one that is gone from Docker is simply made
 * again. Volumes are neither: one that was made and not recorded is found by its name when it is made again, and what
 * is on it stays.
 */
export function sort(
  there: {
    readonly containers: readonly Container[];
    readonly networks: readonly { readonly id: string; readonly name: string }[];
  },
  state: Awaited<ReturnType<typeof recorded>>,
): Found {
  const known = new Set(state.resources.map((resource) => resource.id));
  const begun = new Set(state.pending_operations.map(({ resource }) => resource.inputs?.name));
  // A proxy's configuration is written by a container that lives for a second and is in no state.
  const volumes = new Set(
    [...state.resources, ...state.pending_operations.map(({ resource }) => resource)]
      .filter(({ type }) => type === "docker:index/volume:Volume")
      .map(({ inputs }) => inputs?.name),
  );
  const ours = (name: string) => begun.has(name) || volumes.has(name);
  const unknown = there.containers.filter(({ id }) => !known.has(id));
  return {
    containers: there.containers.filter(({ id, name, state }) =>
      known.has(id) ? state === "created" : ours(name),
    ),
    networks: there.networks.filter(({ id, name }) => !known.has(id) && begun.has(name)),
    strangers: unknown.map(({ name }) => name).filter((name) => !ours(name)),
  };
}

/**
 * Containers and networks that this state was about to make when it was interrupted or failed.
 * @throws when there are containers of this stack that this state knows nothing of: they are somebody else's work.
 */
export async function findLeftovers(stack: Stack, args: LeftoversArgs): Promise<Found> {
  const { label, config, killed } = args;
  const docker = connect(config.local.dockerHost);
  const there = killed ? await settled(docker, label) : await inventory(docker, label);
  const found = sort(there, await recorded(stack));
  if (found.strangers.length > 0) {
    throw new Error(
      `Containers of the stack ${stack.name} run here that this state does not know: ${found.strangers.join(", ")}. Another clone or another Pulumi backend made them; nothing was touched. Use that one; or, if it is lost, remove them first: docker rm -f $(docker ps -aq --filter label=${names.label}=${label}) (their data volumes stay, but the secrets that protect the data are lost with that state).`,
    );
  }
  return found;
}

/** Removes them. */
export async function removeLeftovers(
  { containers, networks }: Pick<Found, "containers" | "networks">,
  { config, log }: Pick<LeftoversArgs, "config" | "log">,
): Promise<void> {
  const docker = connect(config.local.dockerHost);
  for (const { id, name } of containers) {
    log(`  removed ${name}, left half-made by an earlier up`);
    await removeContainer(docker, id);
  }
  for (const { id, name } of networks) {
    log(`  removed the network ${name}, left by an interrupted up`);
    await docker.getNetwork(id).remove();
  }
}

/**
 * Starts nodes that stand still. The engine can't: without its ports a node looks changed to Pulumi's Docker plugin, and
 * it is protected from being replaced.
 */
export async function startNodes(
  docker: Docker,
  nodes: readonly { readonly name: string }[],
  { label, log }: Pick<LeftoversArgs, "label" | "log">,
): Promise<void> {
  const { containers } = await inventory(docker, label);
  for (const { id, name, state } of containers) {
    if (state !== "exited" || !nodes.some((node) => node.name === name)) continue;
    log(`  ${name} stood still: starting it`);
    await docker.getContainer(id).start();
  }
}

/**
 * After a deploy that came to its end nothing is half-made any more. The engine would keep what it once began for ever,
 * and take another stack's container of that name for a leftover one day.
 */
export async function finishLeftovers(stack: Stack): Promise<void> {
  if ((await recorded(stack)).pending_operations.length > 0) await forgetPending(stack);
}
