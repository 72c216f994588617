// What bringing a lost replica back does where a server ends under it, with a `docker` that only says so.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { reachAt } from "../../components/host/host.ts";
import { storedTables, tablesPath } from "../../components/render/clickhouse.ts";
import { renderRecovery } from "../../components/render/clickhouse-recovery.ts";
import { names, plan } from "../../components/topology.ts";

const directories: string[] = [];
afterEach(() => directories.splice(0).forEach((directory) => rmSync(directory, { recursive: true })));

interface Server {
  /** How often its second statement ends with 137. After that nothing is lost. */
  readonly failures?: number;
  /** It is started anew so long after each of these, seconds. @default never */
  readonly restartsAfter?: number;
  /** It has a queue of another release, and is started anew so long after that was dropped, seconds. @default none */
  readonly abortsAfter?: number;
  /** It lacks a column so long, whatever it is told, seconds. @default it has all */
  readonly widensAfter?: number;
  /** It can be written again so long after its start, seconds. @default at once */
  readonly settlesAfter?: number;
}

/** Runs the script against a `docker` in which clickhouse-1 is such a server, by a clock that only sleeping moves. */
function run({ failures = 0, restartsAfter, abortsAfter, widensAfter = 0, settlesAfter = 0 }: Server) {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-recovery-"));
  directories.push(directory);
  const file = (name: string) => join(directory, name);
  const command = (name: string, text: string): void => {
    writeFileSync(file(name), `#!/bin/sh\n${text}\n`);
    chmodSync(file(name), 0o755);
  };
  for (const [name, text] of Object.entries({ asked: "", clock: "1000", start: "0" })) {
    writeFileSync(file(name), text);
  }
  command("sleep", `echo $(($(cat ${file("clock")}) + $1)) >${file("clock")}`);
  command("date", `cat ${file("clock")}`);
  command(
    "docker",
    `now=$(cat ${file("clock")}) start=$(cat ${file("start")})
if [ "$start" -gt "$now" ]; then started=before; else started=$start; fi
case "$*" in
${
  failures > 0
    ? ""
    : `*"path = '${tablesPath}'"*) echo events ;;
*merge_tree_settings*) echo 1 ;;
*"engine = 'Kafka'"*) if [ "$start" = 0 ] && [ "${abortsAfter}" != undefined ]; then echo events_queue_old; fi ;;
*system.columns*) if [ "$now" -lt $((1000 + ${widensAfter})) ]; then echo ${names.eventsTable}; fi ;;
*"ALTER TABLE ${names.database}.${names.eventsTable} ADD COLUMN"*) echo "some replicas are inactive" >&2; exit 1 ;;
*engine*) ;;
*system.tables*) printf '%s\\n' ${storedTables.join(" ")} ;;
*"DROP TABLE IF EXISTS ${names.database}.events_queue_old "*) echo $((now + ${abortsAfter})) >${file("start")} ;;`
}
*inspect*clickhouse-1*) echo "/clickhouse-1 $started" ;;
*inspect*) echo "/another then" ;;
*is_session_expired*) if [ "$now" -ge $((start + ${settlesAfter})) ]; then echo 1; else echo 0; fi ;;
*system.zookeeper*) if [ "$(wc -c <${file("asked")})" -lt ${failures} ]; then echo events; fi ;;
*merge_tree_settings*)
  printf x >>${file("asked")}
  ${restartsAfter === undefined ? ":" : `echo $((now + ${restartsAfter})) >${file("start")}`}
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
  const seconds = Number(readFileSync(file("clock"), "utf8")) - 1000;
  return { status, stdout, stderr, seconds, asked: readFileSync(file("asked"), "utf8").length };
}

describe("a recovery", () => {
  it.each([
    { when: "at once", restartsAfter: 0, settlesAfter: 0 },
    { when: "after it has refused for a while", restartsAfter: 14, settlesAfter: 0 },
    { when: "and takes its time until it can be written", restartsAfter: 3, settlesAfter: 30 },
  ])(
    "begins anew where a server ended under it and was started $when",
    ({ when: _, restartsAfter, settlesAfter }) => {
      const { status, stdout, stderr, seconds } = run({ failures: 1, restartsAfter, settlesAfter });
      expect(status, stderr).toBe(0);
      expect(stdout).toContain("note: clickhouse-1 ended meanwhile; once more");
      expect(stderr).toContain("broke off with 137 while asking what is lost");
      expect(seconds).toBeGreaterThanOrEqual(restartsAfter + settlesAfter);
    },
  );

  it("gives up after three tries, and says why", () => {
    const { status, asked, stderr } = run({ failures: 99, restartsAfter: 1 });
    expect({ status, asked }).toEqual({ status: 1, asked: 3 });
    expect(stderr).toContain("clickhouse-1 ended meanwhile, which is once too often");
  });

  it("fails where a server does not come back", () => {
    const { status, stderr } = run({ failures: 1, restartsAfter: 1, settlesAfter: 999 });
    expect(status).toBe(1);
    expect(stderr).toContain("not every server of ClickHouse, Kafka and ZooKeeper runs");
  });

  it("is not over before a server that ended with its old queue can be written again", () => {
    const { status, seconds, stderr } = run({ abortsAfter: 2, settlesAfter: 20 });
    expect(status, stderr).toBe(0);
    expect(seconds).toBeGreaterThanOrEqual(22);
  });

  it("waits until every replica has every column, or fails with what was said", () => {
    const { status, seconds, stderr } = run({ widensAfter: 40 });
    expect(status, stderr).toBe(0);
    expect(seconds).toBeGreaterThanOrEqual(40);
    const never = run({ widensAfter: 9999 });
    expect(never.status).toBe(1);
    expect(never.stderr).toMatch(
      /clickhouse-1 still lacks .* events_replicated .* some replicas are inactive/,
    );
    expect(never.stderr).toContain("while adding columns");
  });

  it("does not try again where every server has stayed, and says what it was doing", () => {
    const { status, asked, stderr } = run({ failures: 99 });
    expect({ status, asked }).toEqual({ status: 1, asked: 1 });
    expect(stderr).toContain("broke off with 137 while asking what is lost");
  });
});
