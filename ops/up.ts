// `npm run up`: from a fresh clone to a running, proved stack, and nothing to do the second time.

import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { Command } from "commander";
import { labelOf, replacementsOf, type SiemConfig, topologyOf } from "../components/config.ts";
import { memoryLimits } from "../components/services/memory.ts";
import { type Topology } from "../components/topology.ts";
import { absent, isOf, isOn, isUnsettled, machinesIn, nameOf, outOfReach, waiting, without } from "./away.ts";
import { runChecks } from "./checks.ts";
import { alone, parse } from "./command.ts";
import { crashLoops, statefulReplicas } from "./crash-loops.ts";
import { connect, reachOf } from "./daemon.ts";
import { entry, firstSteps } from "./entry.ts";
import { withHold } from "./hold.ts";
import { findLeftovers, finishLeftovers, removeLeftovers, startNodes } from "./leftovers.ts";
import {
  earlierNodes,
  excessMemory,
  grantedMemory,
  machineMemory,
  needs,
  partOfData,
  routesHere,
  shortage,
  survey,
  takenNames,
  takenPort,
  takenRange,
  volumeSizes,
} from "./preflight.ts";
import { Progress } from "./progress.ts";
import { reasonOf, remedyFor } from "./remedies.ts";
import { renderResults } from "./report.ts";
import { dockerRoot, ensureDaemon, ensureDocker, ensurePulumi, missingImages } from "./toolchain.ts";
import {
  letGo,
  mendState,
  openStack,
  planned,
  readSecret,
  recorded,
  releaseDeadLock,
  stackConfig,
  stateDirectory,
} from "./workspace.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);
const progress = new Progress(print);
/** How far it has come, for a person who interrupts it. */
let phase: "before" | "deploy" | "verify" = "before";

const again = (stackName: string) => `npm run up${stackName === "local" ? "" : ` -- -s ${stackName}`}`;

function whereItStands(stackName: string): string {
  switch (phase) {
    case "before":
      return `Interrupted before anything of the stack was touched. To begin again: ${again(stackName)}`;
    case "deploy":
      return `Interrupted half-way: ${progress.changes} changes are done and recorded, the rest is still to come. Run ${again(stackName)} again: it goes on where it stopped. To remove it all: npm run down -- -s ${stackName}`;
    case "verify":
      return `Interrupted after the deploy: the stack is up, its checks were not finished. To check it: npm run verify -- -s ${stackName}`;
  }
}

