// command:local:Command: runs a command at create, update and delete.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import type { Change, Context, Props, ResourceKind } from "../server.ts";
import { same } from "../server.ts";
import type { Fields, Shape } from "../shape.ts";
import { refuse } from "../shape.ts";

interface Inputs {
  readonly create?: string;
  readonly update?: string;
  readonly delete?: string;
  readonly environment?: Record<string, string>;
  readonly stdin?: string;
  readonly dir?: string;
  readonly interpreter?: readonly string[];
  readonly logging?: string;
  readonly addPreviousOutputInEnv?: boolean;
}

const what = "command.local.Command";

const fields: Fields & Record<keyof Inputs, Shape> = {
  create: "string",
  update: "string",
  delete: "string",
  environment: "map",
  stdin: "string",
  dir: "string",
  interpreter: { list: "string" },
  logging: "string",
  addPreviousOutputInEnv: "boolean",
};

/** These take any value, so their shape is not checked. */
const free = ["triggers", "assetPaths", "archivePaths"];
const running = new Set<number>();

/** Ends what is running, with everything it started. */
export function killRunning(): void {
  for (const pid of running) {
    try {
      process.kill(-pid, "SIGTERM");
    } catch {
      // It ended by itself just now.
    }
  }
}

/** New triggers replace, with the new create before the old delete; anything else runs `update`, or else `create`. */
export function diffCommand(state: Props, news: Props): Change {
  const properties = new Map<string, boolean>();
  for (const field of [...Object.keys(fields), ...free]) {
    if (!same(state[field], news[field])) properties.set(field, field === "triggers");
  }
  return { properties, deleteBeforeReplace: false };
}

async function run(
  command: string | undefined,
  props: Props,
  previous: Props,
  context: Context,
): Promise<Props> {
  if (command === undefined || command === "") return { stdout: "", stderr: "" };
  const inputs = props as unknown as Inputs;
  const [shell = "/bin/sh", ...args] = inputs.interpreter ?? ["/bin/sh", "-c"];
  const remembered =
    inputs.addPreviousOutputInEnv === false
      ? {}
      : { PULUMI_COMMAND_STDOUT: text(previous.stdout), PULUMI_COMMAND_STDERR: text(previous.stderr) };
  const child = spawn(shell, [...args, command], {
    cwd: inputs.dir,
    env: { ...process.env, ...remembered, ...inputs.environment },
    stdio: ["pipe", "pipe", "pipe"],
    // A group of its own, so that a limit or a cancel ends its children too.
    detached: true,
  });
  const logging = inputs.logging ?? "stdoutAndStderr";
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    const wanted = logging.toLowerCase().includes(name);
    child[name].setEncoding("utf8");
    let rest = "";
    child[name].on("data", (chunk: string) => {
      output[name] += chunk;
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      if (wanted) for (const line of lines) if (line !== "") context.log(line);
    });
    child[name].on("end", () => {
      if (wanted && rest !== "") context.log(rest);
    });
  }
  // A command that does not read its input closes the pipe early; its exit code is what counts.
  child.stdin.on("error", () => undefined);
  child.stdin.end(inputs.stdin ?? "");

  const end = await new Promise<string | undefined>((resolve, reject) => {
    const { pid } = child;
    if (pid !== undefined) running.add(pid);
    let late = false;
    const timer =
      context.timeout === undefined || pid === undefined
        ? undefined
        : setTimeout(() => {
            late = true;
            process.kill(-pid, "SIGKILL");
          }, context.timeout * 1000);
    const settle = (): void => {
      clearTimeout(timer);
      if (pid !== undefined) running.delete(pid);
    };
    child.once("error", (error) => {
      settle();
      reject(
        new Error(
          `can't run ${shell}${inputs.dir === undefined ? "" : ` in ${inputs.dir}`}: ${error.message}`,
        ),
      );
    });
    child.once("close", (code, signal) => {
      settle();
      if (late) resolve(`killed after ${context.timeout} s (customTimeouts)`);
      else if (signal !== null) resolve(`signal: ${signal}`);
      else resolve(code === 0 ? undefined : `exit status ${code}`);
    });
  });
  if (end !== undefined)
    throw new Error(`${end}: running "${command}":\n${output.stdout}${output.stderr}`.trimEnd());
  return { stdout: output.stdout.replace(/\n$/, ""), stderr: output.stderr.replace(/\n$/, "") };
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** The one type of the command plugin that the local stack uses. */
export const commandKind: ResourceKind = {
  derived: ["stdout", "stderr"],

  check(news, _olds, context) {
    for (const key of ["assetPaths", "archivePaths"]) {
      if (news[key] !== undefined) context.log(`the offline stand-in does not collect "${key}"`, "warning");
    }
    const shaped = Object.fromEntries(Object.entries(news).filter(([key]) => !free.includes(key)));
    return { failures: refuse(shaped, fields, what) };
  },

  diff: (state, news) => diffCommand(state, news),

  async create(news, context) {
    const output = await run((news as unknown as Inputs).create, news, {}, context);
    return { id: `${context.name}${randomBytes(4).toString("hex")}`, state: { ...news, ...output } };
  },

  read: (_id, state) => Promise.resolve(state),

  async update(_id, state, news, context) {
    const inputs = news as unknown as Inputs;
    return { ...news, ...(await run(inputs.update ?? inputs.create, news, state, context)) };
  },

  async delete(_id, state, context) {
    await run((state as unknown as Inputs).delete, state, state, context);
  },
};
