// `npm run down`: removes everything of a stack, with --keep-data everything but its data volumes.

import { rmSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { labelOf } from "../components/config.ts";
import { withHold } from "./hold.ts";
import { removeLeftovers } from "./leftovers.ts";
import { Progress } from "./progress.ts";
import { connect, inventory } from "./daemon.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, releaseDeadLock, stackConfig, stateDirectory, unprotect } from "./workspace.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);

async function down(stackName: string, keepData: boolean): Promise<void> {
  const config = stackConfig(stackName);
  const label = labelOf(config, stackName);
  const local = config.target === "local";
  if (!local && config.aws?.tier === "prod") {
    throw new Error(
      `${stackName} is a production stack: its data is protected, and this command does not take it down. docs/aws.md says how, step by step.`,
    );
  }
  const stack = await openStack(stackName, await ensurePulumi(print, config.target));
  const progress = new Progress(print);
  if (await releaseDeadLock(stack)) print("  released the lock of an operation that was killed");
  if (local) await removeLeftovers(stack, label, config, print);
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
    throw new Error(`down failed:\n${progress.errors.join("\n") || (error as Error).message}`, {
      cause: error,
    });
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
  rmSync(join(stateDirectory, "work", `Pulumi.${stackName}.yaml`), { force: true });
  print("everything is gone");
}

const program = new Command("down")
  .description("removes the stack from Docker")
  .option("-s, --stack <name>", "the stack", "local")
  .option("--keep-data", "keep the data volumes and the secrets; the next up uses them again", false)
  .action(async ({ stack, keepData }: { stack: string; keepData: boolean }) => {
    try {
      await down(stack, keepData);
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = 1;
    }
  });
await program.parseAsync();
process.exit();
