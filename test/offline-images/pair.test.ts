// The failover contract, with the real HAProxy, Keepalived, witness and supervisor: what a client of the virtual IP
// may lose, and that it never stays with two holders or none. The bounds are generous, because other programs use the
// machine too; test/edge/failover-bench.ts measures.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Pair, type Side } from "../edge/pair.ts";
import { docker, logs, withoutDocker } from "./docker.ts";

/** The promise is a tenth of it. */
const backWithinMs = 5_000;

describe.skipIf(withoutDocker())("the pair", () => {
  const pair = new Pair();
  const other = (side: Side): Side => (side === 1 ? 2 : 1);
  const only = (side: Side) => () => pair.holders().join() === String(side);

  beforeAll(() => pair.start(), 900_000);
  afterAll(() => pair.stop());

  /** The worker is the process that was started last; the image has no tool to find one. */
  const crash = `for f in /proc/[0-9]*/comm; do
    [[ "$(< $f)" == haproxy ]] && p=\${f//[^0-9]/} && ((p > \${w:-0})) && w=$p
  done; kill -9 "$w"`;
  const losses: [string, (holder: Side) => Promise<void>][] = [
    ["HAProxy is restarted", (holder) => pair.docker("restart", pair.haproxy(holder))],
    ["HAProxy is killed", (holder) => pair.docker("kill", pair.haproxy(holder))],
    [
      "HAProxy hangs",
      async (holder) => {
        await pair.docker("pause", pair.haproxy(holder));
        await pair.eventually("it stays", () => pair.holders().join() === String(other(holder)));
        await pair.docker("unpause", pair.haproxy(holder));
      },
    ],
    ["HAProxy's worker crashes", (holder) => pair.docker("exec", pair.haproxy(holder), "bash", "-c", crash)],
    ["Keepalived is killed", (holder) => pair.docker("kill", pair.keepalived(holder))],
    ["the node's anchor is killed", (holder) => pair.docker("kill", pair.anchor(holder))],
    ["the whole node is lost", (holder) => pair.lose(holder)],
  ];
  it.each(losses)(
    "goes to the other when %s, and the node comes back as a backup",
    async (_what, lose) => {
      const holder = await pair.settle();
      const { outageMs, requests } = await pair.during(() => lose(holder), { ask: "proxy" });
      expect(requests).toBeGreaterThan(10);
      expect(outageMs).toBeLessThan(backWithinMs);
      // All that was killed comes back by itself, and does not take the address back.
      expect(await pair.settle()).toBe(other(holder));
    },
    120_000,
  );

  it("is handed over before HAProxy stops", async () => {
    const holder = await pair.settle();
    const { outageMs } = await pair.during(() => pair.docker("stop", pair.haproxy(holder)));
    try {
      expect(outageMs).toBeLessThan(backWithinMs);
      expect(logs(pair.haproxy(holder))).toMatch(/pair: handed 172\.25\.88\.222 over in \d+ ms/);
      expect(pair.holders()).toEqual([other(holder)]);
      // An operator stopped it: nobody starts it again.
      await sleep(4_000);
      expect(docker("inspect", "-f", "{{.State.Running}}", pair.haproxy(holder))).toBe("false");
    } finally {
      docker("start", pair.haproxy(holder));
    }
  }, 120_000);

  it("loses no request when HAProxy reloads, new connections or kept ones", async () => {
    const holder = await pair.settle();
    for (const mode of ["new", "keep-alive"] as const) {
      const seen = await pair.during(
        async () => {
          for (let count = 0; count < 5; count++) {
            await pair.docker("kill", "--signal", "USR2", pair.haproxy(holder));
            await sleep(500);
          }
        },
        { mode, limitMs: 10_000 },
      );
      expect(seen.requests).toBeGreaterThan(100);
      expect(seen.errors).toEqual({});
    }
    expect(pair.holders()).toEqual([holder]);
  }, 120_000);

  it("stays with its holder when the two are cut apart, and the other lets go", async () => {
    const holder = await pair.settle();
    const claims = () => logs(pair.keepalived(other(holder))).split("which is alive").length;
    const before = claims();
    let overlapMs = 0;
    const { outageMs } = await pair.during(
      async () => {
        overlapMs = await pair.overlap(async () => {
          pair.cut();
          // It has claimed it, as VRRP must, and the witness has said no.
          await pair.eventually("never claimed", () => claims() > before);
          await pair.eventually("two holders", only(holder));
        });
      },
      { ask: "proxy" },
    );
    expect(outageMs).toBeLessThan(backWithinMs);
    expect(overlapMs).toBeLessThan(backWithinMs);
    await sleep(2_000);
    expect(pair.holders()).toEqual([holder]);
    pair.rejoin();
    expect(await pair.settle()).toBe(holder);
  }, 120_000);

  it("is let go by a holder that sees neither the other nor the witness", async () => {
    const holder = await pair.settle();
    pair.isolate(holder);
    await pair.eventually("not with the other alone", only(other(holder)));
    await pair.eventually("no lease", () => pair.lease() === `lb-node-${other(holder)}`);
    pair.rejoin();
    expect(await pair.settle()).toBe(other(holder));
  }, 120_000);

  it("stays where it is while the witness is gone, and can still move", async () => {
    const holder = await pair.settle();
    docker("stop", "--time=2", pair.topology.witness.name);
    await sleep(3_000);
    expect(pair.holders()).toEqual([holder]);
    await pair.docker("restart", pair.haproxy(holder));
    await pair.eventually("not moved", only(other(holder)));
    docker("start", pair.topology.witness.name);
    expect(await pair.settle()).toBe(other(holder));
  }, 120_000);
});
