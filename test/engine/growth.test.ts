// The stacks of `npm run bench -- growth`, with two copies: whole copies that share nothing, a bare program of the same
// size, and figures only of what had nothing to do. What it can't prove: that ninety nodes would run.

import { afterAll, describe, expect, it } from "vitest";
import { bareLike, copiesOfStack, countsOf, deploy, idle } from "../../bench/growth.ts";
import { plan } from "../../components/topology.ts";
import type { RecordedStack } from "./harness.ts";

const stacks: RecordedStack[] = [];
afterAll(() => {
  for (const stack of stacks) stack.remove();
});

function opened(stack: RecordedStack): RecordedStack {
  stacks.push(stack);
  return stack;
}

/** Names and ports as Docker would be given them. */
function claims(stack: RecordedStack): string[] {
  return stack.resources().flatMap(({ type, inputs }) => {
    const kind = /^docker:index\/(container|network|volume):/.exec(type)?.[1];
    if (kind === undefined) return [];
    const ports = (inputs?.["ports"] ?? []) as { readonly external: number }[];
    return [`${kind} ${String(inputs?.["name"])}`, ...ports.map(({ external }) => `port ${external}`)];
  });
}

describe("two copies of the stack in one program", () => {
  const ours = opened(copiesOfStack(2));

  it("come up whole, each below a component of its own, and share no name and no port", async () => {
    await deploy(ours);
    const byCopy = new Map<string, string[]>();
    for (const { urn } of ours.resources()) {
      const copy = /bench:growth:Copy(\d+)/.exec(urn)?.[1] ?? "none";
      byCopy.set(copy, [...(byCopy.get(copy) ?? []), urn.replaceAll(/(Copy|copy-)\d+/g, "$1")]);
    }
    expect([...byCopy.keys()].sort()).toEqual(["1", "2", "none"]);
    expect(byCopy.get("1")?.sort()).toEqual(byCopy.get("2")?.sort());
    expect(byCopy.get("none")?.map((urn) => urn.split("::")[2])).toEqual([
      "pulumi:pulumi:Stack",
      "pulumi:providers:command",
    ]);
    const claimed = claims(ours);
    expect(claimed.filter((one, index) => claimed.indexOf(one) !== index)).toEqual([]);
    expect(claimed).toEqual(
      expect.arrayContaining(
        ["copy-1-", "copy-2-"].flatMap((prefix) =>
          plan({ prefix }).nodes.map(({ name }) => `container ${name}`),
        ),
      ),
    );
  });

  it("have a bare program beside them with as many resources and providers", async () => {
    const bare = opened(bareLike(ours));
    // Not deployed yet: there is something to do, so there is no figure.
    await expect(idle(bare, "preview")).rejects.toThrow(/everything as it is.*create/);
    await deploy(bare);
    expect(countsOf(bare)).toEqual(countsOf(ours));
    expect(await idle(bare, "up")).toBeGreaterThan(0);
  });

  it("have nothing to do the second time", async () => {
    expect(await idle(ours, "up")).toBeGreaterThan(0);
    expect(await idle(ours, "preview")).toBeGreaterThan(0);
  });
});
