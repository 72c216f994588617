// Gets a Docker daemon running where none answers, so that `npm run up` works on a bare Debian machine.

import { execFile, spawn } from "node:child_process";
import { access, open, readFile } from "node:fs/promises";
import { connect as dial } from "node:net";
import { promisify } from "node:util";

const run = promisify(execFile);
const logFile = "/var/log/dockerd.log";
const startSeconds = 60;
const packages = ["docker.io", "iptables", "ca-certificates"];

/** Docker's socket where nothing else is said; a daemon that we start listens there. */
export const usualSocket = "unix:///var/run/docker.sock";
const unlessTouched = "Nothing was touched.";

/**
 * Makes sure that a daemon answers at this address, installing and starting the engine where that is ours to do.
 * @throws when none answers: why, and what to do.
 */
export async function ensureDockerEngine(
  log: (line: string) => void,
  dockerHost: string = process.env.DOCKER_HOST || usualSocket,
  start = true,
): Promise<void> {
  const refusal = await refusalOf(dockerHost);
  if (refusal === undefined) return;

  if (/permission denied|EACCES/i.test(refusal)) {
    throw new Error(
      `Docker runs, but you may not use it (${dockerHost}). ${unlessTouched} Run: sudo usermod -aG docker "$USER", log in again, then run this again.`,
    );
  }
  if (dockerHost !== usualSocket) {
    throw new Error(
      `No Docker daemon answers at ${dockerHost}, which siem-ha:local dockerHost names: ${refusal}. ${unlessTouched} ` +
        `Start that daemon, or take the setting away to use the one at ${usualSocket}.`,
    );
  }
  const elsewhere = await contextHost();
  if (elsewhere !== undefined) {
    throw new Error(
      `No Docker daemon answers at ${dockerHost} (${refusal}), but your docker command is set to ${elsewhere}. ${unlessTouched} ` +
        `To deploy there, set siem-ha:local dockerHost: ${elsewhere}`,
    );
  }
  const system = await distribution();
  if (process.platform !== "linux" || !isDebianLike(system)) {
    throw new Error(
      `No Docker daemon answers (${refusal}), and on ${system.PRETTY_NAME ?? process.platform} none is installed for you. ${unlessTouched} ` +
        "Install Docker Engine (https://docs.docker.com/engine/install/) or start Docker Desktop, then run this again.",
    );
  }
  if (process.getuid?.() !== 0) {
    throw new Error(
      `No Docker daemon answers (${refusal}), and only root may install or start one. ${unlessTouched} Run: ` +
        `sudo apt-get update && sudo apt-get install -y ${packages.join(" ")} && sudo adduser "$USER" docker, ` +
        "log in again, then run this again.",
    );
  }
  if (!start) {
    throw new Error(
      `No Docker daemon answers (${refusal}). ${unlessTouched} Start it, then run this again: npm run up starts one by itself.`,
    );
  }

  if (!(await onPath("dockerd")) || !(await onPath("iptables")) || !(await onPath("docker"))) {
    log(`Docker Engine is missing: installing ${packages.join(", ")} with apt-get`);
    await aptGet(["update", "-qq"]);
    await aptGet(["install", "-y", "-qq", "--no-install-recommends", ...packages]);
  }
  if (await exists("/run/systemd/system")) {
    log("Docker Engine is stopped: starting it with systemctl");
    await run("systemctl", ["enable", "--now", "docker"]);
  } else {
    log(`Docker Engine is stopped and no init system manages it: starting dockerd (log in ${logFile})`);
    // A pid file left by a killed machine makes dockerd refuse to start when that number is in use again.
    if (!(await daemonLives())) await startDaemon(["dockerd"]);
  }
  await waitUntilItAnswers();
}

const answerSeconds = 20;

