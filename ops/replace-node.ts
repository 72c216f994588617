// `npm run replace-node`: one machine on AWS goes and comes back, with its address and its data. Never two at once.

import { execFile } from "node:child_process";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { Command } from "commander";
import { type AwsConfig, type SiemConfig, topologyOf } from "../components/config.ts";
import { type Node, type Topology } from "../components/topology.ts";
import {
  absent,
  attachmentType,
  instanceType,
  isOf,
  isOn,
  isUnsettled,
  type Machine,
  machinesIn,
  nameOf,
  outOfReach,
  waiting,
  without,
} from "./away.ts";
import { type CheckResult, runChecks } from "./checks.ts";
import { alone, confirm, parse } from "./command.ts";
import { reachOf } from "./daemon.ts";
import { Progress } from "./progress.ts";
import { renderResults } from "./report.ts";
import { ensurePulumi } from "./toolchain.ts";
import {
  openStack,
  planned,
  readSecret,
  recorded,
  releaseDeadLock,
  stackConfig,
  type StateResource as Resource,
  type Step,
} from "./workspace.ts";

/** What this needs to know of a resource in the state. */
export interface StateResource extends Resource {
  readonly deletedWith?: string;
  readonly outputs?: { readonly disableApiTermination?: boolean };
  protect?: boolean;
}

/** The whole state, to be changed and put back. */
export interface Exported {
  readonly resources: StateResource[];
  readonly put: () => Promise<void>;
}

/** The world that this acts on: the stack, AWS, the checks and the person at the keyboard. */
export interface Surroundings {
  readonly topology: Topology;
  exported(): Promise<Exported>;
  check(): Promise<readonly CheckResult[]>;
  /** What would be done if this machine were replaced, without what has to wait for others that don't answer. */
  plan(machine: Machine): Promise<readonly Step[]>;
  /** Lets AWS terminate this instance. */
  allowTermination(instanceId: string): Promise<void>;
  /** Does what was planned. */
  replace(machine: Machine): Promise<void>;
  /** @throws when the person does not want it, or nobody can be asked. */
  confirm(question: string, name: string): Promise<void>;
  readonly print: (line: string) => void;
}

/** The machine, whether the state still has its instance or not. @throws Error for a name that no machine has. */
export function machineOf(resources: readonly StateResource[], alias: string): Machine {
  const machines = machinesIn(resources);
  const found = machines.find((machine) => machine.alias === alias);
  if (found === undefined) {
    const there = machines.map((machine) => machine.alias).join(", ");
    throw new Error(
      `there is no machine ${alias} in this stack; there are: ${there === "" ? "none" : there}. Nothing was touched`,
    );
  }
  return found;
}

/** The protected resources that go with a machine, and no others: its disk and its address stay. */
export function protectedWith(resources: readonly StateResource[], machine: Machine): StateResource[] {
  return resources.filter(
    ({ urn, protect, deletedWith }) =>
      protect === true && (urn === machine.instance || deletedWith === machine.instance),
  );
}

/** What carries data or a service: none of it may go but what is on the machine. */
const carrying = new Set([
  instanceType,
  // Taking a disk away stops its machine.
  attachmentType,
  "aws:ec2/networkInterface:NetworkInterface",
  "aws:ebs/volume:Volume",
  "docker:index/container:Container",
  "docker:index/volume:Volume",
]);
const removing = new Set(["delete", "delete-replaced", "replace", "create-replacement", "discard"]);

/** Steps of a plan that would take more than this machine and what is on it. */
export function beyond(
  steps: readonly Step[],
  resources: readonly StateResource[],
  machine: Machine,
): string[] {
  const own = new Set(
    resources.filter((each) => isOn(each, machine) || isOf(each, machine)).map(({ urn }) => urn),
  );
  const found = steps.filter(({ op, urn, type }) => removing.has(op) && carrying.has(type) && !own.has(urn));
  return [...new Set(found.map(({ urn, type }) => `${nameOf(urn)} (${type.split(":").at(-1)})`))];
}

