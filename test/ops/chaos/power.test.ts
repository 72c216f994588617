// A power cut on real files: what was there stays, what was written since goes.

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, expect, it } from "vitest";
import { cutting, type Stateful, listing } from "../../../ops/chaos/power.ts";

const directories: string[] = [];
afterEach(() => directories.splice(0).forEach((directory) => rmSync(directory, { recursive: true })));

/** Cuts the power of a service that wrote the second files after the first ones. @returns what is on its disk */
function cutOf(service: Stateful, before: Record<string, string>, after: Record<string, string>) {
  const root = mkdtempSync(join(tmpdir(), "siem-ha-power-"));
  directories.push(root);
  const write = (files: Record<string, string>) => {
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, file)), { recursive: true });
      writeFileSync(join(root, file), text);
    }
  };
  const run = (line: string, input = "") =>
    execFileSync("sh", ["-c", line.replaceAll(/ \/(var|data)/g, ` ${root}/$1`)], {
      input,
      encoding: "utf8",
    });
  write(before);
  const list = run(listing(service));
  write(after);
  const cut = Number(run(cutting(service), list));
  const read = (file: string) =>
    statSync(join(root, file)).size === 0 ? "" : readFileSync(join(root, file), "utf8");
  return {
    cut,
    disk: Object.fromEntries(Object.keys({ ...before, ...after }).map((file) => [file, read(file)])),
  };
}

it("takes parts of ClickHouse that are new, and leaves the others and the definitions", () => {
  const data = "var/lib/clickhouse/data/dev/events/202611";
  expect(
    cutOf(
      "clickhouse",
      { [`${data}_1_1_0/id.bin`]: "old" },
      { [`${data}_2_2_0/id.bin`]: "new", "var/lib/clickhouse/metadata/dev/events.sql": "synced" },
    ),
  ).toEqual({
    cut: 1,
    disk: {
      [`${data}_1_1_0/id.bin`]: "old",
      [`${data}_2_2_0/id.bin`]: "",
      "var/lib/clickhouse/metadata/dev/events.sql": "synced",
    },
  });
});

it("takes the end of a segment of Kafka's that has grown, with its indexes, and no checkpoint", () => {
  const data = "var/lib/kafka/data/ingest-events-0/0";
  const { cut, disk } = cutOf(
    "kafka",
    {
      [`${data}.log`]: "one",
      [`${data}.index`]: "1",
      [`${data}.timeindex`]: "1",
      "var/lib/kafka/data/x-0/0.log": "rests",
    },
    { [`${data}.log`]: "one, two", "var/lib/kafka/data/recovery-point-offset-checkpoint": "synced" },
  );
  expect(cut).toBe(1);
  expect(Object.values(disk)).toEqual(["one", "", "", "rests", "synced"]);
});

it("takes a new snapshot of ZooKeeper's, and neither its log nor its epochs", () => {
  const files = {
    "data/version-2/snapshot.2": "new",
    "data/version-2/currentEpoch": "2",
    "datalog/version-2/log.2": "synced",
  };
  const { cut, disk } = cutOf("zookeeper", { "data/version-2/snapshot.1": "old" }, files);
  expect(cut).toBe(1);
  expect(Object.values(disk)).toEqual(["old", "", "2", "synced"]);
});
