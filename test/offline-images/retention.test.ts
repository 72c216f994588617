// Does retention remove exactly the months that are too old, on every replica? Real ZooKeeper and ClickHouse.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { renderClickhouseClient } from "../../components/render/clickhouse.ts";
import { renderRetention } from "../../components/render/retention.ts";
import { limitMb } from "../../components/services/memory.ts";
import { names } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { cleanUp, docker, logs, stack, start, withoutDocker, withoutRights } from "./docker.ts";
import { password, type Plane, startPlane } from "./plane.ts";

const days = 100;
const daySeconds = 24 * 3600;
const now = Math.floor(Date.now() / 1000);
const limit = new Date((now - days * daySeconds) * 1000);
/** First second of the month that is this many months after the limit's. */
const month = (offset: number): number =>
  Date.UTC(limit.getUTCFullYear(), limit.getUTCMonth() + offset, 1) / 1000;
const partition = (second: number): string =>
  new Date(second * 1000).toISOString().slice(0, 7).replace("-", "");

/** The month with the limit in it, by its first and last seconds; the one before it, likewise; and others. */
const kept = [month(0), month(1) - 1, month(1), now];
const removed = [0, now - 900 * daySeconds, month(-1), month(0) - 1];

/** What is kept by the time of an event. */
const tables = [names.eventsTable, names.alertsTable];

describe.skipIf(withoutDocker())("retention", () => {
  let plane: Plane;
  const folder = mkdtempSync(join(tmpdir(), `${stack}-retention-`));
  beforeAll(async () => {
    await ensureImages(Object.values(publicImages), (line) => console.log(line));
    plane = await startPlane({ net: "198.18.80", brokers: 0, replicas: 2 });
    for (const [file, text] of Object.entries({
      "retention.sh": renderRetention(days),
      "config.xml": renderClickhouseClient(password),
    })) {
      writeFileSync(join(folder, file), text, { mode: 0o644 });
    }
  }, 900_000);
  afterAll(() => {
    cleanUp();
    plane?.remove();
    rmSync(folder, { recursive: true });
  });

  const partitions = (slot: number, table: string): string[] =>
    plane
      .query(
        slot,
        `SELECT DISTINCT partition FROM system.parts WHERE database = '${names.database}' AND table = '${table}' AND active ORDER BY partition`,
      )
      .split("\n");
  const wanted = [...new Set(kept.map(partition))].sort();

  it("keeps a month as long as anything in it is young enough, and drops older ones everywhere", async () => {
    for (const table of tables) {
      for (const second of [...kept, ...removed]) {
        plane.query(
          1,
          `INSERT INTO ${names.database}.${table} (tenant_id, event_id, event_timestamp) VALUES ('t', 'e', ${second})`,
        );
      }
      const all = [...new Set([...kept, ...removed].map(partition))].sort();
      for (const slot of [1, 2])
        await expect.poll(() => partitions(slot, table), { timeout: 30_000 }).toEqual(all);
    }
    // As the stack runs it: beside each replica, without rights, within its memory.
    const guests = [1, 2].map((slot) =>
      start(
        `clickhouse-${slot}-retention`,
        ...withoutRights,
        `--network=container:${plane.container(`clickhouse-${slot}`)}`,
        `--memory=${limitMb.retention}m`,
        `--memory-swap=${limitMb.retention}m`,
        "--tmpfs=/var/lib/clickhouse:size=1m",
        `--volume=${join(folder, "retention.sh")}:/etc/siem/retention.sh:ro`,
        `--volume=${join(folder, "config.xml")}:/etc/clickhouse-client/config.xml:ro`,
        "--entrypoint=sh",
        publicImages.clickhouse,
        "/etc/siem/retention.sh",
      ),
    );
    for (const table of tables) {
      for (const slot of [1, 2]) {
        await expect.poll(() => partitions(slot, table), { timeout: 30_000, interval: 300 }).toEqual(wanted);
        const left = plane.query(
          slot,
          `SELECT DISTINCT event_timestamp FROM ${names.database}.${table} ORDER BY event_timestamp`,
        );
        expect(left.split("\n").map(Number)).toEqual(kept);
      }
    }
    const said = guests.map(logs).join("\n");
    expect(said).not.toMatch(/exception/i);
    // Each month once, by whichever of them leads.
    expect(said.match(/dropped the month/g)).toHaveLength(
      tables.length * new Set(removed.map(partition)).size,
    );
    for (const guest of guests) {
      docker("stop", guest);
      expect(docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", guest)).toBe(
        "0 false",
      );
    }
  }, 120_000);

  it("changes nothing in the next round, and drops more when fewer days are kept", async () => {
    const once = (slot: number, keep: number) =>
      plane.run(`clickhouse-${slot}`, renderRetention(keep), "once");
    for (const slot of [1, 2]) expect(once(slot, days)).toBe("");
    for (const slot of [1, 2]) once(slot, 1);
    const young = [...new Set([partition(now - daySeconds), partition(now)])].filter((name) =>
      wanted.includes(name),
    );
    for (const slot of [1, 2]) {
      await expect.poll(() => partitions(slot, names.eventsTable), { timeout: 30_000 }).toEqual(young);
    }
  }, 60_000);
});
