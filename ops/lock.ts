// One command at a time: files in the state directory that say who is at work, and that nobody has to clean up.

import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** Who holds a lock. */
export interface Owner {
  readonly pid: number;
  readonly hostname: string;
  /** When the process started, in the system's own words: a number that is used again is another process. */
  readonly started: string;
  /** What a person would call it: `npm run up`. */
  readonly command: string;
  readonly since: string;
}

/** Somebody else, who lives, has the lock. */
export class Held extends Error {
  constructor(
    readonly owner: Owner,
    readonly file: string,
  ) {
    super(
      `${owner.command} is at work since ${owner.since} (process ${owner.pid} on ${owner.hostname}, ${file})`,
    );
  }
}

/** When a process started; undefined if there is none of that number. */
export function startOf(pid: number): string | undefined {
  try {
    if (process.platform === "linux") {
      // The command's name may hold spaces and brackets; what follows the last bracket does not.
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
      if (fields[0] === "Z") return undefined;
      const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
      return `${boot} ${fields[19]}`;
    }
    const text = execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" });
    return text.trim() || undefined;
  } catch {
    return undefined;
  }
}

/** One of another machine, which can't be asked, counts as alive. */
function lives(owner: Owner): boolean {
  return owner.hostname !== hostname() || startOf(owner.pid) === owner.started;
}

/** The owners' files of a lock. One that can't be read was being written when its owner died. */
function owners(folder: string, mine: string): { file: string; owner: Owner | undefined }[] {
  return readdirSync(folder)
    .filter((file) => file.endsWith(".json") && file !== mine)
    .map((name) => {
      const file = join(folder, name);
      try {
        return { file, owner: JSON.parse(readFileSync(file, "utf8")) as Owner };
      } catch {
        return { file, owner: undefined };
      }
    });
}

/**
 * Takes the lock; the result gives it back. The process's end does, too.
 *
 * Each owner has a file of its own, so a dead one's can be removed without hitting that of somebody who came just now.
 * Two who come at the same moment see each other, step back, and come again after unequal times.
 * @throws Held when somebody who lives has it.
 */
export async function take(folder: string, command: string): Promise<() => void> {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  // Two containers that share a state directory may have the same process id, and even the same host name.
  const mine = `${process.pid}-${randomBytes(6).toString("hex")}.json`;
  const file = join(folder, mine);
  const owner: Owner = {
    pid: process.pid,
    hostname: hostname(),
    started: startOf(process.pid) ?? "",
    command,
    since: new Date().toISOString(),
  };
  const release = () => {
    process.off("exit", release);
    rmSync(file, { force: true });
  };
  for (let attempt = 1; ; attempt++) {
    // Renamed into place, so that nobody reads half of it.
    writeFileSync(`${file}.new`, JSON.stringify(owner));
    renameSync(`${file}.new`, file);
    process.on("exit", release);
    const living: Held[] = [];
    for (const other of owners(folder, mine)) {
      if (other.owner !== undefined && lives(other.owner)) living.push(new Held(other.owner, other.file));
      else rmSync(other.file, { force: true });
    }
    const [first] = living;
    if (first === undefined) return release;
    release();
    if (attempt === 4) throw first;
    await sleep(50 + Math.random() * 250);
  }
}

/** Takes the lock as soon as it is free, says once if that is not at once, and holds it while `work` runs. */
export async function inTurn<T>(
  folder: string,
  command: string,
  waiting: (owner: Owner) => void,
  work: () => Promise<T>,
): Promise<T> {
  let told = false;
  for (;;) {
    let release: () => void;
    try {
      release = await take(folder, command);
    } catch (error) {
      if (!(error instanceof Held)) throw error;
      if (!told) waiting(error.owner);
      told = true;
      await sleep(300);
      continue;
    }
    try {
      return await work();
    } finally {
      release();
    }
  }
}
