// An `up` and a preview with nothing to do, beside a bare program with as many trivial resources.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as command from "@pulumi/command";
import { LocalWorkspace, type Stack } from "@pulumi/pulumi/automation/index.js";
import { ensurePulumi } from "../ops/toolchain.ts";
import { openStack, recorded } from "../ops/workspace.ts";
import { median, report, verdict } from "./report.ts";

const rounds = 5;

/** A stack with this many commands that do nothing, deployed, in a directory of its own. */
async function bare(count: number, directory: string, cli: Awaited<ReturnType<typeof ensurePulumi>>) {
  const name = `bare-${count}`;
  writeFileSync(join(directory, "Pulumi.yaml"), "name: bare\nruntime: nodejs\n");
  const stack = await LocalWorkspace.createOrSelectStack(
    {
      stackName: name,
      projectName: "bare",
      program: () => {
        for (let i = 0; i < count; i++) new command.local.Command(`nothing-${i}`, { create: ":" });
        return Promise.resolve({});
      },
    },
    {
      workDir: directory,
      pulumiCommand: cli,
      envVars: {
        PULUMI_BACKEND_URL: `file://${directory}`,
        PULUMI_CONFIG_PASSPHRASE: "bench",
        PULUMI_SKIP_UPDATE_CHECK: "true",
      },
    },
  );
  await stack.up();
  return stack;
}

const timed = async (run: () => Promise<unknown>): Promise<number> => {
  const began = performance.now();
  await run();
  return (performance.now() - began) / 1000;
};

/** Runs both in turn; the stack must be up to date. */
export async function benchIdle(stackName: string): Promise<void> {
  const cli = await ensurePulumi((line) => process.stderr.write(`${line}\n`));
  const stack = await openStack(stackName, cli);
  const { resources } = await recorded(stack);
  const count = resources.filter(({ id }) => id !== undefined).length;
  if (count === 0) throw new Error(`the stack ${stackName} is not there: npm run up -- -s ${stackName}`);
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-bench-"));
  try {
    const other = await bare(count, directory, cli);
    const up = async (which: Stack) => {
      const { summary } = await which.up({ refresh: true, suppressOutputs: true });
      const { same: _same, ...changed } = summary.resourceChanges ?? {};
      if (Object.keys(changed).length > 0) throw new Error(`not idle: ${JSON.stringify(changed)}`);
    };
    const preview = (which: Stack) => which.preview({ suppressOutputs: true });
    const ratios = { up: [] as number[], preview: [] as number[] };
    const rows: string[] = [];
    for (let round = 0; round <= rounds; round++) {
      const ours = { up: await timed(() => up(stack)), preview: await timed(() => preview(stack)) };
      const bareTimes = { up: await timed(() => up(other)), preview: await timed(() => preview(other)) };
      // The first round fills caches for both.
      if (round === 0) continue;
      ratios.up.push(ours.up / bareTimes.up);
      ratios.preview.push(ours.preview / bareTimes.preview);
      rows.push(
        `| ${round} | ${ours.up.toFixed(2)} s | ${bareTimes.up.toFixed(2)} s | ${ours.preview.toFixed(2)} s | ${bareTimes.preview.toFixed(2)} s |`,
      );
    }
    await report(
      "idle",
      "Nothing to do",
      `A second \`up\` (with refresh) and a preview of the stack with its ${count} resources, beside a bare program with ${count} commands that do nothing, in turn, without the start of \`npm\`:

| round | up | bare up | preview | bare preview |
| ----- | -- | ------- | ------- | ------------ |
${rows.join("\n")}

Median ratio of up: ${verdict(median(ratios.up), { most: 1.5 })}; of preview: ${verdict(median(ratios.preview), { most: 1.5 })}.`,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}
