// What an interrupted operation made in Docker but never recorded: it would block its names for ever.

import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { type SiemConfig } from "../components/config.ts";
import { names } from "../components/topology.ts";
import { connect, inventory } from "./daemon.ts";
import { recorded } from "./workspace.ts";

/**
 * Removes containers and networks that this state was about to make when it was interrupted.
 * @throws when there are containers of this stack that this state knows nothing of: they are somebody else's work.
 */
export async function removeLeftovers(
  stack: Stack,
  label: string,
  config: SiemConfig,
  log: (line: string) => void,
): Promise<void> {
  const { resources, pending_operations: pending } = await recorded(stack);
  const known = new Set(resources.map((resource) => resource.id));
  const begun = new Set(pending.map(({ resource }) => resource.inputs?.name));
  const docker = connect(config.local.dockerHost);
  const { containers, networks } = await inventory(docker, label);
  const unknown = containers.filter(({ id }) => !known.has(id));
  const strangers = unknown.map(({ name }) => name).filter((name) => !begun.has(name));
  if (strangers.length > 0) {
    throw new Error(
      `Containers of the stack ${stack.name} run here that this state does not know: ${strangers.join(", ")}. Another clone or another Pulumi backend made them; nothing was touched. Use that one; or, if it is lost, remove them first: docker rm -f $(docker ps -aq --filter label=${names.label}=${label}) (their data volumes stay, but the secrets that protect the data are lost with that state).`,
    );
  }
  for (const { id, name } of unknown) {
    log(`  removed ${name}, left by an interrupted up`);
    await docker.getContainer(id).remove({ force: true, v: true });
  }
  for (const { id, name } of networks) {
    if (known.has(id) || !begun.has(name)) continue;
    log(`  removed the network ${name}, left by an interrupted up`);
    await docker.getNetwork(id).remove();
  }
}
