// Builds our own images, tagged by what goes into them, so that a changed source is a new image and nothing else is.
// Command line: npx tsx images/build.ts <name>… builds what is missing and prints each tag; with --push <repository>
// and --platform <platform> it publishes one image in Amazon's registry and prints its reference by digest.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { buildSync } from "esbuild";
import { baseImages, ownImages, type OwnImage, type ToolImage } from "../components/images.ts";
import { bundleModule, bundling, sourcesOf } from "./bundle.ts";

const defaultRoot = join(import.meta.dirname, "..");

/** What each image stands on, and the entry file that is bundled into it. */
interface Making {
  readonly base: string;
  readonly entry?: string;
  /** Files that a bundled package reads at run time: path in the image's app folder → path in the project. */
  readonly assets?: Readonly<Record<string, string>>;
}

const makings: Readonly<Record<OwnImage | ToolImage, Making>> = {
  api: { base: baseImages.node, entry: "services/api/server.ts" },
  ingestor: {
    base: baseImages.node,
    entry: "services/ingestor/server.ts",
    // The Kafka client loads its checksums and compression from ../dist of wherever its code runs.
    assets: { "dist/native.wasm": "node_modules/@platformatic/wasm-utils/dist/native.wasm" },
  },
  chaos: { base: baseImages.debian },
  keepalived: { base: baseImages.debian },
  supervisor: { base: baseImages.node, entry: "services/supervisor/server.ts" },
  witness: { base: baseImages.node, entry: "services/witness/server.ts" },
};

/** The public image that one of our own is built from. */
export function baseOf(name: OwnImage | ToolImage): string {
  return makings[name].base;
}

/** Of this project's own images: a command asks several times, and its sources stay as they are meanwhile. */
const ownTags = new Map<OwnImage | ToolImage, string>();

/**
 * The image's full tag, `siem-ha/<name>:<hash>`, computed from its Dockerfile folder, base, the sources that are
 * bundled into it, and the lock file that fixes their dependencies. Reads files only: no Docker is needed.
 */
export function imageTag(name: OwnImage | ToolImage, root: string = defaultRoot): string {
  if (root !== defaultRoot) return tagOf(name, root);
  const tag = ownTags.get(name) ?? tagOf(name, root);
  ownTags.set(name, tag);
  return tag;
}

function tagOf(name: OwnImage | ToolImage, root: string): string {
  const { base, entry } = makings[name];
  const hash = createHash("sha256");
  const add = (file: string): void => {
    hash.update(`\0${relative(root, file)}\0`).update(readFileSync(file));
  };
  hash.update(base);
  const folder = join(root, "images", name);
  for (const file of readdirSync(folder).sort()) add(join(folder, file));
  if (entry !== undefined) {
    // These decide how the bundle is made, and which files go with it.
    hash.update(readFileSync(import.meta.filename)).update(readFileSync(bundleModule));
    for (const file of sourcesOf(join(root, entry), root)) add(file);
    add(join(root, "package-lock.json"));
  }
  return `siem-ha/${name}:${hash.digest("hex").slice(0, 12)}`;
}

/**
 * Builds the image when its tag is not in the local daemon yet, and returns the tag.
 * Its base image must be there (`ensureImages`) or be pullable.
 */
export function buildImage(
  name: OwnImage | ToolImage,
  log: (line: string) => void,
  root: string = defaultRoot,
): string {
  const tag = imageTag(name, root);
  if (docker(["image", "inspect", "--format", "{{.Id}}", tag]).status === 0) return tag;
  const started = Date.now();
  runBuild(name, tag, [], root);
  log(`image ${tag}: built in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return tag;
}

/** Makes the image from its folder, and its bundle if it has one. */
function runBuild(name: OwnImage | ToolImage, tag: string, options: readonly string[], root: string): void {
  const { base, entry, assets } = makings[name];
  const context = mkdtempSync(join(tmpdir(), `siem-ha-${name}-`));
  try {
    cpSync(join(root, "images", name), context, { recursive: true });
    if (entry !== undefined) {
      buildSync({
        ...bundling,
        absWorkingDir: root,
        entryPoints: [entry],
        outfile: join(context, "app/bin/server.mjs"),
      });
      for (const [to, from] of Object.entries(assets ?? {}))
        cpSync(join(root, from), join(context, "app", to));
    }
    const built = docker([
      "build",
      "--quiet",
      ...options,
      "--tag",
      tag,
      "--build-arg",
      `BASE=${base}`,
      context,
    ]);
    if (built.status !== 0) {
      throw new Error(`can't build image ${tag} from images/${name} (base ${base}):\n${tail(built)}`);
    }
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
}

/** What the machines that run an image have for processors, as Docker names it. */
export type Platform = "linux/amd64" | "linux/arm64";

export interface Publication {
  /** Host and path of the repository, without a tag. */
  readonly repository: string;
  readonly platform: Platform;
  /** Password of the registry's user `AWS`, as Amazon hands it out for twelve hours. */
  readonly password: string;
  readonly log: (line: string) => void;
  /** The project's directory. @default this project */
  readonly root?: string;
  /** @default the base image is fetched again, so that nothing made on this machine gets into a published image */
  readonly pullBase?: boolean;
}

/** The tag under which an image is published: by content and by processor, because a tag never moves. */
export function publishedTag(name: OwnImage, platform: Platform, root: string = defaultRoot): string {
  return `${imageTag(name, root).split(":")[1]}-${platform.split("/")[1]}`;
}

