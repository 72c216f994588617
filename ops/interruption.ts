// Ctrl-C and its kin: the engine finishes what it is doing and records it, and the person learns where things stand.

import { type ChildProcess, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, isAbsolute } from "node:path";
import { type PulumiCommand } from "@pulumi/pulumi/automation/index.js";

interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number;
}

// Both are there, but not in the type declarations; the Automation API tells its errors apart by their classes.
const require = createRequire(import.meta.url);
const { CommandResult } = require("@pulumi/pulumi/automation/cmd.js") as {
  CommandResult: new (stdout: string, stderr: string, code: number) => CommandResult;
};
const { createCommandError } = require("@pulumi/pulumi/automation/errors.js") as {
  createCommandError: (result: CommandResult) => Error;
};

/** The exit code that shells give a process that ended by a signal. */
const codes = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
type Signal = keyof typeof codes;

/** One Ctrl-C arrives up to three times: from the terminal, from npm, from whoever passes it on. */
const oneKeyPress = 500;
/** How long an engine that was told to stop at once may take. */
const patience = 10_000;

/** Something was to begin after the person had asked to stop. */
export class Interrupted extends Error {}

interface Running {
  readonly child: ChildProcess;
  /** An operation that stops in order when it is asked to; anything else is short and is left to end. */
  readonly operation: boolean;
}

const running = new Set<Running>();
let received: Signal | undefined;

/** The signal that asked this process to stop, if one did. */
export async function interrupted(): Promise<{ readonly signal: Signal; readonly code: number } | undefined> {
  // A program that died of the same Ctrl-C may be noticed before the signal itself.
  await new Promise((resolve) => setTimeout(resolve, 50));
  return received === undefined ? undefined : { signal: received, code: codes[received] };
}

/**
 * From now on a signal stops the engine in order, if it is at work, and ends the process at once if it is not. The
 * second one stops the engine at once.
 * @param cleanUp what must be done before the process ends; a second signal does not wait for it
 */
export function listen(
  print: (line: string) => void,
  whereItStands: () => string,
  cleanUp?: () => Promise<void>,
): void {
  let last = 0;
  // A terminal that was closed takes no more lines; that must not end the engine's orderly stop.
  process.stdout.on("error", () => undefined);
  process.stderr.on("error", () => undefined);
  for (const signal of Object.keys(codes) as Signal[]) {
    process.on(signal, () => {
      const now = Date.now();
      if (now - last < oneKeyPress) return;
      last = now;
      const again = received !== undefined;
      received ??= signal;
      const operations = [...running].filter(({ operation }) => operation);
      if (operations.length === 0) {
        if (running.size > 0 && !again) return;
        const code = codes[received];
        const end = () => {
          print(whereItStands());
          process.exit(code);
        };
        if (cleanUp === undefined || again) end();
        else
          void cleanUp()
            .catch((error: unknown) => print((error as Error).message))
            .finally(end);
        return;
      }
      print(
        again
          ? "stopping at once …"
          : "stopping: what is being made right now is finished and recorded first; Ctrl-C again stops at once",
      );
      for (const { child } of operations) {
        child.kill("SIGINT");
        if (again) setTimeout(() => child.kill("SIGKILL"), patience).unref();
      }
    });
  }
}

/** Asks every engine that is at work to stop in order. @returns whether there was one */
export function stopOperations(): boolean {
  const found = [...running].filter(({ operation }) => operation);
  for (const { child } of found) child.kill("SIGINT");
  return found.length > 0;
}

const operations = new Set(["up", "destroy", "refresh", "preview"]);

interface Run {
  run(
    args: string[],
    cwd: string,
    environment: Record<string, string>,
    onOutput?: (text: string) => void,
    onError?: (text: string) => void,
  ): Promise<CommandResult>;
}

/**
 * The same command, run apart from the terminal: a Ctrl-C reaches this process alone, which passes it on once. The
 * engine takes a second one as leave to drop what it is doing.
 */
export function apart(command: PulumiCommand): PulumiCommand {
  const own = Object.create(command) as PulumiCommand & Run;
  own.run = async (args, cwd, environment, onOutput, onError) => {
    if (received !== undefined) throw new Interrupted("interrupted");
    const path = isAbsolute(command.command)
      ? { PATH: `${dirname(command.command)}:${environment["PATH"] ?? process.env["PATH"] ?? ""}` }
      : {};
    const all = args.includes("--non-interactive") ? args : [...args, "--non-interactive"];
    const child = spawn(command.command, all, {
      cwd,
      env: { ...process.env, ...environment, ...path, PULUMI_AUTOMATION_API: "true" },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    const entry: Running = { child, operation: operations.has(args[0] ?? "") };
    running.add(entry);
    const text = { stdout: "", stderr: "" };
    for (const [name, tell] of [
      ["stdout", onOutput],
      ["stderr", onError],
    ] as const) {
      child[name].setEncoding("utf8").on("data", (chunk: string) => {
        text[name] += chunk;
        tell?.(chunk);
      });
    }
    const refuse = (reason: string) => createCommandError(new CommandResult("", reason, -2));
    try {
      const [code, by] = await new Promise<[number | null, string | null]>((resolve, reject) => {
        child.once("error", (error) => reject(refuse(`can't run ${command.command}: ${error.message}`)));
        child.once("close", (...end) => resolve(end));
      });
      if (code !== 0) {
        const end = by === null ? `exit code ${code}` : `signal ${by}`;
        throw refuse(`pulumi ${args[0]} ended with ${end}\n${text.stderr}\n${text.stdout}`.trim());
      }
      return new CommandResult(text.stdout.replace(/\n$/, ""), text.stderr.replace(/\n$/, ""), 0);
    } finally {
      running.delete(entry);
    }
  };
  return own;
}
