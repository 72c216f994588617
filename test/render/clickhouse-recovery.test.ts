// What is done before the schema is applied, with a `docker` that only says what a server would.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { reachAt } from "../../components/host/host.ts";
import { storedTables, tablePaths, tablesPath } from "../../components/render/clickhouse.ts";
import { renderRecovery } from "../../components/render/clickhouse-recovery.ts";
import { names, plan } from "../../components/topology.ts";

const directories: string[] = [];
afterEach(() => directories.splice(0).forEach((directory) => rmSync(directory, { recursive: true })));

/** What is so of clickhouse-1; of the others all is well. */
interface Server {
  /** The table that it lacks. */
  readonly lacks?: string;
  /** The others lack it too. */
  readonly nowhere?: boolean;
  /** It has a queue of another release, and aborts when that is dropped for the first time. */
  readonly aborts?: boolean;
  /** Its table of events is of an earlier release. */
  readonly earlier?: boolean;
  /** ZooKeeper has lost all that it knew. */
  readonly emptied?: boolean;
  /** It can be written again so long after the beginning, seconds. @default at once */
  readonly settlesAfter?: number;
}

/** What ZooKeeper has below the tables' path. */
const known = Object.values(tablePaths)
  .map((path) => path.slice(tablesPath.length + 1))
  .join("\n");

/** Runs the script by a clock that only sleeping moves. */
function run({
  lacks = "none",
  nowhere = false,
  aborts = false,
  earlier = false,
  emptied = false,
  settlesAfter = 0,
}: Server) {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-recovery-"));
  directories.push(directory);
  const file = (name: string) => join(directory, name);
  const command = (name: string, text: string): void => {
    writeFileSync(file(name), `#!/bin/sh\n${text}\n`);
    chmodSync(file(name), 0o755);
  };
  for (const [name, text] of Object.entries({ asked: "", clock: "1000", queue: aborts ? "xx" : "" })) {
    writeFileSync(file(name), text);
  }
  command("sleep", `echo $(($(cat ${file("clock")}) + $1)) >${file("clock")}`);
  command("date", `cat ${file("clock")}`);
  const others = nowhere ? "" : `echo 1`;
  command(
    "docker",
    `now=$(cat ${file("clock")})
case "$*" in
*"SHOW CREATE"*) ;;
*"DROP TABLE"* | *CREATE* | *RENAME* | *zkCli*) printf '%s\\n' "$*" >>${file("asked")} ;;
esac
case "$*" in
*"LIKE 'Replicated%'"*) echo ${emptied ? 1 : 0} ;;
*"path = '${tablesPath}'"*) echo ${emptied ? "" : `"${known}"`} ;;
*"/replicas'"*) printf '%s\\n' clickhouse-1 clickhouse-2 clickhouse-3 ;;
*"engine = 'Kafka'"*) case "$*" in *clickhouse-1*) if [ -s ${file("queue")} ]; then echo events_queue_old; fi ;; esac ;;
*"DROP TABLE IF EXISTS ${names.database}.events_queue_old"*) truncate -s -1 ${file("queue")}; [ ! -s ${file("queue")} ] || exit 137 ;;
*system.columns*) case "$*" in *clickhouse-1*) echo ${earlier ? names.eventsTable : ""} ;; esac ;;
*engine*) ;;
*"SHOW CREATE"*) echo "CREATE TABLE … ('{replica}')" ;;
*"name = '${lacks}'"*) case "$*" in *clickhouse-1*) echo 0 ;; *) ${others} ;; esac ;;
*system.tables*) case "$*" in *clickhouse-1*) printf '%s\\n' ${storedTables.join(" ")} | grep -vxF ${lacks} ;; *) printf '%s\\n' ${storedTables.join(" ")} ;; esac ;;
*is_session_expired*) if [ "$now" -ge $((1000 + ${settlesAfter})) ]; then echo 1; else echo 0; fi ;;
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
  const seconds = Number(readFileSync(file("clock"), "utf8")) - 1000;
  return { status, stdout, stderr, seconds, asked: readFileSync(file("asked"), "utf8") };
}

describe("a recovery", () => {
  it("changes nothing where nothing is lost", () => {
    const { status, stdout, stderr, asked } = run({});
    expect({ status, stdout, asked }, stderr).toEqual({ status: 0, stdout: "", asked: "" });
  });

  it("drops a replica that lacks a table from ZooKeeper, and makes it anew as others have it", () => {
    const { status, stdout, stderr, asked } = run({ lacks: names.eventsTable });
    expect(status, stderr).toBe(0);
    expect(stdout).toBe(`note: clickhouse-1 had lost ${names.eventsTable}; it fetches it from the others\n`);
    const [forgotten, database, table, ...rest] = asked.trim().split("\n");
    expect(forgotten).toContain(`deleteall ${tablePaths[names.eventsTable]}/replicas/clickhouse-1`);
    expect(database).toContain("exec clickhouse-1");
    expect(database).toContain(`CREATE DATABASE IF NOT EXISTS ${names.database}`);
    expect(table).toMatch(/exec clickhouse-1 .*CREATE TABLE …/);
    expect(rest).toEqual([]);
  });

  it("touches nothing where no replica has the table any more, and says what to do", () => {
    const { status, stderr, asked } = run({ lacks: names.eventsTable, nowhere: true });
    expect({ status, asked }).toEqual({ status: 1, asked: "" });
    expect(stderr).toContain(`${names.eventsTable} is lost: ZooKeeper knows it, and no ClickHouse replica`);
    expect(stderr).toContain(`broke off with 1 while making ${names.eventsTable} on clickhouse-1 anew`);
  });

  it("asks again where a server ended with its old queue, and is not over before it can be written", () => {
    const { status, seconds, stderr, asked } = run({ aborts: true, settlesAfter: 40 });
    expect(status, stderr).toBe(0);
    expect(asked.match(/DROP TABLE IF EXISTS \S+events_queue_old/g)?.length).toBeGreaterThan(1);
    expect(seconds).toBeGreaterThanOrEqual(40);
  });

  it("fails where a server does not come back", () => {
    const { status, stderr } = run({ aborts: true, settlesAfter: 9999 });
    expect(status).toBe(1);
    expect(stderr).toContain("not every ClickHouse replica can be written after 120 s");
  });

  it("sets a table of an earlier release aside, under a name that nobody reads", () => {
    const { status, stderr, asked } = run({ earlier: true });
    expect(status, stderr).toBe(0);
    expect(asked.trim()).toMatch(
      /exec clickhouse-1 .*RENAME TABLE dev\.events_replicated TO dev\.events_replicated_earlier$/,
    );
  });

  it("touches nothing where ZooKeeper has forgotten a table, and says where the way back is", () => {
    const { status, stderr, asked } = run({ emptied: true });
    expect({ status, asked }).toEqual({ status: 1, asked: "" });
    expect(stderr).toContain(
      `ZooKeeper has lost what it knew of ${names.eventsTable}, which clickhouse-1 still has. The way back: docs/operations.md, All ZooKeepers are lost`,
    );
  });
});
