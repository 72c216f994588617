// What happens at a full disk: nothing acknowledged is lost, and the platform goes on by itself once there is space.

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { publicImages } from "../../components/images.ts";
import { names } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { createApi } from "../../services/api/app.ts";
import { connect, Replicas } from "../../services/api/replicas.ts";
import { cleanUp, stack, withoutDocker } from "./docker.ts";
import { type Ingest, keys, password, type Plane, startIngest, startPlane, token } from "./plane.ts";

/** A disk of a size needs a mount, and that needs root. */
function withoutRoot(): boolean {
  if (process.getuid?.() === 0) return false;
  console.log("skipped: full disks are mounted as tmpfs of a size, which only root may do");
  return true;
}

/** A small disk in memory, that can grow. */
class Disk {
  readonly path = mkdtempSync(join(tmpdir(), `${stack}-disk-`));
  constructor(megabytes: number) {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m,mode=0755`, "tmpfs", this.path]);
  }
  grow(megabytes: number): void {
    execFileSync("mount", ["-o", `remount,size=${megabytes}m`, this.path]);
  }
  remove(): void {
    execFileSync("umount", [this.path]);
    rmSync(this.path, { recursive: true });
  }
}

describe.skipIf(withoutDocker() || withoutRoot())("a full disk", () => {
  const tenant = "full";
  let disk: Disk | undefined;
  let plane: Plane | undefined;
  let ingest: Ingest | undefined;
  beforeAll(() => ensureImages(Object.values(publicImages), (line) => console.log(line)), 900_000);
  afterEach(async () => {
    await ingest?.close();
    cleanUp();
    plane?.remove();
    disk?.remove();
    disk = plane = ingest = undefined;
  });

  const acknowledged: string[] = [];
  let made = 0;
  /** Posts events that don't compress; keeps the ids that were acknowledged. */
  async function post(to: Ingest, events: number): Promise<Awaited<ReturnType<Ingest["post"]>>> {
    const answer = await to.post(
      Array.from({ length: events }, () => ({
        event_id: `event-${made++}`,
        event_timestamp: Math.floor(Date.now() / 1000),
        raw_event: randomBytes(2500).toString("hex"),
      })),
    );
    if (answer.statusCode === 202) acknowledged.push(...answer.json<{ ids: string[] }>().ids);
    return answer;
  }

  it("of the stream nodes: 503 and Retry-After, then 202 again, and nothing acknowledged is missing", async () => {
    acknowledged.length = 0;
    disk = new Disk(48);
    // As on a machine: ZooKeeper and Kafka on one disk.
    const data = { "kafka-1": disk.path, "zookeeper-1": disk.path };
    plane = await startPlane({
      net: "198.18.83",
      brokers: 1,
      replicas: 0,
      kafka: { segmentBytes: 1 << 20 },
      data,
    });
    ingest = await startIngest(plane, tenant);
    let answer = await post(ingest, 100);
    while (answer.statusCode === 202) answer = await post(ingest, 100);
    const before = acknowledged.length;
    expect(before).toBeGreaterThan(1000);
    // It stays so while the broker is started again and again.
    for (let round = 0; round < 5; round++) {
      expect(answer.statusCode, answer.body).toBe(503);
      expect(answer.headers["retry-after"]).toMatch(/^\d+$/);
      await sleep(1000);
      answer = await post(ingest, 100);
    }
    expect(acknowledged).toHaveLength(before);

    disk.grow(128);
    const grown = Date.now();
    do {
      await sleep(500);
      answer = await post(ingest, 10);
    } while (answer.statusCode !== 202 && Date.now() - grown < 180_000);
    expect(answer.statusCode, answer.body).toBe(202);
    console.log(
      `a full stream node took events again ${Math.round((Date.now() - grown) / 1000)} s after it had space`,
    );

    const read = plane.run(
      "kafka-1",
      `KAFKA_HEAP_OPTS=-Xmx256m kafka-console-consumer --bootstrap-server localhost:9092 --topic ${names.eventsTopic} --from-beginning --timeout-ms 10000 2>/dev/null | grep -o '"event_id":"[^"]*"' | sort -u`,
    );
    const stored = new Set(read.split("\n").map((line) => line.slice('"event_id":"'.length, -1)));
    expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
  }, 400_000);

  it("of a store node: readers are served, events wait in Kafka, and all come when there is space", async () => {
    acknowledged.length = 0;
    disk = new Disk(12);
    plane = await startPlane({
      net: "198.18.83",
      brokers: 1,
      // Two others, so that a block finds a second replica (decision 17).
      replicas: 3,
      data: { "clickhouse-2": disk.path },
    });
    const { query, urls, container } = plane;
    ingest = await startIngest(plane, tenant);
    const authorization = `Bearer ${await token(tenant)}`;
    const database = { urls, username: names.databaseUser, password, database: names.database };
    const reader = new Replicas(urls.map((url) => connect(url, database)));
    const api = createApi({ reader, keys, lifecycle: { draining: false }, quiet: true });
    const total = async (): Promise<number> => {
      const answer = await api.inject({ url: "/v1/stats", headers: { authorization } });
      expect(answer.statusCode, answer.body).toBe(200);
      return answer.json<{ total: number }>().total;
    };
    // Its log may be longer than a test can take in.
    const failures = (): number =>
      Number(
        execFileSync(
          "sh",
          [
            "-c",
            `docker logs ${container("clickhouse-2")} 2>&1 | grep -c 'streamThread.*No space left on device' || :`,
          ],
          { encoding: "utf8" },
        ),
      );
    // Until it fails to write what it has read itself, not only what it fetches from the other.
    for (let round = 0; failures() < 2; round++) {
      expect(round, "the disk never was full").toBeLessThan(60);
      expect((await post(ingest, 100)).statusCode).toBe(202);
      await sleep(1000);
    }
    for (let round = 0; round < 5; round++) {
      expect((await post(ingest, 100)).statusCode).toBe(202);
      await sleep(2000);
      console.log(`store node full: ${acknowledged.length} acknowledged, ${await total()} readable`);
    }

    disk.grow(512);
    const grown = Date.now();
    for (const slot of [1, 2, 3]) {
      await expect
        .poll(
          () => Number(query(slot, `SELECT uniqExact(event_id) FROM ${names.database}.${names.eventsTable}`)),
          {
            timeout: 120_000,
            interval: 1000,
          },
        )
        .toBe(acknowledged.length);
    }
    console.log(
      `all replicas had everything ${Math.round((Date.now() - grown) / 1000)} s after there was space`,
    );
    expect(await total()).toBe(acknowledged.length);
    await api.close();
  }, 400_000);
});
