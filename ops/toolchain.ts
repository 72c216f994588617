// Finds or gets what a deploy needs on this machine: Docker, Pulumi's CLI, its plugins, the public images.

import { execFile } from "node:child_process";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type PulumiCommand } from "@pulumi/pulumi/automation/index.js";
import { replacementsOf, type SiemConfig } from "../components/config.ts";
import { type OwnImage, ownImages, publicImages } from "../components/images.ts";
import { baseOf, buildImage, imageTag } from "../images/build.ts";
import { ensurePulumiCli } from "../offline/cli.ts";
import { ensureImages } from "../offline/images/build.ts";
import { ensurePlugins, pulumiHomeFolder } from "../offline/plugins.ts";
import { ensureDockerEngine } from "./docker-engine.ts";
import { apart } from "./interruption.ts";
import { inTurn } from "./lock.ts";
import { isFull } from "./remedies.ts";

const run = promisify(execFile);

/**
 * Pulumi's CLI and plugins, got if they are missing.
 * @throws for the target `aws` where only stand-ins are to be had: they know nothing of machines.
 */
export async function ensurePulumi(
  log: (line: string) => void,
  target: SiemConfig["target"] = "local",
): Promise<PulumiCommand> {
  const cli = await ensurePulumiCli(log);
  const home = pulumiHomeFolder();
  // Said to the engine too: by itself it may ask the account for its home, which HOME needn't be (sudo, CI).
  process.env["PULUMI_HOME"] = home;
  const kinds = await ensurePlugins(log, home, cli.command.command);
  if (target === "aws" && Object.values(kinds).includes("stand-in")) {
    throw new Error(
      `The target aws needs Pulumi's own plugins, and ${Object.keys(kinds).join(" and ")} can't be downloaded here: the stand-ins in offline/ serve only the target local. Nothing was touched. Run it where https://get.pulumi.com can be reached, with PULUMI_HOME pointing to an empty directory.`,
    );
  }
  return apart(cli.command);
}

/**
 * The Docker engine at this address. From here on the `docker` command of this process asks that one, whatever context
 * it is set to.
 * @throws when none answers and none can be started here.
 */
export async function ensureDaemon(
  log: (line: string) => void,
  dockerHost: string,
  options: {
    /** Installs and starts an engine where that can be done. @default true */
    readonly start?: boolean;
  } = {},
): Promise<void> {
  const chosen = process.env["DOCKER_HOST"] ?? "";
  if (chosen !== "" && chosen !== dockerHost) {
    throw new Error(
      `DOCKER_HOST is ${chosen}, but the stack is for ${dockerHost}. Nothing was touched. Unset DOCKER_HOST, or set siem-ha:local dockerHost to it (a socket of this machine, such as unix:///var/run/docker.sock).`,
    );
  }
  await ensureDockerEngine(log, dockerHost, options.start ?? true);
  process.env["DOCKER_HOST"] = dockerHost;
}

/** Docker, every public image the program names, our own, and those that the team brings instead. */
export async function ensureDocker(
  log: (line: string) => void,
  dockerHost: string,
  replacements: Partial<Record<OwnImage, string>> = {},
): Promise<void> {
  await ensureDaemon(log, dockerHost);
  // Two at once would each build an image of the same name, and the first would lose its name to the second.
  await inTurn(
    join(homedir(), ".cache/siem-ha/locks/images"),
    "npm run up",
    ({ pid }) => log(`images: process ${pid} is getting them; waiting`),
    async () => {
      try {
        // The program builds an image when its source changes; one that somebody removed is built here.
        const toBuild: OwnImage[] = [];
        for (const name of ownImages)
          if (replacements[name] === undefined && !(await present(imageTag(name)))) toBuild.push(name);
        await ensureImages(imagesToGet(toBuild), log);
        for (const [name, image] of Object.entries(replacements)) await ensureReplacement(name, image, log);
        for (const name of toBuild) buildImage(name, log);
      } catch (error) {
        const reason = (error as Error).message;
        const remedy = isFull(reason)
          ? `The disk of ${await dockerRoot(dockerHost)} or of the temporary files is full: docker system df says what Docker has, docker image prune frees some.`
          : "Mend the cause and run it again; an image can also be brought along: docker load -i FILE.";
        throw new Error(
          `an image is missing, so nothing of the stack was touched (images that are there by now stay):\n${reason}\n${remedy}`,
          { cause: error },
        );
      }
    },
  );
}

/** What must be in the daemon: all that the stack runs, and what images that are still to be built stand on. */
export function imagesToGet(toBuild: readonly OwnImage[]): string[] {
  return [...new Set([...toBuild.map(baseOf), ...Object.values(publicImages)])];
}

/** An image that the team brings. @throws naming the setting it comes from. */
async function ensureReplacement(name: string, image: string, log: (line: string) => void): Promise<void> {
  if (await present(image)) return;
  try {
    await run("docker", ["pull", "--quiet", image], { timeout: 15 * 60_000, maxBuffer: 16 * 1024 * 1024 });
    log(`image ${image}: pulled`);
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(
      `image ${image}, which siem-ha:${name} image names, is not in the local Docker daemon and can't be pulled: ${stderr?.trim().split("\n").at(-1) || String(error)}. Is the name right, can this machine reach the registry, is a docker login needed?`,
      { cause: error },
    );
  }
}

async function present(...images: string[]): Promise<boolean> {
  return run("docker", ["image", "inspect", "--format", "{{.Id}}", ...images]).then(
    () => true,
    () => false,
  );
}

/** Whether any image that the stack runs has still to be got. */
export async function missingImages(config: SiemConfig): Promise<boolean> {
  const replacements = replacementsOf(config);
  const own = ownImages.map((name) => replacements[name] ?? imageTag(name));
  return !(await present(...Object.values(publicImages), ...own));
}

/** Where the daemon keeps images and volumes; nowhere on this machine, if it runs in a virtual one. */
export async function dockerRoot(dockerHost: string): Promise<string> {
  const info = await run("docker", ["-H", dockerHost, "info", "--format", "{{.DockerRootDir}}"]).catch(
    () => ({ stdout: "" }),
  );
  return info.stdout.trim();
}
