// The small disk in the place of a replica's volume: what it needs, and that the data comes back whole, or stays where it
// is. Mounting takes root; without it that half is skipped.

import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { isMount, noRoom, SmallDisk } from "../../../ops/chaos/disk.ts";

const mebi = 1024;

describe("room for a copy", () => {
  it("is a quarter of the free memory, and as much on the disk itself", () => {
    expect(noRoom(100 * mebi, 1000 * mebi, 1000 * mebi)).toBeUndefined();
    expect(noRoom(300 * mebi, 1000 * mebi, 1000 * mebi)).toBe(
      "the volume's data takes 300 MiB, and only a quarter of the free memory may be used for a copy of it: 250 MiB",
    );
    expect(noRoom(100 * mebi, 1000 * mebi, 110 * mebi)).toContain("no room for it twice: 110 MiB are free");
  });
});

describe("a mount", () => {
  const table =
    "36 35 0:3 / /var/lib/a\\040b/_data rw - tmpfs tmpfs rw\n37 35 0:4 / /proc rw - proc proc rw\n";
  it("is found by its place, also where that has a space", () => {
    expect(isMount("/var/lib/a b/_data", table)).toBe(true);
    expect(isMount("/var/lib/a b", table)).toBe(false);
    expect(isMount("/proc", table)).toBe(true);
  });
});

const tried = mkdtempSync(join(tmpdir(), "siem-ha-mount-"));
const mounts =
  process.platform === "linux" && spawnSync("mount", ["-t", "tmpfs", "tmpfs", tried]).status === 0;
if (mounts) spawnSync("umount", [tried]);
rmSync(tried, { recursive: true });

describe.runIf(mounts)("a small disk (as root)", () => {
  let folder = "";
  let data = "";
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "siem-ha-volume-"));
    data = join(folder, "_data");
    mkdirSync(data, { mode: 0o750 });
    mkdirSync(join(data, "part"));
    writeFileSync(join(data, "part", "old"), "old");
    writeFileSync(join(data, "gone"), "gone");
  });
  afterEach(() => {
    while (isMount(data)) spawnSync("umount", [data]);
    rmSync(folder, { recursive: true });
  });

  it("is in the volume's place while it lasts, is full on demand, and brings back exactly what is there", async () => {
    const disk = await SmallDisk.over(data);
    expect(isMount(data)).toBe(true);
    expect(readFileSync(join(data, "part", "old"), "utf8")).toBe("old");
    await disk.fill();
    expect(() => writeFileSync(join(data, "more"), Buffer.alloc(1024 * 1024))).toThrow("ENOSPC");
    disk.free();
    writeFileSync(join(data, "more"), "new");
    rmSync(join(data, "gone"));
    await disk.remove();
    expect(isMount(data)).toBe(false);
    expect(readdirSync(data, { recursive: true }).sort()).toEqual(["more", "part", join("part", "old")]);
    expect(lstatSync(data).mode & 0o777).toBe(0o750);
    // Nothing else stays, neither beside the volume nor in memory.
    expect(readdirSync(folder)).toEqual(["_data"]);
    expect(existsSync(disk.staged)).toBe(false);
  });

  it("stays in its place with all data where that can't be brought back, and can be removed later", async () => {
    const disk = await SmallDisk.over(data);
    writeFileSync(join(data, "more"), "new");
    // Somebody stands in it.
    const busy = spawn("sleep", ["60"], { cwd: data, stdio: "ignore" });
    await new Promise((resolve) => busy.once("spawn", resolve));
    await expect(disk.remove()).rejects.toThrow("umount");
    expect(readFileSync(join(data, "more"), "utf8")).toBe("new");
    busy.kill("SIGKILL");
    await new Promise((resolve) => busy.once("exit", resolve));
    await disk.remove();
    expect(readdirSync(data).sort()).toEqual(["gone", "more", "part"]);
    expect(readdirSync(folder)).toEqual(["_data"]);
  });

  it("leaves nothing mounted where it can't be had", async () => {
    const before = readFileSync("/proc/self/mountinfo", "utf8");
    renameSync(data, `${data}-elsewhere`);
    await expect(SmallDisk.over(data)).rejects.toThrow();
    expect(readFileSync("/proc/self/mountinfo", "utf8")).toBe(before);
  });
});
