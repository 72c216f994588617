// Ingestors behind the HAProxy that the stack runs, with its rendered configuration: a stop cuts no post and a crash
// repeats none. Everything shares one container's loopback interface, so no network is made.

import { execFile, execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { buildSync } from "esbuild";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import { renderHaproxy, renderStatsUsers } from "../../components/render/haproxy.ts";
import { plan } from "../../components/topology.ts";
import { mintToken } from "../../services/token.ts";

const images = [publicImages.haproxy, baseImages.node];
const missing = images.filter((image) => spawnSync("docker", ["image", "inspect", image]).status !== 0);
if (missing.length > 0) console.log(`skipped: not on this machine: ${missing.join(", ")}`);

const secret = "0123456789abcdef0123456789abcdef";
const name = `siem-ha-g-drain-${process.pid}`;
const here = <T extends { node: object }>(replica: T): T => ({
  ...replica,
  node: { ...replica.node, address: "127.0.0.1" },
});
const drawn = plan();
const topology = { ...drawn, api: drawn.api.map(here), ingestor: drawn.ingestor.slice(0, 2).map(here) };
const ingestors = topology.ingestor.map((replica) => `${name}-${replica.slot}`);

const docker = (...args: string[]): string => execFileSync("docker", args, { encoding: "utf8" });
const run = promisify(execFile);
const client = `
  const answer = await fetch("http://127.0.0.1:${ports.haproxyIngest.number}/v1/events", {
    method: "POST", body: process.argv[1],
    headers: { authorization: "Bearer " + process.env.TOKEN, "content-type": "text/plain" },
  });
  console.log(answer.status, answer.headers.get("retry-after") ?? 0);`;
/** Posts a line as a client would, and gives the status of the answer. */
async function post(line: string): Promise<number> {
  return (await ask(line)).status;
}
/** Posts a line, and gives the status and the seconds after which to come back; 0 where the answer names none. */
async function ask(line: string): Promise<{ status: number; retryAfter: number }> {
  const token = await mintToken({
    secret,
    tenantId: "a",
    scope: "events:write",
    ttlSeconds: 60,
    subject: "t",
  });
  const options = ["--rm", "--network", `container:${name}`, "--label", "siem-ha.stack=g"];
  const command = ["node", "--input-type=module", "-e", client, line];
  const said = await run("docker", [
    "run",
    ...options,
    "-e",
    `TOKEN=${token}`,
    ...[baseImages.node, ...command],
  ]);
  const [status, retryAfter] = said.stdout.split(" ").map(Number);
  return { status: status!, retryAfter: retryAfter! };
}
/** The ingestors that a line reached, as often as it did. */
const arrivals = (line: string): string[] =>
  ingestors.flatMap((ingestor) =>
    docker("logs", ingestor)
      .split("\n")
      .filter((text) => text.startsWith("arrived") && text.includes(line))
      .map(() => ingestor),
  );
async function arrival(line: string): Promise<string> {
  return expect
    .poll(() => arrivals(line)[0], { timeout: 15_000, interval: 50 })
    .toBeDefined()
    .then(() => arrivals(line)[0]!);
}

describe.skipIf(missing.length > 0)("behind HAProxy", () => {
  let directory = "";
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "siem-ha-drain-"));
    chmodSync(directory, 0o755);
    writeFileSync(join(directory, "10-users.cfg"), renderStatsUsers("PASSWORD"));
    writeFileSync(join(directory, "20-haproxy.cfg"), renderHaproxy(topology));
    buildSync({
      entryPoints: [join(import.meta.dirname, "slow-ingestor.ts")],
      outfile: join(directory, "ingestor.mjs"),
      bundle: true,
      platform: "node",
      format: "esm",
      target: "node20",
      banner: {
        js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
      },
    });
    const common = ["-d", "--label", "siem-ha.stack=g", "-v", `${directory}:/check:ro`];
    const balancer = ["--network", "none", "--tmpfs", "/var/run/haproxy:mode=0777", publicImages.haproxy];
    const command = ["haproxy", "-W", "-db", "-f", "/check/10-users.cfg", "-f", "/check/20-haproxy.cfg"];
    docker("run", "--name", name, ...common, ...balancer, ...command);
    for (const [index, replica] of topology.ingestor.entries()) {
      const environment = ["-e", `JWT_SECRET=${secret}`, "-e", `PORT=${replica.port}`];
      const own = ["--name", ingestors[index]!, "--network", `container:${name}`, ...environment];
      docker("run", ...common, ...own, baseImages.node, "node", "/check/ingestor.mjs");
    }
    for (const [index] of ingestors.entries()) {
      await expect
        .poll(async () => [await post(`ready ${index}`), docker("logs", ingestors[index]!)].join(), {
          timeout: 30_000,
        })
        .toMatch(/202,arrived/);
    }
  });
  afterEach(() => {
    spawnSync("docker", ["rm", "--force", "--volumes", ...ingestors, name]);
    rmSync(directory, { recursive: true });
  });

  it("a post outlives the drain of its ingestor, arrives once, and new posts go elsewhere", async () => {
    const slow = post("slow one");
    const first = await arrival("slow one");
    docker("kill", "--signal", "TERM", first);
    const began = Date.now();
    const others: number[] = [];
    while (Date.now() - began < 5_000) others.push(await post("another"));
    expect(arrivals("slow one")).toEqual([first]);
    expect(await slow).toBe(202);
    expect(new Set(others)).toEqual(new Set([202]));
    expect(arrivals("slow one")).toEqual([first]);
    expect(arrivals("another")).toHaveLength(others.length);
    expect(arrivals("another").at(-1)).not.toBe(first);
    await expect
      .poll(() => docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", first).trim(), {
        timeout: 10_000,
      })
      .toBe("exited 0");
  });

  it("losing Kafka cuts no post that waits, new ones get 503 at once, and all goes on when it is back", async () => {
    const slow = post("slow one");
    await arrival("slow one");
    const lost = Date.now();
    for (const ingestor of ingestors) docker("kill", "--signal", "USR2", ingestor);
    // Longer than the load balancer takes to see the health checks fail.
    const refused: Awaited<ReturnType<typeof ask>>[] = [];
    while (Date.now() - lost < 5_000) refused.push(await ask("lost"));
    expect(refused.length).toBeGreaterThan(0);
    for (const answer of refused) expect(answer).toEqual({ status: 503, retryAfter: 2 });
    expect(await slow).toBe(202);
    expect(arrivals("slow one")).toHaveLength(1);
    expect(arrivals("lost")).toEqual([]);
    for (const ingestor of ingestors) docker("kill", "--signal", "USR2", ingestor);
    await expect.poll(() => post("back"), { timeout: 10_000 }).toBe(202);
  });

  it("a post whose ingestor dies is answered with an error, and is not sent to the other one", async () => {
    const slow = post("slow one");
    const first = await arrival("slow one");
    docker("kill", "--signal", "KILL", first);
    expect(await slow).toBeGreaterThanOrEqual(500);
    await sleep(1_000);
    expect(arrivals("slow one")).toEqual([first]);
  });
});
