// Where the operator commands keep Pulumi's state, passphrase and secrets when the user has no backend of their own.

import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { createRequire } from "node:module";
import { hostname } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { RunError } from "@pulumi/pulumi";
import {
  LocalWorkspace,
  type PreviewOptions,
  type PulumiCommand,
  type Stack,
} from "@pulumi/pulumi/automation/index.js";
import { parse, stringify, YAMLParseError } from "yaml";
import {
  isSecretKey,
  ownValues,
  parseConfig,
  project,
  secretKeys,
  type SecretKey,
  type SiemConfig,
} from "../components/config.ts";
import { stopOperations } from "./interruption.ts";
import { inTurn, startOf } from "./lock.ts";

/** The project's directory. */
export const root = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");
/** Everything the commands keep; never committed. `SIEM_HA_STATE` moves it, as the integration test does. */
export const stateDirectory = process.env["SIEM_HA_STATE"] ?? join(root, ".pulumi-state");

/** Where the locks of a stack's commands are. */
export function lockOf(stackName: string): string {
  return join(stateDirectory, "locks", stackName);
}

/** Writes a file whole or not at all: a full disk or a kill leaves the old one. */
function replaceFile(path: string, text: string): void {
  const staged = `${path}.${process.pid}.new`;
  try {
    const file = openSync(staged, "w", 0o600);
    try {
      writeSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(staged, path);
  } finally {
    rmSync(staged, { force: true });
  }
}

interface StackFile {
  encryptionsalt?: string;
  config?: Record<string, unknown>;
}

const isGroup = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @throws an Error that names the file, and the line where it is no YAML. */
function readStackFile(path: string): StackFile {
  if (!existsSync(path)) return {};
  const name = basename(path);
  let file: unknown;
  try {
    file = parse(readFileSync(path, "utf8"));
  } catch (error) {
    const at = error instanceof YAMLParseError ? error.linePos?.[0] : undefined;
    const where = at === undefined ? "" : `, line ${at.line}, column ${at.col}`;
    // Only the first line: the others quote the file.
    const [what = ""] = (error as Error).message.split("\n");
    throw new Error(
      `${name}${where} is not YAML: ${what.replace(/ at line .*$/, "")}. Nothing was touched.`,
      { cause: error },
    );
  }
  if (file === null) return {};
  const config = isGroup(file) ? (file["config"] ?? {}) : undefined;
  if (!isGroup(file) || !isGroup(config)) {
    throw new Error(
      `${name} must have a group of keys named config: a line "config:", and below it lines such as "  ${project}:target: local". Nothing was touched.`,
    );
  }
  return { ...file, config };
}

/** As Pulumi's CLI takes them, and no paths. */
const stackNamePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$/;

/** Stacks that have a file. */
export function stackNames(): string[] {
  return readdirSync(root)
    .flatMap((name) => /^Pulumi\.(.+)\.yaml$/.exec(name)?.[1] ?? [])
    .sort();
}

/** What the stack's checked-in file sets, without secrets and unchecked. @throws when there is no such stack. */
export function stackValues(stackName: string): Record<string, unknown> {
  const file = `Pulumi.${stackName}.yaml`;
  if (!stackNamePattern.test(stackName) || !existsSync(join(root, file))) {
    throw new Error(
      `there is no stack ${JSON.stringify(stackName)}; there are ${stackNames().join(", ")}. A new one begins with a file Pulumi.<name>.yaml`,
    );
  }
  return ownValues(readStackFile(join(root, file)).config ?? {});
}

/** The stack's configuration from its checked-in file, checked, without starting Pulumi. */
export function stackConfig(stackName: string): SiemConfig {
  return parseConfig(stackValues(stackName));
}

function passphrase(): Record<string, string> {
  const { PULUMI_CONFIG_PASSPHRASE: given, PULUMI_CONFIG_PASSPHRASE_FILE: file } = process.env;
  if (given !== undefined) return { PULUMI_CONFIG_PASSPHRASE: given };
  if (file !== undefined) return { PULUMI_CONFIG_PASSPHRASE_FILE: file };
  const own = join(stateDirectory, "passphrase");
  if (!existsSync(own)) {
    const staged = `${own}.${process.pid}`;
    replaceFile(staged, randomBytes(32).toString("hex"));
    try {
      // A link, unlike a rename, never takes the place of one that somebody else has just made.
      linkSync(staged, own);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    } finally {
      rmSync(staged);
    }
  }
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
  restoreSecrets(stackName);
  const copy = readStackFile(copyPath);
  const secrets = Object.fromEntries(
    Object.entries(copy.config ?? {}).filter(([key]) => isSecretKey(key.slice(project.length + 1))),
  );
  const merged = { ...copy, config: { ...source.config, ...secrets } };
  replaceFile(copyPath, stringify(merged));
  // The program itself runs in this process, so the copy needs no more than the project's name. Other stacks' engines
  // read the same file.
  const projectFile = join(directory, "Pulumi.yaml");
  if (!existsSync(projectFile)) replaceFile(projectFile, stringify({ name: project, runtime: "nodejs" }));
  return directory;
}

const secretsFile = (stackName: string) => join(stateDirectory, "work", `Pulumi.${stackName}.yaml`);
const keptFile = (stackName: string) => join(stateDirectory, "work", `kept.${stackName}.yaml`);

function holdsSecrets(path: string): boolean {
  try {
    const { encryptionsalt, config } = readStackFile(path);
    return (
      encryptionsalt !== undefined && Object.keys(secretKeys).every((key) => config?.[`${project}:${key}`])
    );
  } catch {
    return false;
  }
}

/** Pulumi writes this file in place, so a full disk can cut it off; without it nobody can read the state. */
function keepSecrets(stackName: string): void {
  const [path, kept] = [secretsFile(stackName), keptFile(stackName)];
  if (!holdsSecrets(path)) return;
  const text = readFileSync(path, "utf8");
  if (!existsSync(kept) || readFileSync(kept, "utf8") !== text) replaceFile(kept, text);
}

function restoreSecrets(stackName: string): void {
  const [path, kept] = [secretsFile(stackName), keptFile(stackName)];
  if (!existsSync(path) || holdsSecrets(path)) return;
  if (holdsSecrets(kept)) replaceFile(path, readFileSync(kept, "utf8"));
  // Cut off before it ever held a secret: nothing is lost with it.
  else if (!readable(path)) rmSync(path);
}

function readable(path: string): boolean {
  try {
    readStackFile(path);
    return true;
  } catch {
    return false;
  }
}

/** Forgets the secrets of a stack that is gone. */
export function forgetSecrets(stackName: string): void {
  for (const path of [secretsFile(stackName), keptFile(stackName)]) rmSync(path, { force: true });
}

function isJson(path: string): boolean {
  try {
    JSON.parse(readFileSync(path, "utf8"));
    return true;
  } catch {
    return false;
  }
}

/**
 * Puts the version before it, which Pulumi keeps, in the place of a broken state: a disk that runs full leaves an empty
 * file. What was made between the two is found again as begun and not finished.
 * @returns whether it did.
 * @throws when the state is broken and no earlier one is whole.
 */
export function mendState(stackName: string, stateIn = stateDirectory): boolean {
  if (process.env["PULUMI_BACKEND_URL"] !== undefined) return false;
  const state = join(stateIn, ".pulumi/stacks", project, `${stackName}.json`);
  if (!existsSync(state) || isJson(state)) return false;
  const backups = join(stateIn, ".pulumi/backups", project, stackName);
  const older = existsSync(backups)
    ? readdirSync(backups)
        .filter((name) => name.endsWith(".json"))
        // Their names hold the time.
        .sort()
        .reverse()
        .map((name) => join(backups, name))
    : [];
  const whole = [`${state}.bak`, ...older].find((file) => existsSync(file) && isJson(file));
  if (whole === undefined) {
    throw new Error(
      `The state of the stack ${stackName} is broken (${state}), and neither its .bak nor ${backups} has a whole one. Nothing was touched. Restore the file from a backup of your own; or give the stack up: docs/operations.md says how`,
    );
  }
  // An engine that outlived its command may have written a whole one meanwhile.
  if (isJson(state)) return false;
  renameSync(state, `${state}.broken`);
  replaceFile(state, readFileSync(whole, "utf8"));
  return true;
}

const require = createRequire(import.meta.url);
// Internal to Pulumi's SDK: whether its connection to the engine broke.
const { getStore } = require("@pulumi/pulumi/runtime/state.js") as {
  getStore: () => { readonly terminated: boolean };
};
const { isGrpcError } = require("@pulumi/pulumi/errors.js") as { isGrpcError: (error: unknown) => boolean };

/**
 * The program, made to fail when it could not tell the engine all it wants: the engine deletes what it is not told of.
 * Pulumi's inline server takes an error of the connection for the engine's own end. One that the program throws counts
 * as a success unless something else notices it, and after one that a resource meets it waits for ever.
 */
export function whole<T>(program: () => Promise<T>): () => Promise<T> {
  return async () => {
    const broken =
      "the connection to Pulumi's engine broke before all resources were described, so nothing was deleted. Run it again";
    const store = getStore();
    const watch = setInterval(() => {
      if (!store.terminated) return;
      clearInterval(watch);
      if (stopOperations()) process.stderr.write(`${broken}\n`);
    }, 200);
    watch.unref();
    try {
      return await program();
    } catch (error) {
      throw isGrpcError(error) ? new RunError(broken) : error;
    }
  };
}

let runs = 0;
/**
 * The program as it stands in index.ts. Modules are run once; a second run of nothing would delete everything.
 * While it runs a stack trace has one line, the place of the error, or as many as --stack-trace-limit in NODE_OPTIONS
 * says: Pulumi's SDK takes one for each of thousands of promises. What whole ones cost:
 * NODE_OPTIONS=--stack-trace-limit=10 npm run bench -- idle.
 */
async function index(): Promise<Record<string, unknown>> {
  const { href } = pathToFileURL(join(root, "index.ts"));
  const given = Error.stackTraceLimit;
  if (!/--stack-trace-limit/.test(process.env["NODE_OPTIONS"] ?? "")) Error.stackTraceLimit = 1;
  try {
    return { ...((await import(`${href}?run=${++runs}`)) as Record<string, unknown>) };
  } finally {
    Error.stackTraceLimit = given;
  }
}

/** Opens the stack, making it and its random secrets where they don't exist yet. */
export async function openStack(stackName: string, pulumiCommand?: PulumiCommand): Promise<Stack> {
  mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  // Two first commands at once would otherwise each make a stack, a passphrase and secrets of their own.
  return withSecrets(stackName, async () => {
    while (sweep(stackName) > 0) await sleep(250);
    const stack = await select(stackName, pulumiCommand);
    const config = await stack.getAllConfig();
    for (const key of Object.keys(secretKeys)) {
      if (config[`${project}:${key}`] === undefined) {
        await stack.setConfig(`${project}:${key}`, {
          value: randomBytes(32).toString("hex"),
          secret: true,
        });
      }
    }
    return stack;
  });
}

/** Changes the file that holds a stack's secrets while no other command opens the stack, and keeps a copy of it. */
export function withSecrets<T>(stackName: string, work: () => Promise<T>): Promise<T> {
  return inTurn(
    join(stateDirectory, "locks", `${stackName}.opening`),
    "a command that opens the stack",
    () => undefined,
    async () => {
      const result = await work();
      keepSecrets(stackName);
      return result;
    },
  );
}

async function select(stackName: string, pulumiCommand: PulumiCommand | undefined): Promise<Stack> {
  return LocalWorkspace.createOrSelectStack(
    {
      stackName,
      projectName: project,
      program: whole(index),
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
}

/** One secret of the stack, decrypted. Never print it, never put it on a command line. */
export async function readSecret(stack: Stack, key: SecretKey): Promise<string> {
  return (await stack.getConfig(`${project}:${key}`)).value;
}

interface Lock {
  readonly pid: number;
  readonly hostname: string;
  readonly timestamp: string;
}

/** Longer than anybody takes to write a small file, milliseconds. */
const writing = 5000;

/** Locks on the stack, in a backend of our own. One of the user's own may hold locks of somebody elsewhere. */
function locksOf(stackName: string, stateIn = stateDirectory): Lock[] {
  if (process.env["PULUMI_BACKEND_URL"] !== undefined) return [];
  const directory = join(stateIn, ".pulumi/locks/organization", project, stackName);
  if (!existsSync(directory)) return [];
  const files = readdirSync(directory).filter((name) => name.endsWith(".json"));
  return files.flatMap((name) => {
    try {
      return [JSON.parse(readFileSync(join(directory, name), "utf8")) as Lock];
    } catch {
      // Given back just now, or still being written; `sweep` has removed what nobody will ever finish.
      return [];
    }
  });
}

/**
 * Removes what a full disk or a kill has left of files that Pulumi was writing. It takes one such file among its locks
 * for a lock, can't read it, and refuses every operation from then on; and it can't read a file whose `.attrs` is empty.
 * @returns how many more there are that somebody may still be writing.
 */
export function sweep(stackName: string, stateIn = stateDirectory): number {
  if (process.env["PULUMI_BACKEND_URL"] !== undefined) return 0;
  const top = join(stateIn, ".pulumi");
  const locks = join(top, "locks/organization", project, stackName);
  const stacks = join(top, "stacks", project);
  let young = 0;
  for (const directory of [top, locks, stacks].filter((path) => existsSync(path))) {
    for (const name of readdirSync(directory)) {
      const file = join(directory, name);
      const ours = directory !== stacks || name.startsWith(`${stackName}.json.`);
      // What is replaced as a whole is never half there; these are written in place, or not renamed yet.
      const inPlace = directory === locks || name.endsWith(".attrs");
      const unfinished = ours && (inPlace ? !isJson(file) : directory === stacks && name.endsWith(".tmp"));
      if (!unfinished) continue;
      const age = Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0);
      if (age > writing) rmSync(file, { force: true });
      else young++;
    }
  }
  return young;
}

/** How long an engine whose `npm run up` was killed may take to finish what it was doing, seconds. */
const finishing = 120;

/**
 * Releases the stack's lock when the process that took it, on this machine, is dead: after a kill -9 the engine can't.
 * An engine that outlived its command is waited for: it only finishes what it was doing.
 * @throws when its process lives on: two operations at once would take each other's half-made things for leftovers.
 */
export async function releaseDeadLock(stack: Stack, log: (line: string) => void): Promise<boolean> {
  let told = false;
  const deadline = Date.now() + finishing * 1000;
  for (;;) {
    sweep(stack.name);
    const locks = locksOf(stack.name);
    if (locks.length === 0) return told;
    const alive = locks.find((lock) => lock.hostname !== hostname() || isEngine(lock.pid));
    if (alive === undefined) {
      await stack.cancel();
      log("  released the lock of an up that was killed");
      return true;
    }
    if (alive.hostname !== hostname() || Date.now() > deadline) {
      throw new Error(
        `Another operation on the stack ${stack.name} is at work since ${alive.timestamp} (process ${alive.pid} on ${alive.hostname}). Wait until it is done; if there is no such process any more: pulumi cancel -s ${stack.name}`,
      );
    }
    if (!told) log(`  an engine is still at work on the stack (process ${alive.pid}): waiting for its end`);
    told = true;
    await sleep(500);
  }
}

/** Whether this is a process of Pulumi's: the number of a dead one may have been given to another program. */
function isEngine(pid: number): boolean {
  if (startOf(pid) === undefined) return false;
  if (process.platform !== "linux") return true;
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[0]?.includes("pulumi") === true;
  } catch {
    return false;
  }
}

/** What commands need to know of a resource in the state. */
export interface StateResource {
  readonly urn: string;
  readonly type: string;
  readonly id?: string;
  readonly parent?: string;
  /** URN and id of the provider that made it. */
  readonly provider?: string;
  readonly inputs?: Readonly<Record<string, unknown>>;
  readonly dependencies?: readonly string[];
  /** An old one that is still to be deleted, after an interrupted replacement. */
  readonly delete?: boolean;
  /** Deleted already, in a replacement that has not made the new one. */
  readonly pendingReplacement?: boolean;
  retainOnDelete?: boolean;
}

/** One step of a plan, as the engine's events tell it. */
export interface Step {
  readonly op: string;
  readonly urn: string;
  readonly type: string;
  readonly provider?: string;
  readonly new?: {
    readonly parent?: string;
    readonly provider?: string;
    readonly inputs?: Readonly<Record<string, unknown>>;
  };
}

interface Resource extends StateResource {
  readonly inputs?: Readonly<Record<string, unknown>> & { readonly name?: string; readonly size?: number };
  protect?: boolean;
}

interface Deployment {
  readonly resources?: Resource[];
  pending_operations?: { readonly resource: Resource; readonly type: string }[];
}

/** What the state holds, and what an interrupted operation had begun. */
export async function recorded(stack: Stack): Promise<Required<Deployment>> {
  const deployment = (await stack.exportStack()).deployment as Deployment | undefined;
  return {
    resources: deployment?.resources ?? [],
    pending_operations: deployment?.pending_operations ?? [],
  };
}

/** What an `up` would do. It asks no machine. */
export async function planned(stack: Stack, options: PreviewOptions = {}): Promise<Step[]> {
  const steps: Step[] = [];
  await stack.preview({
    ...options,
    suppressOutputs: true,
    onEvent: ({ resourcePreEvent }) => {
      if (resourcePreEvent !== undefined) steps.push(resourcePreEvent.metadata);
    },
  });
  return steps;
}

/** Takes out of the state what was begun and never finished. */
export async function forgetPending(stack: Stack): Promise<void> {
  const exported = await stack.exportStack();
  (exported.deployment as Deployment).pending_operations = [];
  await stack.importStack(exported);
}

/**
 * Lifts the protection of all resources but those to keep, and gives back the kept ones.
 * @param forget those that are only forgotten when they go: what they are on goes, too
 */
export async function unprotect(
  stack: Stack,
  keep: (resource: Resource) => boolean,
  forget: (resource: Resource) => boolean,
): Promise<Resource[]> {
  const exported = await stack.exportStack();
  const resources = (exported.deployment as Deployment | undefined)?.resources ?? [];
  const kept = resources.filter((resource) => resource.protect === true && keep(resource));
  for (const resource of resources) {
    if (!kept.includes(resource)) resource.protect = false;
    if (forget(resource)) resource.retainOnDelete = true;
  }
  await stack.importStack(exported);
  return kept;
}

/** Marks resources to be forgotten, not deleted, when they are replaced or go. */
export async function letGo(stack: Stack, chosen: ReadonlySet<string>): Promise<void> {
  const exported = await stack.exportStack();
  for (const resource of (exported.deployment as Deployment).resources ?? []) {
    if (chosen.has(resource.urn)) resource.retainOnDelete = true;
  }
  await stack.importStack(exported);
}

/**
 * Takes out of the state what these commands wait for. Where that is deleted before it is replaced, the engine would
 * otherwise run them again, though they are excluded. The next deploy that has them records it anew.
 */
export async function detach(stack: Stack, chosen: ReadonlySet<string>): Promise<void> {
  const exported = await stack.exportStack();
  const deployment = exported.deployment as {
    resources?: { urn: string; dependencies?: string[]; propertyDependencies?: object }[];
  };
  for (const resource of deployment.resources ?? []) {
    if (!chosen.has(resource.urn)) continue;
    resource.dependencies = [];
    resource.propertyDependencies = {};
  }
  await stack.importStack(exported);
}
