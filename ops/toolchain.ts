// Finds or gets what a deploy needs on this machine: Docker, Pulumi's CLI, its plugins, the public images.

import { homedir } from "node:os";
import { join } from "node:path";
import { type PulumiCommand } from "@pulumi/pulumi/automation/index.js";
import { baseImages, publicImages } from "../components/images.ts";
import { ensurePulumiCli } from "../offline/cli.ts";
import { ensureImages } from "../offline/images/build.ts";
import { ensurePlugins } from "../offline/plugins.ts";
import { ensureDockerEngine } from "./docker-engine.ts";

/** Pulumi's CLI and plugins, got if they are missing. */
export async function ensurePulumi(log: (line: string) => void): Promise<PulumiCommand> {
  const cli = await ensurePulumiCli(log);
  const home = process.env["PULUMI_HOME"] ?? join(homedir(), ".pulumi");
  await ensurePlugins(log, home, cli.command.command);
  return cli.command;
}

/** Docker and every image the program names. */
export async function ensureDocker(log: (line: string) => void): Promise<void> {
  await ensureDockerEngine(log);
  await ensureImages([...Object.values(baseImages), ...Object.values(publicImages)], log);
}
