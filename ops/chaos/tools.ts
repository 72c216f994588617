// Containers that a chaos run puts beside the stack: they join a node's network, carry a label of their own so that
// the supervisor leaves them alone, and are removed by it.

import { execFile, spawn } from "node:child_process";
import { promisify } from "node:util";
import type Docker from "dockerode";
import { nameFrom } from "../../components/config.ts";
import { whileBusy } from "../../offline/plugins/docker/daemon.ts";

const run = promisify(execFile);

/** On every container of a chaos run; its value is the stack's label. */
export const chaosLabel = "siem-ha.chaos";

export interface Tools {
  readonly docker: Docker;
  readonly dockerHost: string;
  /** Label of the stack. */
  readonly label: string;
  /** The image with `ip` and `nft`. */
  readonly image: string;
}

const limits = ({ dockerHost, label }: Tools): string[] => [
  ...["-H", dockerHost, "run", "--rm", "--label", `${chaosLabel}=${label}`],
  ...["--cap-drop=ALL", "--security-opt=no-new-privileges", "--log-driver=none", "--memory=64m"],
];

const argumentsOf = (tools: Tools, container: string): string[] => [
  ...limits(tools),
  `--network=container:${container}`,
];

/** Runs a shell line as root beside a container, stopped or not, with its volumes. @param input of the line */
export async function besideVolumes(
  tools: Tools,
  container: string,
  line: string,
  input = "",
): Promise<string> {
  const all = [...limits(tools), "--network=none", "--cap-add=DAC_OVERRIDE", "--volumes-from", container];
  try {
    const running = run("docker", [...all, "-i", tools.image, "sh", "-c", line], {
      timeout: 60_000,
      maxBuffer: 64 * 1024 * 1024,
    });
    // One that ended before it had read has an exit code that says more.
    running.child.stdin?.on("error", () => undefined).end(input);
    return (await running).stdout;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`beside the volumes of ${container}: ${(stderr?.trim() || message).split("\n").at(-1)}`, {
      cause: error,
    });
  }
}

/** Runs a shell line in a node's network, with the right to change it. @throws with its own message */
export async function inNetwork(tools: Tools, container: string, line: string): Promise<string> {
  try {
    const all = [...argumentsOf(tools, container), "--cap-add=NET_ADMIN", tools.image, "sh", "-c", line];
    return (await run("docker", all, { timeout: 60_000 })).stdout;
  } catch (error) {
    const { stderr, message } = error as { stderr?: string; message: string };
    throw new Error(`in the network of ${container}: ${(stderr?.trim() || message).split("\n").at(-1)}`, {
      cause: error,
    });
  }
}

let watches = 0;

/** Runs a shell line in a node's network until it is ended, and passes on what it says. @returns what ends it */
export function besideIn(
  tools: Tools,
  container: string,
  line: string,
  hear: (line: string) => void,
): () => void {
  const name = `${nameFrom(tools.label)}-chaos-${process.pid}-${++watches}`;
  const child = spawn(
    "docker",
    [...argumentsOf(tools, container), "--name", name, tools.image, "sh", "-c", line],
    {
      stdio: ["ignore", "pipe", "ignore"],
      // A Ctrl-C is for the command, which ends this in its own time.
      detached: true,
    },
  );
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    for (const each of lines) hear(each);
  });
  return () => {
    // One that is just starting is removed with all others at the end of the run.
    tools.docker
      .getContainer(name)
      .remove({ force: true })
      .catch(() => undefined);
  };
}

/**
 * Starts containers that take all the processor time that they get; they end by themselves after these seconds, if nobody
 * removes them before. They weigh what Docker gives to every container.
 * @param what part of their names
 * @returns their names
 */
export async function keepBusy(
  { docker, label, image }: Tools,
  what: string,
  count: number,
  seconds: number,
): Promise<string[]> {
  const names = Array.from(
    { length: count },
    (_, index) => `${nameFrom(label)}-chaos-${process.pid}-${what}-${index + 1}`,
  );
  for (const name of names) {
    const made = await docker.createContainer({
      ...{ name, Image: image, Labels: { [chaosLabel]: label } },
      Cmd: ["timeout", String(seconds), "sh", "-c", "while :; do :; done"],
      HostConfig: {
        ...{ AutoRemove: true, NetworkMode: "none", Memory: 64 * 1024 * 1024 },
        ...{ CapDrop: ["ALL"], SecurityOpt: ["no-new-privileges"], LogConfig: { Type: "none", Config: {} } },
      },
    });
    await made.start();
  }
  return names;
}

/** Removes what this run, or one that was killed, has left. */
export async function removeTools({ docker, label }: Pick<Tools, "docker" | "label">): Promise<void> {
  const left = await docker.listContainers({
    all: true,
    filters: { label: [`${chaosLabel}=${label}`] },
  });
  // With --rm it goes by itself too: then somebody is at it already, and it is waited for.
  for (const { Id } of left)
    await whileBusy(`container ${Id}`, 30, () => docker.getContainer(Id).remove({ force: true }));
}
