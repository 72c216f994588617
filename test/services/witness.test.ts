// The witness: one holder at a time whatever is asked, a restart that promises nothing, and no answer without the token.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { createWitness } from "../../services/witness/app.ts";
import { LeaseTable, longestLeaseMs, shortestLeaseMs } from "../../services/witness/lease.ts";

describe("leases", () => {
  let now = 0;
  const clock = () => now;
  const aged = () => {
    now = 0;
    const leases = new LeaseTable(clock);
    now = longestLeaseMs;
    return leases;
  };

  it("are granted once the witness is old enough, and not before", () => {
    now = 0;
    const leases = new LeaseTable(clock);
    now = longestLeaseMs - 1;
    expect(leases.ask("lb-node-1", 1500)).toMatchObject({ granted: false, waitMs: 1 });
    now = longestLeaseMs;
    expect(leases.ask("lb-node-1", 1500)).toMatchObject({
      granted: true,
      holder: "lb-node-1",
      expiresInMs: 1500,
    });
  });

  it("stay with their holder until they end, and a refusal says when", () => {
    const leases = aged();
    leases.ask("lb-node-1", 1500);
    now += 1000;
    expect(leases.ask("lb-node-2", 1500)).toEqual({
      granted: false,
      holder: "lb-node-1",
      expiresInMs: 500,
      grants: 1,
      refusals: 1,
    });
    now += 500;
    expect(leases.ask("lb-node-2", 1500).granted).toBe(true);
    expect(leases.ask("lb-node-1", 1500).granted).toBe(false);
  });

  it("are given back by their holder only", () => {
    const leases = aged();
    leases.ask("lb-node-1", 1500);
    expect(leases.release("lb-node-2").holder).toBe("lb-node-1");
    expect(leases.release("lb-node-1").holder).toBeNull();
    expect(leases.ask("lb-node-2", 1500).granted).toBe(true);
  });

  it("count their refusals, so that the holder sees that another node claims the address", () => {
    const leases = aged();
    expect(leases.ask("lb-node-1", 1500).refusals).toBe(0);
    leases.ask("lb-node-2", 1500);
    leases.ask("lb-node-2", 1500);
    expect(leases.ask("lb-node-1", 1500)).toMatchObject({ granted: true, refusals: 2 });
  });

  it("count their grants, so that a refused caller sees a living holder, and not refusals", () => {
    const leases = aged();
    leases.ask("lb-node-1", 1500);
    expect(leases.ask("lb-node-2", 1500).grants).toBe(1);
    expect(leases.ask("lb-node-2", 1500).grants).toBe(1);
    leases.ask("lb-node-1", 1500);
    expect(leases.ask("lb-node-2", 1500).grants).toBe(2);
  });

  it("are as long as the keepers ask for, and no longer: a fresh witness waits for as long", () => {
    const library = readFileSync(join(import.meta.dirname, "../../images/keepalived/vip-lib.sh"), "utf8");
    expect(/^lease_ms=(\d+)$/m.exec(library)?.[1]).toBe(String(longestLeaseMs));
  });

  it("are noted by a fresh witness, which promises nothing but refuses the other for as long as the first asks", () => {
    now = 0;
    const leases = new LeaseTable(clock);
    expect(leases.ask("lb-node-2", 600)).toEqual({
      granted: false,
      waitMs: longestLeaseMs,
      holder: "lb-node-2",
      expiresInMs: 600,
      grants: 1,
      refusals: 0,
    });
    const refused = { granted: false, holder: "lb-node-2", expiresInMs: 600, grants: 1, refusals: 1 };
    expect(leases.ask("lb-node-1", 600)).toEqual(refused);
    // The other sees it ask again.
    now = 500;
    expect(leases.ask("lb-node-2", 600)).toMatchObject({ granted: false, grants: 2 });
    // It dies: its note ends sooner than the other gives up.
    now = 1_100;
    expect(leases.ask("lb-node-1", 600)).toMatchObject({ granted: false, waitMs: longestLeaseMs - 1_100 });
    leases.release("lb-node-1");
    expect(leases.ask("lb-node-2", 600)).toMatchObject({ granted: false, holder: "lb-node-2" });
    now = longestLeaseMs;
    expect(leases.ask("lb-node-1", 600).granted).toBe(false);
    expect(leases.ask("lb-node-2", 600).granted).toBe(true);
  });

  it("never overlap, whatever is asked and however often the witness restarts", () => {
    const step = fc.record({
      wait: fc.integer({ min: 0, max: 3000 }),
      caller: fc.constantFrom("lb-node-1", "lb-node-2", "lb-node-3"),
      ttlMs: fc.integer({ min: shortestLeaseMs, max: longestLeaseMs }),
      what: fc.constantFrom("ask", "ask", "ask", "release", "restart"),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        let leases = aged();
        // What each caller was promised, by its own bookkeeping.
        const promised = new Map<string, number>();
        for (const { wait, caller, ttlMs, what } of steps) {
          now += wait;
          if (what === "restart") leases = new LeaseTable(clock);
          else if (what === "release") {
            leases.release(caller);
            promised.delete(caller);
          } else if (leases.ask(caller, ttlMs).granted) promised.set(caller, now + ttlMs);
          expect([...promised.values()].filter((end) => end > now).length).toBeLessThanOrEqual(1);
        }
      }),
    );
  });
});

