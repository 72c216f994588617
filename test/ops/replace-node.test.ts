// Replacing a machine: what is refused, what is lifted and put back, and that nothing goes before all is settled.

import { describe, expect, it } from "vitest";
import { plan } from "../../components/topology.ts";
import { type CheckResult } from "../../ops/checks.ts";
import {
  beyond,
  machineOf,
  objections,
  protectedWith,
  replaceNode,
  type StateResource,
  type Surroundings,
} from "../../ops/replace-node.ts";
import { type Step } from "../../ops/workspace.ts";

const topology = plan({ machines: { address: (_role, zone) => `10.42.${zone}.31`, vip: "172.25.0.222" } });
const urn = (type: string, name: string) => `urn:pulumi:prod::siem-ha::siem:host:Machine$${type}::${name}`;
const types = {
  instance: "aws:ec2/instance:Instance",
  volume: "aws:ebs/volume:Volume",
  attachment: "aws:ec2/volumeAttachment:VolumeAttachment",
  container: "docker:index/container:Container",
  provider: "pulumi:providers:docker",
} as const;

/** A state as the engine writes it: a machine of each node, with its disk and one container. */
const state = (): StateResource[] =>
  topology.nodes.flatMap(({ alias }) => {
    const instance = urn(types.instance, alias);
    return [
      {
        urn: instance,
        type: types.instance,
        id: `i-${alias}`,
        protect: true,
        outputs: { disableApiTermination: true },
      },
      { urn: urn(types.volume, `${alias}-data`), type: types.volume, protect: true },
      { urn: urn(types.attachment, `${alias}-data`), type: types.attachment },
      {
        urn: urn(types.provider, `${alias}-docker`),
        type: types.provider,
        inputs: { host: `ssh://ops@i-${alias}` },
      },
      {
        urn: urn(types.container, `on-${alias}`),
        type: types.container,
        deletedWith: instance,
        provider: `${urn(types.provider, `${alias}-docker`)}::1`,
      },
    ];
  });
const machine = "store-node-2";
const step = (op: string, type: string, name: string): Step => ({ op, type, urn: urn(type, name) });
const usual: Step[] = [
  step("delete-replaced", types.attachment, `${machine}-data`),
  step("delete-replaced", types.instance, machine),
  step("create-replacement", types.instance, machine),
  step("create-replacement", types.attachment, `${machine}-data`),
  step("replace", types.container, `on-${machine}`),
  step("same", types.volume, `${machine}-data`),
  step("update", "command:local:Command", "clickhouse-1-gate"),
];
const ok = (check: string, target: string): CheckResult => ({ check, target, ok: true, detail: "" });
const failed = (check: string, target: string): CheckResult => ({ check, target, ok: false, detail: "no" });

/** The world, with everything that was done in it. */
function world(changes: Partial<Surroundings> = {}, resources = state()) {
  const done: string[] = [];
  const protectedNow = () => resources.filter(({ protect }) => protect === true).length;
  const around: Surroundings = {
    topology,
    exported: () =>
      Promise.resolve({
        resources,
        put: () => {
          done.push(`state with ${protectedNow()} protected`);
          return Promise.resolve();
        },
      }),
    check: () => Promise.resolve([ok("node", "lb-node-1")]),
    plan: () => {
      done.push("plan");
      return Promise.resolve(usual);
    },
    allowTermination: (id) => {
      done.push(`termination of ${id} allowed`);
      return Promise.resolve();
    },
    replace: (which) => {
      done.push(`replaced ${which.alias}`);
      return Promise.resolve();
    },
    confirm: () => Promise.resolve(),
    print: () => undefined,
    ...changes,
  };
  return { around, done };
}
const keep = { lost: false };