async function stage<T>(name: string, run: () => Promise<T>): Promise<T> {
  const began = Date.now();
  print(`${name} …`);
  const result = await run();
  print(`${name}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
  return result;
}

/** Refuses, before anything is touched, what would stop the deploy half-way. */
async function preflight(
  topology: Topology,
  config: SiemConfig,
  label: string,
  stackName: string,
): Promise<void> {
  const { dockerHost } = config.local;
  const docker = connect(dockerHost);
  const daemon = await survey(docker);
  const range = takenRange(daemon, routesHere(), topology, label);
  const memory = await excessMemory(memoryLimits(topology, config), await machineMemory(docker), () =>
    grantedMemory(docker, daemon, label),
  );
  const problems = [
    takenNames(daemon, topology, label),
    earlierNodes(daemon, topology, label, stackName),
    range.problem,
    await takenPort(daemon, topology, config),
    memory.problem,
    await shortage(needs(stateDirectory, await dockerRoot(dockerHost), await missingImages(config))),
  ].filter((problem) => problem !== undefined);
  if (problems.length > 0) throw new Error(`${problems.join("\n")}\nNothing was touched.`);
  for (const { warning } of [range, memory]) if (warning !== undefined) print(`  warning: ${warning}`);
}

/** The same, where it takes the stack's state to tell. */
async function refuseLeftData(
  stack: Stack,
  topology: Topology,
  config: SiemConfig,
  label: string,
): Promise<void> {
  const docker = connect(config.local.dockerHost);
  const problem = await partOfData(await survey(docker), topology, label, {
    state: () => recorded(stack),
    sizes: () => volumeSizes(docker),
  });
  if (problem !== undefined) throw new Error(`${problem}\nNothing was touched.`);
}

const shown = { onEvent: progress.onEvent, suppressOutputs: true };

/**
 * Deploys on machines, without those that don't answer: what is on one counts neither as deleted nor as changed, and
 * what concerns the others goes on.
 * @returns what to do about what was left, if anything was.
 */
async function deployOnMachines(stack: Stack): Promise<string | undefined> {
  const { resources } = await recorded(stack);
  const machines = machinesIn(resources);
  const away = await absent(machines);
  const unsettled = machines.filter(isUnsettled);
  if (away.length + unsettled.length === 0) {
    await stack.up({ refresh: true, ...shown });
    return undefined;
  }
  for (const { alias, reason } of away) print(`  ${alias} does not answer: ${reason}`);
  for (const { alias } of unsettled) print(`  ${alias} has no machine any more: it gets a new one`);
  const lost = new Set(unsettled.flatMap((machine) => outOfReach(resources, machine)).map(({ urn }) => urn));
  if (lost.size > 0) await letGo(stack, lost);
  const unknown = resources
    .filter(
      (each) => lost.has(each.urn) || away.some((machine) => isOn(each, machine) || isOf(each, machine)),
    )
    .map(({ urn }) => urn);
  await stack.refresh({ exclude: [...new Set(unknown)], ...shown });
  if (away.length === 0) {
    await stack.up(shown);
    return undefined;
  }
  const steps = await planned(stack);
  // A replacement is several steps of one resource.
  const waits = waiting(steps, (await recorded(stack)).resources, away);
  const left = [...new Map(waits.map((step) => [step.urn, step])).values()];
  for (const { urn, type } of left) print(`  left as it is: ${nameOf(urn)} ${type.split(":").at(-1)}`);
  await stack.up({ ...(await without(stack, left)), continueOnError: true, ...shown });
  const names = away.map(({ alias }) => alias).join(", ");
  const remedies = away.map(({ alias }) => `npm run replace-node -- -s ${stack.name} ${alias} --lost`);
  return `${names} ${away.length === 1 ? "does" : "do"} not answer, so ${left.length === 0 ? "nothing there was looked at" : `${left.length} changes wait, see "left as it is" above`}. Start ${away.length === 1 ? "it" : "them"} again, then: ${again(stack.name)}. Or, for what is lost: ${remedies.join("; ")}`;
}

async function up(stackName: string): Promise<void> {
  const began = Date.now();
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const label = labelOf(config, stackName);
  const local = config.target === "local";
  if (local) {
    await ensureDaemon(print, config.local.dockerHost);
    await preflight(topology, config, label, stackName);
    await stage("Docker and images", () =>
      ensureDocker(print, config.local.dockerHost, replacementsOf(config)),
    );
  }
  const pulumi = await stage("Pulumi", () => ensurePulumi(print, config.target));
  if (mendState(stackName)) print("  the stack's state was broken: the version before it is used");
  const stack = await openStack(stackName, pulumi);
  const killed = await releaseDeadLock(stack, print);
  if (local) {
    await refuseLeftData(stack, topology, config, label);
    const leftovers = { label, config, killed, log: print };
    await removeLeftovers(await findLeftovers(stack, leftovers), leftovers);
  }
  phase = "deploy";
  const waits = await stage("deploy", async () => {
    try {
      if (!local) return await deployOnMachines(stack);
      const docker = connect(config.local.dockerHost);
      await withHold(docker, label, async () => {
        await startNodes(docker, topology.nodes, { label, log: print });
        await stack.up({ refresh: true, ...shown });
      });
      return undefined;
    } catch (error) {
      const reason = reasonOf(progress.errors, error);
      const remedy = await remedyFor(reason, {
        command: again(stackName),
        stackName,
        places: {
          "the stack's state": stateDirectory,
          ...(local ? { Docker: await dockerRoot(config.local.dockerHost) } : {}),
        },
      });
      const ending = await reachOf(config, stack)
        .then(async (reach) => [...(await crashLoops(reach, statefulReplicas(topology), stackName)).values()])
        .catch(() => []);
      throw new Error(["the deploy failed:", reason, ...ending, remedy].join("\n"), { cause: error });
    }
  });
  if (local) await finishLeftovers(stack);
  phase = "verify";
  print(progress.changes === 0 ? "nothing changed" : `${progress.changes} changes`);
  const jwtSecret = await readSecret(stack, "jwtSecret");
  const reach = await reachOf(config, stack);
  const results = await stage("verify", () =>
    runChecks({ config, topology, reach, jwtSecret, stack: stackName }),
  );
  print(renderResults(results));
  if (waits !== undefined) throw new Error(waits);
  if (results.some((result) => !result.ok)) {
    throw new Error(
      "the stack is deployed, but not every check passed: see the table; npm run verify checks again",
    );
  }
  print(`\nReady after ${((Date.now() - began) / 1000).toFixed(0)} s.`);
  print(firstSteps(entry(topology, config), stackName, new Date()));
}

const program = new Command("up")
  .description("deploys the stack and proves that it works")
  .option("-s, --stack <name>", "the stack", "local")
  .action(async ({ stack }: { stack: string }) => {
    await alone({
      name: "npm run up",
      stack,
      whereItStands: () => whereItStands(stack),
      run: () => up(stack),
    });
  });
await parse(program);
// The engine's connections would keep the process alive.
process.exit();
