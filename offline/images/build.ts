// Gets the images the platform names: from their registry, or, where none answers, as stand-ins built right here.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFile, cp, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pLimit from "p-limit";
import { baseImages, publicImages } from "../../components/images.ts";

/** How a stand-in is made: `rootfs.sh` makes a file system to import, otherwise a Dockerfile builds on `from`. */
interface Recipe {
  readonly folder: string;
  readonly from?: string;
  /** Debian's release that `rootfs.sh` makes. */
  readonly release?: string;
  /** Puts what can't be fetched inside a container (no CA bundle there) into the build context. */
  readonly prepare?: (context: string) => Promise<void>;
}

type Log = (line: string) => void;

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Marks stand-ins, so that `docker image ls --filter label=siem-ha.standin=1` lists them. */
export const standInLabel = "siem-ha.standin";
const stageLabel = "siem-ha.standin.stage";
const recipeLabel = "siem-ha.standin.recipe";
const jre = "siem-ha/standin-jre:17";
/** What the stand-ins of old servers need: ClickHouse 18.16, Java 17. */
const bookworm = "debian:bookworm-slim";
const builds = 2;
const firstAnswer = 8_000;
const wholePull = 15 * 60_000;

const recipes: Readonly<Record<string, Recipe>> = {
  [baseImages.debian]: { folder: "debian", release: "trixie" },
  [bookworm]: { folder: "debian", release: "bookworm" },
  [baseImages.node]: {
    folder: "node",
    from: bookworm,
    prepare: (context) => copyFile(process.execPath, join(context, "node")),
  },
  [jre]: { folder: "jre", from: bookworm },
  [publicImages.anchor]: { folder: "busybox", from: bookworm },
  [publicImages.zookeeper]: { folder: "zookeeper", from: jre, prepare: jars },
  [publicImages.kafka]: { folder: "kafka", from: jre, prepare: jars },
  [publicImages.clickhouse]: { folder: "clickhouse", from: bookworm },
  [publicImages.haproxy]: { folder: "haproxy", from: baseImages.debian },
};

/**
 * Makes every named image present in the local daemon, pulled or as a stand-in of the same name.
 * One line is logged for each image that was missing; nothing happens when all are there.
 */
export async function ensureImages(names: readonly string[], log: Log): Promise<void> {
  const present = await localImages([...names, ...Object.keys(recipes)]);
  const outdated = new Set<string>();
  for (const [name, labels] of present) {
    const recipe = recipes[name];
    if (recipe && labels[standInLabel] && labels[recipeLabel] !== (await recipeHash(recipe)))
      outdated.add(name);
  }
  const wanted = [...new Set(names)].filter((name) => !present.has(name) || outdated.has(name));
  if (wanted.length === 0) return;

  const missing = await pullAll(
    wanted.filter((name) => !present.has(name)),
    log,
  );
  await buildAll([...missing, ...wanted.filter((name) => outdated.has(name))], present, outdated, log);
}

/** Pulls what it can and returns the rest. The first pull that gets no answer spares the others the wait. */
async function pullAll(names: readonly string[], log: Log): Promise<string[]> {
  const missing: string[] = [];
  let reachable: boolean | undefined;
  for (const name of names) {
    if (reachable === false) {
      missing.push(name);
      continue;
    }
    const answer = await pull(name);
    reachable ??= answer.reached;
    if (answer.pulled) {
      log(`image ${name}: pulled`);
      continue;
    }
    if (!answer.reached) {
      log(`the image registry can't be reached (${answer.reason}); using stand-ins`);
      reachable = false;
    } else {
      log(`image ${name}: can't be pulled (${answer.reason})`);
    }
    missing.push(name);
  }
  return missing;
}

async function buildAll(
  names: readonly string[],
  present: ReadonlyMap<string, unknown>,
  outdated: ReadonlySet<string>,
  log: Log,
): Promise<void> {
  const unknown = names.filter((name) => !recipes[name]);
  if (unknown.length > 0) {
    throw new Error(
      `image ${unknown.join(", ")} is not in the local Docker daemon, can't be pulled, and has no stand-in. ` +
        `Stand-ins exist for ${Object.keys(recipes).join(", ")}. ` +
        `Load it with \`docker load\`, or give the daemon a way to its registry.`,
    );
  }
  // A build takes a whole core.
  const slots = pLimit(builds);
  const done = new Map<string, Promise<void>>();
  const make = (name: string, recipe: Recipe): Promise<void> => {
    const running = done.get(name);
    if (running) return running;
    const run = (async () => {
      const { from } = recipe;
      const base = from === undefined ? undefined : recipes[from];
      // An outdated base is rebuilt too: otherwise its change would never reach what is built on it.
      if (from !== undefined && base && (!present.has(from) || outdated.has(from))) await make(from, base);
      await slots(() => build(name, recipe, log));
    })();
    done.set(name, run);
    return run;
  };
  const results = await Promise.allSettled(names.map((name) => make(name, recipes[name] as Recipe)));
  await execute("docker", ["image", "prune", "--force", "--filter", `label=${stageLabel}`]);
  const failures = results
    .filter((result) => result.status === "rejected")
    .map((result) => result.reason as Error);
  if (failures[0]) {
    // A failed base fails everything on it with the same error; say it once.
    throw new Error([...new Set(failures.map((failure) => failure.message))].join("\n"));
  }
}

