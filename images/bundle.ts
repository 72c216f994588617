// One file out of a TypeScript program and its packages: for the images, and for programs that have to start fast.

import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join, relative } from "node:path";
import { buildSync, type BuildOptions } from "esbuild";

/** This file, for what has to be made anew when it changes. */
export const bundleModule = import.meta.filename;

// CommonJS packages inside the bundle still ask for `require`, which an ES module doesn't have.
const requireBanner =
  'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);';

const nothing = join(import.meta.dirname, "nothing.ts");

/** How every bundle is made. */
export const bundling = {
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  logLevel: "silent",
  banner: { js: requireBanner },
} as const satisfies BuildOptions;

/** The project's own files that esbuild would bundle; packages are left out because the lock file fixes them. */
export function sourcesOf(entry: string, root: string): string[] {
  if (!existsSync(entry)) throw new Error(`${relative(root, entry)} does not exist, so it can't be bundled`);
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

/**
 * The program as one file in `node_modules/.cache`, made again when its sources or packages change. It starts without
 * tsx, and without looking for hundreds of files.
 * @param entry the program, below root
 * @param unused packages that the program loads and never uses; in the file they are empty
 * @returns its path, always the same for an entry.
 */
export function bundled(entry: string, root: string, unused: readonly string[] = []): string {
  const name = relative(root, entry);
  const folder = join(root, "node_modules/.cache/siem-ha");
  const file = join(folder, `${name.replaceAll(/[^a-z]+/g, "-")}.mjs`);
  const hash = createHash("sha256").update(JSON.stringify(unused));
  for (const source of [...sourcesOf(entry, root), bundleModule, join(root, "package-lock.json")])
    hash.update(readFileSync(source));
  const head = `// ${name} ${hash.digest("hex")}\n`;
  if (headOf(file, head.length) === head) return file;
  const { outputFiles } = buildSync({
    ...bundling,
    absWorkingDir: root,
    entryPoints: [entry],
    alias: Object.fromEntries(unused.map((name) => [name, nothing])),
    write: false,
  });
  mkdirSync(folder, { recursive: true });
  // Whole or not at all: another command may be about to start it, or to make it too.
  const partial = `${file}.${process.pid}`;
  writeFileSync(partial, head + outputFiles.map(({ text }) => text).join(""));
  renameSync(partial, file);
  return file;
}

function headOf(file: string, length: number): string | undefined {
  if (!existsSync(file)) return undefined;
  const handle = openSync(file, "r");
  try {
    const head = Buffer.alloc(length);
    return head.toString("utf8", 0, readSync(handle, head));
  } finally {
    closeSync(handle);
  }
}
