// When a replica may be emptied: only if the others have everything.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { reachAt } from "../../components/host/host.ts";
import { plan } from "../../components/topology.ts";
import { objections, replicaOf, upArguments } from "../../ops/rebuild.ts";

const topology = plan();
const config = parseConfig({ target: "local" });
const directories: string[] = [];
const path = process.env["PATH"] ?? "";
afterEach(() => {
  process.env["PATH"] = path;
  directories.splice(0).forEach((directory) => rmSync(directory, { recursive: true }));
});

/** What forbids it, where `docker` answers by these cases of its command line. */
function against(alias: string, cases: string): Promise<string[]> {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-rebuild-"));
  directories.push(directory);
  writeFileSync(join(directory, "docker"), `#!/bin/sh\ncase "$*" in\n${cases}\nesac\n`);
  chmodSync(join(directory, "docker"), 0o755);
  process.env["PATH"] = `${directory}:${path}`;
  const reach = reachAt(topology.nodes, ({ alias: node }) => node);
  return objections(reach, config, topology, replicaOf(topology, alias));
}

describe("a rebuild", () => {
  it("ends with a command that is there", () => {
    const { status, stdout } = spawnSync(process.execPath, [...upArguments("test"), "--help"], {
      encoding: "utf8",
    });
    expect(stdout).toMatch(/^Usage: up /);
    expect(status).toBe(0);
  });

  it("is of a replica with data", () => {
    expect(() => replicaOf(topology, "haproxy-1")).toThrow(
      /no replica with data called haproxy-1; there are: zookeeper-1, .*kafka-3, clickhouse-1.*Nothing was touched/,
    );
  });

  it("of a ZooKeeper needs the others to serve", async () => {
    const serves = "*mntr*) echo 'zk_server_state follower' ;;";
    expect(await against("zookeeper-1", serves)).toEqual([]);
    expect(await against("zookeeper-1", `*stream-node-3*) exit 1 ;;\n${serves}`)).toEqual([
      "zookeeper-3 does not serve: together they are no quorum",
    ]);
    // What is to be rebuilt need not.
    expect(await against("zookeeper-1", `*stream-node-1*) exit 1 ;;\n${serves}`)).toEqual([]);
  });

  it("of a broker needs the others to answer", async () => {
    expect(await against("kafka-2", "*) exit 1 ;;")).toEqual([
      "kafka-1 does not answer",
      "kafka-3 does not answer",
    ]);
  });

  it("of a ClickHouse replica needs the others to have caught up, and to wait for no part", async () => {
    const caughtUp = "*is_readonly*) echo 0 ;;";
    expect(await against("clickhouse-2", caughtUp)).toEqual([]);
    expect(await against("clickhouse-2", "*clickhouse-3*is_readonly*) echo 1 ;;\n" + caughtUp)).toEqual([
      "clickhouse-3 does not answer, can't be written, or has not caught up",
    ]);
    const waits = "*clickhouse-1*replication_queue*) echo 'events_replicated 202611_5_5_0' ;;";
    expect(await against("clickhouse-2", `${caughtUp}\n${waits}`)).toEqual([
      "clickhouse-1 waits for events_replicated 202611_5_5_0, which nobody else may have",
    ]);
  });
});
