// Finds Pulumi's CLI, downloads it, or builds it from its Go module where only package registries answer.

import { execFile } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { arch, homedir, platform, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { PulumiCommand } from "@pulumi/pulumi/automation/index.js";

const run = promisify(execFile);
const connectSeconds = 5;
const downloadSeconds = 300;
const buildMinutes = 30;

/** The one replacement in the CLI's own go.mod; a module that requires it does not inherit it. */
const clipboard = "github.com/tgummerer/clipboard v0.0.0-20241001131231-d02d263e614e";
const cliPackage = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi";

/** A usable CLI. `root` is what `PulumiCommand.get({ root })` takes; undefined means the one on PATH. */
export interface PulumiCli {
  readonly root: string | undefined;
  readonly command: PulumiCommand;
  readonly version: string;
}

/** The version of the SDK in node_modules: the CLI must not be older, and we install exactly this one. */
export async function sdkVersion(): Promise<string> {
  const path = createRequire(import.meta.url).resolve("@pulumi/pulumi/package.json");
  return (JSON.parse(await readFile(path, "utf8")) as { version: string }).version;
}

/** Gets a Pulumi CLI that the Automation API accepts: from PATH, our cache, a download, or a build. */
export async function ensurePulumiCli(log: (line: string) => void): Promise<PulumiCli> {
  const version = await sdkVersion();
  // The version the Automation API itself asks for, so that a CLI that would be refused later is not taken here.
  const onPath = await accepted(undefined);
  if (onPath !== undefined) return onPath;

  const root = join(cacheFolder(), version);
  const cached = await accepted(root);
  if (cached !== undefined) return cached;

  return withLock(`${root}.lock`, log, async () => {
    // Whoever held the lock before us may have made it.
    const made = await accepted(root);
    if (made !== undefined) return made;
    const refusal = await downloadRelease(version, root);
    if (refusal === undefined) {
      log(`Pulumi CLI ${version}: downloaded`);
    } else {
      log(
        `Pulumi CLI ${version}: can't be downloaded (${refusal}); building it from its Go module, 2 to 5 minutes`,
      );
      await buildFromModule(version, root);
    }
    const cli = await accepted(root);
    if (cli === undefined) {
      throw new Error(
        `The Pulumi CLI just put at ${join(root, "bin", "pulumi")} does not run. Remove ${root} and try again.`,
      );
    }
    return cli;
  });
}

function cacheFolder(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base === undefined || base === "" ? join(homedir(), ".cache") : base, "siem-ha", "pulumi");
}

async function accepted(root: string | undefined): Promise<PulumiCli | undefined> {
  try {
    const command = await PulumiCommand.get(root === undefined ? {} : { root });
    return { root, command, version: String(command.version) };
  } catch {
    // Absent, of another major version, or too old: all three mean "get one of our own".
    return undefined;
  }
}

/** Downloads the release; returns why it could not. A closed network must cost seconds, not minutes. */
async function downloadRelease(version: string, root: string): Promise<string | undefined> {
  const machine = { x64: "x64", arm64: "arm64" }[arch()];
  const system = { linux: "linux", darwin: "darwin" }[platform() as string];
  if (machine === undefined || system === undefined) return `no release for ${platform()} ${arch()}`;
  const url = `https://get.pulumi.com/releases/sdk/pulumi-v${version}-${system}-${machine}.tar.gz`;
  const folder = await mkdtemp(join(tmpdir(), "pulumi-cli-"));
  const abort = new AbortController();
  let timer = setTimeout(
    () => abort.abort(new Error(`no answer within ${connectSeconds} s`)),
    connectSeconds * 1000,
  );
  try {
    const response = await fetch(url, { signal: abort.signal });
    if (!response.ok || response.body === null) return `${url} answers ${response.status}`;
    clearTimeout(timer);
    timer = setTimeout(
      () => abort.abort(new Error(`not done in ${downloadSeconds} s`)),
      downloadSeconds * 1000,
    );
    const archive = join(folder, "pulumi.tar.gz");
    await pipeline(Readable.fromWeb(response.body as never), createWriteStream(archive), {
      signal: abort.signal,
    });
    await run("tar", ["-xzf", archive, "-C", folder]);
    await publish(join(folder, "pulumi"), root);
    return undefined;
  } catch (error) {
    return reasonOf(abort.signal.aborted ? abort.signal.reason : error);
  } finally {
    clearTimeout(timer);
    await rm(folder, { recursive: true, force: true });
  }
}