/** Builds one stand-in in a throw-away context and tags it with the public name. */
async function build(name: string, recipe: Recipe, log: Log): Promise<void> {
  const started = Date.now();
  const before = await imageId(name);
  const context = await mkdtemp(join(tmpdir(), `siem-ha-${recipe.folder}-`));
  try {
    const labels = { [standInLabel]: "1", [recipeLabel]: await recipeHash(recipe) };
    if (recipe.from === undefined) {
      await debootstrap(name, recipe, context, labels);
    } else {
      await cp(recipeFolder(recipe), context, { recursive: true });
      await recipe.prepare?.(context);
      await run(
        "docker",
        [
          "build",
          "--quiet",
          "--force-rm",
          "--tag",
          name,
          "--build-arg",
          `BASE=${recipe.from}`,
          ...Object.entries(labels).flatMap(([key, value]) => ["--label", `${key}=${value}`]),
          context,
        ],
        `can't build the stand-in for ${name}`,
        // The classic builder takes local bases as they are, whatever builder is set up on this machine.
        { DOCKER_BUILDKIT: "0" },
      );
    }
    // The version that lost its name is only in the way; Docker refuses where something still uses it.
    if (before !== "" && before !== (await imageId(name))) await execute("docker", ["image", "rm", before]);
    const seconds = ((Date.now() - started) / 1000).toFixed(0);
    log(`image ${name}: stand-in built from offline/images/${recipe.folder} in ${seconds} s`);
  } finally {
    await rm(context, { recursive: true, force: true });
  }
}

async function debootstrap(
  name: string,
  recipe: Recipe,
  context: string,
  labels: Readonly<Record<string, string>>,
): Promise<void> {
  if (process.getuid?.() !== 0) {
    throw new Error(
      `the stand-in for ${name} is made with debootstrap, which needs root, but this runs as uid ` +
        `${process.getuid?.()}. Run it as root, or load the image with \`docker load\`.`,
    );
  }
  await ensureCommand("debootstrap", ["debootstrap"]);
  const root = join(context, "root");
  const what = `can't make the root file system for ${name}`;
  await run("sh", [join(recipeFolder(recipe), "rootfs.sh"), root, recipe.release ?? ""], what);
  const tar = join(context, "root.tar");
  await run("tar", ["--numeric-owner", "-C", root, "-cf", tar, "."], what);
  const changes = [
    'CMD ["bash"]',
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ...Object.entries(labels).map(([key, value]) => `LABEL ${key}=${value}`),
  ];
  await run(
    "docker",
    ["import", ...changes.flatMap((change) => ["--change", change]), tar, name],
    `can't import ${name}`,
  );
}

/** Fetches the jars of the context's pom.xml into its `jars` folder. */
async function jars(context: string): Promise<void> {
  await ensureCommand("mvn", ["maven", "default-jdk-headless"]);
  await run(
    "mvn",
    [
      "-q",
      "-B",
      "-f",
      join(context, "pom.xml"),
      "dependency:copy-dependencies",
      "-DincludeScope=runtime",
      `-DoutputDirectory=${join(context, "jars")}`,
    ],
    "can't fetch Maven artifacts",
  );
}

const installing = pLimit(1);

/** One at a time: apt locks, and two images may miss the same command. */
const ensureCommand = (command: string, packages: readonly string[]): Promise<void> =>
  installing(() => installMissing(command, packages));

async function installMissing(command: string, packages: readonly string[]): Promise<void> {
  const found = await execute("sh", ["-c", `command -v ${command}`]);
  if (found.code === 0) return;
  const install = `apt-get update -q && apt-get install -q -y --no-install-recommends ${packages.join(" ")}`;
  await run(
    "sh",
    ["-c", install],
    `\`${command}\` is missing and could not be installed; install ${packages.join(", ")}`,
    { DEBIAN_FRONTEND: "noninteractive" },
  );
}