/** Why the daemon does not answer; undefined if it does. */
export async function refusalOf(dockerHost: string): Promise<string | undefined> {
  const socket = dockerHost.replace(/^unix:\/\//, "");
  const code = dockerHost === socket ? undefined : await dialed(socket);
  if (code === "ENOENT") return `there is no socket ${socket}`;
  if (code === "ECONNREFUSED") return `nobody listens on the socket ${socket}`;
  if (code === "ENOTSOCK") return `${socket} is not a socket`;
  if (code !== undefined) return `${socket}: ${code}`;
  try {
    // The format makes the client ask the server; a plain `docker info` exits 0 with a dead daemon.
    await run("docker", ["-H", dockerHost, "info", "--format", "{{.ServerVersion}}"], {
      timeout: answerSeconds * 1000,
    });
    return undefined;
  } catch (error) {
    const { code, killed, stderr } = error as { code?: unknown; killed?: boolean; stderr?: string };
    if (code === "ENOENT") return "there is no docker command on PATH";
    if (killed === true) return `no answer within ${answerSeconds} s`;
    return stderr?.trim().split("\n").at(-1) || String(error);
  }
}

/** Why a socket can't be connected to; undefined if it can. */
function dialed(socket: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const caller = dial(socket);
    caller.once("connect", () => {
      caller.destroy();
      resolve(undefined);
    });
    caller.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
  });
}

/** Where the `docker` command of this user goes, if that is another daemon than the usual one. */
async function contextHost(): Promise<string | undefined> {
  const host = await run("docker", ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], {
    env: { ...process.env, DOCKER_HOST: "" },
  }).then(
    ({ stdout }) => stdout.trim(),
    () => "",
  );
  if (host === "" || host === usualSocket) return undefined;
  return (await refusalOf(host)) === undefined ? host : undefined;
}

/** Starts a daemon that no init system manages. @param environment of the daemon. @default this process's own */
export async function startDaemon(
  [program = "dockerd", ...args]: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): Promise<void> {
  const output = await open(logFile, "a");
  try {
    // Detached, in a session of its own and without our pipes: it has to outlive this process.
    const child = spawn(program, args, {
      detached: true,
      stdio: ["ignore", output.fd, output.fd],
      cwd: "/",
      env: environment,
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.unref();
  } finally {
    await output.close();
  }
}

export async function waitUntilItAnswers(): Promise<void> {
  const deadline = Date.now() + startSeconds * 1000;
  let refusal: string | undefined = "it was not asked yet";
  while (Date.now() < deadline) {
    refusal = await refusalOf(usualSocket);
    if (refusal === undefined) return;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  const lines = await readFile(logFile, "utf8").catch(() => "(no log)");
  throw new Error(
    `Docker Engine did not answer within ${startSeconds} s of its start (${refusal}). ` +
      `The last lines of ${logFile}:\n${lines.trim().split("\n").slice(-15).join("\n")}`,
  );
}

/** Two `up`s at once must not start two daemons: the second finds the first one's pid file. */
async function daemonLives(): Promise<boolean> {
  const pid = await readFile("/var/run/docker.pid", "utf8").catch(() => undefined);
  if (pid === undefined) return false;
  const name = await readFile(`/proc/${pid.trim()}/comm`, "utf8").catch(() => "");
  return name.trim() === "dockerd";
}

export async function distribution(): Promise<Record<string, string>> {
  const text = await readFile("/etc/os-release", "utf8").catch(() => "");
  return Object.fromEntries(
    text.split("\n").flatMap((line) => {
      const [, key, value] = /^(\w+)="?(.*?)"?$/.exec(line) ?? [];
      return key === undefined || value === undefined ? [] : [[key, value]];
    }),
  );
}

export function isDebianLike(system: Record<string, string>): boolean {
  return `${system.ID ?? ""} ${system.ID_LIKE ?? ""}`
    .split(" ")
    .some((id) => id === "debian" || id === "ubuntu");
}

export async function aptGet(args: string[]): Promise<void> {
  try {
    await run("apt-get", args, {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      maxBuffer: 64 * 1024 * 1024,
      timeout: 10 * 60_000,
    });
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(`apt-get ${args.join(" ")} failed: ${stderr?.trim() || String(error)}`, { cause: error });
  }
}

export async function onPath(command: string): Promise<boolean> {
  const found = (process.env.PATH ?? "").split(":").map((folder) => exists(`${folder}/${command}`));
  return (await Promise.all(found)).includes(true);
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
