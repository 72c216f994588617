// The whole stacks `dev` and `prod` with the real engine on the recording plugins: what is done, in which order, what
// a second `up` does, what a replaced machine takes with it, and what a destroy refuses. The recorders themselves
// refuse much of what AWS and Docker would (test/engine/recorder.test.ts), so an `up` that passes says more than that
// it was recorded. What they can't prove: that AWS accepts each value, and that anything works once it is there.

import { afterAll, describe, expect, it } from "vitest";
import { type Entry, instanceType, machineOf, World } from "../../offline/recorder/world.ts";
import { machinesIn, outOfReach } from "../../ops/away.ts";
import { check, type Resource } from "../../policy/rules.ts";
import { plan } from "../../components/topology.ts";
import { testSecrets } from "../mocks.ts";
import { awsStack } from "./aws.ts";
import { type RecordedStack, type Run } from "./harness.ts";

const slow = { timeout: 600_000 };
const topology = plan();
const nodes = topology.nodes.map((node) => node.alias);
const stacks: RecordedStack[] = [];
afterAll(() => {
  for (const stack of stacks) stack.remove();
});

function open(tier: "dev" | "prod"): RecordedStack {
  const stack = awsStack(tier);
  stacks.push(stack);
  return stack;
}

const told = (run: Run) => ({ ok: run.ok, errors: run.errors });
const fine = { ok: true, errors: [] };
const kind = (entry: { readonly type: string }) => entry.type.split(":").at(-1) ?? "";
const deed = (entry: Entry) => `${entry.op} ${entry.name} ${kind(entry)}`;
/** What was made or changed: everything but questions. */
const deeds = (record: readonly Entry[]) => record.filter(({ op }) => op !== "invoke" && op !== "read");

/** The place of this deed in the record; each is done once. */
function at(record: readonly Entry[], wanted: string): number {
  const places = record.flatMap((entry, index) => (deed(entry) === wanted ? [index] : []));
  const [place] = places;
  if (place === undefined || places.length > 1)
    throw new Error(`"${wanted}" was done ${places.length} times; once was expected`);
  return place;
}

function inOrder(record: readonly Entry[], ...wanted: string[]): void {
  const places = wanted.map((one) => at(record, one));
  expect(places, wanted.map((one, index) => `${places[index]} ${one}`).join("\n")).toEqual(
    [...places].sort((a, b) => a - b),
  );
}

/** Docker's names of the containers that are there now, by the node whose machine they are on. */
function containersByNode(stack: RecordedStack): Record<string, string[]> {
  const things = new World(stack.folder).things();
  const machines = new Map(
    things.filter(({ type }) => type === instanceType).map(({ id, name }) => [id, name]),
  );
  const found: Record<string, string[]> = Object.fromEntries(nodes.map((node) => [node, []]));
  for (const { type, state, host } of things) {
    if (!type.startsWith("docker:index/container:")) continue;
    (found[machines.get(machineOf(host) ?? "") ?? "nowhere"] ??= []).push(String(state["name"]));
  }
  for (const names of Object.values(found)) names.sort();
  return found;
}

/** What the policy rules look at: inputs of everything in the state, with ids. */
function resourcesOf(stack: RecordedStack): Resource[] {
  return stack.resources().map((resource) => ({
    type: resource.type,
    urn: resource.urn,
    name: resource.urn.split("::").at(-1) ?? "",
    id: resource.id,
    props: resource.inputs ?? {},
    provider: resource.provider,
    protect: resource.protect ?? false,
  }));
}

const perHost: readonly string[] = [topology.supervisor.alias, topology.watchdog.alias];

const placed = (): Record<string, string[]> => {
  const all = [
    topology.zookeeper,
    topology.kafka,
    topology.clickhouse,
    topology.api,
    topology.ingestor,
    topology.haproxy,
    topology.keepalived,
    topology.retention,
  ].flat();
  return Object.fromEntries(
    topology.nodes.map((node) => [
      node.alias,
      [
        node.alias,
        ...perHost,
        ...all.filter((replica) => replica.node === node).map((replica) => replica.alias),
        // The arbiter between the two that share the address.
        ...(node.alias === "lb-node-3" ? ["witness"] : []),
      ].sort(),
    ]),
  );
};