describe("replaceNode", () => {
  it("lifts the protection of the instance alone, looks at the plan, and then replaces just that", async () => {
    const { around, done } = world();
    await replaceNode(around, machine, keep);
    expect(done).toEqual([
      "state with 17 protected",
      "plan",
      `termination of i-${machine} allowed`,
      `replaced ${machine}`,
    ]);
  });

  it("says what goes and what stays before it asks", async () => {
    const lines: string[] = [];
    let seen = "";
    const { around } = world({
      print: (line) => lines.push(line),
      confirm: () => {
        seen = lines.join("\n");
        return Promise.resolve();
      },
    });
    await replaceNode(around, machine, keep);
    expect(seen).toMatch(/store-node-2 is the instance i-store-node-2/);
    expect(seen).toMatch(/gone .*its containers: on-store-node-2\n/);
    expect(seen).toMatch(/kept .*address 10\.42\.2\.31, its data disk/);
  });

  it("touches nothing unless it is confirmed", async () => {
    const { around, done } = world({ confirm: () => Promise.reject(new Error("not confirmed")) });
    await expect(replaceNode(around, machine, keep)).rejects.toThrow("not confirmed");
    expect(done).toEqual([]);
  });

  it("touches nothing while the rest is not healthy, and doesn't even ask", async () => {
    const { around, done } = world({
      check: () => Promise.resolve([failed("zookeeper", "zookeeper-3")]),
      confirm: () => Promise.reject(new Error("asked")),
    });
    await expect(replaceNode(around, machine, keep)).rejects.toThrow(
      /the rest of the platform is not healthy.*Nothing was touched.*--lost/,
    );
    expect(done).toEqual([]);
  });

  it("puts all protection back when the plan takes more than the machine", async () => {
    const wide = [...usual, step("delete-replaced", types.instance, "store-node-1")];
    const { around, done } = world({ plan: () => Promise.resolve(wide) });
    await expect(replaceNode(around, machine, keep)).rejects.toThrow(
      /the plan takes more than store-node-2: store-node-1 \(Instance\)\. Nothing was touched/,
    );
    expect(done).toEqual(["state with 17 protected", "state with 18 protected"]);
  });

  it("puts all protection back when AWS refuses to lift its own", async () => {
    const { around, done } = world({
      allowTermination: () => Promise.reject(new Error("UnauthorizedOperation")),
    });
    await expect(replaceNode(around, machine, keep)).rejects.toThrow("UnauthorizedOperation");
    expect(done.at(-1)).toBe("state with 18 protected");
  });

  it("leaves AWS's protection alone where there is none", async () => {
    const resources = state().map((resource) => ({
      ...resource,
      protect: false,
      outputs: { disableApiTermination: false },
    }));
    const { around, done } = world({}, resources);
    await replaceNode(around, machine, keep);
    expect(done.filter((what) => what.includes("termination"))).toEqual([]);
  });

  it("fails when not every check passes afterwards", async () => {
    let times = 0;
    const { around } = world({
      check: () => Promise.resolve([++times === 1 ? ok("vip", "x") : failed("clickhouse", "clickhouse-2")]),
    });
    await expect(replaceNode(around, machine, keep)).rejects.toThrow(/is new, but not every check passed/);
  });

  it("names the machines there are when it is given another name", async () => {
    await expect(replaceNode(world().around, "store-node-4", keep)).rejects.toThrow(
      /no node store-node-4; there are: lb-node-1, .*store-node-3\. Nothing was touched/,
    );
    await expect(replaceNode(world({}, []).around, machine, keep)).rejects.toThrow(/there are: none/);
  });
});

describe("the plan", () => {
  const resources = state();
  const found = machineOf(resources, machine);
  it("may replace the machine, its attachment and what is on it", () => {
    expect(beyond(usual, resources, found)).toEqual([]);
  });
  it.each([
    ["its own data disk", step("delete", types.volume, `${machine}-data`)],
    [
      "another machine's attachment, which would stop it",
      step("replace", types.attachment, "lb-node-1-data"),
    ],
    ["another machine's container", step("create-replacement", types.container, "on-lb-node-1")],
  ])("may not take %s", (_what, extra) => {
    expect(beyond([...usual, extra], resources, found)).toHaveLength(1);
  });
  it("lifts the protection of no disk", () => {
    expect(protectedWith(resources, found).map(({ type }) => type)).toEqual([types.instance]);
  });
  it("takes the new instance where an old one is still to be deleted", () => {
    const old = { urn: found.instance, type: types.instance, id: "i-old", delete: true };
    expect(machineOf([old, ...resources], machine).id).toBe(`i-${machine}`);
  });
});

describe("objections", () => {
  const node = topology.nodes.find(({ alias }) => alias === machine);
  if (node === undefined) throw new Error(`no ${machine}`);
  const against = (results: CheckResult[], lost = false) =>
    objections(results, topology, node, lost).map(({ target }) => target);
  it("are not raised by the machine itself, however broken it is", () => {
    expect(against([failed("node", machine), failed("clickhouse", "clickhouse-2")])).toEqual([]);
  });
  it("are raised by every other failed check", () => {
    expect(
      against([failed("node", "store-node-1"), failed("kafka", "in-sync replicas"), ok("vip", "x")]),
    ).toEqual(["store-node-1", "in-sync replicas"]);
  });
  it("are only raised by other replicas when the machine is lost", () => {
    const results = [
      failed("kafka", "in-sync replicas"),
      failed("clickhouse", "clickhouse-1"),
      failed("api", "siem-api-3"),
    ];
    expect(against(results, true)).toEqual(["siem-api-3"]);
  });
});
