// The Docker calls that the image tests share; everything they make carries one label and is removed by it.

import { execFileSync, spawnSync } from "node:child_process";
import { names } from "../../components/topology.ts";

/** This run's own name, so that two runs don't remove each other's containers. */
export const stack = `image-test-${process.pid}`;
const label = `${names.label}=${stack}`;

/** The rights that the platform gives to containers whose entrypoint drops root. */
export const droppingRoot = [
  "--cap-drop=ALL",
  ...["CHOWN", "SETUID", "SETGID", "DAC_OVERRIDE"].map((name) => `--cap-add=${name}`),
  "--security-opt=no-new-privileges",
];
/** The rights that it gives to containers that never are root. */
export const withoutRights = ["--cap-drop=ALL", "--security-opt=no-new-privileges"];

/** Runs docker and returns its output; fails with docker's own message. */
export function docker(...args: string[]): string {
  return execFileSync("docker", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();
}

/** Like {@link docker}, with the exit code and both streams instead of a failure. */
export function tryDocker(...args: string[]): { code: number | null; output: string } {
  const result = spawnSync("docker", args, { encoding: "utf8" });
  return { code: result.status, output: `${result.stdout}${result.stderr}`.trim() };
}

/** Says why there is no Docker to test with; prints it once, because the tests are then left out. */
export function withoutDocker(): boolean {
  const { code, output } = tryDocker("version", "--format", "{{.Server.Version}}");
  if (code === 0) return false;
  console.warn(`image tests are left out: no Docker daemon answers (${output || "no docker command"})`);
  return true;
}

/** Starts a container of this run in the background and returns its full name. */
export function start(name: string, ...args: string[]): string {
  const full = `${stack}-${name}`;
  docker("run", "--detach", "--label", label, "--name", full, ...args);
  return full;
}

/** Runs a container of this run to its end. */
export function once(...args: string[]): { code: number | null; output: string } {
  return tryDocker("run", "--rm", "--label", label, ...args);
}

/** Makes this run's network. */
export function network(...args: string[]): string {
  docker("network", "create", "--label", label, ...args, stack);
  return stack;
}

/** Runs a shell line in a container. */
export function inside(container: string, line: string): string {
  return tryDocker("exec", container, "sh", "-c", line).output;
}

/** A container's log so far, both streams. */
export function logs(container: string): string {
  return tryDocker("logs", container).output;
}

/** Waits until the probe's text matches; fails with its last text and the container's log. */
export async function until(
  container: string,
  probe: () => string,
  wanted: RegExp,
  seconds = 60,
): Promise<void> {
  const deadline = Date.now() + seconds * 1000;
  let last = "";
  while (Date.now() < deadline) {
    last = probe();
    if (wanted.test(last)) return;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  const log = logs(container).split("\n").slice(-20).join("\n");
  throw new Error(`${container} never gave ${wanted}; last: ${last}\nits log:\n${log}`);
}

/** Removes whatever this run made. */
export function cleanUp(): void {
  const ids = (kind: string[]): string[] =>
    docker(...kind, "--quiet", "--filter", `label=${label}`)
      .split("\n")
      .filter(Boolean);
  const containers = ids(["ps", "--all"]);
  if (containers.length > 0) docker("rm", "--force", "--volumes", ...containers);
  const networks = ids(["network", "ls"]);
  if (networks.length > 0) docker("network", "rm", ...networks);
}
