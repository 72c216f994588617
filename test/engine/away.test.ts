// Machines that don't answer, a whole zone of them, and one that AWS has terminated: what `up`, `replace-node` and
// `down` do, by the commands themselves on the recording plugins. Their checks of the platform fail here, because there
// is none; what they say of it is not looked at.

import { join } from "node:path";
import { existsSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { type Entry, instanceType, machineOf, World } from "../../offline/recorder/world.ts";
import { CommandedStack, driver } from "./commands.ts";

const slow = { timeout: 900_000 };
const stack = new CommandedStack();
afterAll(() => stack.remove());

const zone = ["lb-node-2", "stream-node-2", "store-node-2"];
const kind = ({ type }: Entry) => type.split(":").at(-1) ?? "";
const done = (record: readonly Entry[], op: string, what: string) =>
  record
    .filter((entry) => entry.op === op && kind(entry) === what && entry.refused === undefined)
    .map(({ name }) => name)
    .sort();
const refused = (record: readonly Entry[]) =>
  record.flatMap((entry) =>
    entry.refused === undefined ? [] : [`${entry.op} ${entry.name}: ${entry.refused}`],
  );
const containersOf = (machine: string) => {
  const things = new World(stack.folder).things();
  const id = stack.machines()[machine];
  return things.filter(
    ({ type, host }) =>
      type === "docker:index/container:Container" && id !== undefined && machineOf(host) === id,
  ).length;
};
const instances = () =>
  stack
    .resources()
    .filter(({ type }) => type === instanceType)
    .map(({ urn }) => urn.split("::").at(-1));

describe("a stack on machines", () => {
  it("comes up", slow, async () => {
    const { said, record } = await stack.run("ops/up.ts", "-s", "dev");
    expect(refused(record)).toEqual([]);
    expect(said).toMatch(/^\d+ changes$/m);
    expect(Object.keys(stack.machines())).toHaveLength(9);
  });

  it("changes what concerns the others while a zone is away, and names what it left", slow, async () => {
    const [balancer = "", stream = "", store = ""] = zone;
    stack.happens("silence", balancer);
    stack.happens("silence", stream);
    stack.happens("lose", store);
    stack.set({ "siem-ha:api": { secrets: "env" }, "siem-ha:kafka": { retentionHours: 24 } });
    const { said, status, record } = await stack.run("ops/up.ts", "-s", "dev");
    expect(refused(record)).toEqual([]);
    expect(done(record, "create", "Container")).toEqual(["siem-api-1", "siem-api-3"]);
    // The next one is changed when this one serves again.
    const order = record.filter(({ op }) => op === "create").map(({ name }) => name);
    expect(order.indexOf("siem-api-1-gate")).toBeGreaterThan(order.indexOf("siem-api-1"));
    expect(order.indexOf("siem-api-1-gate")).toBeLessThan(order.indexOf("siem-api-3"));
    const left = [...said.matchAll(/left as it is: (\S+) Container/g)].map(([, name]) => name).sort();
    expect(left).toEqual(
      ["siem-api-2", ..."123"]
        .flatMap((name) => (name.length > 1 ? [name] : [`kafka-${name}`, `siem-ingestor-${name}`]))
        .sort(),
    );
    for (const machine of zone) expect(said).toContain(`${machine} does not answer`);
    expect(said).toContain(`npm run replace-node -- -s dev ${store} --lost`);
    expect(status).toBe(1);
    expect(instances()).toHaveLength(9);
  });

  it("gets a new machine for one that is gone, also while others are away", slow, async () => {
    const machine = "store-node-2";
    const { said, status, record } = await stack.run(driver, "dev", machine);
    expect(refused(record)).toEqual([]);
    expect(status, said).toBe(0);
    expect(done(record, "create", "Instance")).toEqual([machine]);
    expect(containersOf(machine)).toBeGreaterThan(3);
  });

  it("gets one too after an up that failed and has forgotten the machine", slow, async () => {
    const machine = "stream-node-3";
    stack.happens("lose", machine);
    const failed = await stack.run(driver, "dev", machine, "as before");
    expect(failed.status).toBe(1);
    expect(instances()).not.toContain(machine);
    const { said, status, record } = await stack.run(driver, "dev", machine);
    expect(refused(record)).toEqual([]);
    expect(status, said).toBe(0);
    expect(done(record, "create", "Instance")).toEqual([machine]);
    expect(containersOf(machine)).toBeGreaterThan(3);
  });

  it("does what was left when the machines answer again", slow, async () => {
    stack.happens("wake", "lb-node-2");
    stack.happens("wake", "stream-node-2");
    const { said, record } = await stack.run("ops/up.ts", "-s", "dev");
    expect(refused(record)).toEqual([]);
    expect(said).not.toContain("left as it is");
    expect(done(record, "create", "Container")).toEqual(
      expect.arrayContaining(["kafka-1", "kafka-2", "siem-api-2", "siem-ingestor-1"]),
    );
  });

  it("goes down as a whole, with one machine silent and one gone", slow, async () => {
    stack.happens("silence", "lb-node-1");
    stack.happens("lose", "store-node-3");
    const unasked = await stack.run("ops/down.ts", "-s", "dev");
    expect(unasked.said).toContain("there is no terminal to ask at. Nothing was touched");
    expect(unasked.said).toMatch(/9 machines with all that runs on them: lb-node-1, /);
    expect(unasked.status).toBe(1);
    expect(unasked.record).toEqual([]);
    const { said, status, record } = await stack.run("ops/down.ts", "-s", "dev", "--yes");
    expect(refused(record)).toEqual([]);
    expect(said).toContain("everything is gone");
    expect(status).toBe(0);
    const things = new World(stack.folder).things().filter(({ type }) => type.startsWith("aws:"));
    expect(things.map(({ urn }) => urn)).toEqual([]);
    expect(existsSync(join(stack.folder, "project/Pulumi.dev.yaml"))).toBe(true);
  });
});
