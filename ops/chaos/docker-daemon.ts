// The Docker daemon of this machine, to be restarted: only the one behind the usual socket, and only as it was started.

import { execFile } from "node:child_process";
import { readdir, readFile, readlink } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { exists, refusalOf, startDaemon, usualSocket, waitUntilItAnswers } from "../docker-engine.ts";

const run = promisify(execFile);
const stopSeconds = 45;
const units = ["docker.socket", "docker.service"];

/** It can't be restarted: why. */
export interface Refusal {
  readonly refusal: string;
}

export interface DaemonControl {
  /** What a person types to start it. */
  readonly startLine: string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

/** Numbers of the sockets on which somebody listens under one of these paths. @param table as in /proc/net/unix */
export function listeningAt(paths: readonly string[], table: string): string[] {
  return table.split("\n").flatMap((line) => {
    const [, , , flags, , , inode, path] = line.trim().split(/ +/);
    return flags === "00010000" && inode !== undefined && paths.includes(path ?? "") ? [inode] : [];
  });
}

/** Whether this process is a Docker daemon that listens on the usual socket. */
async function servesUsualSocket(pid: number): Promise<boolean> {
  const comm = await readFile(`/proc/${pid}/comm`, "utf8").catch(() => "");
  if (comm.trim() !== "dockerd") return false;
  const path = usualSocket.replace("unix://", "");
  const inodes = listeningAt(
    [path, path.replace("/var/run", "/run")],
    await readFile("/proc/net/unix", "utf8"),
  );
  const open = await Promise.all(
    (await readdir(`/proc/${pid}/fd`)).map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => "")),
  );
  return inodes.some((inode) => open.includes(`socket:[${inode}]`));
}

/** Looks how the daemon behind this address is stopped and started again; touches nothing. */
export async function daemonBehind(dockerHost: string): Promise<DaemonControl | Refusal> {
  if (dockerHost !== usualSocket)
    return {
      refusal: `only the daemon at ${usualSocket} can be restarted, and the stack is on ${dockerHost}`,
    };
  if (process.getuid?.() !== 0) return { refusal: "only root may restart the Docker daemon" };
  const unknown = {
    refusal: `nobody knows how to start the daemon at ${usualSocket} again: it is neither docker.service nor the process in /var/run/docker.pid`,
  };
  if (await exists("/run/systemd/system")) {
    const { stdout } = await run("systemctl", ["show", "-p", "MainPID", "--value", "docker.service"]);
    if (!(await servesUsualSocket(Number(stdout)))) return unknown;
    const active = await Promise.all(
      units.map((unit) =>
        run("systemctl", ["is-active", unit]).then(
          () => [unit],
          () => [],
        ),
      ),
    );
    const stopped = active.flat();
    return {
      startLine: `systemctl start ${stopped.join(" ")}`,
      stop: async () => void (await run("systemctl", ["stop", ...stopped])),
      start: async () => {
        await run("systemctl", ["start", ...stopped]);
        await waitUntilItAnswers();
      },
    };
  }
  const pid = Number(await readFile("/var/run/docker.pid", "utf8").catch(() => "0"));
  if (!(pid > 0) || !(await servesUsualSocket(pid))) return unknown;
  const words = async (file: string) =>
    (await readFile(`/proc/${pid}/${file}`, "utf8").catch(() => "")).split("\0").filter(Boolean);
  const argv = await words("cmdline");
  const environment = Object.fromEntries(
    (await words("environ")).map((pair) => [
      pair.slice(0, pair.indexOf("=")),
      pair.slice(pair.indexOf("=") + 1),
    ]),
  );
  if (argv.length === 0) return unknown;
  return {
    startLine: argv.join(" "),
    stop: async () => {
      process.kill(pid, "SIGTERM");
      // One that has ended and whose parent has not noticed has no command line any more.
      for (
        const deadline = Date.now() + stopSeconds * 1000;
        (await words("cmdline")).length > 0;
        await sleep(200)
      )
        if (Date.now() > deadline) throw new Error(`the Docker daemon did not stop in ${stopSeconds} s`);
    },
    start: async () => {
      // Something else may watch over it.
      if ((await refusalOf(usualSocket)) === undefined) return;
      await startDaemon(argv, environment);
      await waitUntilItAnswers();
    },
  };
}
