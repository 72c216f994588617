// The gate between brokers, on what Kafka's own tool prints.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { kafkaInSyncProbe } from "../../../components/services/kafka.ts";
import { plan } from "../../../components/topology.ts";

const directory = mkdtempSync(join(tmpdir(), "siem-ha-kafka-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** Runs the probe of broker 1 with a `docker` that prints this, or fails. */
function probe(text: string, status = 0): { status: number | null; said: string } {
  const [broker] = plan().kafka;
  if (broker === undefined) throw new Error("no broker");
  writeFileSync(join(directory, "text"), text);
  const docker = join(directory, "docker");
  writeFileSync(docker, `#!/bin/sh\ncat ${directory}/text\nexit ${status}\n`);
  chmodSync(docker, 0o755);
  const { status: code, stdout } = spawnSync("sh", ["-c", kafkaInSyncProbe(broker)], {
    encoding: "utf8",
    env: { ...process.env, PATH: `${directory}:${process.env["PATH"] ?? ""}` },
  });
  return { status: code, said: stdout };
}

const line = (replicas: string, isr: string) =>
  `\tTopic: ingest-events\tPartition: 0\tLeader: 2\tReplicas: ${replicas}\tIsr: ${isr}\n`;

describe("broker 1's gate", () => {
  it("passes when nothing lags", () => {
    expect(probe("").status).toBe(0);
  });
  it("passes when only another broker is missing: its own turn comes later", () => {
    expect(probe(line("1,2,3", "2,1") + line("3,1,2", "1,2")).status).toBe(0);
  });
  it("waits while this broker lags, and names the partition", () => {
    const { status, said } = probe(line("1,2,3", "2,3"));
    expect(status).not.toBe(0);
    expect(said).toContain("Partition: 0");
  });
  it("takes 11 for another broker than 1", () => {
    expect(probe(line("11,2", "2")).status).toBe(0);
    expect(probe(line("1,11", "11")).status).not.toBe(0);
  });
  it("waits when the tool fails", () => {
    expect(probe("", 1).status).not.toBe(0);
  });
});
