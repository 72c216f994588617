// The retention script on a server of each kind, played by a `clickhouse-client` that writes down what it is asked.

import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { renderSchemaScript } from "../../components/render/clickhouse.ts";
import { renderRetention } from "../../components/render/retention.ts";
import { plan } from "../../components/topology.ts";

const directory = mkdtempSync(join(tmpdir(), "siem-ha-retention-"));
const asked = join(directory, "asked");
afterAll(() => rmSync(directory, { recursive: true }));
beforeEach(() => rmSync(asked, { force: true }));

interface Server {
  /** Whether it knows TTL. */
  readonly rules: boolean;
  /** What it says of a table's definition. */
  readonly definition?: string;
  readonly leader?: boolean;
  readonly months?: readonly string[];
  /** A statement that contains this fails. */
  readonly fails?: string;
}

/** One round on this server: its exit code, what it said, and the changes it asked for. */
function round(server: Server): { status: number | null; said: string; changes: string[] } {
  const client = join(directory, "clickhouse-client");
  writeFileSync(
    client,
    `#!/bin/sh
printf '%s\\n' "$2" >>${asked}
case $2 in
  *'${server.fails ?? "nothing fails"}'*) echo "Code: 1" >&2; exit 1 ;;
  *system.merge_tree_settings*) echo ${server.rules ? 1 : 0} ;;
  *engine_full*)
    case $2 in *unreadable*) column=set_aside_at ;; *) column=event_timestamp ;; esac
    echo "${server.definition ?? "ReplicatedReplacingMergeTree ORDER BY x"}" ;;
  *is_leader*) echo ${server.leader === false ? 0 : 1} ;;
  *"DISTINCT partition"*) printf '%s\\n' ${(server.months ?? []).join(" ")} ;;
esac
`,
  );
  chmodSync(client, 0o755);
  const { status, stdout, stderr } = spawnSync("sh", ["-s", "once"], {
    input: renderRetention(90),
    encoding: "utf8",
    env: { PATH: `${directory}:${process.env["PATH"] ?? ""}` },
  });
  const statements = existsSync(asked) ? readFileSync(asked, "utf8").split("\n") : [];
  return { status, said: stdout + stderr, changes: statements.filter((line) => line.startsWith("ALTER")) };
}

const columns = {
  events_replicated: "event_timestamp",
  alerts_replicated: "event_timestamp",
  unreadable_replicated: "set_aside_at",
};
const tables = Object.keys(columns);
const rules = (days: number) =>
  Object.entries(columns).map(
    ([table, column]) => `ALTER TABLE dev.${table} MODIFY TTL toDateTime(${column}) + toIntervalDay(${days})`,
  );

describe("a server that knows TTL", () => {
  it("gets the rule, once it removes only whole parts", () => {
    const { status, changes, said } = round({ rules: true });
    expect(status).toBe(0);
    expect(changes).toEqual(
      tables.flatMap((table, index) => [
        `ALTER TABLE dev.${table} MODIFY SETTING ttl_only_drop_parts = 1`,
        rules(90)[index],
      ]),
    );
    expect(said).toContain("events_replicated: events are kept for 90 days");
  });

  const definition = (days: number) =>
    `ReplicatedReplacingMergeTree('p', 'r') ORDER BY x TTL toDateTime($column) + toIntervalDay(${days}) SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1`;
  it("is left alone when it has it", () => {
    expect(round({ rules: true, definition: definition(90) })).toEqual({ status: 0, said: "", changes: [] });
  });
  it("gets another one when the configuration says so", () => {
    expect(round({ rules: true, definition: definition(900) }).changes).toEqual(rules(90));
  });
});

describe("a server that doesn't", () => {
  it("loses the months that it says are too old, and nothing else", () => {
    const { status, changes, said } = round({ rules: false, months: ["202401", "202402"] });
    expect(status).toBe(0);
    expect(changes).toEqual(
      tables.flatMap((table) =>
        ["202401", "202402"].map((month) => `ALTER TABLE dev.${table} DROP PARTITION ${month}`),
      ),
    );
    expect(said).toContain("events_replicated: dropped the month 202401");
  });
  it("is asked only where it leads", () => {
    expect(round({ rules: false, leader: false, months: ["202401"] }).changes).toEqual([]);
  });
});

it.each(["merge_tree_settings", "DISTINCT partition", "is_leader", "DROP PARTITION"])(
  "fails where the server doesn't answer %s, so that it is tried again",
  (fails) => {
    expect(round({ rules: false, months: ["202401"], fails }).status).not.toBe(0);
  },
);
it.each(["engine_full", "MODIFY SETTING", "MODIFY TTL"])("fails as well where it refuses %s", (fails) => {
  expect(round({ rules: true, fails }).status).not.toBe(0);
});

const shellcheck = spawnSync("shellcheck", ["--version"]).status === 0;
if (!shellcheck) console.log("skipped: shellcheck is not on this machine");
describe.skipIf(!shellcheck)("shellcheck", () => {
  const check = (input: string) => spawnSync("shellcheck", ["-s", "sh", "-"], { input, encoding: "utf8" });
  it.each([
    ["retention", renderRetention(365)],
    ["schema", renderSchemaScript(plan())],
  ])("finds nothing in the %s script", (_name, text) => {
    const { status, stdout } = check(text);
    expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
  });
  it("would find something", () => {
    expect(check(renderRetention(365).replace('"$1"', "$1")).status).toBe(1);
  });
});
