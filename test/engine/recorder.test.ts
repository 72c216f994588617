// The recording plugins, on a small program of two machines: what the engine does with it, and what the recorders
// refuse as AWS and Docker would. What it says about `deletedWith`, `replaceWith` and `replacementTrigger` is the
// engine's own behaviour.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { Account, awsKinds, invoke } from "../../offline/recorder/aws.ts";
import { rules } from "../../offline/recorder/aws-types.ts";
import type { Props } from "../../offline/plugins/server.ts";
import { type Entry, instanceType, World } from "../../offline/recorder/world.ts";
import { RecordedStack, type Run } from "./harness.ts";

const secret = "correct-horse-battery";
const slow = { timeout: 300_000 };
const stacks: RecordedStack[] = [];

function sample(config: Record<string, string> = {}): RecordedStack {
  const stack = new RecordedStack({
    project: "sample",
    stack: "dev",
    program: join(import.meta.dirname, "sample.ts"),
    config: Object.fromEntries(Object.entries(config).map(([key, value]) => [`sample:${key}`, value])),
    secrets: { "sample:password": secret },
  });
  stacks.push(stack);
  return stack;
}

afterAll(() => {
  for (const stack of stacks) stack.remove();
});

const told = (run: Run) => ({ ok: run.ok, errors: run.errors });
const fine = { ok: true, errors: [] };
/** What was done, as `create node-1-guest Container`. */
const deeds = (record: readonly Entry[]) =>
  record
    .filter((entry) => entry.op !== "invoke")
    .map((entry) => `${entry.op} ${entry.name} ${entry.type.split(":").at(-1)}`);

describe("a small stack on the recorders", () => {
  const stack = sample();
  let count = 0;

  it("previews without a single call to a machine", slow, async () => {
    const run = await stack.run("preview");
    expect(told(run)).toEqual(fine);
    expect(run.record.map((entry) => entry.op)).toEqual(["invoke"]);
  });

  it("comes up in order", slow, async () => {
    const run = await stack.run("up");
    expect(told(run)).toEqual(fine);
    count = run.changes["create"] ?? 0;
    const done = deeds(run.record);
    const chain = [
      "create gateway InternetGateway",
      "create nat NatGateway",
      "create node-1 Instance",
      "create node-1-ready Command",
      "create node-1-image RemoteImage",
      "create node-1-anchor Container",
      "create node-1-guest Container",
      "create node-1-gate Command",
      "create node-2-anchor Container",
    ];
    expect(done.filter((deed) => chain.includes(deed))).toEqual(chain);
  });

  it("is empty at the second up, and after a refresh", slow, async () => {
    expect((await stack.run("up")).changes).toEqual({ same: count });
    expect((await stack.run("refresh")).changes).toEqual({ same: count });
  });

  it("keeps secrets out of the state", () => {
    expect(stack.state()).toContain("node-1-guest");
    expect(stack.state()).not.toContain(secret);
    // The check can fail: the recorder was given the secret itself.
    expect(JSON.stringify(stack.record())).toContain(secret);
  });

  it("replaces one machine: its containers stop first, its data stays", slow, async () => {
    const run = await stack.run("up", { replace: [stack.urn(instanceType, "node-1")] });
    expect(told(run)).toEqual(fine);
    const done = deeds(run.record);
    expect(done.filter((deed) => !/ node-1\b/.test(deed))).toEqual([]);
    // The engine sorts what it deletes along in no order, so only sets and the order of sets are certain.
    const machine = done.indexOf("delete node-1 Instance");
    expect(done.slice(0, machine).sort()).toEqual([
      "delete node-1 VolumeAttachment",
      "delete node-1-anchor Container",
      "delete node-1-guest Container",
      "delete node-1-ready Command",
    ]);
    expect(done.slice(machine + 1).filter((deed) => deed.startsWith("create"))).toEqual([
      "create node-1 Instance",
      ...done.slice(machine + 2, machine + 4),
      "create node-1-image RemoteImage",
      "create node-1-anchor Container",
      "create node-1-guest Container",
      "create node-1-gate Command",
    ]);
    expect(done.slice(machine + 2, machine + 4).sort()).toEqual([
      "create node-1 VolumeAttachment",
      "create node-1-ready Command",
    ]);
    expect(done.filter((deed) => / (Volume|NetworkInterface)$/.test(deed))).toEqual([]);
    expect((await stack.run("up")).changes).toEqual({ same: count });
  });

  it("can't stop containers on a machine that is dead; once they are let go, replaces it", slow, async () => {
    stack.lose("node-2");
    const replace = [stack.urn(instanceType, "node-2")];
    const stuck = await stack.run("up", { replace });
    expect(stuck.ok).toBe(false);
    expect(stuck.errors.join()).toMatch(/connect to host i-[0-9a-f]+ port 22: Connection timed out/);
    stack.edit((resource) =>
      resource.provider?.includes("::node-2-docker::") === true
        ? { ...resource, retainOnDelete: true }
        : resource,
    );
    const run = await stack.run("up", { replace });
    expect(told(run)).toEqual(fine);
    expect(deeds(run.record)).toContain("create node-2-guest Container");
    expect(run.record.filter((entry) => entry.plugin === "docker" && entry.op === "delete")).toEqual([]);
    expect((await stack.run("up")).changes).toEqual({ same: count });
    expect(stack.resources().filter((resource) => resource.retainOnDelete === true)).toEqual([]);
  });

  it(
    "is not destroyed while its data is protected, then goes down without a call to a machine",
    slow,
    async () => {
      // Without the preview that `pulumi destroy` begins with. Only a protected resource that depends on all the others
      // keeps the engine from deleting what is not protected before it comes to the first thing that is.
      const before = stack.resources().length;
      const refused = await stack.run("destroy");
      expect(refused.errors.join()).toMatch(/guard.*cannot be deleted\nbecause it is protected/);
      expect(refused.record).toEqual([]);
      expect(stack.resources()).toHaveLength(before);
      stack.edit((resource) => ({ ...resource, protect: false }));
      const run = await stack.run("destroy");
      expect(told(run)).toEqual(fine);
      expect(run.record.filter((entry) => entry.plugin === "docker")).toEqual([]);
      expect(new World(stack.folder).things().filter(({ type }) => type.startsWith("aws:"))).toEqual([]);
    },
  );
});

