// Finds or gets what a deploy needs on this machine: Docker, Pulumi's CLI, its plugins, the public images.

import { homedir } from "node:os";
import { join } from "node:path";
import { type PulumiCommand } from "@pulumi/pulumi/automation/index.js";
import { type SiemConfig } from "../components/config.ts";
import { baseImages, publicImages } from "../components/images.ts";
import { ensurePulumiCli } from "../offline/cli.ts";
import { ensureImages } from "../offline/images/build.ts";
import { ensurePlugins } from "../offline/plugins.ts";
import { ensureDockerEngine } from "./docker-engine.ts";

/**
 * Pulumi's CLI and plugins, got if they are missing.
 * @throws for the target `aws` where only stand-ins are to be had: they know nothing of machines.
 */
export async function ensurePulumi(
  log: (line: string) => void,
  target: SiemConfig["target"] = "local",
): Promise<PulumiCommand> {
  const cli = await ensurePulumiCli(log);
  const home = process.env["PULUMI_HOME"] ?? join(homedir(), ".pulumi");
  const kinds = await ensurePlugins(log, home, cli.command.command);
  if (target === "aws" && Object.values(kinds).includes("stand-in")) {
    throw new Error(
      `The target aws needs Pulumi's own plugins, and ${Object.keys(kinds).join(" and ")} can't be downloaded here: the stand-ins in offline/ serve only the target local. Nothing was touched. Run it where https://get.pulumi.com can be reached, with PULUMI_HOME pointing to an empty directory.`,
    );
  }
  return cli.command;
}

/** Where the `docker` command looks when nothing else is said. */
const usualDaemon = "unix:///var/run/docker.sock";

/**
 * The Docker engine at this address. From here on the `docker` command of this process asks that one.
 * @throws when none answers and none can be started here.
 */
export async function ensureDaemon(log: (line: string) => void, dockerHost: string): Promise<void> {
  const chosen = process.env["DOCKER_HOST"] ?? "";
  if (chosen !== "" && chosen !== dockerHost) {
    throw new Error(
      `DOCKER_HOST is ${chosen}, but the stack is for ${dockerHost}. Unset DOCKER_HOST, or set dockerHost of siem-ha:local to it.`,
    );
  }
  if (dockerHost !== usualDaemon) process.env["DOCKER_HOST"] = dockerHost;
  await ensureDockerEngine(log);
}

/** Docker, and every public image the program names. */
export async function ensureDocker(log: (line: string) => void, dockerHost: string): Promise<void> {
  await ensureDaemon(log, dockerHost);
  await ensureImages([...Object.values(baseImages), ...Object.values(publicImages)], log);
}
