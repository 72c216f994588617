// Power cuts of ClickHouse: what it has not synced is gone from its disk, and nothing acknowledged may be gone with it.
// Real servers, real files.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { names } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { cutting, listing } from "../../ops/chaos/power.ts";
import { cleanUp, docker, withoutDocker } from "./docker.ts";
import { type Ingest, type Plane, startIngest, startPlane } from "./plane.ts";

const tenant = "power";
const slots = [1, 2, 3];
/** Of random power cuts; more by hand. */
const rounds = Number(process.env["SIEM_HA_POWER_ROUNDS"] ?? 2);

describe.skipIf(withoutDocker())("a ClickHouse replica that loses its power", () => {
  const disks = mkdtempSync(join(tmpdir(), "siem-ha-power-"));
  let plane: Plane;
  let ingest: Ingest;
  const acknowledged: string[] = [];

  beforeAll(async () => {
    await ensureImages(Object.values(publicImages), (line) => console.log(line));
    const data = Object.fromEntries(slots.map((slot) => [`clickhouse-${slot}`, disks]));
    plane = await startPlane({ net: "198.18.92", brokers: 1, replicas: 3, data });
    ingest = await startIngest(plane, tenant);
  }, 900_000);

  afterAll(async () => {
    await ingest?.close();
    cleanUp();
    plane?.remove();
    rmSync(disks, { recursive: true, force: true });
  });

  const post = async (): Promise<void> => {
    const answer = await ingest.post(Array.from({ length: 10 }, (_, n) => ({ raw_event: `event ${n}` })));
    if (answer.statusCode === 202) acknowledged.push(...answer.json<{ ids: string[] }>().ids);
  };
  /** A shell line beside the replica, with its volumes. */
  const beside = (slot: number, line: string, input = ""): string =>
    execFileSync(
      "docker",
      [
        ...["run", "--rm", "-i", "--user=0", "--volumes-from", plane.container(`clickhouse-${slot}`)],
        ...["--entrypoint=sh", publicImages.clickhouse, "-c", line],
      ],
      { input, encoding: "utf8" },
    );
  const cut = (slot: number, before: string): number => {
    docker("kill", plane.container(`clickhouse-${slot}`));
    return Number(beside(slot, cutting("clickhouse"), before));
  };
  const stored = (slot: number): Set<string> =>
    new Set(
      plane
        .query(
          slot,
          `SELECT event_id FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${tenant}'`,
        )
        .split("\n"),
    );
  const nothingLost = async (): Promise<void> => {
    for (const slot of slots) {
      await expect
        .poll(() => ((all) => acknowledged.filter((id) => !all.has(id)).length)(stored(slot)), {
          timeout: 60_000,
          interval: 500,
          message: `lost on clickhouse-${slot}`,
        })
        .toBe(0);
    }
  };
  const everywhere = (sql: string): void => {
    for (const slot of slots) expect(plane.query(slot, sql)).toBe("");
  };

  it("has committed nothing that only it had", async () => {
    await post();
    await nothingLost();
    const before = slots.map((slot) => beside(slot, listing("clickhouse")));
    const sizes = slots.map((slot) => stored(slot).size);
    everywhere("SYSTEM STOP FETCHES");
    for (let n = 0; n < 60; n++) await post();
    const writer = () => slots.find((slot) => stored(slot).size > sizes[slot - 1]!);
    await expect.poll(writer, { timeout: 30_000 }).toBeDefined();
    // Whoever commits at once has done so.
    await sleep(2000);
    const slot = writer()!;
    expect(cut(slot, before[slot - 1]!)).toBeGreaterThan(0);
    for (const other of slots)
      if (other !== slot) expect(plane.query(other, "SYSTEM START FETCHES")).toBe("");
    docker("start", plane.container(`clickhouse-${slot}`));
    await nothingLost();
  }, 180_000);

  it(
    "loses nothing at any moment under load",
    async () => {
      for (let round = 0; round < rounds; round++) {
        const slot = 1 + Math.floor(Math.random() * 3);
        let over = false;
        const load = (async () => {
          while (!over) await Promise.all([post(), sleep(40)]);
        })();
        const before = beside(slot, listing("clickhouse"));
        await sleep(8_000 + Math.random() * 4_000);
        const files = cut(slot, before);
        await sleep(Math.random() < 0.5 ? 0 : 8_000);
        docker("start", plane.container(`clickhouse-${slot}`));
        await sleep(3_000);
        over = true;
        await load;
        const began = Date.now();
        await nothingLost();
        console.log(
          `clickhouse-${slot}: ${files} files cut; ${acknowledged.length} events, all there after ${(Date.now() - began) / 1000} s`,
        );
      }
    },
    rounds * 90_000,
  );
});
