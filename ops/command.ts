// What operator commands have in common: flags that npm kept are noticed; those that change a stack are alone and can
// be interrupted, and ask before they destroy; all end in words.

import { createInterface } from "node:readline/promises";
import { type Command as Program } from "commander";
import { Held, take } from "./lock.ts";
import { interrupted, listen } from "./interruption.ts";
import { lockOf, stackNames } from "./workspace.ts";

export interface Command {
  /** As a person types it. */
  readonly name: string;
  readonly stack: string;
  /** Said when it is interrupted: in what state things are, and what to do. */
  readonly whereItStands: () => string;
  /** Done after a Ctrl-C, before the command ends. @default nothing */
  readonly cleanUp?: () => Promise<void>;
  readonly run: () => Promise<void>;
  /** What follows as a command of its own, when this one has given the stack back. @default nothing */
  readonly next?: () => void;
}

/** Runs it, and sets the exit code: 1 for an error, 130 for a Ctrl-C. */
export async function alone({ name, stack, whereItStands, cleanUp, run, next }: Command): Promise<void> {
  const say = (line: string) => process.stderr.write(`${line}\n`);
  listen(say, whereItStands, cleanUp);
  try {
    const release = await take(lockOf(stack), name);
    await run();
    release();
    next?.();
  } catch (error) {
    const stop = await interrupted();
    if (stop !== undefined) {
      say(whereItStands());
      process.exitCode = stop.code;
      return;
    }
    say(
      error instanceof Held
        ? `The stack ${stack} is in use: ${error.message}. Nothing was touched. Wait until it is done, or stop it with Ctrl-C where it runs. If that machine is gone, remove the file.`
        : (error as Error).message,
    );
    process.exitCode = 1;
  }
}

/**
 * Runs a command that changes no stack, and ends the process: with 1 and the reason when it failed. Connections to
 * Docker and to the engine would keep it alive.
 */
export async function toItsEnd(run: () => Promise<unknown>): Promise<never> {
  try {
    await run();
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 1;
  }
  process.exit();
}

/**
 * Options of ours that are settings of npm's, too. What npm hands on may come from a file or the environment, where it
 * means something else, so it is never taken for ours; those without harm there are not refused either.
 */
const npmsOwn = new Set(["scope", "yes"]);

/**
 * What is wrong with a command line of which npm kept a part for itself: before a lone `--` it takes every flag for its
 * own, known or not, and hands it on as `npm_config_<name>` alone.
 * @param words the command line as it came through
 */
export function keptByNpm(
  program: Program,
  words: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): string | undefined {
  const name = environment["npm_lifecycle_event"];
  if (name === undefined) return undefined;
  const options = [program, ...program.commands].flatMap((each) => each.options);
  const came = (flags: readonly (string | undefined)[]) =>
    words.some((word) => flags.some((flag) => word === flag || word.startsWith(`${flag}=`)));
  for (const { long, short, flags, required } of options) {
    const key = long?.slice(2) ?? "";
    const value = environment[`npm_config_${key.replaceAll("-", "_")}`] ?? "";
    if (value === "" || npmsOwn.has(key) || came([long, short])) continue;
    const argument = !required ? "" : ` ${value === "true" ? (/<.*>/.exec(flags)?.[0] ?? "") : value}`;
    return `npm kept ${long} for itself, so it did not get here. Nothing was touched. Write it after a lone --: npm run ${name} -- ${long}${argument}`;
  }
  // npm takes -s for --silent.
  const silent =
    environment["npm_config_loglevel"] === "silent" && options.some(({ short }) => short === "-s");
  if (silent && words.length > 0 && !came(["-s", "--stack"]) && stackNames().includes(words[0] ?? "")) {
    return `npm kept -s for itself (to it that is --silent), so ${words[0]} came without it. Nothing was touched. Write it after a lone --: npm run ${name} -- -s ${words.join(" ")}`;
  }
  return undefined;
}

/** Reads the command line and does what it says. */
export async function parse(program: Program): Promise<void> {
  const kept = keptByNpm(program, process.argv.slice(2), process.env);
  if (kept !== undefined) {
    process.stderr.write(`${kept}\n`);
    process.exit(1);
  }
  await program.parseAsync();
}

/**
 * Asks the person at the terminal to type a name before something is destroyed.
 * @param command the whole command that asks nothing, for the message
 * @throws when there is no terminal to ask at, or the answer is another one.
 */
export async function confirm(question: string, name: string, command: string): Promise<void> {
  if (!process.stdin.isTTY) {
    throw new Error(
      `This has to be confirmed, and there is no terminal to ask at. Nothing was touched. Without a question: ${command}`,
    );
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  // It would take a Ctrl-C for itself.
  terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  const answer = await terminal.question(`${question} Type ${name}: `);
  terminal.close();
  if (answer.trim() !== name) throw new Error("Not confirmed: nothing was touched.");
}