/** Checks about one replica or node; the others look at the platform as a whole, which notices a lost machine. */
const single = new Set([
  "node",
  "crash loop",
  "zookeeper",
  "ingestor",
  "api",
  "haproxy",
  "keepalived",
  "supervisor",
  "watchdog",
]);

/**
 * Failed checks that forbid to take this machine away now. Those about what runs on it don't; and if it is lost
 * already, neither do those that count it, nor those about the other machines of its zone: a zone is lost as a whole.
 */
export function objections(
  results: readonly CheckResult[],
  topology: Topology,
  node: Node,
  lost: boolean,
): CheckResult[] {
  const { nodes, haproxy, keepalived, api, ingestor, zookeeper, kafka, clickhouse } = topology;
  const replicas = [haproxy, keepalived, api, ingestor, zookeeper, kafka, clickhouse].flat();
  const gone = (other: Node) => other === node || (lost && other.zone === node.zone);
  const onIt = new Set([
    ...nodes.filter(gone).map(({ name }) => name),
    ...replicas.filter((replica) => gone(replica.node)).map(({ name }) => name),
  ]);
  return results.filter(({ ok, check, target }) => !ok && !onIt.has(target) && !(lost && !single.has(check)));
}

/**
 * Replaces one machine.
 * @throws Error, with everything as it was, if the rest is not healthy, the plan reaches further, or nobody confirms.
 */
export async function replaceNode(
  around: Surroundings,
  alias: string,
  options: { readonly lost: boolean },
): Promise<void> {
  const { topology, print } = around;
  const node = topology.nodes.find((candidate) => candidate.alias === alias);
  if (node === undefined) {
    throw new Error(
      `there is no node ${alias}; there are: ${topology.nodes.map((each) => each.alias).join(", ")}. Nothing was touched`,
    );
  }
  const { resources, put } = await around.exported();
  const machine = machineOf(resources, alias);
  const { id } = machine;

  const against = objections(await around.check(), topology, node, options.lost);
  if (against.length > 0) {
    print(renderResults(against));
    throw new Error(
      `the rest of the platform is not healthy, and without ${alias} it may stand still: mend the above first. Nothing was touched${options.lost ? "" : `. If it is ${alias} that is lost, say so with --lost: checks that only miss it no longer count`}`,
    );
  }

  const guests = resources.filter(
    (each) => each.type === "docker:index/container:Container" && isOn(each, machine),
  );
  print(`${id === undefined ? `${alias} has no instance any more. A` : `${alias} is the instance ${id}. It is stopped and terminated, and a`} new one takes its place:
  gone     the instance, its system disk and its containers: ${guests.map(({ urn }) => nameOf(urn)).join(", ")}
  kept     its address ${node.address}, its data disk and all that is on it
  new      Debian's newest image, the first boot of this version of the program, all containers
Until that is done the platform runs without it: one more loss in this time can stop it.`);
  await around.confirm(`Replace ${alias}?`, alias);

  const lifted = protectedWith(resources, machine);
  for (const resource of lifted) resource.protect = false;
  const letGo = options.lost || isUnsettled(machine) ? outOfReach(resources, machine) : [];
  const kept = new Set(letGo.filter(({ retainOnDelete }) => retainOnDelete === true));
  for (const resource of letGo) resource.retainOnDelete = true;
  await put();
  try {
    const steps = await around.plan(machine);
    const further = beyond(steps, resources, machine);
    if (further.length > 0) {
      throw new Error(
        `the plan takes more than ${alias}: ${further.join(", ")}. Nothing was touched. Other changes are waiting: deploy them first, or undo them`,
      );
    }
    const instance = resources.find(({ urn }) => urn === machine.instance);
    if (id !== undefined && instance?.outputs?.disableApiTermination === true) {
      await around.allowTermination(id);
    }
  } catch (error) {
    for (const resource of lifted) resource.protect = true;
    for (const resource of letGo) resource.retainOnDelete = kept.has(resource);
    await put();
    throw error;
  }
  await around.replace(machine);

  const results = await around.check();
  print(renderResults(results));
  if (results.some(({ ok }) => !ok)) {
    throw new Error(
      `${alias} is new, but not every check passed: see the table; npm run verify checks again`,
    );
  }
}

