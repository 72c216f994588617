// Machines that don't answer: which they are, what an `up` may change without them, and what has to wait for them.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { sshEnvironmentOf } from "../components/host/ssh.ts";
import { detach, root, type StateResource, type Step } from "./workspace.ts";

const run = promisify(execFile);
/** SSH itself gives up after 30 seconds. */
const patience = 45_000;

export const instanceType = "aws:ec2/instance:Instance";
export const attachmentType = "aws:ec2/volumeAttachment:VolumeAttachment";
const commandType = "command:local:Command";
const providerType = "pulumi:providers:docker";

/** One machine of the stack, as its Docker provider in the state knows it. */
export interface Machine {
  readonly alias: string;
  /** URN of its Docker provider: what this made is on the machine. */
  readonly provider: string;
  /** URN of its instance, also where the state has none (any more). */
  readonly instance: string;
  /** The id of the instance that the state has. */
  readonly id: string | undefined;
  readonly host: string;
  readonly sshOptions: readonly string[];
}

export const nameOf = (urn: string) => urn.split("::").at(-1) ?? urn;

/** The stack's machines. */
export function machinesIn(resources: readonly StateResource[]): Machine[] {
  return resources
    .filter(({ urn, type }) => type === providerType && urn.includes("siem:host:Machine$"))
    .map(({ urn, inputs }) => {
      const alias = nameOf(urn).replace(/-docker$/, "");
      const instance = urn.replace(`${providerType}::${alias}-docker`, `${instanceType}::${alias}`);
      const found = resources.find(
        (each) => each.urn === instance && each.delete !== true && each.pendingReplacement !== true,
      );
      // The engine hands a provider's lists on as JSON.
      const options = inputs?.["sshOpts"];
      return {
        alias,
        provider: urn,
        instance,
        id: found?.id,
        host: String(inputs?.["host"]),
        sshOptions: (typeof options === "string" ? JSON.parse(options) : (options ?? [])) as string[],
      };
    });
}

/** What is on a machine: everything that its Docker daemon was asked for. */
export function isOn({ provider }: Pick<StateResource, "provider">, machine: Machine): boolean {
  return provider?.startsWith(`${machine.provider}::`) === true;
}

/** Its instance, and the attachment of its disk. */
export function isOf(
  { urn, type }: { readonly urn: string; readonly type: string },
  machine: Machine,
): boolean {
  return urn === machine.instance || (type === attachmentType && nameOf(urn) === `${machine.alias}-data`);
}

/**
 * What nobody can delete in order any more once the machine is dead: its containers, over a connection that doesn't
 * come about, and the attachment of its disk, before which it would have to be stopped. They are let go instead; the
 * engine takes that mark away with the next deploy.
 */
export function outOfReach<T extends StateResource>(resources: readonly T[], machine: Machine): T[] {
  return resources.filter(
    (each) => isOn(each, machine) || (each.type === attachmentType && isOf(each, machine)),
  );
}

/** A machine that the state has no instance of, or another than its daemon was on: it is being replaced. */
export function isUnsettled({ id, host }: Machine): boolean {
  return id === undefined || !host.endsWith(`@${id}`);
}

export interface Absent extends Machine {
  /** What the attempt to reach it said. */
  readonly reason: string;
}

/** Those of the machines whose Docker daemon doesn't answer. */
export async function absent(machines: readonly Machine[]): Promise<Absent[]> {
  const asked = await Promise.all(
    machines
      .filter((machine) => !isUnsettled(machine))
      .map(async (machine) => {
        const environment = {
          ...process.env,
          ...sshEnvironmentOf(machine.sshOptions),
          PATH: `${join(root, "ops/ssh")}:${process.env["PATH"] ?? ""}`,
        };
        const args = ["-H", machine.host, "version", "--format", "{{.Server.Version}}"];
        try {
          await run("docker", args, { env: environment, timeout: patience });
          return [];
        } catch (error) {
          const { stderr, message } = error as { stderr?: string; message: string };
          return [{ ...machine, reason: (stderr?.trim() || message).split("\n").at(-1) ?? "" }];
        }
      }),
  );
  return asked.flat();
}

const rollingType = "siem:services:HttpService";

