// The versions of the packages in node_modules: a plugin must carry exactly its SDK's version.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

/** The version of an installed npm package. */
export function packageVersion(name: string): string {
  const path = createRequire(import.meta.url).resolve(`${name}/package.json`);
  return (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version;
}
