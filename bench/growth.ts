// What nine nodes cost the engine, and what ninety do: a second `up` and a preview of one and of ten copies of the
// stack, beside bare programs of the same size. On the recording plugins: ninety nodes don't fit one machine.

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { project, secretKeys } from "../components/config.ts";
import { plan } from "../components/topology.ts";
import { ensurePulumiCli } from "../offline/cli.ts";
import { machine } from "../ops/section.ts";
import { root } from "../ops/workspace.ts";
import { RecordedStack, type Run } from "../test/engine/harness.ts";
import { median, report } from "./report.ts";

/** Copies of the stack, fewest first. */
const sizes = [1, 10] as const;
const rounds = 3;
const operations = ["up", "preview"] as const;
type Timed = (typeof operations)[number];
const programs = ["ours", "bare"] as const;
type Program = (typeof programs)[number];

/** Median seconds of each operation with nothing to do, by program. */
type Times = Readonly<Record<Timed, Readonly<Record<Program, number>>>>;

/** What one size was measured to take. */
export interface Size extends Times {
  readonly nodes: number;
  /** Of each of the two programs: providers among them, components not. */
  readonly resources: number;
}

/**
 * This many copies of the stack on the recording plugins, not deployed yet.
 * @returns what the caller has to remove.
 */
export function copiesOfStack(copies: number): RecordedStack {
  return new RecordedStack({
    project,
    stack: `copies-${copies}`,
    program: join(root, "bench/growth-copies.ts"),
    config: { [`${project}:target`]: "local", "growth:copies": String(copies) },
    secrets: Object.fromEntries(
      Object.keys(secretKeys).map((key) => [`${project}:${key}`, randomBytes(32).toString("hex")]),
    ),
  });
}

/**
 * A bare program with as many resources as the other stack has, over as many providers, not deployed yet.
 * @returns what the caller has to remove.
 */
export function bareLike(other: RecordedStack): RecordedStack {
  const { resources, providers } = countsOf(other);
  return new RecordedStack({
    project: "bare",
    stack: `bare-${resources}`,
    program: join(root, "bench/growth-bare.ts"),
    config: { "growth:resources": String(resources), "growth:providers": String(providers) },
    secrets: {},
  });
}

/** What a deployed stack has besides components. */
export function countsOf(stack: RecordedStack): { readonly resources: number; readonly providers: number } {
  const all = stack.resources().filter(({ id }) => (id ?? "") !== "");
  return {
    resources: all.length,
    providers: all.filter(({ type }) => type.startsWith("pulumi:providers:")).length,
  };
}

/** The first `up`, which is not measured. @throws when it fails. */
export async function deploy(stack: RecordedStack): Promise<void> {
  succeeded("up", await stack.run("up", { refresh: true }));
}

function succeeded(operation: Timed, run: Run): Run {
  if (!run.ok) throw new Error(`the ${operation} failed:\n${run.errors.join("\n")}`);
  return run;
}

/**
 * Runs what has nothing to do, as `npm run up` and a preview do.
 * @returns how many seconds it took.
 * @throws when it had something to do.
 */
export async function idle(stack: RecordedStack, operation: Timed): Promise<number> {
  const options = { checkpoints: true, ...(operation === "up" && { refresh: true }) };
  const { changes, seconds } = succeeded(operation, await stack.run(operation, options));
  const { same = 0, ...changed } = changes;
  if (same === 0 || Object.keys(changed).length > 0) {
    throw new Error(`the ${operation} was to find everything as it is, but found ${JSON.stringify(changes)}`);
  }
  return seconds;
}

async function measure(copies: number): Promise<Size> {
  const stacks: RecordedStack[] = [];
  const deployed = async (stack: RecordedStack): Promise<RecordedStack> => {
    stacks.push(stack);
    await deploy(stack);
    return stack;
  };
  try {
    const ours = await deployed(copiesOfStack(copies));
    const both = { ours, bare: await deployed(bareLike(ours)) };
    const { resources } = countsOf(ours);
    const others = countsOf(both.bare).resources;
    if (others !== resources) throw new Error(`the bare program has ${others} resources, not ${resources}`);
    const took = { up: { ours: [], bare: [] }, preview: { ours: [], bare: [] } } as Record<
      Timed,
      Record<Program, number[]>
    >;
    for (let round = 1; round <= rounds; round++) {
      for (const operation of operations) {
        for (const program of programs) took[operation][program].push(await idle(both[program], operation));
      }
    }
    const medians = (of: Timed) => ({ ours: median(took[of].ours), bare: median(took[of].bare) });
    return {
      nodes: copies * plan().nodes.length,
      resources,
      up: medians("up"),
      preview: medians("preview"),
    };
  } finally {
    for (const stack of stacks) stack.remove();
  }
}

/** The sizes as a table, and how the largest compares with the smallest. */
export function tableOf(measured: readonly Size[]): string {
  const [small, large] = [measured[0], measured.at(-1)];
  if (small === undefined || large === undefined) throw new RangeError("a table of nothing");
  const cells = ({ ours, bare }: Size[Timed]) =>
    `${ours.toFixed(2)} s | ${bare.toFixed(2)} s | ${(ours / bare).toFixed(2)}`;
  const longer = (of: Timed) =>
    `${of} takes ${programs.map((program) => `${(large[of][program] / small[of][program]).toFixed(2)} × as long (${program})`).join(", ")}`;
  return `| nodes | resources | up | bare up | ratio | preview | bare preview | ratio |
| ----- | --------- | -- | ------- | ----- | ------- | ------------ | ----- |
${measured.map((size) => `| ${size.nodes} | ${size.resources} | ${cells(size.up)} | ${cells(size.preview)} |`).join("\n")}

From ${small.nodes} to ${large.nodes} nodes there are ${(large.resources / small.resources).toFixed(2)} × as many resources: ${operations.map(longer).join("; ")}.`;
}

/** Measures one copy of the stack, then ten. Touches no stack, and asks Docker for nothing but its version. */
export async function benchGrowth(): Promise<void> {
  const say = (line: string) => process.stderr.write(`${line}\n`);
  await ensurePulumiCli(say);
  // The report names it, and better fails now than after the measuring.
  machine();
  const measured: Size[] = [];
  for (const copies of sizes) {
    say(`measuring ${copies * plan().nodes.length} nodes …`);
    measured.push(await measure(copies));
  }
  await report(
    "growth",
    "From nine nodes to ninety",
    `A second \`up\` (with refresh) and a preview with nothing to do, of \`index.ts\` once and ten times in one program, each copy with names, addresses and ports of its own. Beside them bare programs with as many resources: commands that do nothing, over as many providers, so that both start the same number of plugin processes. Each operation is a process of its own, and the loading of the program counts. Medians of ${rounds} rounds, turn by turn:

${tableOf(measured)}

Not in it: Docker. Both stand on the recording plugins of \`offline/recorder\`, so nothing is really made, and what the provider takes to look at real containers is in "Nothing to do" alone.`,
  );
}