/** AWS's own command, with whatever credentials the environment has. */
async function allowTermination(region: string, instanceId: string): Promise<void> {
  const args = ["ec2", "modify-instance-attribute", "--region", region, "--instance-id", instanceId];
  await promisify(execFile)("aws", [...args, "--no-disable-api-termination"]);
}

/** One that the state does not have is made anyway, and the engine knows it by no name. */
const replacing = ({ id, instance }: Machine) => (id === undefined ? {} : { replace: [instance] });

/** The world of a stack. */
export function surroundings(
  stack: Stack,
  config: SiemConfig,
  aws: AwsConfig,
  options: { readonly yes: boolean; readonly lost: boolean },
  print: (line: string) => void,
): Surroundings {
  const topology = topologyOf(config);
  let left: readonly Step[] = [];
  return {
    topology,
    print,
    exported: async () => {
      const state = await stack.exportStack();
      const resources = (state.deployment as { resources?: StateResource[] }).resources ?? [];
      return { resources, put: () => stack.importStack(state) };
    },
    check: async () =>
      runChecks({
        config,
        topology,
        reach: await reachOf(config, stack),
        jwtSecret: await readSecret(stack, "jwtSecret"),
        stack: stack.name,
      }),
    plan: async (machine) => {
      const { resources } = await recorded(stack);
      const away = await absent(machinesIn(resources).filter(({ alias }) => alias !== machine.alias));
      const steps = await planned(stack, replacing(machine));
      left = waiting(steps, resources, away, machine);
      for (const urn of new Set(left.map((step) => step.urn)))
        print(`  left as it is, because others don't answer: ${nameOf(urn)}`);
      return steps.filter((step) => !left.includes(step));
    },
    allowTermination: (instanceId) => allowTermination(aws.region, instanceId),
    replace: async (machine) => {
      const progress = new Progress(print);
      try {
        // Without a refresh: a machine that is lost would not answer it.
        await stack.up({
          ...replacing(machine),
          ...(await without(stack, left)),
          onEvent: progress.onEvent,
          suppressOutputs: true,
        });
      } catch (error) {
        const reason = progress.errors.join("\n") || (error as Error).message;
        throw new Error(
          `replacing ${machine.alias} failed on the way:\n${reason}\nMend the cause, then: npm run up -- -s ${stack.name}. It goes on where this stopped; the data disk was not touched.`,
          { cause: error },
        );
      }
    },
    confirm: async (question, alias) => {
      if (options.yes) return;
      const command = `npm run replace-node -- -s ${stack.name} ${alias}${options.lost ? " --lost" : ""} --yes`;
      await confirm(question, alias, command);
    },
  };
}

async function main(stackName: string, alias: string, yes: boolean, lost: boolean): Promise<void> {
  const print = (line: string) => process.stdout.write(`${line}\n`);
  const config = stackConfig(stackName);
  const { aws } = config;
  if (aws === undefined) {
    throw new Error(`${stackName} runs on one Docker daemon, and has no machines to replace`);
  }
  const stack = await openStack(stackName, await ensurePulumi(print, config.target));
  await releaseDeadLock(stack, print);
  await replaceNode(surroundings(stack, config, aws, { yes, lost }, print), alias, { lost });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const program = new Command("replace-node")
    .description("replaces one machine on AWS; its address and its data stay")
    .argument("<node>", "the machine, such as store-node-2")
    .requiredOption("-s, --stack <name>", "the stack")
    .option("-y, --yes", "don't ask", false)
    .option("--lost", "the machine is lost already: checks that only miss it don't count", false)
    .action(async (node: string, { stack, yes, lost }: { stack: string; yes: boolean; lost: boolean }) => {
      await alone({
        name: "npm run replace-node",
        stack,
        whereItStands: () =>
          `Interrupted. If ${node} was being replaced already, npm run up -- -s ${stack} goes on where it stopped; its data disk was not touched.`,
        run: () => main(stack, node, yes, lost),
      });
    });
  await parse(program);
  // The engine's connections would keep the process alive.
  process.exit();
}
