// A ClickHouse server of a test's own, with the platform's tables but without Kafka and ZooKeeper.

import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { publicImages } from "../../components/images.ts";
import { renderSchema } from "../../components/render/clickhouse.ts";
import { names, plan } from "../../components/topology.ts";
import type { Database } from "../../services/common/env.ts";

const image = publicImages.clickhouse;
const password = "not-a-secret";
const login: Omit<Database, "urls"> = { username: names.databaseUser, password, database: names.database };

/** Whether the image is missing; says so, because the tests that need it are then left out. */
export function withoutClickhouse(): boolean {
  if (spawnSync("docker", ["image", "inspect", image]).status === 0) return false;
  console.warn(`skipped: tests against a real ClickHouse: ${image} is not on this machine`);
  return true;
}

export interface TestDatabase {
  readonly database: Database;
  /** Runs a statement with every right, and returns what it prints. */
  sql(statement: string): Promise<string>;
  /** Adds rows to a table, columns that are left out empty. */
  insert(table: string, rows: readonly object[]): Promise<void>;
}

const container = `siem-ha-apit-${process.pid}`;

/** Removes the server, however far its start came. */
export function removeDatabase(): void {
  spawnSync("docker", ["rm", "--force", "--volumes", container]);
}

/** Starts the server, and waits until the tables are there. `removeDatabase` removes it. */
export async function startDatabase(): Promise<TestDatabase> {
  const users = mkdtempSync(join(tmpdir(), "siem-ha-api-"));
  chmodSync(users, 0o755);
  writeFileSync(
    join(users, "10-user.xml"),
    `<yandex><users><${login.username}><password>${password}</password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></${login.username}></users></yandex>`,
  );
  const docker = (...args: string[]): string => execFileSync("docker", args, { encoding: "utf8" }).trim();
  try {
    docker(
      ...["create", "--name", container, "--label", `${names.label}=apit`],
      ...["--publish", "127.0.0.1::8123", image],
    );
    docker("cp", `${users}/.`, `${container}:/etc/clickhouse-server/users.d`);
    docker("start", container);
    const url = `http://${docker("port", container, "8123").split("\n")[0]}`;
    const headers = { "x-clickhouse-user": login.username, "x-clickhouse-key": password };
    const sql = async (statement: string, patienceMs = 60_000): Promise<string> => {
      const answer = await fetch(url, {
        method: "POST",
        headers,
        body: statement,
        signal: AbortSignal.timeout(patienceMs),
      });
      const text = await answer.text();
      if (!answer.ok) throw new Error(text);
      return text.trim();
    };
    for (let tries = 0; ; tries++) {
      // Docker's proxy may take a connection before the server listens, and then nothing comes.
      const ready = await sql("SELECT 1", 2_000).catch((error: unknown) => error);
      if (ready === "1") break;
      if (tries === 600) throw new Error(`${container} does not answer: ${String(ready)}`);
      await sleep(200);
    }
    for (const statement of localSchema()) await sql(statement);
    await sql("SYSTEM STOP MERGES");
    const insert = async (table: string, rows: readonly object[]): Promise<void> => {
      if (rows.length === 0) return;
      const lines = rows.map((row) => JSON.stringify(row)).join("\n");
      await sql(`INSERT INTO ${names.database}.${table} FORMAT JSONEachRow\n${lines}`);
    };
    return { database: { ...login, urls: [url] }, sql, insert };
  } finally {
    rmSync(users, { recursive: true, force: true });
  }
}

/** The schema's tables with an engine that needs nobody else. */
function localSchema(): string[] {
  return renderSchema(plan())
    .split(";\n")
    .map((statement) => statement.trim().replace(/ ON CLUSTER \w+/, ""))
    .filter((statement) => /^CREATE DATABASE|ENGINE = Replicated/.test(statement))
    .map((statement) =>
      statement.replace(/ENGINE = Replicated(\w+)\('[^']*', '[^']*'(?:, (\w+))?\)/, "ENGINE = $1($2)"),
    );
}
