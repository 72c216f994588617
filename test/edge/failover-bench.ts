// Measures what clients of the virtual IP lose: npx tsx test/edge/failover-bench.ts [runs] [event…] prints a table.
// It is no test: the figures depend on the machine, and a busy one makes them worse.

import { setTimeout as sleep } from "node:timers/promises";
import { vrrpLimitMs } from "../../components/render/keepalived.ts";
import { logs } from "../offline-images/docker.ts";
import { Pair, type Side } from "./pair.ts";

interface Measured {
  readonly outageMs: number;
  readonly failed: number;
  readonly requests: number;
  /** How long both nodes had the address, milliseconds. */
  readonly overlapMs: number;
}

const pair = new Pair();

const during = async (what: (holder: Side) => Promise<void>, options = {}): Promise<Measured> => {
  const holder = await pair.settle();
  let overlapMs = 0;
  const seen = await pair.during(async () => {
    overlapMs = await pair.overlap(async () => {
      await what(holder);
      await sleep(2500);
    });
  }, options);
  pair.rejoin();
  pair.revive(holder);
  return { ...seen, overlapMs };
};

const events: Readonly<Record<string, () => Promise<Measured>>> = {
  "restart HAProxy": () => during((holder) => pair.docker("restart", pair.haproxy(holder))),
  "stop HAProxy": () => during((holder) => pair.docker("stop", pair.haproxy(holder))),
  "kill HAProxy": () => during((holder) => pair.docker("kill", pair.haproxy(holder))),
  "hang HAProxy": () =>
    during(async (holder) => {
      await pair.docker("pause", pair.haproxy(holder));
      void sleep(2000).then(() => pair.docker("unpause", pair.haproxy(holder)));
    }),
  "kill Keepalived": () => during((holder) => pair.docker("kill", pair.keepalived(holder))),
  "kill the anchor": () => during((holder) => pair.docker("kill", pair.anchor(holder)), { ask: "proxy" }),
  "lose the whole node": () => during((holder) => pair.lose(holder), { ask: "proxy" }),
  "cut the pair apart": () => during(() => Promise.resolve(pair.cut()), { ask: "proxy", afterMs: 5000 }),
  "reload ×10, new connections": () => during(reloads),
  "reload ×10, kept connections": () => during(reloads, { mode: "keep-alive" }),
};

async function reloads(holder: Side): Promise<void> {
  for (let count = 0; count < 10; count++) {
    await pair.docker("kill", "--signal", "USR2", pair.haproxy(holder));
    await sleep(500);
  }
}

const [runs = "5", ...wanted] = process.argv.slice(2);
const unknown = wanted.filter((name) => events[name] === undefined);
if (!/^\d+$/.test(runs) || unknown.length > 0) {
  console.error(
    `usage: npx tsx test/edge/failover-bench.ts [runs] [event…]; given: ${process.argv.slice(2).join(" ")}; events: ${Object.keys(events).join(", ")}`,
  );
  process.exit(64);
}
const median = (numbers: readonly number[]): number =>
  [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;
try {
  await pair.start();
  const [, backup] = pair.topology.keepalived;
  if (backup !== undefined) console.log(`VRRP's limit: ${vrrpLimitMs(pair.topology, backup).toFixed(0)} ms`);
  console.log(
    "| event | runs | outage, median / max (each) | failed of requests | two holders, max |\n|---|---|---|---|---|",
  );
  for (const [name, run] of Object.entries(events)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const all: Measured[] = [];
    for (let count = 0; count < Number(runs); count++) all.push(await run());
    const outages = all.map(({ outageMs }) => outageMs);
    const sum = (key: "failed" | "requests") => all.reduce((total, one) => total + one[key], 0);
    console.log(
      `| ${name} | ${all.length} | ${median(outages)} / ${Math.max(...outages)} ms (${outages.join(" ")}) | ${sum("failed")} of ${sum("requests")} | ${Math.max(...all.map(({ overlapMs }) => overlapMs))} ms |`,
    );
  }
} finally {
  if (process.env["VIP_BENCH_LOGS"] === "1") console.error(logs(pair.supervisor));
  pair.stop();
}
