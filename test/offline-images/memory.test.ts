// A real ClickHouse in the least memory that a replica may have, with the limits as rendered for it: what each query and
// all together may take, and that the server outlives both.

import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { renderClickhouseMemory } from "../../components/render/clickhouse.ts";
import { clickhouseMemory } from "../../components/services/memory.ts";
import { cleanUp, docker, network, start, tryDocker, until, withoutDocker } from "./docker.ts";

const memoryMb = 1024;
const limits = clickhouseMemory(memoryMb);
const files = mkdtempSync(join(tmpdir(), "siem-ha-memory-"));
let server = "";

/** An answer, or an error's text. */
const ask = (sql: string): string =>
  tryDocker("exec", server, "clickhouse-client", "--query", sql).output.trim();
const askBeside = (sql: string): Promise<string> =>
  new Promise((resolve) => {
    const client = spawn("docker", ["exec", server, "clickhouse-client", "--query", sql]);
    let output = "";
    for (const stream of [client.stdout, client.stderr])
      stream.on("data", (part: Buffer) => (output += part.toString()));
    client.on("close", () => resolve(output));
  });
/** A query that keeps every number it has seen, and can't do so in files. */
const distinct = (numbers: number): string =>
  `SELECT uniqExact(toString(number)) FROM (SELECT number FROM system.numbers LIMIT ${numbers})`;

describe.skipIf(withoutDocker())("ClickHouse in its memory", { timeout: 300_000 }, () => {
  beforeAll(async () => {
    chmodSync(files, 0o755);
    const mounts = Object.entries(renderClickhouseMemory(memoryMb)).map(([path, text]) => {
      const file = join(files, path);
      mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
      writeFileSync(file, text, { mode: 0o644 });
      return `--volume=${file}:/etc/clickhouse-server/${path}:ro`;
    });
    const size = [`--memory=${memoryMb}m`, `--memory-swap=${memoryMb}m`];
    server = start(
      "memory",
      `--network=${network("--subnet=198.18.91.0/24")}`,
      ...size,
      ...mounts,
      publicImages.clickhouse,
    );
    await until(server, () => ask("SELECT 1"), /^1$/);
  }, 120_000);
  afterAll(() => {
    cleanUp();
    rmSync(files, { recursive: true, force: true });
  });

  it("takes the limits as everybody's", () => {
    const changed =
      "SELECT name, value FROM system.settings WHERE changed AND name LIKE 'max_%' ORDER BY name";
    expect(ask(changed).split("\n")).toEqual([
      `max_bytes_before_external_group_by\t${limits.spill}`,
      `max_bytes_before_external_sort\t${limits.spill}`,
      `max_memory_usage\t${limits.query}`,
      `max_memory_usage_for_all_queries\t${limits.queries}`,
      `max_memory_usage_for_user\t${limits.queries}`,
    ]);
  });

  it("refuses a query above its share, and goes on in files where it can", () => {
    expect(ask(distinct(100_000))).toBe("100000");
    expect(ask(distinct(50_000_000))).toContain("Memory limit (for query) exceeded");
    const grouped =
      "SELECT toString(number) AS text, count() FROM (SELECT number FROM system.numbers LIMIT 6000000) GROUP BY text";
    expect(ask(`${grouped} SETTINGS max_bytes_before_external_group_by = 0 FORMAT Null`)).toContain(
      "Memory limit (for query) exceeded",
    );
    expect(ask(`${grouped} FORMAT Null`)).toBe("");
  });

  it("refuses what is too much together, and lives on", async () => {
    // They last for five seconds, so that all are there at once on any machine.
    const slow = `${distinct(1_000_000)} WHERE NOT sleep(0.3)`;
    const answers = await Promise.all(Array.from({ length: 12 }, () => askBeside(slow)));
    expect(answers.filter((answer) => answer.includes("Memory limit (for user) exceeded"))).not.toEqual([]);
    const state = "{{.State.Running}} {{.State.OOMKilled}} {{.RestartCount}}";
    expect(docker("inspect", "--format", state, server)).toBe("true false 0");
    // What was refused is free again.
    expect(ask(distinct(1_000_000))).toBe("1000000");
  });
});
