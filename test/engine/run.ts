// One run of the real engine on the recording plugins, in a process of its own (why: test/offline/engine.ts).
// Usage: tsx test/engine/run.ts up|preview|refresh|destroy, with the request as JSON on standard input.

import { join } from "node:path";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";
import type { EngineEvent, PulumiFn } from "@pulumi/pulumi/automation/index.js";
import { LocalWorkspace } from "@pulumi/pulumi/automation/index.js";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { folderVariable } from "../../offline/recorder/world.ts";

export interface Request {
  /** Pulumi's home, backend and work directory, and the record. */
  readonly folder: string;
  readonly project: string;
  readonly stack: string;
  /** Module whose default export, or else all of whose exports, is the program's outputs. */
  readonly program: string;
  /** Plain values and secrets, by their full keys. */
  readonly config: Readonly<Record<string, string>>;
  readonly secrets: Readonly<Record<string, string>>;
  /** URNs to replace. */
  readonly replace?: readonly string[];
  readonly refresh?: boolean;
  /**
   * The state is written after each step, as it always is in real life; with some hundred resources that takes longer
   * than the steps. @default it is written once, at the end
   */
  readonly checkpoints?: boolean;
  /** For a destroy, which the Automation API does without the preview that `pulumi destroy` begins with. */
  readonly previewOnly?: boolean;
}

/** What one resource went through, in order. */
export interface Step {
  readonly op: string;
  readonly urn: string;
  readonly type: string;
}

export interface Result {
  readonly ok: boolean;
  /** The engine's errors, or the message of a program that could not run. */
  readonly errors: readonly string[];
  readonly warnings: readonly string[];
  readonly changes: Readonly<Record<string, number>>;
  readonly steps: readonly Step[];
  readonly outputs: Readonly<Record<string, unknown>>;
  /** How long the operation took, with the start of the program and of the plugins. */
  readonly seconds: number;
}

/** Told on standard error as soon as this file runs. */
const startedLine = "engine run: started";
export const passphrase = "of the tests";

async function main(operation: string | undefined, request: Request): Promise<Result> {
  const { folder, project, stack: stackName } = request;
  const cli = await ensurePulumiCli((line) => console.error(line));
  const program: PulumiFn = async () => ({
    ...((await import(pathToFileURL(request.program).href)) as Record<string, unknown>),
  });
  const backend = { url: `file://${folder}` };
  const stack = await LocalWorkspace.createOrSelectStack(
    { stackName, projectName: project, program },
    {
      pulumiCommand: cli.command,
      pulumiHome: join(folder, "home"),
      workDir: folder,
      projectSettings: { name: project, runtime: "nodejs", backend },
      envVars: {
        PULUMI_CONFIG_PASSPHRASE: passphrase,
        PULUMI_BACKEND_URL: backend.url,
        PULUMI_SKIP_UPDATE_CHECK: "true",
        PULUMI_SKIP_CHECKPOINTS: String(request.checkpoints !== true),
        [folderVariable]: folder,
      },
    },
  );
  const plain = Object.entries(request.config).map(([key, value]) => [key, { value }] as const);
  const secret = Object.entries(request.secrets).map(
    ([key, value]) => [key, { value, secret: true }] as const,
  );
  await stack.setAllConfig(Object.fromEntries([...plain, ...secret]));

  const steps: Step[] = [];
  const errors: string[] = [];
  const warnings: string[] = [];
  let changes: Record<string, number> = {};
  const onEvent = (event: EngineEvent): void => {
    const done =
      event.resOutputsEvent?.metadata ??
      (operation === "preview" ? event.resourcePreEvent?.metadata : undefined);
    if (done !== undefined) steps.push({ op: done.op, urn: done.urn, type: done.type });
    const said = event.diagnosticEvent;
    if (said?.severity === "error") errors.push(plainText(said.message));
    if (said?.severity === "warning") warnings.push(plainText(said.message));
    if (event.summaryEvent !== undefined) changes = event.summaryEvent.resourceChanges;
  };
  const options = {
    onEvent,
    suppressOutputs: true,
    ...(request.replace === undefined ? {} : { replace: [...request.replace] }),
    ...(request.refresh === undefined ? {} : { refresh: request.refresh }),
  };
  let ok = true;
  let outputs: Record<string, unknown> = {};
  const began = performance.now();
  try {
    switch (operation) {
      case "up": {
        const result = await stack.up(options);
        outputs = Object.fromEntries(
          Object.entries(result.outputs).map(([key, { value }]) => [key, value as unknown]),
        );
        break;
      }
      case "preview":
        await stack.preview(options);
        break;
      case "refresh":
        await stack.refresh({ onEvent, suppressOutputs: true });
        break;
      case "destroy":
        await stack.destroy({ onEvent, suppressOutputs: true, previewOnly: request.previewOnly ?? false });
        break;
      default:
        throw new Error(`the operation must be up, preview, refresh or destroy, but is ${String(operation)}`);
    }
  } catch (error) {
    ok = false;
    if (errors.length === 0) errors.push((error as Error).message);
  }
  const seconds = (performance.now() - began) / 1000;
  return { ok, errors, warnings, changes, steps, outputs, seconds };
}

/** Pulumi marks colours in its messages as <{%red%}>. */
function plainText(message: string): string {
  return message.replace(/<\{%[^%]*%\}>/g, "").trim();
}

if (process.argv[1]?.endsWith("engine/run.ts") === true) {
  // As ops/run.mjs does.
  process.setSourceMapsEnabled(false);
  try {
    console.error(startedLine);
    const result = await main(process.argv[2], JSON.parse(await text(process.stdin)) as Request);
    process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit());
  } catch (error) {
    console.error((error as Error).stack);
    process.exit(1);
  }
}