describe("the stack dev", () => {
  const stack = open("dev");
  let count = 0;

  it("previews without a machine, a Docker daemon or a command", slow, async () => {
    const run = await stack.run("preview");
    expect(told(run)).toEqual(fine);
    expect(run.record.filter(({ op }) => op !== "invoke")).toEqual([]);
    count = run.changes["create"] ?? 0;
    expect(count).toBeGreaterThan(300);
  });

  it("comes up from nothing in one go", slow, async () => {
    const run = await stack.run("up");
    expect(told(run)).toEqual(fine);
    expect(run.changes).toEqual({ create: count });
    expect(run.record.filter(({ refused }) => refused !== undefined)).toEqual([]);
    expect(containersByNode(stack)).toEqual(placed());
  });

  it("makes each thing after what it needs", () => {
    const record = stack.record();
    for (const node of nodes) {
      inOrder(
        record,
        `create ${node} NetworkInterface`,
        `create ${node} Instance`,
        `create ${node}-data VolumeAttachment`,
        `create ${node}-ready Command`,
        `create ${node}-image-anchor RemoteImage`,
        `create ${node}-anchor Container`,
      );
      // The ways out of the private subnets: NAT gateways and their routes.
      const machine = at(record, `create ${node} Instance`);
      const later = record.slice(machine).filter((entry) => entry.op === "create");
      expect(later.filter((entry) => kind(entry) === "NatGateway")).toEqual([]);
      expect(
        later.filter((entry) => kind(entry) === "Route" && entry.inputs["natGatewayId"] !== undefined),
      ).toEqual([]);
    }
    const rolling = (a: string) => [
      `create ${a}-1 Container`,
      `create ${a}-1-gate Command`,
      `create ${a}-2 Container`,
      `create ${a}-2-gate Command`,
      `create ${a}-3 Container`,
    ];
    for (const service of ["zookeeper", "kafka", "clickhouse", "siem-ingestor", "siem-api"]) {
      inOrder(record, ...rolling(service));
    }
    inOrder(record, "create zookeeper-ready Command", "create kafka-1 Container");
    inOrder(record, "create zookeeper-ready Command", "create clickhouse-1 Container");
    inOrder(record, "create kafka-topics Command", "create siem-ingestor-1 Container");
    inOrder(
      record,
      "create siem-api-ready Command",
      "create haproxy-1 Container",
      "create keepalived-1 Container",
    );
    inOrder(
      record,
      "create witness Container",
      "create witness-ready Command",
      "create keepalived-1 Container",
    );
  });

  it("is empty at the second up, and after a refresh", slow, async () => {
    const second = await stack.run("up");
    expect(second.changes).toEqual({ same: count });
    expect(deeds(second.record)).toEqual([]);
    expect((await stack.run("refresh")).changes).toEqual({ same: count });
    expect((await stack.run("preview")).changes).toEqual({ same: count });
  });

  it("keeps secrets out of the state", () => {
    const state = stack.state();
    const given = JSON.stringify(stack.record());
    const token = stack
      .record()
      .filter(({ name }) => name === "witness")
      .flatMap(({ inputs }) => (inputs["uploads"] ?? []) as { content: string }[])[0]?.content;
    expect(token).toMatch(/.{16}/);
    for (const secret of [...Object.values(testSecrets), token ?? ""]) {
      expect(state).not.toContain(secret);
      // The check can fail: the recorders were given it.
      expect(given).toContain(secret);
    }
  });

  it("keeps every rule of the policy", () => {
    expect(check(resourcesOf(stack))).toEqual([]);
  });

  it.each(["store-node-2", "lb-node-1"])(
    "replaces %s alone, with all containers on it, and keeps its data and address",
    slow,
    async (node) => {
      const before = containersByNode(stack);
      const onNode = (before[node] ?? [])
        .map((name) => (name === node ? `${node}-anchor` : perHost.includes(name) ? `${node}-${name}` : name))
        .sort();
      const run = await stack.run("up", { replace: [stack.urn(instanceType, node)] });
      expect(told(run)).toEqual(fine);
      const machine = at(run.record, `delete ${node} Instance`);
      const containers = run.record.filter((entry) => kind(entry) === "Container");
      // They stop on the old machine, where they can do so in peace, and start on the new one.
      const stopped = containers.filter(({ op }) => op === "delete");
      expect(stopped.map(({ name }) => name).sort()).toEqual(onNode);
      expect(stopped.every((entry) => run.record.indexOf(entry) < machine)).toBe(true);
      expect(
        containers
          .filter(({ op }) => op === "create")
          .map(({ name }) => name)
          .sort(),
      ).toEqual(onNode);
      expect(containersByNode(stack)).toEqual(before);
      inOrder(
        run.record,
        `delete ${node}-data VolumeAttachment`,
        `delete ${node} Instance`,
        `create ${node} Instance`,
        `create ${node}-data VolumeAttachment`,
        `create ${node}-ready Command`,
        `create ${node}-anchor Container`,
      );
      const aws = deeds(run.record).filter(({ plugin }) => plugin === "aws");
      expect(aws.filter(({ name }) => !name.startsWith(node)).map(deed)).toEqual([]);
      const kept = ["Volume", "NetworkInterface", "Parameter", "Role", "Route"];
      expect(aws.filter((entry) => kept.includes(kind(entry))).map(deed)).toEqual([]);
      expect((await stack.run("up")).changes).toEqual({ same: count });
    },
  );

  it("replaces a machine that is dead, without asking it for anything", slow, async () => {
    const node = "stream-node-3";
    stack.lose(node);
    // As `replace-node --lost` does.
    const [machine] = machinesIn(stack.resources()).filter(({ alias }) => alias === node);
    if (machine === undefined) throw new Error(`no machine ${node}`);
    const lost = new Set(outOfReach(stack.resources(), machine).map(({ urn }) => urn));
    stack.edit((resource) => (lost.has(resource.urn) ? { ...resource, retainOnDelete: true } : resource));
    const run = await stack.run("up", { replace: [stack.urn(instanceType, node)] });
    expect(told(run)).toEqual(fine);
    expect(run.record.filter(({ plugin, op }) => plugin === "docker" && op === "delete")).toEqual([]);
    expect(containersByNode(stack)).toMatchObject({ [node]: placed()[node] });
    expect((await stack.run("up")).changes).toEqual({ same: count });
  });

  it("goes down in order, asking no machine, and leaves nothing on AWS", slow, async () => {
    const run = await stack.run("destroy");
    expect(told(run)).toEqual(fine);
    expect(run.record.filter(({ plugin }) => plugin === "docker")).toEqual([]);
    expect(
      new World(stack.folder)
        .things()
        .filter(({ type }) => type.startsWith("aws:"))
        .map(({ urn }) => urn),
    ).toEqual([]);
  });
});

