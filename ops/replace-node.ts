// `npm run replace-node`: one machine on AWS goes and comes back, with its address and its data. Never two at once.

import { execFile } from "node:child_process";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { Command } from "commander";
import { topologyOf } from "../components/config.ts";
import { type Node, type Topology } from "../components/topology.ts";
import { type CheckResult, runChecks } from "./checks.ts";
import { alone, confirm, parse } from "./command.ts";
import { reachOf } from "./daemon.ts";
import { Progress } from "./progress.ts";
import { renderResults } from "./report.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, readSecret, releaseDeadLock, stackConfig } from "./workspace.ts";

const instanceType = "aws:ec2/instance:Instance";
const attachmentType = "aws:ec2/volumeAttachment:VolumeAttachment";

/** What this needs to know of a resource in the state. */
export interface StateResource {
  readonly urn: string;
  readonly type: string;
  readonly id?: string;
  readonly deletedWith?: string;
  /** An old one that is still to be deleted, after an interrupted replacement. */
  readonly delete?: boolean;
  readonly outputs?: { readonly disableApiTermination?: boolean };
  /** URN and id of the provider that made it. */
  readonly provider?: string;
  protect?: boolean;
  retainOnDelete?: boolean;
}

/** One step of a plan. */
export interface Step {
  readonly op: string;
  readonly urn: string;
  readonly type: string;
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
  /** What would be done if this resource were replaced. */
  plan(urn: string): Promise<readonly Step[]>;
  /** Lets AWS terminate this instance. */
  allowTermination(instanceId: string): Promise<void>;
  replace(urn: string): Promise<void>;
  /** @throws when the person does not want it, or nobody can be asked. */
  confirm(question: string): Promise<void>;
  readonly print: (line: string) => void;
}

/** The machine's instance in the state. @throws Error for a name that is not one of the machines. */
export function instanceOf(resources: readonly StateResource[], alias: string): StateResource {
  const instances = resources.filter(
    (resource) =>
      resource.type === instanceType && resource.delete !== true && /-node-\d+$/.test(resource.urn),
  );
  const found = instances.find(({ urn }) => nameOf(urn) === alias);
  if (found === undefined) {
    const there = instances.map(({ urn }) => nameOf(urn)).join(", ");
    throw new Error(
      `there is no machine ${alias} in this stack; there are: ${there === "" ? "none" : there}. Nothing was touched`,
    );
  }
  return found;
}

/** The protected resources that go with a machine, and no others: its disk and its address stay. */
export function protectedWith(resources: readonly StateResource[], instance: StateResource): StateResource[] {
  return resources.filter(
    ({ urn, protect, deletedWith }) =>
      protect === true && (urn === instance.urn || deletedWith === instance.urn),
  );
}

/**
 * What nobody can delete in order any more once the machine is dead: its containers, over a connection that doesn't
 * come about, and the attachment of its disk, before which it would have to be stopped. They are let go instead; the
 * engine takes that mark away with the next deploy.
 */