interface Pull {
  readonly pulled: boolean;
  /** Whether a registry answered, even if it doesn't have the image. */
  readonly reached: boolean;
  readonly reason: string;
}

/** A pull with a short limit for the registry's first answer and a long one for the layers. */
function pull(name: string): Promise<Pull> {
  return new Promise((resolve, reject) => {
    const child = spawn("docker", ["pull", name], { stdio: ["ignore", "pipe", "pipe"] });
    let stderr = "";
    let answered = false;
    let late = false;
    const stop = (): void => {
      late = true;
      child.kill("SIGKILL");
    };
    let timer = setTimeout(stop, firstAnswer);
    child.stdout.on("data", () => {
      if (answered) return;
      answered = true;
      clearTimeout(timer);
      timer = setTimeout(stop, wholePull);
    });
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(commandError("docker", error));
    });
    child.on("close", (code) => {
      clearTimeout(timer);
      const limit = (answered ? wholePull : firstAnswer) / 1000;
      const reason = late ? `no ${answered ? "end" : "answer"} within ${limit} s` : lastLine(stderr);
      // A refusal comes from a registry; anything else before the first line of output means that none was reached.
      const refused = /denied|not found|manifest unknown|unauthorized|toomanyrequests|no matching manifest/i;
      resolve({ pulled: code === 0, reached: answered || (!late && refused.test(stderr)), reason });
    });
  });
}

/** The labels of those of the named images that the daemon has. */
async function localImages(names: readonly string[]): Promise<Map<string, Record<string, string>>> {
  const unique = [...new Set(names)];
  const format = "{{json .RepoTags}}\t{{json .RepoDigests}}\t{{json .Config.Labels}}";
  const { code, stdout, stderr } = await execute("docker", [
    "image",
    "inspect",
    "--format",
    format,
    ...unique,
  ]);
  const other = stderr.split("\n").filter((line) => line.trim() !== "" && !/no such image/i.test(line));
  if (code !== 0 && other.length > 0) {
    throw new Error(
      `can't ask the Docker daemon for its images: ${other.join(" ").trim()}. ` +
        `Start the daemon, or point DOCKER_HOST at one.`,
    );
  }
  const found = new Map<string, Record<string, string>>();
  for (const line of stdout.split("\n").filter((text) => text !== "")) {
    const [tags, digests, labels] = line.split("\t").map((text) => JSON.parse(text) as unknown);
    for (const tag of [...((tags as string[] | null) ?? []), ...((digests as string[] | null) ?? [])]) {
      found.set(tag, (labels as Record<string, string> | null) ?? {});
    }
  }
  return found;
}

/** The image's id, or nothing where it is absent. */
async function imageId(name: string): Promise<string> {
  return (await execute("docker", ["image", "inspect", "--format", "{{.Id}}", name])).stdout.trim();
}

function recipeFolder(recipe: Recipe): string {
  return join(import.meta.dirname, recipe.folder);
}

/** Changes with the recipe's files and with those of every recipe it builds on. */
async function recipeHash(recipe: Recipe): Promise<string> {
  const hash = createHash("sha256");
  const base = recipe.from === undefined ? undefined : recipes[recipe.from];
  if (base) hash.update(await recipeHash(base));
  hash.update(recipe.release ?? "");
  for (const file of (await readdir(recipeFolder(recipe))).sort()) {
    hash.update(`\0${file}\0`).update(await readFile(join(recipeFolder(recipe), file)));
  }
  return hash.digest("hex").slice(0, 12);
}

/** Runs a command to its end; a non-zero exit is an error with the end of its output. */
async function run(
  command: string,
  args: readonly string[],
  failure: string,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { code, stdout, stderr } = await execute(command, args, env);
  if (code === 0) return;
  const tail = `${stdout}\n${stderr}`.trim().split("\n").slice(-15).join("\n");
  throw new Error(`${failure}: \`${command} ${args[0] ?? ""}\` ended with ${code}:\n${tail}`);
}

function execute(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...env },
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("error", (error) => reject(commandError(command, error)));
    child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}

function commandError(command: string, error: Error): Error {
  const absent = (error as NodeJS.ErrnoException).code === "ENOENT";
  return new Error(
    absent
      ? `the command \`${command}\` is not installed; install it and try again`
      : `can't run \`${command}\`: ${error.message}`,
  );
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1)?.trim() || "no reason given";
}