async function buildFromModule(version: string, root: string): Promise<void> {
  await requireGo();
  const folder = await mkdtemp(join(tmpdir(), "pulumi-build-"));
  try {
    await writeFile(
      join(folder, "go.mod"),
      [
        "module build.local/pulumi",
        "",
        "go 1.24.0",
        "",
        `require github.com/pulumi/pulumi/pkg/v3 v${version}`,
        `replace github.com/atotto/clipboard => ${clipboard}`,
        "",
      ].join("\n"),
    );
    // The import makes `go mod tidy`-free resolution possible: `-mod=mod` writes go.sum as it builds.
    const env = { ...process.env, GOFLAGS: `${process.env.GOFLAGS ?? ""} -mod=mod`.trim() };
    // Without the version flag the Automation API refuses the CLI.
    const ldflags = `-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=${version}`;
    const binary = join(folder, "root", "bin", "pulumi");
    await run("go", ["build", "-ldflags", ldflags, "-o", binary, cliPackage], {
      cwd: folder,
      env,
      maxBuffer: 64 * 1024 * 1024,
      timeout: buildMinutes * 60_000,
    });
    await publish(join(folder, "root", "bin"), root);
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    throw new Error(
      `Building the Pulumi CLI ${version} from its Go module failed: ` +
        `${stderr?.trim().split("\n").slice(-10).join("\n") || reasonOf(error)}\n` +
        "Is a Go module proxy reachable (go env GOPROXY)? Otherwise install the CLI yourself: https://www.pulumi.com/docs/install/",
      { cause: error },
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function requireGo(): Promise<void> {
  const needed = [1, 24] as const;
  const found = await run("go", ["env", "GOVERSION"]).then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
  const [, major, minor] = /^go(\d+)\.(\d+)/.exec(found ?? "") ?? [];
  const enough = Number(major) > needed[0] || (Number(major) === needed[0] && Number(minor) >= needed[1]);
  if (enough) return;
  throw new Error(
    `The Pulumi CLI can't be downloaded here, and building it takes Go ${needed.join(".")} or newer, ` +
      `but ${found === undefined ? "there is no go on PATH" : `go on PATH is ${found}`}. ` +
      "Install Go from https://go.dev/dl/ (Debian 12's golang-go is too old), or put a pulumi of major version 3 on PATH.",
  );
}

/** Puts a folder of binaries at `<root>/bin` in one step, so that nobody ever sees half a CLI. */
async function publish(folder: string, root: string): Promise<void> {
  const staged = `${root}.new-${process.pid}`;
  await rm(staged, { recursive: true, force: true });
  await mkdir(staged, { recursive: true });
  // cp, because the temporary folder may be on another file system, where a rename is refused.
  await run("cp", ["-R", folder, join(staged, "bin")]);
  await rm(root, { recursive: true, force: true });
  await rename(staged, root);
}

/** Runs one at a time across processes: two builds at once would take all the machine's memory and time. */
async function withLock<T>(path: string, log: (line: string) => void, work: () => Promise<T>): Promise<T> {
  await mkdir(dirname(path), { recursive: true });
  let told = false;
  const deadline = Date.now() + buildMinutes * 60_000;
  for (;;) {
    try {
      await writeFile(path, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    if (await isStale(path)) {
      await rm(path, { force: true });
      continue;
    }
    if (Date.now() > deadline) {
      throw new Error(
        `Another process has held ${path} for ${buildMinutes} minutes. If none is building, remove it.`,
      );
    }
    if (!told) log("Pulumi CLI: another process is getting it; waiting");
    told = true;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}

async function isStale(path: string): Promise<boolean> {
  const pid = Number(await readFile(path, "utf8").catch(() => ""));
  // Just created and not yet written: its owner is alive.
  if (pid === 0)
    return Date.now() - ((await stat(path).catch(() => undefined))?.mtimeMs ?? Date.now()) > 10_000;
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // fetch says only "fetch failed"; what happened is in its cause.
  return error.cause instanceof Error ? error.cause.message || error.message : error.message;
}
