// Events: throughput through the VIP beside a plain producer on the same brokers, the way to all replicas, and memory.

import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { buildSync } from "esbuild";
import { labelOf, topologyOf } from "../components/config.ts";
import { ports } from "../components/ports.ts";
import { names } from "../components/topology.ts";
import { imageTag } from "../images/build.ts";
import { bundling } from "../images/bundle.ts";
import { inContainer, localReach } from "../ops/daemon.ts";
import { entry } from "../ops/entry.ts";
import { ensurePulumi } from "../ops/toolchain.ts";
import { openStack, readSecret, root, stackConfig } from "../ops/workspace.ts";
import { mintToken } from "../services/token.ts";
import type { Measured, Task } from "./generator.ts";
import { median, report, verdict } from "./report.ts";

const run = promisify(execFile);
const tenant = "siem-ha-bench";
const rounds = 3;
const roundSeconds = 8;

/** Runs the generator in a container of its own on a node of the stack, so that both ways have the same network. */
async function generate(node: string, label: string, bundle: string, task: Task): Promise<Measured> {
  const name = `${node}-bench`;
  await run("docker", [
    "create",
    "--interactive",
    "--name",
    name,
    "--label",
    label,
    "--network",
    `container:${node}`,
    imageTag("ingestor"),
    "node",
    "bin/generator.mjs",
  ]);
  try {
    await run("docker", ["cp", bundle, `${name}:/app/bin/generator.mjs`]);
    const running = run("docker", ["start", "--attach", "--interactive", name], {
      timeout: (task.seconds + 60) * 1000,
    });
    running.child.stdin?.end(JSON.stringify(task));
    return JSON.parse((await running).stdout) as Measured;
  } finally {
    await run("docker", ["rm", "--force", "--volumes", name]);
  }
}

/** What the container is one of: its name without the replica's number. */
export function kindOf(container: string): string {
  return /-node-\d$/.test(container) ? "anchors" : container.replace(/-\d+(?=(-[a-z]+)?$)/, "");
}

/** Memory of the stack's containers by kind, MiB. */
async function memory(label: string): Promise<Map<string, number>> {
  const { stdout: list } = await run("docker", [
    "ps",
    "--filter",
    `label=${label}`,
    "--format",
    "{{.Names}}",
  ]);
  const containers = list.trim().split("\n");
  const { stdout } = await run("docker", [
    "stats",
    "--no-stream",
    "--format",
    "{{.Name}} {{.MemUsage}}",
    ...containers,
  ]);
  const byKind = new Map<string, number>();
  for (const row of stdout.trim().split("\n")) {
    const match = /^(\S+) ([\d.]+)([KMG])iB/.exec(row);
    if (match === null) throw new Error(`docker stats said ${row}`);
    const [, name = "", amount, unit] = match;
    const kind = kindOf(name);
    const mib = Number(amount) * (unit === "G" ? 1024 : unit === "K" ? 1 / 1024 : 1);
    byKind.set(kind, (byKind.get(kind) ?? 0) + mib);
  }
  return byKind;
}

/** From the acknowledgement of a single event until every replica has it, milliseconds. */
async function wayToReplicas(count: number, jwtSecret: string, stackName: string, password: string) {
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const { ingest } = entry(topology, config);
  const token = await mintToken({
    secret: jwtSecret,
    tenantId: tenant,
    scope: "events:write",
    ttlSeconds: 600,
    subject: "bench",
  });
  const took: number[] = [];
  for (let i = 0; i < count; i++) {
    const id = randomUUID();
    const posted = await fetch(`${ingest}/v1/events`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
      body: JSON.stringify({
        event_id: id,
        event_timestamp: Math.floor(Date.now() / 1000),
        raw_event: "siem-ha bench",
      }),
    });
    if (posted.status !== 202) throw new Error(`the ingestor answered ${posted.status}`);
    const acknowledged = performance.now();
    await Promise.all(
      topology.clickhouse.map(async ({ node, name }) => {
        for (;;) {
          const answer = await fetch(`http://${node.address}:${ports.clickhouseHttp.number}/`, {
            method: "POST",
            headers: { "x-clickhouse-user": names.databaseUser, "x-clickhouse-key": password },
            body: `SELECT count() FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${tenant}' AND event_timestamp > ${Math.floor(Date.now() / 1000) - 600} AND event_id = '${id}'`,
          });
          if (!answer.ok) throw new Error(`${name} answered ${answer.status}`);
          if (Number(await answer.text()) > 0) return;
          if (performance.now() - acknowledged > 60_000) throw new Error(`${name} has not got ${id} in 60 s`);
          await sleep(10);
        }
      }),
    );
    took.push(performance.now() - acknowledged);
    // Not in step with whatever runs at a fixed pace.
    await sleep(Math.random() * 1000);
  }
  return took;
}

