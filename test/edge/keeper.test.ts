// The keeper behind Keepalived: the lease stays renewed, routes are repaired, and an address that isn't ours is let go.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { withoutMoto } from "../aws-emulation/moto.ts";
import {
  type Cloud,
  eventually,
  listen,
  Machine,
  startCloud,
  startWitness,
  tables,
  type TestWitness,
  vip,
  withoutTools,
} from "./vip-harness.ts";

describe.skipIf(withoutTools() || (await withoutMoto()))("vip-keeper", () => {
  let cloud: Cloud;
  let witness: TestWitness;
  let machine: Machine;
  beforeAll(async () => {
    cloud = await startCloud();
  });
  afterAll(() => cloud.stop());
  beforeEach(async () => {
    witness = await startWitness();
    machine = new Machine(cloud, { witness: witness.url });
    cloud.fault = () => undefined;
    await cloud.point(cloud.interfaces[0]);
    cloud.calls.length = 0;
    cloud.messages.length = 0;
  });
  afterEach(async () => {
    const lines = machine.commandLines();
    await machine.stop();
    await witness.stop();
    for (const secret of cloud.secrets) expect(lines).not.toContain(secret);
  });

  const mine = () => Object.fromEntries(tables.map((table) => [table, cloud.interfaces[0]]));
  const said = () => machine.output;
  const wait = (what: string, check: () => boolean | Promise<boolean>, seconds = 10) =>
    eventually(what, check, seconds, said);
  const count = (action: string) => cloud.calls.filter((call) => call.action === action).length;
  const lettingGo = () => spawnSync("cat", [machine.letGo], { encoding: "utf8" }).stdout.trim() === "1";

  it("leaves the routes and the lease alone while another node has the address", async () => {
    machine.keep();
    await sleep(2500);
    expect(cloud.calls).toEqual([]);
    expect(witness.leases.look().grants).toBe(0);
    expect(lettingGo()).toBe(false);
  });

  it("takes the lease with the address, renews it, and gives it back with it", async () => {
    machine.keep();
    machine.hold();
    await wait("no lease", () => witness.leases.look().holder === "lb-node-1");
    const { grants } = witness.leases.look();
    await wait("not renewed", () => witness.leases.look().grants > grants + 2);
    machine.hold(false);
    await wait("the lease is kept", () => witness.leases.look().holder === null, 1.4);
  });

  it("repairs a route that points elsewhere, only that one, and tells people", async () => {
    machine.hold();
    machine.keep();
    await wait("never looked", () => count("DescribeRouteTables") > 0);
    expect(count("ReplaceRoute")).toBe(0);
    await cloud.point(cloud.interfaces[1], "public");
    cloud.calls.length = 0;
    await wait("not repaired", async () => (await cloud.targets()).public === cloud.interfaces[0]);
    await wait("nobody told", () => cloud.messages.length > 0);
    const writes = cloud.calls.filter(({ action }) => action === "ReplaceRoute");
    expect(writes.map(({ parameters }) => parameters["RouteTableId"])).toEqual([cloud.tables.public]);
    expect(cloud.messages).toHaveLength(1);
    expect(cloud.messages[0]).toEqual({
      subject: `siem-ha: ${vip}: routes were wrong and have been repaired`,
      text: expect.stringContaining(`public=${cloud.tables.public}`) as string,
    });
  });

  it("tells people of a table without the route: it may replace routes, not make them", async () => {
    await cloud.removeRoute("private-1");
    try {
      machine.hold();
      machine.keep({ VIP_RETRY_DELAYS: "0.1" });
      await wait("nobody told", () => cloud.messages.length > 0, 20);
      expect(cloud.messages[0]?.text).toMatch(/route table private-1 .*InvalidParameterValue.*CreateRoute/);
      expect((await cloud.targets()).main).toBe(cloud.interfaces[0]);
    } finally {
      await cloud.makeRoute("private-1");
    }
  }, 60_000);

  it("reports to CloudWatch who holds it, and how many routes are wrong", async () => {
    machine.hold();
    machine.keep({ VIP_METRICS_SECONDS: "1" });
    await wait("no report", () =>
      cloud.calls.some((call) => call.action === "PutMetricData" && call.status === 200),
    );
    const report = cloud.calls.find(({ action }) => action === "PutMetricData");
    expect(report?.parameters).toEqual({
      Version: "2010-08-01",
      Namespace: "siem-ha/test",
      "MetricData.member.1.MetricName": "VipHolder",
      "MetricData.member.1.Value": "1",
      "MetricData.member.2.MetricName": "VipRoutesWrong",
      "MetricData.member.2.Value": "0",
      "MetricData.member.3.MetricName": "WitnessUnreachable",
      "MetricData.member.3.Value": "0",
    });
  });

  it("keeps its lease while AWS takes its time", async () => {
    cloud.fault = () => ({ delayMs: 3000 });
    machine.hold();
    machine.keep();
    await wait("no lease", () => witness.leases.look().holder === "lb-node-1");
    const end = Date.now() + 5000;
    while (Date.now() < end) {
      expect(witness.leases.look().holder).toBe("lb-node-1");
      await sleep(20);
    }
    expect(count("DescribeRouteTables")).toBeGreaterThan(0);
  }, 30_000);

  it("alarms when EC2 can't be asked for a while, and leaves the routes as they are", async () => {
    cloud.fault = ({ action }) => (action === "DescribeRouteTables" ? "refuse" : undefined);
    machine.hold();
    machine.keep();
    await wait("nobody told", () => cloud.messages.length > 0, 20);
    expect(cloud.messages[0]?.text).toMatch(
      /can't ask EC2 .*RequestLimitExceeded.*The routes stay as they are/,
    );
    expect(count("ReplaceRoute")).toBe(0);
    expect(lettingGo()).toBe(false);
    cloud.fault = () => undefined;
    await wait("no all-clear", () => cloud.messages.some(({ subject }) => subject.endsWith("resolved")));
    expect(await cloud.targets()).toEqual(mine());
  }, 60_000);

  it("lets go when the witness gave the address to a node that is alive", async () => {
    witness.leases.ask("lb-node-2", 1500);
    const renewal = setInterval(() => witness.leases.ask("lb-node-2", 1500), 300);
    // It takes part in no election: Keepalived here always has the address unless it is told to let go.
    const stopObeying = machine.obey();
    try {
      machine.keep();
      // Seen by its renewals, sooner than its lease could have ended.
      await wait("still holds", () => said().includes("the witness gave it to another node, which is alive"));
      await wait("Keepalived was not told", lettingGo, 2);
      expect(count("ReplaceRoute")).toBe(0);
      // And comes back once nobody has the lease any more, without waiting.
      clearInterval(renewal);
      await wait("never back", () => witness.leases.look().holder === "lb-node-1", 4);
      expect(lettingGo()).toBe(false);
    } finally {
      clearInterval(renewal);
      stopObeying();
    }
  }, 30_000);

  it("announces the address again when another node has claimed it, and not otherwise", async () => {
    machine.hold();
    machine.keep();
    await wait("no lease", () => witness.leases.look().holder === "lb-node-1");
    const announced = machine.listenAt("announce");
    await sleep(1000);
    expect(announced()).toBe(0);
    witness.leases.ask("lb-node-2", 1500);
    await wait("not announced", () => announced() > 0);
    await sleep(1500);
    // A few times, so that one lost packet doesn't matter, and no more.
    expect(announced()).toBe(4);
  });

  it("keeps the lease where there are no routes to move, and asks no cloud for anything", async () => {
    const local = new Machine(cloud, { witness: witness.url, cloud: undefined });
    try {
      local.hold();
      local.keep({ VIP_METRICS_SECONDS: "1" });
      await eventually(
        "no lease",
        () => witness.leases.look().holder === "lb-node-1",
        10,
        () => local.output,
      );
      const { grants } = witness.leases.look();
      await eventually("not renewed", () => witness.leases.look().grants > grants + 4);
      await sleep(1500);
      expect(cloud.calls).toEqual([]);
      local.hold(false);
      await eventually("the lease is kept", () => witness.leases.look().holder === null);
    } finally {
      await local.stop();
    }
  });

  it("survives the lease of a node that died: it waits, and does not let go", async () => {
    witness.leases.ask("lb-node-2", 1500);
    const stopObeying = machine.obey();
    try {
      machine.keep();
      await wait("no lease", () => witness.leases.look().holder === "lb-node-1", 5);
      expect(said()).not.toContain("lets go");
    } finally {
      stopObeying();
    }
  });

  describe("without the witness", () => {
    let started: Machine | undefined;
    afterEach(() => started?.stop());
    const start = (port: number) => {
      const made = new Machine(cloud, { witness: "http://127.0.0.1:1", port });
      started = made;
      made.hold();
      made.keep({ VIP_WITNESS_SECONDS: "3" });
      return made;
    };
    const silence = { silent: false };
    const peer = (text: string) =>
      listen((_incoming, response) => {
        if (!silence.silent) response.end(text);
      }, "127.0.0.2");

    it("holds on, and repairs routes, while the other load balancer confirms it; alarms after a while", async () => {
      const other = await peer("free");
      try {
        const alone = start(other.port);
        await cloud.point(cloud.interfaces[1], "main");
        await eventually(
          "not repaired",
          async () => (await cloud.targets()).main === cloud.interfaces[0],
          10,
          () => alone.output,
        );
        await eventually(
          "nobody told",
          () => cloud.messages.some(({ subject }) => subject.includes("the witness can't be reached")),
          20,
          () => alone.output,
        );
        expect(alone.output).not.toContain("lets go");
      } finally {
        await other.stop();
      }
    }, 90_000);

    it("does not take a witness that has just started for one that is cut off", async () => {
      silence.silent = true;
      const other = await peer("free");
      const asked: number[] = [];
      const young = await listen((_incoming, response) => {
        asked.push(Date.now());
        response.writeHead(503).end('{"granted":false,"grants":0,"refusals":0,"waitMs":1000}');
      });
      started = new Machine(cloud, { witness: young.url, port: other.port });
      started.hold();
      started.keep();
      try {
        await eventually("not asked", () => asked.length > 6);
        expect(started.output).not.toContain("lets go");
      } finally {
        silence.silent = false;
        await young.stop();
        await other.stop();
      }
    }, 60_000);

    it("settles two that are cut from each other while the witness is young, and the one that is left keeps it", async () => {
      const young = await startWitness("young");
      // Nobody answers at the other's address.
      silence.silent = true;
      const other = await peer("free");
      const both = (["lb-node-1", "lb-node-2"] as const).map((node) => {
        const settings = { witness: young.url, node, port: other.port, cloud: undefined };
        const made = new Machine(cloud, settings);
        return { node, machine: made, announced: made.listenAt("announce"), stopObeying: made.obey() };
      });
      const told = () => both.map((one) => `${one.node}:\n${one.machine.output}`).join("\n");
      const refused = () => both.filter((one) => one.machine.output.includes("which is alive"));
      try {
        for (const one of both) one.machine.keep();
        await eventually("both hold it", () => refused().length > 0, 10, told);
        await sleep(2000);
        expect(refused()).toHaveLength(1);
        const [loser] = refused();
        const winner = both.find((one) => one !== loser);
        expect(winner?.machine.output).not.toContain("lets go");
        expect(loser?.machine.output).not.toContain("may hold");
        expect(young.leases.look().holder).toBe(winner?.node);
        // Clients may still send to the one that has let go.
        expect(winner?.announced()).toBeGreaterThan(0);
        winner?.stopObeying();
        await winner?.machine.stop();
        await eventually("nobody has it", () => young.leases.look().holder === loser?.node, 10, told);
        await sleep(3000);
        expect(young.leases.look().holder).toBe(loser?.node);
        expect(refused()).toHaveLength(1);
      } finally {
        silence.silent = false;
        for (const one of both) {
          one.stopObeying();
          await one.machine.stop();
        }
        await young.stop();
        await other.stop();
      }
    }, 60_000);

    it("asks the other load balancer while the witness takes its time, so that it knows the sooner", async () => {
      const heard: ("witness" | "peer" | "given up")[] = [];
      const slow = await listen((_incoming, response) => {
        heard.push("witness");
        response.on("close", () => heard.push("given up"));
      });
      const other = await listen((_incoming, response) => {
        heard.push("peer");
        response.end("free");
      }, "127.0.0.2");
      const alone = new Machine(cloud, { witness: slow.url, port: other.port });
      started = alone;
      try {
        alone.hold();
        alone.keep({});
        const rounds = () => heard.join(" ").split("witness").slice(1, -1);
        await eventually(
          "not asked ten times",
          () => rounds().length >= 10,
          30,
          () => alone.output,
        );
        const beside = rounds().filter((round) => round.trim().startsWith("peer"));
        // A busy machine may be late now and then.
        expect(beside.length, heard.join(", ")).toBeGreaterThan(rounds().length / 2);
        expect(alone.output).not.toContain("lets go");
      } finally {
        await slow.stop();
        await other.stop();
      }
    }, 60_000);

    it("lets go when it sees neither, and comes back when it sees the other again", async () => {
      silence.silent = true;
      const other = await peer("free");
      const alone = start(other.port);
      const stopObeying = alone.obey();
      try {
        await eventually(
          "still holds",
          () => alone.output.includes("lets go"),
          15,
          () => alone.output,
        );
        expect(alone.output).toContain("neither the witness nor another load balancer can be reached");
        await sleep(500);
        expect(count("ReplaceRoute")).toBe(0);
        silence.silent = false;
        await eventually(
          "never back",
          () => alone.output.includes("may hold"),
          15,
          () => alone.output,
        );
      } finally {
        silence.silent = false;
        stopObeying();
        await other.stop();
      }
    }, 60_000);
  });

  it.each([
    [true, "holds"],
    [false, "free"],
  ])("tells another load balancer whether it has the address (%s)", (held, expected) => {
    machine.hold(held);
    const { stdout } = machine.run("vip-keeper.sh", ["answer"], "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    const [head, body] = stdout.split("\r\n\r\n");
    expect(head).toMatch(/^HTTP\/1\.0 200 OK\r\n/);
    expect(head).toContain(`content-length: ${expected.length}`);
    expect(body).toBe(expected);
  });

  it("ends at once where there are no settings", async () => {
    const child = machine.keep({ VIP_SETTINGS: join(machine.directory, "none") });
    expect(await new Promise((resolve) => child.once("exit", resolve))).toBe(0);
    expect(machine.output).toBe("");
  });
});
