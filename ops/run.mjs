// First step of every npm command: on a fresh clone the dependencies are not there yet, and this needs none.

import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, readlinkSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const oldest = [20, 19, 4];
const given = process.versions.node.split(".").map(Number);
const differs = oldest.findIndex((part, index) => part !== given[index]);
if (differs !== -1 && given[differs] < oldest[differs]) {
  console.error(`Node ${process.versions.node} is too old: siem-ha needs Node ${oldest.join(".")} or newer`);
  process.exit(1);
}
const modules = `${root}/node_modules`;
/** npm writes this file last, so it is older than the lock file when an install is due. */
const marker = `${modules}/.package-lock.json`;
const lock = `${root}/package-lock.json`;
if (!existsSync(marker) || statSync(marker).mtimeMs < statSync(lock).mtimeMs) {
  if (lstatSync(modules, { throwIfNoEntry: false })?.isSymbolicLink()) {
    console.error(
      `The dependencies have to be installed, but node_modules is a symbolic link to ${readlinkSync(modules)}: npm ci would empty that directory, which may be somebody else's. Nothing was touched. Remove the link (rm ${modules}) and run this again, or run npm ci where the directory belongs`,
    );
    process.exit(1);
  }
  console.log("dependencies: npm ci …");
  const { status } = spawnSync("npm", ["ci", "--no-fund", "--no-audit"], { cwd: root, stdio: "inherit" });
  if (status !== 0) {
    console.error("npm ci failed: see above; the package registry must be reachable");
    process.exit(status ?? 1);
  }
}
// In this very process, so that a signal has one receiver and the exit code is the command's own.
const { register } = await import("tsx/esm/api");
register();
// Pulumi's SDK takes a stack trace at every promise, and mapping those to the source took a third of a preview.
// NODE_OPTIONS=--enable-source-maps brings the mapping back.
process.setSourceMapsEnabled(/--enable-source-maps/.test(process.env.NODE_OPTIONS ?? ""));
const [script] = process.argv.splice(2, 1);
process.argv[1] = `${root}/${script}`;
process.chdir(root);
await import(pathToFileURL(process.argv[1]).href);
