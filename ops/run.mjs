// First step of every npm command: on a fresh clone the dependencies are not there yet, and this needs none.

import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
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
/** npm writes this file last, so it is older than the lock file when an install is due. */
const marker = `${root}/node_modules/.package-lock.json`;
const lock = `${root}/package-lock.json`;
if (!existsSync(marker) || statSync(marker).mtimeMs < statSync(lock).mtimeMs) {
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
const [script] = process.argv.splice(2, 1);
process.argv[1] = `${root}/${script}`;
process.chdir(root);
await import(pathToFileURL(process.argv[1]).href);
