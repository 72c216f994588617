// Keepalived's hook against AWS's emulated API: the routes follow the address, or somebody is told.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { withoutMoto } from "../aws-emulation/moto.ts";
import {
  type Cloud,
  cloudOf,
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

describe.skipIf(withoutTools() || (await withoutMoto()))("vip-notify", () => {
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
    machine.hold();
    cloud.fault = () => undefined;
    await cloud.point(cloud.interfaces[1]);
    cloud.calls.length = 0;
    cloud.messages.length = 0;
    cloud.imds.broken = false;
  });
  afterEach(async () => {
    const lines = machine.commandLines();
    await machine.stop();
    await witness.stop();
    for (const secret of cloud.secrets) expect(lines).not.toContain(secret);
  });

  const mine = () => Object.fromEntries(tables.map((table) => [table, cloud.interfaces[0]]));
  const theirs = () => Object.fromEntries(tables.map((table) => [table, cloud.interfaces[1]]));
  const writes = () => cloud.calls.filter(({ action }) => action === "ReplaceRoute");

  it("moves every table at once, with signed calls by the machine's role", async () => {
    const before = cloud.imds.requests.length;
    cloud.fault = ({ action }) => (action === "ReplaceRoute" ? { delayMs: 2000 } : undefined);
    expect(await machine.notify("master")).toBe(0);
    expect(await cloud.targets()).toEqual(mine());
    expect(writes().map(({ status }) => status)).toEqual([200, 200, 200]);
    // The lines are really looked at, for the secrets that none of them has.
    expect(machine.commandLines()).toContain("Action=ReplaceRoute");
    // In parallel: all had been sent before the first was answered.
    const times = writes().map(({ at }) => at);
    expect(Math.max(...times) - Math.min(...times)).toBeLessThan(2000);
    expect(cloud.imds.requests.slice(before)).toEqual([
      "PUT /latest/api/token 200",
      "GET /latest/meta-data/iam/security-credentials/ 200",
      "GET /latest/meta-data/iam/security-credentials/lb-node-1 200",
    ]);
    expect(witness.leases.look().grants).toBeGreaterThan(0);
    expect(cloud.messages).toEqual([]);
  });

  it("tries a refused call again, and only that one", async () => {
    let refusals = 2;
    cloud.fault = ({ action, parameters }) =>
      action === "ReplaceRoute" && parameters["RouteTableId"] === cloud.tables.public && refusals-- > 0
        ? "refuse"
        : undefined;
    expect(await machine.notify("master")).toBe(0);
    expect(await cloud.targets()).toEqual(mine());
    expect(writes()).toHaveLength(5);
    expect(machine.output).toContain("attempt 1: RequestLimitExceeded: Request limit exceeded.");
    expect(cloud.messages).toEqual([]);
  });

  it("gets its keys again where the metadata service stutters", async () => {
    cloud.imds.broken = true;
    setTimeout(() => (cloud.imds.broken = false), 500);
    expect(await machine.notify("master")).toBe(0);
    expect(await cloud.targets()).toEqual(mine());
  });

  it("gives up after six attempts, moves the others, and tells people which table and why, once", async () => {
    const gone = new Machine(cloud, {
      witness: witness.url,
      cloud: { ...cloudOf(cloud), routeTables: { ...cloud.tables, gone: "rtb-00000000000000000" } },
    });
    gone.hold();
    try {
      const quick = { VIP_RETRY_DELAYS: "0.1 0.1 0.1 0.1 0.1" };
      expect(await gone.notify("master", quick)).toBe(1);
      expect(await cloud.targets()).toEqual(mine());
      expect(
        writes().filter(({ parameters }) => parameters["RouteTableId"] === "rtb-00000000000000000"),
      ).toHaveLength(6);
      expect(cloud.messages).toHaveLength(1);
      expect(cloud.messages[0]?.subject).toBe(`siem-ha: ${vip}: a route can't be moved`);
      expect(cloud.messages[0]?.text).toMatch(
        /lb-node-1 holds .* route table gone \(rtb-00000000000000000\) .*InvalidRouteTableID\.NotFound/,
      );
      expect(await gone.notify("master", quick)).toBe(1);
      expect(cloud.messages).toHaveLength(1);
    } finally {
      await gone.stop();
    }
  }, 60_000);

  it("can do no more than its role allows, so that the checks here are real", async () => {
    await cloud.setPolicy({
      Version: "2012-10-17",
      Statement: [{ Effect: "Allow", Action: ["sns:Publish", "ec2:DescribeRouteTables"], Resource: "*" }],
    });
    try {
      expect(await machine.notify("master", { VIP_RETRY_DELAYS: "0.1" })).toBe(1);
      expect(await cloud.targets()).toEqual(theirs());
      expect(cloud.messages).toHaveLength(tables.length);
      expect(cloud.messages[0]?.text).toContain("not authorized to perform: ec2:ReplaceRoute");
    } finally {
      await cloud.setPolicy(cloud.policy);
    }
  }, 60_000);

  it("writes nothing while another node has the lease and renews it", async () => {
    witness.leases.ask("lb-node-2", 1500);
    const renewal = setInterval(() => witness.leases.ask("lb-node-2", 1500), 300);
    try {
      expect(await machine.notify("master")).toBe(0);
    } finally {
      clearInterval(renewal);
    }
    expect(writes()).toEqual([]);
    expect(machine.output).toContain("may not have it");
  });

  it("waits for the lease of a node that died, then writes", async () => {
    witness.leases.ask("lb-node-2", 1500);
    const began = Date.now();
    expect(await machine.notify("master")).toBe(0);
    expect(Date.now() - began).toBeGreaterThan(1000);
    expect(await cloud.targets()).toEqual(mine());
    expect(witness.leases.look().holder).toBe("lb-node-1");
  });

  it("gives the lease back when the address goes, but not when it is here again", async () => {
    await machine.notify("master");
    expect(await machine.notify("released")).toBe(0);
    expect(witness.leases.look().holder).toBe("lb-node-1");
    machine.hold(false);
    expect(await machine.notify("released")).toBe(0);
    expect(witness.leases.look().holder).toBeNull();
  });

  describe("without the witness", () => {
    const answer = (text: string) => listen((_incoming, response) => void response.end(text), "127.0.0.2");
    /** A port on which nothing listens. */
    const closed = async () => {
      const { port, stop } = await listen(() => undefined, "127.0.0.2");
      await stop();
      return port;
    };
    const run = async (port: number, rank: "first" | "later", peer = "127.0.0.2") => {
      const alone = new Machine(cloud, { witness: "http://127.0.0.1:1", peers: [peer], port, rank });
      alone.hold();
      try {
        expect(await alone.notify("master")).toBe(0);
      } finally {
        await alone.stop();
      }
      return cloud.targets();
    };

    it("VRRP's choice stands where the other load balancer hasn't got the address", async () => {
      const peer = await answer("free");
      expect(await run(peer.port, "later").finally(peer.stop)).toEqual(mine());
    });
    it("a refused connection says the same: that node is there without Keepalived", async () => {
      expect(await run(await closed(), "later")).toEqual(mine());
    });
    it.each([
      ["first", "writes", mine],
      ["later", "does not", theirs],
    ] as const)("where both have it, the %s %s", async (rank, _what, expected) => {
      const peer = await answer("holds");
      expect(await run(peer.port, rank).finally(peer.stop)).toEqual(expected());
    });
    it("and without the other load balancer it writes nothing: it may be the one cut off", async () => {
      // Never answers, as a machine that is gone.
      const peer = await listen(() => undefined, "127.0.0.2");
      expect(await run(peer.port, "first").finally(peer.stop)).toEqual(theirs());
      expect(writes()).toEqual([]);
    });
  });

  it("stops trying when the address has moved on: a late write would steal the routes", async () => {
    cloud.fault = ({ action }) => {
      if (action !== "ReplaceRoute") return undefined;
      machine.hold(false);
      return "refuse";
    };
    expect(await machine.notify("master")).toBe(0);
    expect(writes()).toHaveLength(tables.length);
    expect(await cloud.targets()).toEqual(theirs());
    expect(cloud.messages).toEqual([]);
    expect(machine.output).toContain("the address is another node's now");
  });

  it("wakes the keeper and moves nothing where there are no routes, as on the local target", async () => {
    const local = new Machine(cloud, { witness: witness.url, cloud: undefined });
    local.hold();
    const woken = local.listenAt("wake");
    try {
      expect(await local.notify("master")).toBe(0);
      await eventually("not woken", () => woken() === 1);
      expect(cloud.calls).toEqual([]);
      expect(witness.leases.look().grants).toBe(0);
    } finally {
      await local.stop();
    }
  });

  it("does nothing where there are no settings", async () => {
    expect(await machine.notify("master", { VIP_SETTINGS: "/nonexistent" })).toBe(0);
    expect(machine.output).toBe("");
    expect(cloud.calls).toEqual([]);
  });
});
