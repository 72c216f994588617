// What bench/growth.ts measures: index.ts itself, run several times in one program, each copy with names, addresses and
// ports of its own. The planner has nine nodes a stack, so ten copies are ninety nodes.

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as pulumi from "@pulumi/pulumi";
import { project, secretKeys } from "../components/config.ts";
import { root } from "../ops/workspace.ts";

const require = createRequire(import.meta.url);
// Internal to Pulumi's SDK: the resource that everything without a parent goes below.
const { getStackResource, setStackResource } = require("@pulumi/pulumi/runtime/state.js") as {
  getStackResource: () => pulumi.Resource;
  setStackResource: (resource: pulumi.Resource) => void;
};

const given = pulumi.runtime.allConfig();
const secrets = Object.keys(secretKeys).map((key) => `${project}:${key}`);
const { href } = pathToFileURL(join(root, "index.ts"));
const stack = getStackResource();

/** How many there are. */
export const copies = new pulumi.Config("growth").requireNumber("copies");
for (let copy = 1; copy <= copies; copy++) {
  const local = { prefix: `copy-${copy}-`, net: `10.99.${copy}`, portOffset: copy * 100 };
  pulumi.runtime.setAllConfig({ ...given, [`${project}:local`]: JSON.stringify(local) }, secrets);
  // A type of its own: URNs hold the types of a resource's parents, and not their names.
  setStackResource(
    new pulumi.ComponentResource(`bench:growth:Copy${copy}`, `copy-${copy}`, {}, { parent: stack }),
  );
  await import(`${href}?copy=${copy}`);
}
setStackResource(stack);