/** Runs all of it against the running stack. */
export async function benchEvents(stackName: string): Promise<void> {
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const label = `${names.label}=${labelOf(config, stackName)}`;
  const stack = await openStack(stackName, await ensurePulumi((line) => process.stderr.write(`${line}\n`)));
  const jwtSecret = await readSecret(stack, "jwtSecret");
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-bench-"));
  const bundle = join(directory, "generator.mjs");
  buildSync({ ...bundling, absWorkingDir: root, entryPoints: ["bench/generator.ts"], outfile: bundle });
  const common = {
    jwtSecret,
    tenant,
    ingest: `http://${topology.vip.address}:${ports.haproxyIngest.number}`,
    brokers: topology.kafka.map(({ alias }) => `${alias}:${ports.kafka.number}`),
    topic: names.eventsTopic,
  };
  const go = (task: Pick<Task, "mode" | "seconds" | "concurrency" | "batch">) =>
    generate(topology.witness.node.name, label, bundle, { ...common, ...task });
  try {
    const idle = await memory(label);
    const rows: string[] = [];
    const ratios: number[] = [];
    let busy = idle;
    // An ingestor that was just started compiles what it runs during the first seconds of load.
    await go({ mode: "posts", seconds: roundSeconds, concurrency: 12, batch: 100 });
    for (let round = 1; round <= rounds; round++) {
      const posts = await go({ mode: "posts", seconds: roundSeconds, concurrency: 12, batch: 100 });
      busy = await memory(label);
      const plain = await go({ mode: "kafka", seconds: roundSeconds, concurrency: 12, batch: 100 });
      const [a, b] = [posts.events / posts.seconds, plain.events / plain.seconds];
      ratios.push(a / b);
      rows.push(
        `| ${round} | ${Math.round(a)} | ${posts.p99.toFixed(0)} ms | ${Math.round(b)} | ${plain.p99.toFixed(0)} ms | ${(a / b).toFixed(2)} | ${posts.failed + plain.failed} |`,
      );
    }
    const single = await go({ mode: "posts", seconds: roundSeconds, concurrency: 64, batch: 1 });
    // The feed has caught up before single events are timed.
    await sleep(15_000);
    const inner = await inContainer(localReach(config.local.dockerHost), topology.clickhouse[0]!, [
      "clickhouse-client",
      "--query",
      "SELECT version()",
    ]);
    const way = await wayToReplicas(20, jwtSecret, stackName, await readSecret(stack, "databasePassword"));
    const kinds = [...new Set([...idle.keys(), ...busy.keys()])].sort();
    const sum = (map: Map<string, number>) => Math.round([...map.values()].reduce((a, b) => a + b, 0));
    await report(
      "events",
      "Events",
      `Posts of 100 log lines through the VIP, HAProxy and the ingestors, beside a plain producer (\`acks=all\`, sends of 100 rows, no rules, no parsing) on the same brokers, turn by turn, ${roundSeconds} s each after ${roundSeconds} s that don't count, 12 in flight, from a container on ${topology.witness.node.alias}:

| round | events/s through the VIP | p99 | events/s of the plain producer | p99 | ratio | failed |
| ----- | ------------------------ | --- | ------------------------------ | --- | ----- | ------ |
${rows.join("\n")}

Median ratio: ${verdict(median(ratios), { least: 0.6 })}.

Single events, 64 posts in flight: ${Math.round(single.events / single.seconds)} posts/s, p50 ${single.p50.toFixed(0)} ms, p99 ${single.p99.toFixed(0)} ms, ${single.failed} failed.

From acknowledgement to readable on all ${topology.clickhouse.length} replicas (ClickHouse ${inner}), ${way.length} single events on an idle stack: median ${(median(way) / 1000).toFixed(2)} s, longest ${(Math.max(...way) / 1000).toFixed(2)} s (asked: ≤ 1.5 s, ${median(way) <= 1500 ? "met" : "**missed**"}).

Memory of everything, MiB:

| containers | idle | right after a round of load |
| ---------- | ---- | -------------------------- |
${kinds.map((kind) => `| ${kind} | ${Math.round(idle.get(kind) ?? 0)} | ${Math.round(busy.get(kind) ?? 0)} |`).join("\n")}
| **all** | **${sum(idle)}** | **${sum(busy)}** |`,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}