describe("the stack prod", () => {
  const stack = open("prod");

  it("comes up from nothing in one go, and is empty at the second up", slow, async () => {
    const run = await stack.run("up");
    expect(told(run)).toEqual(fine);
    expect(containersByNode(stack)).toEqual(placed());
    expect((await stack.run("up")).changes).toEqual({ same: run.changes["create"] });
  });

  it("keeps every rule of the policy", () => {
    const resources = resourcesOf(stack);
    expect(check(resources)).toEqual([]);
    // Not because there was nothing to look at.
    const types = new Set(resources.map(kind));
    for (const type of ["Bucket", "LifecyclePolicy", "FlowLog", "Key", "Instance", "RolePolicy"]) {
      expect(types).toContain(type);
    }
  });

  it("replaces no machine while it is protected", slow, async () => {
    const run = await stack.run("up", { replace: [stack.urn(instanceType, "stream-node-1")] });
    expect(run.errors.join()).toMatch(
      /unable to replace resource .*stream-node-1.*\n.*marked for protection/,
    );
    expect(deeds(run.record)).toEqual([]);
  });

  it("replaces one machine once its protection is lifted, and touches no data", slow, async () => {
    const node = "store-node-1";
    const urn = stack.urn(instanceType, node);
    // As `replace-node` does; termination is allowed there by AWS's own command, which the recorders don't see.
    stack.edit((resource) =>
      resource.urn === urn
        ? { ...resource, protect: false, outputs: { ...resource.outputs, disableApiTermination: false } }
        : resource,
    );
    const run = await stack.run("up", { replace: [urn] });
    expect(told(run)).toEqual(fine);
    const aws = deeds(run.record).filter(({ plugin }) => plugin === "aws");
    expect(aws.filter(({ name }) => !name.startsWith(node)).map(deed)).toEqual([]);
    expect(Object.keys((await stack.run("up")).changes)).toEqual(["same"]);
    expect(stack.resources().find((resource) => resource.urn === urn)?.protect).toBe(true);
  });

  it("is not destroyed while data and machines are protected: the preview says so first", slow, async () => {
    const before = stack.state();
    const run = await stack.run("destroy", { previewOnly: true });
    expect(run.ok).toBe(false);
    const named = run.errors.join("\n");
    for (const what of ["Instance::store-node-1", "Bucket::backups-bucket"]) {
      expect(named).toMatch(new RegExp(`${what}" cannot be deleted\nbecause it is protected`));
    }
    expect(named).toContain("pulumi state unprotect");
    expect(deeds(run.record)).toEqual([]);
    expect(stack.state()).toBe(before);
  });
});