describe("over HTTP", () => {
  const token = "witness-token-of-the-tests-0123456789abcdef";
  let now = 0;
  let app = createWitness({ token, lifecycle: { draining: false }, quiet: true });
  beforeEach(() => {
    now = 0;
    const leases = new LeaseTable(() => now);
    app = createWitness({ token, lifecycle: { draining: false }, leases, quiet: true });
  });
  const call = (
    method: "GET" | "PUT" | "DELETE",
    url: string,
    payload?: object,
    authorization = `Bearer ${token}`,
  ) => app.inject({ method, url, headers: { authorization }, ...(payload === undefined ? {} : { payload }) });

  it("answers 503 to the first while it is young, then 200, and 409 to the other", async () => {
    const ask = (holder: string) => call("PUT", "/lease", { holder, ttlMs: 1500 });
    expect((await ask("lb-node-1")).statusCode).toBe(503);
    expect((await ask("lb-node-2")).statusCode).toBe(409);
    expect((await call("DELETE", "/lease/lb-node-1")).json()).toMatchObject({ holder: null });
    now = longestLeaseMs;
    expect((await ask("lb-node-1")).statusCode).toBe(200);
    const refused = await ask("lb-node-2");
    expect(refused.statusCode).toBe(409);
    expect(refused.json()).toEqual({
      granted: false,
      holder: "lb-node-1",
      expiresInMs: 1500,
      grants: 2,
      refusals: 2,
    });
    expect((await call("GET", "/lease")).json()).toEqual({
      holder: "lb-node-1",
      expiresInMs: 1500,
      grants: 2,
      refusals: 2,
    });
    expect((await call("DELETE", "/lease/lb-node-1")).json()).toMatchObject({ holder: null });
    expect((await ask("lb-node-2")).statusCode).toBe(200);
  });

  it.each([
    ["no token", ""],
    ["another", "Bearer another-token-of-the-tests-0123456789ab"],
    ["the bare token", token],
  ])("refuses every call with %s, but says that it is alive", async (_name, authorization) => {
    now = longestLeaseMs;
    const body = { holder: "lb-node-1", ttlMs: 1500 };
    expect((await call("PUT", "/lease", body, authorization)).statusCode).toBe(401);
    expect((await call("GET", "/lease", undefined, authorization)).statusCode).toBe(401);
    expect((await call("DELETE", "/lease/lb-node-1", undefined, authorization)).statusCode).toBe(401);
    expect((await call("GET", "/health", undefined, authorization)).json()).toEqual({ status: "ok" });
    expect((await call("GET", "/lease")).json()).toMatchObject({ grants: 0 });
  });

  it.each([
    [{ holder: "LB 1", ttlMs: 1500 }, 'holder must be a node\'s name, such as "lb-node-1", but is "LB 1"'],
    [{ ttlMs: 1500 }, "holder must be"],
    [{ holder: "lb-node-1", ttlMs: 60_000 }, `from ${shortestLeaseMs} to ${longestLeaseMs}, but is 60000`],
    [{ holder: "lb-node-1", ttlMs: 1.5 }, "whole number"],
    [{ holder: "lb-node-1" }, "ttlMs must be"],
  ])("refuses %j and says what is allowed", async (body, message) => {
    now = longestLeaseMs;
    const answer = await call("PUT", "/lease", body);
    expect(answer.statusCode).toBe(400);
    expect(answer.json<{ message: string }>().message).toContain(message);
  });
});
