// A replica's data disk that is full: a small disk in memory in the place of its volume, for as long as it lasts.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type Docker from "dockerode";

const run = promisify(execFile);
/** Space beyond the data itself, with which the replica starts before the disk fills. */
const spareKiB = 24 * 1024;
const filler = ".siem-ha-chaos-filler";

/** Why it can't be done here; undefined if it can. */
export async function noDisk(docker: Docker, volume: string): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "only root may mount a disk of a size";
  const { Mountpoint } = await docker.getVolume(volume).inspect();
  if (!existsSync(Mountpoint)) return `the daemon's volumes are not on this machine (no ${Mountpoint})`;
  return undefined;
}

/** A small disk over a volume of a container that is stopped, with the volume's data on it. */
export class SmallDisk {
  readonly #path: string;
  readonly #staged = mkdtempSync(join(tmpdir(), "siem-ha-chaos-disk-"));

  private constructor(path: string) {
    this.#path = path;
  }

  static async over(docker: Docker, volume: string): Promise<SmallDisk> {
    const { Mountpoint } = await docker.getVolume(volume).inspect();
    const disk = new SmallDisk(Mountpoint);
    const used = Number((await run("du", ["-sk", Mountpoint])).stdout.split("\t")[0]);
    await run("mount", ["-t", "tmpfs", "-o", `size=${used + spareKiB}k`, "tmpfs", disk.#staged]);
    await run("cp", ["-a", `${Mountpoint}/.`, disk.#staged]);
    await run("mount", ["--bind", disk.#staged, Mountpoint]);
    return disk;
  }

  async fill(): Promise<void> {
    // It ends when there is no space left.
    await run("dd", ["if=/dev/zero", `of=${join(this.#staged, filler)}`, "bs=64k"]).catch(() => undefined);
  }

  free(): void {
    rmSync(join(this.#staged, filler), { force: true });
  }

  /** Brings what was written meanwhile back to the volume; its container must be stopped. */
  async remove(): Promise<void> {
    this.free();
    await run("umount", [this.#path]);
    // Until the copy is done, the data is on the small disk.
    await run("find", [this.#path, "-mindepth", "1", "-delete"]);
    await run("cp", ["-a", `${this.#staged}/.`, this.#path]);
    await run("umount", [this.#staged]);
    rmdirSync(this.#staged);
  }
}