export function outOfReach<T extends StateResource>(resources: readonly T[], alias: string): T[] {
  return resources.filter(
    ({ urn, type, provider }) =>
      provider?.includes(`::${alias}-docker::`) === true ||
      (type === attachmentType && nameOf(urn) === `${alias}-data`),
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
  instance: StateResource,
): string[] {
  const own = new Set(
    resources
      .filter(
        ({ urn, type, deletedWith }) =>
          urn === instance.urn ||
          deletedWith === instance.urn ||
          (type === attachmentType && nameOf(urn) === `${nameOf(instance.urn)}-data`),
      )
      .map(({ urn }) => urn),
  );
  const found = steps.filter(({ op, urn, type }) => removing.has(op) && carrying.has(type) && !own.has(urn));
  return [...new Set(found.map(({ urn, type }) => `${nameOf(urn)} (${type.split(":").at(-1)})`))];
}

/** Checks about one replica or node; the others look at the platform as a whole, which notices a lost machine. */
const single = new Set([
  "node",
  "data",
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
 * already, neither do those that count it.
 */
export function objections(
  results: readonly CheckResult[],
  topology: Topology,
  node: Node,
  lost: boolean,
): CheckResult[] {
  const { nodes, haproxy, keepalived, api, ingestor, zookeeper, kafka, clickhouse } = topology;
  const replicas = [haproxy, keepalived, api, ingestor, zookeeper, kafka, clickhouse].flat();
  const onIt = new Set([
    ...nodes.filter((candidate) => candidate === node).map(({ name }) => name),
    ...replicas.filter((replica) => replica.node === node).map(({ name }) => name),
  ]);
  return results.filter(({ ok, check, target }) => !ok && !onIt.has(target) && !(lost && !single.has(check)));
}

function nameOf(urn: string): string {
  return urn.split("::").at(-1) ?? urn;
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
  const instance = instanceOf(resources, alias);
  const id = instance.id ?? "";

  const against = objections(await around.check(), topology, node, options.lost);
  if (against.length > 0) {
    print(renderResults(against));
    throw new Error(
      `the rest of the platform is not healthy, and without ${alias} it may stand still: mend the above first. Nothing was touched${options.lost ? "" : `. If it is ${alias} that is lost, say so with --lost: checks that only miss it no longer count`}`,
    );
  }

  const guests = resources.filter(
    ({ type, deletedWith }) => type === "docker:index/container:Container" && deletedWith === instance.urn,
  );
  print(`${alias} is the instance ${id}. It is stopped and terminated, and a new one takes its place:
  gone     the instance, its system disk and its containers: ${guests.map(({ urn }) => nameOf(urn)).join(", ")}
  kept     its address ${node.address}, its data disk and all that is on it
  new      Debian's newest image, the first boot of this version of the program, all containers
Until that is done the platform runs without it: one more loss in this time can stop it.`);
  await around.confirm(`Replace ${alias}?`);

  const lifted = protectedWith(resources, instance);
  for (const resource of lifted) resource.protect = false;
  const letGo = options.lost ? outOfReach(resources, alias) : [];
  const kept = new Set(letGo.filter(({ retainOnDelete }) => retainOnDelete === true));
  for (const resource of letGo) resource.retainOnDelete = true;
  await put();
  try {
    const further = beyond(await around.plan(instance.urn), resources, instance);
    if (further.length > 0) {
      throw new Error(
        `the plan takes more than ${alias}: ${further.join(", ")}. Nothing was touched. Other changes are waiting: deploy them first, or undo them`,
      );
    }
    if (instance.outputs?.disableApiTermination === true) await around.allowTermination(id);
  } catch (error) {
    for (const resource of lifted) resource.protect = true;
    for (const resource of letGo) resource.retainOnDelete = kept.has(resource);
    await put();
    throw error;
  }
  await around.replace(instance.urn);

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

async function main(stackName: string, alias: string, yes: boolean, lost: boolean): Promise<void> {
  const print = (line: string) => process.stdout.write(`${line}\n`);
  const config = stackConfig(stackName);
  const { aws } = config;
  if (aws === undefined) {
    throw new Error(`${stackName} runs on one Docker daemon, and has no machines to replace`);
  }
  const stack: Stack = await openStack(stackName, await ensurePulumi(print, config.target));
  await releaseDeadLock(stack, print);
  const topology = topologyOf(config);
  const around: Surroundings = {
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
        stack: stackName,
      }),
    plan: async (urn) => {
      const steps: Step[] = [];
      await stack.preview({
        replace: [urn],
        suppressOutputs: true,
        onEvent: ({ resourcePreEvent }) => {
          if (resourcePreEvent !== undefined) steps.push(resourcePreEvent.metadata);
        },
      });
      return steps;
    },
    allowTermination: (instanceId) => allowTermination(aws.region, instanceId),
    replace: async (urn) => {
      const progress = new Progress(print);
      try {
        // Without a refresh: a machine that is lost would not answer it.
        await stack.up({ replace: [urn], onEvent: progress.onEvent, suppressOutputs: true });
      } catch (error) {
        const reason = progress.errors.join("\n") || (error as Error).message;
        throw new Error(
          `replacing ${alias} failed on the way:\n${reason}\nMend the cause, then: npm run up -- -s ${stackName}. It goes on where this stopped; the data disk was not touched.`,
          { cause: error },
        );
      }
    },
    confirm: async (question) => {
      if (yes) return;
      const command = `npm run replace-node -- -s ${stackName} ${alias}${lost ? " --lost" : ""} --yes`;
      await confirm(question, alias, command);
    },
  };
  await replaceNode(around, alias, { lost });
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
