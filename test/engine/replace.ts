// `npm run replace-node` in a test: all of it but the checks, for which there is no platform to ask.
// With "as before" as its last argument it is `npm run up` as others may still run it: everything is refreshed.
// Usage: tsx replace.ts STACK MACHINE

import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** Those of the copy that this runs in. */
const of = <T>(path: string) => import(pathToFileURL(join(process.cwd(), path)).href) as Promise<T>;
const { replaceNode, surroundings } =
  await of<typeof import("../../ops/replace-node.ts")>("ops/replace-node.ts");
const { openStack, stackConfig } = await of<typeof import("../../ops/workspace.ts")>("ops/workspace.ts");
const { ensurePulumi } = await of<typeof import("../../ops/toolchain.ts")>("ops/toolchain.ts");

const [name = "", machine = "", manner] = process.argv.slice(2);
const print = (line: string) => process.stdout.write(`${line}\n`);
try {
  const config = stackConfig(name);
  if (config.aws === undefined) throw new Error("not on AWS");
  const stack = await openStack(name, await ensurePulumi(print, "aws"));
  if (manner === "as before") {
    await stack.up({ refresh: true, suppressOutputs: true });
  } else {
    const around = surroundings(stack, config, config.aws, { yes: true, lost: true }, print);
    await replaceNode({ ...around, check: () => Promise.resolve([]) }, machine, { lost: true });
  }
} catch (error) {
  print((error as Error).message);
  process.exitCode = 1;
}
process.exit();
