// What bringing a lost replica back does where a server ends under it, with a `docker` that only says so.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { reachAt } from "../../components/host/host.ts";
import { renderRecovery } from "../../components/render/clickhouse-recovery.ts";
import { plan } from "../../components/topology.ts";

const directories: string[] = [];
afterEach(() => directories.splice(0).forEach((directory) => rmSync(directory, { recursive: true })));

/**
 * Runs the script where its second statement ends with 137 the first `failures` times, and its server, if it `restarts`, is
 * started anew. After that nothing is lost.
 */
function run({ failures, restarts }: { failures: number; restarts: boolean }) {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-recovery-"));
  directories.push(directory);
  const file = (name: string) => join(directory, name);
  const command = (name: string, text: string): void => {
    writeFileSync(file(name), `#!/bin/sh\n${text}\n`);
    chmodSync(file(name), 0o755);
  };
  writeFileSync(file("asked"), "");
  writeFileSync(file("starts"), "");
  command("sleep", "");
  command(
    "docker",
    `case "$*" in
*inspect*clickhouse-1*) echo "/clickhouse-1 $(wc -c <${file("starts")})" ;;
*inspect*) echo "/another then" ;;
*system.zookeeper*) if [ "$(wc -c <${file("asked")})" -lt ${failures} ]; then echo events; fi ;;
*merge_tree_settings*)
  printf x >>${file("asked")}
  ${restarts ? `printf x >>${file("starts")}` : ":"}
  exit 137 ;;
esac`,
  );
  const topology = plan();
  const { status, stdout, stderr } = spawnSync("sh", ["-c", renderRecovery(topology)], {
    encoding: "utf8",
    env: {
      ...reachAt(topology.nodes, ({ alias }) => alias),
      PATH: `${directory}:${process.env["PATH"] ?? ""}`,
    },
  });
  return { status, stdout, stderr, asked: readFileSync(file("asked"), "utf8").length };
}

describe("a recovery", () => {
  it("begins anew where a server ended under it, and names the server", () => {
    const { status, stdout, stderr } = run({ failures: 1, restarts: true });
    expect(status, stderr).toBe(0);
    expect(stdout).toContain("clickhouse-1 ended meanwhile; once more");
    expect(stderr).toContain("broke off with 137 while asking what is lost");
  });

  it("gives up after three tries", () => {
    const { status, asked } = run({ failures: 99, restarts: true });
    expect({ status, asked }).toEqual({ status: 1, asked: 3 });
  });

  it("fails at once where every server has stayed, and says what it was doing", () => {
    const { status, asked, stderr } = run({ failures: 99, restarts: false });
    expect({ status, asked }).toEqual({ status: 1, asked: 1 });
    expect(stderr).toContain("broke off with 137 while asking what is lost");
  });
});