/**
 * Builds the image for a platform and pushes it, unless its tag is published already.
 * @returns the reference by digest, `<repository>@sha256:…`, as the registry knows it.
 */
export async function publishImage(name: OwnImage, args: Publication): Promise<string> {
  const { repository, platform, password, log, root = defaultRoot } = args;
  const tag = publishedTag(name, platform, root);
  const reference = `${repository}:${tag}`;
  const found = await publishedDigest(repository, tag, password);
  if (found !== undefined) {
    log(`image ${reference}: published already`);
    return `${repository}@${found}`;
  }
  const started = Date.now();
  const fresh = args.pullBase ?? true;
  runBuild(name, reference, [...(fresh ? ["--pull"] : []), "--platform", platform], root);
  const made = docker(["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", reference]).stdout.trim();
  if (made !== platform) {
    throw new Error(
      `image ${reference} came out for ${made}, but the machines are ${platform}: build on such a machine, or let Docker run ${platform} programs here (docker run --privileged --rm tonistiigi/binfmt --install all)`,
    );
  }
  const config = mkdtempSync(join(tmpdir(), "siem-ha-registry-"));
  try {
    const auth = Buffer.from(`AWS:${password}`).toString("base64");
    writeFileSync(
      join(config, "config.json"),
      JSON.stringify({ auths: { [registryOf(repository)]: { auth } } }),
      { mode: 0o600 },
    );
    const pushed = docker(["push", "--quiet", reference], { DOCKER_CONFIG: config });
    // Somebody else may have published the very same content in the meantime, and tags never move.
    const digest = await publishedDigest(repository, tag, password);
    if (digest === undefined) throw new Error(`can't push image ${reference}:\n${tail(pushed)}`);
    log(`image ${reference}: built and pushed in ${((Date.now() - started) / 1000).toFixed(0)} s`);
    return `${repository}@${digest}`;
  } finally {
    rmSync(config, { recursive: true, force: true });
  }
}

function registryOf(repository: string): string {
  return repository.slice(0, repository.indexOf("/"));
}

/** Asks the registry which digest a tag has; undefined where there is no such tag. */
async function publishedDigest(
  repository: string,
  tag: string,
  password: string,
): Promise<string | undefined> {
  const registry = registryOf(repository);
  // Docker too speaks plain HTTP with a registry on the loopback interface, and with no other.
  const scheme = /^(127\.|localhost(:|$))/.test(registry) ? "http" : "https";
  const url = `${scheme}://${registry}/v2/${repository.slice(registry.length + 1)}/manifests/${tag}`;
  const response = await fetch(url, {
    method: "HEAD",
    headers: {
      authorization: `Basic ${Buffer.from(`AWS:${password}`).toString("base64")}`,
      accept: [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
      ].join(", "),
    },
    signal: AbortSignal.timeout(30_000),
  }).catch((error: unknown) => {
    throw new Error(`can't reach the registry ${registry}: ${String((error as Error).cause ?? error)}`);
  });
  if (response.status === 404) return undefined;
  const digest = response.headers.get("docker-content-digest");
  if (!response.ok || digest === null) {
    throw new Error(`the registry ${registry} answers ${response.status} for ${repository}:${tag}`);
  }
  return digest;
}

/** A password for Amazon's registry, from the AWS CLI and whatever identity it is set up with. */
function registryPassword(repository: string): string {
  const region = /^\d{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?\//.exec(repository)?.[1];
  if (region === undefined) {
    throw new Error(
      `--push takes a repository of Amazon's registry, <account>.dkr.ecr.<region>.amazonaws.com/<name>, but got ${repository}`,
    );
  }
  const result = spawnSync("aws", ["ecr", "get-login-password", "--region", region], { encoding: "utf8" });
  if (result.error) throw new Error(`can't run \`aws\`: ${result.error.message}; install the AWS CLI`);
  if (result.status !== 0)
    throw new Error(`can't get a password for ${repository}:\n${result.stderr.trim()}`);
  return result.stdout.trim();
}

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function docker(args: readonly string[], environment: Readonly<Record<string, string>> = {}): Ran {
  const result = spawnSync("docker", args, {
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
    env: { ...process.env, ...environment },
  });
  if (result.error) throw new Error(`can't run \`docker\`: ${result.error.message}; install Docker's client`);
  return result;
}

/** The last lines that a program said. */
function tail({ stdout, stderr }: Ran): string {
  return `${stdout}\n${stderr}`.trim().split("\n").slice(-15).join("\n");
}

const platforms: readonly string[] = ["linux/amd64", "linux/arm64"] satisfies Platform[];

async function main(args: readonly string[]): Promise<void> {
  const { values, positionals: names } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { push: { type: "string" }, platform: { type: "string" } },
  });
  const unknown = names.filter((name) => !(ownImages as readonly string[]).includes(name));
  const { push, platform } = values;
  const fits = push === undefined ? platform === undefined : names.length === 1 && platform !== undefined;
  if (names.length === 0 || unknown.length > 0 || !fits || (platform && !platforms.includes(platform))) {
    console.error(
      `usage: npx tsx images/build.ts <name>…, or <name> --push <repository> --platform <${platforms.join("|")}>; given: ${args.join(" ") || "nothing"}; names: ${ownImages.join(", ")}`,
    );
    process.exit(64);
  }
  const log = (line: string): void => console.error(line);
  for (const name of names as OwnImage[]) {
    if (push === undefined) console.log(buildImage(name, log));
    else {
      const password = registryPassword(push);
      const target = { repository: push, platform: platform as Platform, password, log };
      console.log(await publishImage(name, target));
    }
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  }
}
