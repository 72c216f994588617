// From what went wrong in a deploy to what a person can do about it.

import { tmpdir } from "node:os";
import { readable, type Space, spaceAt } from "./preflight.ts";

interface Situation {
  readonly stackName: string;
  /** What to type when the cause is mended. */
  readonly command: string;
  /** Directories whose disk may be full, by what they hold. */
  readonly places: Readonly<Record<string, string>>;
  readonly space?: (path: string) => Promise<Space | undefined>;
}

/** What the engine said went wrong; failing that, what its command said, without the frame round it. */
export function reasonOf(said: readonly string[], error: unknown): string {
  if (said.length > 0) return said.join("\n");
  const { message } = error as Error;
  const lines = message.split("\n").filter((line) => /^\s*(stderr: )?(error|panic): /.test(line));
  return lines.length > 0
    ? lines.map((line) => line.replace(/^\s*(stderr: )?error: /, "")).join("\n")
    : message;
}

/** Whether a disk ran full. */
export function isFull(reason: string): boolean {
  return /no space left on device|ENOSPC|disk quota exceeded/i.test(reason);
}

/** What to do about a failed deploy. Known causes first; the last sentence holds for all others. */
export async function remedyFor(reason: string, situation: Situation): Promise<string> {
  const { stackName } = situation;
  const goesOn = `${situation.command} goes on where it stopped`;
  if (isFull(reason)) return `${await fullDisks(situation)} Then ${goesOn}.`;
  if (reason.includes("marked for protection")) {
    return `A change to a node, its network or its data volume would destroy what is on it, so nothing of that was done, whatever the message above says about flags. Undo the change in Pulumi.${stackName}.yaml; or, for nodes and networks, let the stack stand still for a minute: npm run down -- -s ${stackName} --keep-data, then npm run up -- -s ${stackName}.`;
  }
  const image = /unable to (?:find or )?pull image ([^\s:]+(?::[^\s:]+)?)/i.exec(reason)?.[1];
  if (image !== undefined) {
    return `The image ${image} is not in the Docker daemon and can't be pulled. Is its name right, can this machine reach its registry, is a docker login needed? Or load it: docker load -i FILE. Then ${goesOn}.`;
  }
  if (/port is already allocated|address already in use|failed to bind host port/i.test(reason)) {
    return `Something took a port while the stack came up: end it, or set siem-ha:local portOffset in Pulumi.${stackName}.yaml. Then ${goesOn}.`;
  }
  if (/pool overlaps|overlapping IPv4|networks have overlapping/i.test(reason)) {
    return `Another Docker network has addresses of the stack's: docker network ls names it. Remove it, or set siem-ha:local net in Pulumi.${stackName}.yaml to another range. Then ${goesOn}.`;
  }
  if (/is already in use by container/i.test(reason)) {
    return `Somebody else's container has a name that the stack needs: rename or remove it, or set siem-ha:local prefix in Pulumi.${stackName}.yaml. Then ${goesOn}.`;
  }
  if (
    /cannot connect to the docker daemon|ECONNREFUSED|ENOENT \S*docker\S*sock|ECONNRESET|socket hang up/i.test(
      reason,
    )
  ) {
    return `The Docker daemon stopped answering on the way. Start it again (docker info must work). Then ${goesOn}.`;
  }
  return `Mend the cause; then ${goesOn}.`;
}

/** Names the fullest of the disks that were in use, with figures. */
async function fullDisks({ places, space = spaceAt }: Situation): Promise<string> {
  const all = { ...places, "temporary files": tmpdir() };
  const found = await Promise.all(
    Object.entries(all).map(async ([what, path]) => ({ what, path, there: await space(path) })),
  );
  const figures = found
    .flatMap(({ what, path, there }) => (there === undefined ? [] : [{ what, path, ...there }]))
    .sort((a, b) => a.free - b.free)
    .map(
      ({ what, path, free, total }) => `${path} (${what}) has ${readable(free)} free of ${readable(total)}`,
    );
  return `A disk is full: ${figures.join("; ")}. Free some of the first${figures.length > 1 ? " one" : ""}.`;
}
