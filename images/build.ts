// Builds our own images, tagged by what goes into them, so that a changed source is a new image and nothing else is.
// Command line: npx tsx images/build.ts <name>… builds what is missing and prints each tag.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { buildSync, type BuildOptions } from "esbuild";
import { baseImages, ownImages, type OwnImage } from "../components/images.ts";

const defaultRoot = join(import.meta.dirname, "..");

/** What each image stands on, and the entry file that is bundled into it. */
interface Making {
  readonly base: string;
  readonly entry?: string;
  /** Files that a bundled package reads at run time: path in the image's app folder → path in the project. */
  readonly assets?: Readonly<Record<string, string>>;
}

const makings: Readonly<Record<OwnImage, Making>> = {
  api: { base: baseImages.node, entry: "services/api/server.ts" },
  ingestor: {
    base: baseImages.node,
    entry: "services/ingestor/server.ts",
    // The Kafka client loads its checksums and compression from ../dist of wherever its code runs.
    assets: { "dist/native.wasm": "node_modules/@platformatic/wasm-utils/dist/native.wasm" },
  },
  keepalived: { base: baseImages.debian },
};

// CommonJS packages inside the bundle still ask for `require`, which an ES module doesn't have.
const requireBanner =
  'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);';

const bundling = {
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  logLevel: "silent",
  banner: { js: requireBanner },
} as const satisfies BuildOptions;

/**
 * The image's full tag, `siem-ha/<name>:<hash>`, computed from its Dockerfile folder, base, the sources that are
 * bundled into it, and the lock file that fixes their dependencies. Reads files only: no Docker is needed.
 */
export function imageTag(name: OwnImage, root: string = defaultRoot): string {
  const { base, entry } = makings[name];
  const hash = createHash("sha256");
  const add = (file: string): void => {
    hash.update(`\0${relative(root, file)}\0`).update(readFileSync(file));
  };
  hash.update(base);
  const folder = join(root, "images", name);
  for (const file of readdirSync(folder).sort()) add(join(folder, file));
  if (entry !== undefined) {
    // This file decides how the bundle is made, and which files go with it.
    hash.update(readFileSync(import.meta.filename));
    for (const file of sourcesOf(join(root, entry), root)) add(file);
    add(join(root, "package-lock.json"));
  }
  return `siem-ha/${name}:${hash.digest("hex").slice(0, 12)}`;
}

/**
 * Builds the image when its tag is not in the local daemon yet, and returns the tag.
 * Its base image must be there (`ensureImages`) or be pullable.
 */
export function buildImage(name: OwnImage, log: (line: string) => void, root: string = defaultRoot): string {
  const tag = imageTag(name, root);
  if (docker(["image", "inspect", "--format", "{{.Id}}", tag]).status === 0) return tag;
  const { base, entry, assets } = makings[name];
  const started = Date.now();
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
    const built = docker(["build", "--quiet", "--tag", tag, "--build-arg", `BASE=${base}`, context]);
    if (built.status !== 0) {
      const tail = `${built.stdout}\n${built.stderr}`.trim().split("\n").slice(-15).join("\n");
      throw new Error(`can't build image ${tag} from images/${name} (base ${base}):\n${tail}`);
    }
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
  log(`image ${tag}: built in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  return tag;
}

/** The project's own files that esbuild would bundle; packages are left out because the lock file fixes them. */
function sourcesOf(entry: string, root: string): string[] {
  if (!existsSync(entry))
    throw new Error(`${relative(root, entry)} does not exist, so its image can't be named`);
  const { metafile } = buildSync({
    ...bundling,
    absWorkingDir: root,
    entryPoints: [entry],
    packages: "external",
    metafile: true,
    write: false,
  });
  return Object.keys(metafile.inputs)
    .sort()
    .map((file) => join(root, file));
}

function docker(args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  const result = spawnSync("docker", args, { encoding: "utf8", maxBuffer: 64 * 1024 * 1024 });
  if (result.error) throw new Error(`can't run \`docker\`: ${result.error.message}; install Docker's client`);
  return result;
}

function main(names: readonly string[]): void {
  const unknown = names.filter((name) => !(ownImages as readonly string[]).includes(name));
  if (names.length === 0 || unknown.length > 0) {
    console.error(
      `usage: npx tsx images/build.ts <name>…; given: ${names.join(" ") || "nothing"}; allowed: ${ownImages.join(", ")}`,
    );
    process.exit(64);
  }
  for (const name of names) console.log(buildImage(name as OwnImage, (line) => console.error(line)));
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  try {
    main(process.argv.slice(2));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  }
}
