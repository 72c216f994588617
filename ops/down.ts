// `npm run down`: removes everything of a stack, with --keep-data everything but its data volumes.

import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { Command } from "commander";
import type Docker from "dockerode";
import { labelOf } from "../components/config.ts";
import { isOn, machinesIn } from "./away.ts";
import { alone, confirm, parse } from "./command.ts";
import { connect, inventory, removeContainer } from "./daemon.ts";
import { withHold } from "./hold.ts";
import { findLeftovers, removeLeftovers } from "./leftovers.ts";
import { lossesInDocker, lossesOnAws } from "./losses.ts";
import { volumeSizes } from "./preflight.ts";
import { Progress } from "./progress.ts";
import { reasonOf, remedyFor } from "./remedies.ts";
import { ensureDaemon, ensurePulumi } from "./toolchain.ts";
import {
  forgetSecrets,
  mendState,
  openStack,
  recorded,
  releaseDeadLock,
  stackConfig,
  stateDirectory,
  unprotect,
} from "./workspace.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);
const progress = new Progress(print);

function again(stackName: string, keepData: boolean): string {
  return `npm run down -- -s ${stackName}${keepData ? " --keep-data" : ""}`;
}

interface DownOptions {
  readonly keepData: boolean;
  /** Don't ask. */
  readonly yes: boolean;
}

const volumeType = "docker:index/volume:Volume";

/** Says what goes, and asks whether it may. Where nothing is there, there is nothing to ask. */
async function ask(stack: Stack, losses: readonly string[], { keepData, yes }: DownOptions): Promise<void> {
  if (losses.length === 0) return;
  const what = [...losses, ...(keepData ? [] : ["its secrets and its state"])];
  print(`This deletes the stack ${stack.name}:\n${what.map((line) => `  ${line}`).join("\n")}`);
  if (keepData) print("Its data volumes, its secrets and its state stay.");
  if (!yes) await confirm("Delete all of it?", stack.name, `${again(stack.name, keepData)} --yes`);
}

async function down(stackName: string, options: DownOptions): Promise<void> {
  const { keepData } = options;
  const config = stackConfig(stackName);
  const label = labelOf(config, stackName);
  const local = config.target === "local";
  if (!local && config.aws?.tier === "prod") {
    throw new Error(
      `${stackName} is a production stack: its data is protected, and this command does not take it down. docs/aws.md says how, step by step.`,
    );
  }
  if (local) await ensureDaemon(print, config.local.dockerHost, { start: false });
  const pulumi = await ensurePulumi(print, config.target);
  if (mendState(stackName)) print("  the stack's state was broken: the version before it is used");
  const stack = await openStack(stackName, pulumi);
  const killed = await releaseDeadLock(stack, print);
  const { resources } = await recorded(stack);
  if (local) {
    const docker = connect(config.local.dockerHost);
    const leftovers = { label, config, killed, log: print };
    const found = await findLeftovers(stack, leftovers);
    const there = await inventory(docker, label);
    const data = resources.filter(({ type, protect }) => type === volumeType && protect === true);
    const kept = new Set(keepData ? data.map(({ inputs }) => inputs?.name ?? "") : []);
    await ask(stack, lossesInDocker({ ...there, sizes: await volumeSizes(docker), kept }), options);
    await removeLeftovers(found, leftovers);
  } else {
    await ask(stack, lossesOnAws(resources), options);
  }
  // Containers go with their machines. So none is asked, and one that doesn't answer stops nothing.
  const machines = machinesIn(resources);
  const onMachines = new Set(
    resources.filter((each) => machines.some((machine) => isOn(each, machine))).map(({ urn }) => urn),
  );
  const data = await unprotect(
    stack,
    (resource) => keepData && resource.type === volumeType,
    ({ urn }) => onMachines.has(urn),
  );
  const shown = { onEvent: progress.onEvent, suppressOutputs: true };
  try {
    const destroy = () =>
      stack.destroy({
        refresh: local,
        ...shown,
        ...(keepData ? { exclude: data.map((volume) => volume.urn) } : {}),
      });
    if (local) {
      const docker = connect(config.local.dockerHost);
      await withHold(docker, label, async () => {
        // Where all goes nothing has to drain; what data stays is closed in order.
        if (!keepData) await removeContainers(docker, label);
        await destroy();
      });
    } else {
      await stack.refresh({ exclude: [...onMachines], ...shown });
      await destroy();
    }
  } catch (error) {
    const reason = reasonOf(progress.errors, error);
    const remedy = await remedyFor(reason, {
      command: again(stackName, keepData),
      stackName,
      places: { "the stack's state": stateDirectory },
    });
    throw new Error(`down failed:\n${reason}\n${remedy}`, { cause: error });
  }
  const left = local
    ? await inventory(connect(config.local.dockerHost), label)
    : { containers: [], volumes: [], networks: [] };
  const others = [...left.containers.map((c) => c.name), ...left.networks.map((n) => n.name)];
  if (others.length > 0 || (!keepData && left.volumes.length > 0)) {
    throw new Error(`not everything is gone: ${[...others, ...left.volumes].join(", ")}`);
  }
  if (keepData) {
    print(`everything is gone but the data: ${left.volumes.join(", ")}`);
    return;
  }
  // Pulumi would remove Pulumi.<stack>.yaml too, which is the team's.
  await stack.workspace.removeStack(stackName, { preserveConfig: true });
  forgetSecrets(stackName);
  print("everything is gone");
}

/** Ends and removes all containers of the stack at once. */
async function removeContainers(docker: Docker, label: string): Promise<void> {
  const { containers } = await inventory(docker, label);
  await Promise.all(containers.map(({ id }) => removeContainer(docker, id)));
  print(`  removed ${containers.length} containers`);
}

const program = new Command("down")
  .description("removes the stack, after it has said what goes and asked")
  .option("-s, --stack <name>", "the stack", "local")
  .option("--keep-data", "keep the data volumes and the secrets; the next up uses them again", false)
  .option("-y, --yes", "don't ask", false)
  .action(async ({ stack, ...options }: { stack: string } & DownOptions) => {
    const { keepData } = options;
    await alone({
      name: "npm run down",
      stack,
      whereItStands: () =>
        progress.changes === 0
          ? `Interrupted before anything was removed. To go on: ${again(stack, keepData)}`
          : `Interrupted half-way: ${progress.changes} things are gone, the rest is still there and recorded. To go on: ${again(stack, keepData)}. To have the stack back: npm run up -- -s ${stack}`,
      run: () => down(stack, options),
    });
  });
await parse(program);
process.exit();
