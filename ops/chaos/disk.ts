// A replica's data disk that is full: a small disk in memory in the place of its volume, for as long as it lasts.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { rename, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import type Docker from "dockerode";

const run = promisify(execFile);
/** Space beyond the data itself, with which the replica starts before the disk fills. */
const spareKiB = 24 * 1024;
/** The data is in memory as long as it lasts, and others need memory too. */
const shareOfMemory = 1 / 4;
const filler = ".siem-ha-chaos-filler";

const mounts = () => readFileSync("/proc/self/mountinfo", "utf8");

/** Whether something is mounted there. @param table as in /proc/self/mountinfo */
export function isMount(path: string, table = mounts()): boolean {
  const plain = (text: string) =>
    text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
  return table.split("\n").some((line) => plain(line.split(" ")[4] ?? "") === path);
}

/** What the data takes up, KiB. A file that goes while it is counted is none. */
async function usedKiB(path: string): Promise<number> {
  const { stdout } = await run("du", ["-sk", path]).catch((error: { stdout?: string }) => ({
    stdout: error.stdout ?? "",
  }));
  const used = Number(stdout.split("\t")[0]);
  if (!(used > 0)) throw new Error(`du doesn't say how much is in ${path}`);
  return used;
}

/** Why data of this size can't be there twice; undefined if it can. All in KiB. */
export function noRoom(used: number, memory: number, disk: number): string | undefined {
  const most = Math.floor(memory * shareOfMemory);
  const mebi = (kibi: number) => `${Math.ceil(kibi / 1024)} MiB`;
  if (used + spareKiB > most)
    return `the volume's data takes ${mebi(used)}, and only a quarter of the free memory may be used for a copy of it: ${mebi(most)}`;
  if (used + spareKiB > disk)
    return `the volume's data takes ${mebi(used)}, and its disk has no room for it twice: ${mebi(disk)} are free`;
  return undefined;
}

/** Why it can't be done here; undefined if it can. */
export async function noDisk(docker: Docker, volume: string): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "only root may mount a disk of a size";
  const { Mountpoint, Driver, Options } = await docker.getVolume(volume).inspect();
  if (!existsSync(Mountpoint)) return `the daemon's volumes are not on this machine (no ${Mountpoint})`;
  if (Driver !== "local" || Object.keys(Options ?? {}).length > 0)
    return `${volume} is no plain directory (driver ${Driver})`;
  if (isMount(Mountpoint))
    return `something is mounted at ${Mountpoint} already; if a chaos run that was killed left it there, it has the newest data: stop the container, copy it elsewhere, umount, copy it back`;
  const memory = Number(/^MemAvailable: +(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]);
  const { bavail, bsize } = await statfs(Mountpoint);
  return noRoom(await usedKiB(Mountpoint), memory, (bavail * bsize) / 1024);
}

/** A small disk over a volume of a container that is stopped, with the volume's data on it. */
export class SmallDisk {
  /** The volume's own directory. */
  readonly path: string;
  /** Where the small disk can be reached beside. */
  readonly staged: string;
  /** The data is on the volume again. */
  #back = false;

  /** @param path a directory of its own; beside it there is room for a second one */
  private constructor(path: string) {
    this.path = path;
    this.staged = mkdtempSync(join(tmpdir(), "siem-ha-chaos-disk-"));
  }

  /** @throws with nothing mounted. */
  static async over(path: string): Promise<SmallDisk> {
    const disk = new SmallDisk(path);
    try {
      const size = (await usedKiB(path)) + spareKiB;
      await run("mount", ["-t", "tmpfs", "-o", `size=${size}k`, "tmpfs", disk.staged]);
      await run("cp", ["-a", `${path}/.`, disk.staged]);
      await run("mount", ["--bind", disk.staged, path]);
    } catch (error) {
      await disk.#drop();
      throw error;
    }
    return disk;
  }

  async fill(): Promise<void> {
    // It ends when there is no space left.
    await run("dd", ["if=/dev/zero", `of=${join(this.staged, filler)}`, "bs=64k"]).catch(() => undefined);
  }

  free(): void {
    rmSync(join(this.staged, filler), { force: true });
  }

  /**
   * Brings what was written meanwhile back to the volume; its container must be stopped. At every moment there is a
   * whole copy on the disk or mounted in its place.
   * @throws with the small disk in its place as before, or with only it left to be removed; it may be tried again.
   */
  async remove(): Promise<void> {
    this.free();
    if (!this.#back) await this.#swap();
    await this.#drop();
    await rm(`${this.path}.chaos-old`, { recursive: true, force: true });
  }

  /** What a person does instead of `remove`, before the machine stops: until then the data is in memory. */
  get byHand(): string[] {
    const { path, staged } = this;
    return [
      ...(this.#back ? [] : [`umount ${path}`, `mv ${path} ${path}.old`, `cp -a ${staged} ${path}`]),
      `umount ${staged}`,
    ];
  }

  async #swap(): Promise<void> {
    // On the same file system, where a rename takes no time and can't end half-way.
    const [fresh, old] = [`${this.path}.chaos-new`, `${this.path}.chaos-old`];
    await rm(fresh, { recursive: true, force: true });
    await run("cp", ["-a", this.staged, fresh]);
    await run("sync", ["-f", fresh]);
    await unmount(this.path);
    try {
      await rename(this.path, old);
      await rename(fresh, this.path).catch(async (error: unknown) => {
        await rename(old, this.path);
        throw error;
      });
    } catch (error) {
      // What was written last is on the small disk, so the container goes on with that.
      await run("mount", ["--bind", this.staged, this.path]);
      throw error;
    }
    this.#back = true;
  }

  async #drop(): Promise<void> {
    if (isMount(this.staged)) await unmount(this.staged);
    if (existsSync(this.staged)) rmdirSync(this.staged);
  }
}

/** Whoever looks into it at this moment is waited for. */
async function unmount(path: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await run("umount", [path]);
      return;
    } catch (error) {
      if (attempt === 5) throw error;
      await sleep(500);
    }
  }
}
