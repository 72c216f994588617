// What an `up` leaves while machines don't answer, rule by rule. The commands as a whole: test/engine/away.test.ts.

import { describe, expect, it } from "vitest";
import { isUnsettled, machinesIn, nameOf, outOfReach, waiting } from "../../ops/away.ts";
import { type StateResource, type Step } from "../../ops/workspace.ts";

const urn = (path: string, name: string) => `urn:pulumi:dev::siem-ha::${path}::${name}`;
const machineUrn = (type: string, name: string) => urn(`siem:host:AwsNodes$siem:host:Machine$${type}`, name);
const container = "docker:index/container:Container";
const command = "command:local:Command";
const idOf = (alias: string) => `i-${alias}`;

const aliases = ["lb-node-1", "lb-node-2", "lb-node-3", "stream-node-1", "stream-node-2", "stream-node-3"];
const providerOf = (alias: string) => machineUrn("pulumi:providers:docker", `${alias}-docker`);
const machines: StateResource[] = aliases.flatMap((alias) => [
  { urn: machineUrn("aws:ec2/instance:Instance", alias), type: "aws:ec2/instance:Instance", id: idOf(alias) },
  {
    urn: providerOf(alias),
    type: "pulumi:providers:docker",
    inputs: { host: `ssh://ops@${idOf(alias)}`, sshOpts: JSON.stringify(["-o", "BatchMode=yes"]) },
  },
]);

/** A service: a container a machine, a gate between each two, and one that waits for all. */
function service(type: string, name: string, on: string, dependencies: string[] = []): StateResource[] {
  const parent = urn(type, name);
  const made = (kind: string, child: string, more: Partial<StateResource>) => ({
    urn: urn(`${type}$${kind}`, child),
    type: kind,
    parent,
    ...more,
  });
  const hosts = [1, 2, 3].map((slot) => `${on}-node-${slot}`);
  const asking = (...asked: string[]) => ({
    inputs: { environment: Object.fromEntries(asked.map((host) => [host, `ssh://ops@${idOf(host)}`])) },
  });
  return [
    { urn: parent, type, dependencies: [] },
    ...hosts.map((host, index) =>
      made(container, `${name}-${index + 1}`, { provider: `${providerOf(host)}::1`, dependencies }),
    ),
    ...hosts
      .slice(0, 2)
      .map((host, index) => made(command, `${name}-${index + 1}-gate`, asking(host, hosts[index + 1] ?? ""))),
    made(command, `${name}-ready`, asking(...hosts)),
  ];
}

const kafka = service("siem:services:Kafka", "kafka", "stream");
const kafkaReady = kafka.at(-1)?.urn ?? "";
const ingestor = service("siem:services:HttpService", "ingestor", "lb", [kafkaReady]);
const api = service("siem:services:HttpService", "api", "lb");
const resources = [...machines, ...kafka, ...ingestor, ...api];

/** A plan that replaces all of these. */
const replaced = (...all: StateResource[][]): Step[] =>
  all.flat().map(({ urn: which, type, provider, parent, inputs }) => ({
    op: type.startsWith("siem:") ? "same" : "replace",
    urn: which,
    type,
    new: { ...(provider && { provider }), ...(parent && { parent }), ...(inputs && { inputs }) },
  }));
const away = (...gone: string[]) => machinesIn(resources).filter(({ alias }) => gone.includes(alias));
const left = (plan: Step[], ...gone: string[]) =>
  waiting(plan, resources, away(...gone))
    .map((step) => nameOf(step.urn))
    .sort();

describe("what waits for a machine that is away", () => {
  it("is nothing where nothing of the plan is there", () => {
    expect(left(replaced(api), "stream-node-2")).toEqual([]);
  });

  it("is only its own replica of a service that has two others, and what asks for all", () => {
    // api-1's gate goes on: it only looks at api-2's machine.
    expect(left(replaced(api), "lb-node-2")).toEqual(["api-2", "api-2-gate", "api-ready"]);
  });

  it("is a service as a whole where only one other replica would be left", () => {
    expect(left(replaced(api), "lb-node-2", "lb-node-3")).toEqual(
      replaced(api)
        .filter(({ op }) => op !== "same")
        .map((step) => nameOf(step.urn))
        .sort(),
    );
  });

  it("is an ensemble as a whole, and what comes after it, but not what doesn't", () => {
    const names = left(replaced(kafka, ingestor, api), "stream-node-2");
    expect(names).toEqual(
      expect.arrayContaining(["kafka-1", "kafka-2", "kafka-3", "ingestor-1", "ingestor-3"]),
    );
    expect(names.filter((name) => name.startsWith("api"))).toEqual([]);
  });

  it("is a service as a whole where a replica would have to be made there", () => {
    const plan = replaced(api).map((step) =>
      nameOf(step.urn) === "api-2" ? { ...step, op: "create" } : step,
    );
    expect(left(plan, "lb-node-2")).toContain("api-3");
  });

  it("is never what a machine needs that is being replaced", () => {
    const [replacing] = away("stream-node-3");
    const names = waiting(replaced(kafka), resources, away("stream-node-2"), replacing).map((step) =>
      nameOf(step.urn),
    );
    expect(names).toContain("kafka-2");
    expect(names).not.toContain("kafka-3");
  });
});

describe("a machine in the state", () => {
  it("is settled while its daemon is on the instance that the state has", () => {
    expect(away(...aliases).filter(isUnsettled)).toEqual([]);
    expect(away("lb-node-1")[0]).toMatchObject({ id: "i-lb-node-1", sshOptions: ["-o", "BatchMode=yes"] });
  });

  it.each([
    ["has no instance any more", (all: StateResource[]) => all.filter(({ id }) => id !== "i-lb-node-1")],
    [
      "has another one",
      (all: StateResource[]) =>
        all.map((each) => (each.id === "i-lb-node-1" ? { ...each, id: "i-new" } : each)),
    ],
    [
      "was deleted to be made anew",
      (all: StateResource[]) =>
        all.map((each) => (each.id === "i-lb-node-1" ? { ...each, pendingReplacement: true } : each)),
    ],
  ])("is being replaced where it %s", (_what, change) => {
    const [machine] = machinesIn(change(resources)).filter(isUnsettled);
    expect(machine?.alias).toBe("lb-node-1");
    if (machine === undefined) return;
    expect(outOfReach(resources, machine).map((each) => nameOf(each.urn))).toEqual(["ingestor-1", "api-1"]);
  });
});