/** The service that a resource belongs to: its component's URN. The pair and its witness are one. */
function servicesOf(resources: readonly StateResource[], steps: readonly Step[]) {
  const parents = new Map(
    [...steps.map(({ urn, new: news }) => [urn, news?.parent] as const)].concat(
      resources.map(({ urn, parent }) => [urn, parent] as const),
    ),
  );
  return (urn: string): string | undefined => {
    for (let at: string | undefined = urn; at !== undefined && at !== ""; at = parents.get(at)) {
      const type = at.split("::").at(-2)?.split("$").at(-1) ?? "";
      if (type === "siem:edge:LoadBalancers" || type === "siem:edge:Witness") return "edge";
      if (type.startsWith("siem:services:")) return at;
    }
    return undefined;
  };
}

/**
 * Steps of a plan that have to wait for machines that are away:
 * what is on them, and commands that ask them;
 * services of which they hold a replica, because to change another one would take two down. The API and the ingestors
 * go on while there is another one to serve;
 * and services that come after one that has to wait, because it may have what they need.
 * @param replacing a machine that is being made anew: what it needs never waits
 */
export function waiting(
  plan: readonly Step[],
  resources: readonly StateResource[],
  away: readonly Machine[],
  replacing?: Machine,
): Step[] {
  const steps = plan.filter(({ op }) => op !== "same" && op !== "read");
  const serviceOf = servicesOf(resources, steps);
  const onAway = (each: Pick<StateResource, "provider">) => away.some((machine) => isOn(each, machine));
  const providerOf = (step: Step) => ({ provider: step.new?.provider ?? step.provider ?? "" });
  const environmentOf = (step: Step) => {
    const inputs = step.new?.inputs ?? resources.find(({ urn }) => urn === step.urn)?.inputs;
    return JSON.stringify(inputs?.["environment"] ?? {});
  };
  const names = (step: Step, machine: Machine | undefined) =>
    step.type === commandType && machine?.id !== undefined && environmentOf(step).includes(machine.id);
  const forReplaced = (step: Step) =>
    replacing !== undefined &&
    (isOn(providerOf(step), replacing) || isOf(step, replacing) || names(step, replacing));

  const containers = resources.filter(({ type }) => type === "docker:index/container:Container");
  const touched = new Set(resources.filter(onAway).map(({ urn }) => serviceOf(urn)));
  const rolls = (service: string) =>
    service.includes(rollingType) &&
    containers.filter((each) => serviceOf(each.urn) === service && !onAway(each)).length > 1;
  // A gate asks its own replica, and looks at the machine of the next one only to see whether there is one.
  const isGateHere = ({ urn }: Step) =>
    containers.some((each) => nameOf(urn) === `${nameOf(each.urn)}-gate` && !onAway(each));

  const left = new Set<Step>();
  for (const step of steps) {
    const service = serviceOf(step.urn);
    const asksAway = away.some((machine) => isOf(step, machine) || names(step, machine)) && !isGateHere(step);
    const whole = service !== undefined && touched.has(service) && !rolls(service);
    if (!forReplaced(step) && (onAway(providerOf(step)) || asksAway || whole)) left.add(step);
  }
  const needs = new Map<string, Set<string>>();
  for (const { urn, dependencies = [] } of resources) {
    const service = serviceOf(urn);
    if (service === undefined) continue;
    const found = dependencies.map(serviceOf).filter((each) => each !== undefined && each !== service);
    needs.set(service, new Set([...(needs.get(service) ?? []), ...(found as string[])]));
  }
  for (let before = -1; before !== left.size;) {
    before = left.size;
    const late = new Set([...left].map(({ urn }) => serviceOf(urn)));
    // The engine makes nothing that comes after what it shall not make.
    const broken = new Set([...left].filter(({ op }) => op === "create").map(({ urn }) => serviceOf(urn)));
    for (const step of steps) {
      const service = serviceOf(step.urn);
      if (service === undefined || forReplaced(step)) continue;
      if (broken.has(service) || [...(needs.get(service) ?? [])].some((each) => late.has(each)))
        left.add(step);
    }
  }
  return [...left];
}

/** What a deploy has to be told so that it leaves these steps as they are. It changes the state for that. */
export async function without(stack: Stack, left: readonly Step[]): Promise<{ exclude?: string[] }> {
  if (left.length === 0) return {};
  const urnsOf = (steps: readonly Step[]) => [...new Set(steps.map(({ urn }) => urn))];
  const commands = urnsOf(left.filter(({ type }) => type === commandType));
  if (commands.length > 0) await detach(stack, new Set(commands));
  return { exclude: urnsOf(left) };
}