describe("containers tied by replacementTrigger alone", () => {
  it("are stopped on the new machine, where they never were", slow, async () => {
    const stack = sample({ tie: "deletedWith replacementTrigger" });
    await stack.run("up");
    const run = await stack.run("up", { replace: [stack.urn(instanceType, "node-1")] });
    expect(run.ok).toBe(false);
    expect(run.errors.join()).toMatch(/Error stopping container .* No such container/);
  });
});

describe("the recorder of AWS", () => {
  let folder = "";
  const account = new Account();
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "siem-ha-world-"));
    await account.configure({ region: "eu-central-1", defaultTags: '{"tags":{"project":"p"}}' });
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const kinds = () => awsKinds(new World(folder), account);
  const context = (type: string, name: string) => ({
    urn: `urn:pulumi:t::p::${type}::${name}`,
    name,
    timeout: undefined,
    log: () => undefined,
  });
  const make = (type: string, inputs: Props, name = "x") => {
    const found = kinds()[type];
    if (found === undefined) throw new Error(`no type ${type}`);
    return found.create(inputs, context(type, name));
  };
  const end = (type: string, made: { id: string; state: Props }) =>
    kinds()[type]?.delete(made.id, made.state, context(type, "x"));

  const vpcType = "aws:ec2/vpc:Vpc";
  const subnetType = "aws:ec2/subnet:Subnet";
  const eniType = "aws:ec2/networkInterface:NetworkInterface";
  const network = async () => {
    const vpc = await make(vpcType, { cidrBlock: "10.0.0.0/16" });
    const subnet = await make(subnetType, {
      vpcId: vpc.id,
      cidrBlock: "10.0.0.0/24",
      availabilityZone: "eu-central-1a",
    });
    return { vpc, subnet };
  };
  const eni = (subnetId: string, address: string) => make(eniType, { subnetId, privateIps: [address] });

  it("refuses what EC2 refuses", async () => {
    const { vpc, subnet } = await network();
    const overlapping = make(subnetType, { vpcId: vpc.id, cidrBlock: "10.0.0.128/25" });
    await expect(overlapping).rejects.toThrow(/InvalidSubnet.Conflict/);
    await expect(make(subnetType, { vpcId: vpc.id, cidrBlock: "10.1.0.0/24" })).rejects.toThrow(
      /InvalidSubnet.Range/,
    );
    await expect(
      make(subnetType, { vpcId: "vpc-0123456789abcdef0", cidrBlock: "10.0.1.0/24" }),
    ).rejects.toThrow(/vpc-0123456789abcdef0 does not exist/);
    const interfaceOne = await eni(subnet.id, "10.0.0.10");
    await expect(eni(subnet.id, "10.0.0.10")).rejects.toThrow(/InvalidIPAddress.InUse/);
    await expect(eni(subnet.id, "10.0.0.3")).rejects.toThrow(/reserved/);
    await expect(eni(subnet.id, "10.0.0.255")).rejects.toThrow(/reserved/);
    const inputs = { primaryNetworkInterface: { networkInterfaceId: interfaceOne.id } };
    const machine = await make(instanceType, inputs);
    await expect(make(instanceType, inputs)).rejects.toThrow(/InvalidNetworkInterface.InUse/);
    const volume = (availabilityZone: string) => make("aws:ebs/volume:Volume", { availabilityZone });
    const attach = (volumeId: string) =>
      make("aws:ec2/volumeAttachment:VolumeAttachment", {
        volumeId,
        instanceId: machine.id,
        deviceName: "/dev/xvdf",
      });
    await expect(attach((await volume("eu-central-1b")).id)).rejects.toThrow(/InvalidVolume.ZoneMismatch/);
    const attachment = await attach((await volume("eu-central-1a")).id);
    await expect(end("aws:ec2/volumeAttachment:VolumeAttachment", attachment)).rejects.toThrow(/VolumeInUse/);
    await expect(make("aws:ec2/natGateway:NatGateway", { subnetId: subnet.id })).rejects.toThrow(
      /Gateway.NotAttached/,
    );
  });

  it("deletes nothing that is in use or protected by AWS itself", async () => {
    const { vpc, subnet } = await network();
    const one = await eni(subnet.id, "10.0.0.10");
    await expect(end(vpcType, vpc)).rejects.toThrow(/DependencyViolation/);
    await expect(end(subnetType, subnet)).rejects.toThrow(/DependencyViolation/);
    const machine = await make(instanceType, {
      primaryNetworkInterface: { networkInterfaceId: one.id },
      disableApiTermination: true,
    });
    await expect(end(eniType, one)).rejects.toThrow(/DependencyViolation/);
    await expect(end(instanceType, machine)).rejects.toThrow(/OperationNotPermitted/);
    await end(instanceType, { ...machine, state: { ...machine.state, disableApiTermination: false } });
    await end(eniType, one);
    await end(subnetType, subnet);
    await end(vpcType, vpc);
    expect(new World(folder).things()).toEqual([]);
  });

  it("gives everything the provider's tags besides its own", async () => {
    const { vpc } = await network();
    expect(vpc.state["tagsAll"]).toEqual({ project: "p" });
    const tagged = await make(vpcType, { cidrBlock: "10.9.0.0/16", tags: { Name: "n" } });
    expect(tagged.state["tagsAll"]).toEqual({ project: "p", Name: "n" });
  });

  it("refuses an invoke it does not know", () => {
    expect(invoke(account, "aws:index/getPartition:getPartition", {})).toMatchObject({ partition: "aws" });
    expect(() => invoke(account, "aws:ec2/getSpotPrice:getSpotPrice", {})).toThrow(/getSpotPrice/);
  });

  const sdk = join(import.meta.dirname, "../../node_modules/@pulumi/aws");
  it.each(Object.entries(rules))("has only types and inputs of the SDK: %s", (type, rule) => {
    const [, module = "", resource = ""] = /^aws:([a-z0-9]+)\/([A-Za-z0-9]+):/.exec(type) ?? [];
    expect(readFileSync(join(sdk, module, `${resource}.js`), "utf8")).toContain(`'${type}'`);
    const args = readFileSync(join(sdk, module, `${resource}.d.ts`), "utf8").split(
      /export interface \w+Args /,
    )[1];
    for (const input of [...rule.replaces, ...(rule.named === undefined ? [] : [rule.named])]) {
      expect(args, `${input} of ${type}`).toMatch(new RegExp(`^    ${input}\\??:`, "m"));
    }
    for (const holder of rule.heldBy ?? []) expect(rules, `${holder} holds ${type}`).toHaveProperty([holder]);
  });
});
