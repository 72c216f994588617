// `npm run down`: removes everything of a stack, with --keep-data everything but its data volumes.

import { Command } from "commander";
import { labelOf } from "../components/config.ts";
import { alone } from "./command.ts";
import { withHold } from "./hold.ts";
import { removeLeftovers } from "./leftovers.ts";
import { Progress } from "./progress.ts";
import { reasonOf, remedyFor } from "./remedies.ts";
import { connect, inventory } from "./daemon.ts";
import { ensureDaemon, ensurePulumi } from "./toolchain.ts";
import {
  forgetSecrets,
  mendState,
  openStack,
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

async function down(stackName: string, keepData: boolean): Promise<void> {
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
  if (local) await removeLeftovers(stack, { label, config, killed, log: print });
  const data = await unprotect(
    stack,
    (resource) => keepData && resource.type === "docker:index/volume:Volume",
  );
  try {
    const destroy = () =>
      stack.destroy({
        refresh: true,
        onEvent: progress.onEvent,
        suppressOutputs: true,
        ...(keepData ? { exclude: data.map((volume) => volume.urn) } : {}),
      });
    await (local ? withHold(connect(config.local.dockerHost), label, destroy) : destroy());
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
  await stack.workspace.removeStack(stackName);
  forgetSecrets(stackName);
  print("everything is gone");
}

const program = new Command("down")
  .description("removes the stack from Docker")
  .option("-s, --stack <name>", "the stack", "local")
  .option("--keep-data", "keep the data volumes and the secrets; the next up uses them again", false)
  .action(async ({ stack, keepData }: { stack: string; keepData: boolean }) => {
    await alone({
      name: "npm run down",
      stack,
      whereItStands: () =>
        progress.changes === 0
          ? `Interrupted before anything was removed. To go on: ${again(stack, keepData)}`
          : `Interrupted half-way: ${progress.changes} things are gone, the rest is still there and recorded. To go on: ${again(stack, keepData)}. To have the stack back: npm run up -- -s ${stack}`,
      run: () => down(stack, keepData),
    });
  });
await program.parseAsync();
process.exit();
