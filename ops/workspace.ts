// Where the operator commands keep Pulumi's state, passphrase and secrets when the user has no backend of their own.

import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { LocalWorkspace, type PulumiCommand, type Stack } from "@pulumi/pulumi/automation/index.js";
import { parse, stringify } from "yaml";
import { parseConfig, secretKeys, type SecretKey, type SiemConfig } from "../components/config.ts";

/** The project's directory. */
export const root = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
export const project = "siem-ha";
/** Everything the commands keep; never committed. `SIEM_HA_STATE` moves it, as the integration test does. */
export const stateDirectory = process.env["SIEM_HA_STATE"] ?? join(root, ".pulumi-state");

interface StackFile {
  encryptionsalt?: string;
  config?: Record<string, unknown>;
}

function readStackFile(path: string): StackFile {
  if (!existsSync(path)) return {};
  return (parse(readFileSync(path, "utf8")) as StackFile | null) ?? {};
}

/** The stack's configuration from its checked-in file, checked, without starting Pulumi. */
export function stackConfig(stackName: string): SiemConfig {
  const path = join(root, `Pulumi.${stackName}.yaml`);
  if (!existsSync(path))
    throw new Error(`there is no stack ${stackName}: Pulumi.${stackName}.yaml does not exist`);
  const values: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(readStackFile(path).config ?? {})) {
    const [namespace, name] = key.split(":", 2);
    if (namespace === project && name !== undefined && !(name in secretKeys)) values[name] = value;
  }
  return parseConfig(values);
}

function passphrase(): Record<string, string> {
  const { PULUMI_CONFIG_PASSPHRASE: given, PULUMI_CONFIG_PASSPHRASE_FILE: file } = process.env;
  if (given !== undefined) return { PULUMI_CONFIG_PASSPHRASE: given };
  if (file !== undefined) return { PULUMI_CONFIG_PASSPHRASE_FILE: file };
  const own = join(stateDirectory, "passphrase");
  if (!existsSync(own)) writeFileSync(own, randomBytes(32).toString("hex"), { mode: 0o600, flag: "wx" });
  return { PULUMI_CONFIG_PASSPHRASE_FILE: own };
}

/**
 * The directory that Pulumi reads Pulumi.<stack>.yaml from. A file with an encryption salt has been used with Pulumi
 * and is taken as it is; otherwise a copy carries the secrets, so that a clone stays clean.
 */
function workDirectory(stackName: string): string {
  const source = readStackFile(join(root, `Pulumi.${stackName}.yaml`));
  if (source.encryptionsalt !== undefined) return root;
  const directory = join(stateDirectory, "work");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const copyPath = join(directory, `Pulumi.${stackName}.yaml`);
  const copy = readStackFile(copyPath);
  const secrets = Object.fromEntries(
    Object.entries(copy.config ?? {}).filter(([key]) => key.slice(project.length + 1) in secretKeys),
  );
  const merged = { ...copy, config: { ...source.config, ...secrets } };
  writeFileSync(copyPath, stringify(merged), { mode: 0o600 });
  // The program itself runs in this process, so the copy needs no more than the project's name.
  writeFileSync(join(directory, "Pulumi.yaml"), stringify({ name: project, runtime: "nodejs" }));
  return directory;
}

/** Opens the stack, making it and its random secrets where they don't exist yet. */
export async function openStack(stackName: string, pulumiCommand?: PulumiCommand): Promise<Stack> {
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  const stack = await LocalWorkspace.createOrSelectStack(
    {
      stackName,
      projectName: project,
      program: async () => ({
        ...((await import(pathToFileURL(join(root, "index.ts")).href)) as Record<string, unknown>),
      }),
    },
    {
      workDir: workDirectory(stackName),
      ...(pulumiCommand === undefined ? {} : { pulumiCommand }),
      envVars: {
        PULUMI_BACKEND_URL: process.env["PULUMI_BACKEND_URL"] ?? `file://${stateDirectory}`,
        PULUMI_SKIP_UPDATE_CHECK: "true",
        SIEM_HA_ROOT: root,
        // The ssh there makes one connection a machine, which all others share.
        PATH: `${join(root, "ops/ssh")}:${process.env["PATH"] ?? ""}`,
        ...passphrase(),
      },
    },
  );
  const config = await stack.getAllConfig();
  for (const key of Object.keys(secretKeys)) {
    if (config[`${project}:${key}`] === undefined) {
      await stack.setConfig(`${project}:${key}`, { value: randomBytes(32).toString("hex"), secret: true });
    }
  }
  return stack;
}

/** One secret of the stack, decrypted. Never print it, never put it on a command line. */
export async function readSecret(stack: Stack, key: SecretKey): Promise<string> {
  return (await stack.getConfig(`${project}:${key}`)).value;
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

interface Lock {
  readonly pid: number;
  readonly hostname: string;
}

/** Locks on the stack, in a backend of our own. One of the user's own may hold locks of somebody elsewhere. */
function locksOf(stackName: string): Lock[] {
  if (process.env["PULUMI_BACKEND_URL"] !== undefined) return [];
  const directory = join(stateDirectory, ".pulumi/locks/organization", project, stackName);
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => name.endsWith(".json"))
    .map((name) => JSON.parse(readFileSync(join(directory, name), "utf8")) as Lock);
}

/**
 * Releases the stack's lock when the process that took it, on this machine, is dead: after a kill -9 the engine can't.
 * @throws when its process lives: two operations at once would take each other's half-made things for leftovers.
 */
export async function releaseDeadLock(stack: Stack): Promise<boolean> {
  const locks = locksOf(stack.name);
  if (locks.length === 0) return false;
  for (const lock of locks) {
    if (lock.hostname !== hostname() || alive(lock.pid)) {
      throw new Error(
        `Another operation on the stack ${stack.name} is at work (process ${lock.pid} on ${lock.hostname}). Wait until it is done; if there is no such process any more: pulumi cancel -s ${stack.name}`,
      );
    }
  }
  await stack.cancel();
  return true;
}

interface Resource {
  readonly urn: string;
  readonly type: string;
  readonly id?: string;
  readonly inputs?: { readonly name?: string };
  protect?: boolean;
}

interface Deployment {
  readonly resources?: Resource[];
  readonly pending_operations?: { readonly resource: Resource; readonly type: string }[];
}

/** What the state holds, and what an interrupted operation had begun. */
export async function recorded(stack: Stack): Promise<Required<Deployment>> {
  const deployment = (await stack.exportStack()).deployment as Deployment | undefined;
  return {
    resources: deployment?.resources ?? [],
    pending_operations: deployment?.pending_operations ?? [],
  };
}

/** Lifts the protection of all resources but those to keep, and gives back the kept ones. */
export async function unprotect(stack: Stack, keep: (resource: Resource) => boolean): Promise<Resource[]> {
  const exported = await stack.exportStack();
  const resources = (exported.deployment as Deployment | undefined)?.resources ?? [];
  const kept = resources.filter((resource) => resource.protect === true && keep(resource));
  for (const resource of resources) if (!kept.includes(resource)) resource.protect = false;
  await stack.importStack(exported);
  return kept;
}
