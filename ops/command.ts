// What operator commands have in common: those that change a stack are alone and can be interrupted; all end in words.

import { Held, take } from "./lock.ts";
import { interrupted, listen } from "./interruption.ts";
import { lockOf } from "./workspace.ts";

export interface Command {
  /** As a person types it. */
  readonly name: string;
  readonly stack: string;
  /** Said when it is interrupted: in what state things are, and what to do. */
  readonly whereItStands: () => string;
  /** Done after a Ctrl-C, before the command ends. @default nothing */
  readonly cleanUp?: () => Promise<void>;
  readonly run: () => Promise<void>;
}

/** Runs it, and sets the exit code: 1 for an error, 130 for a Ctrl-C. */
export async function alone({ name, stack, whereItStands, cleanUp, run }: Command): Promise<void> {
  const say = (line: string) => process.stderr.write(`${line}\n`);
  listen(say, whereItStands, cleanUp);
  try {
    await take(lockOf(stack), name);
    await run();
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
