// What a person sees while the engine works: one line for each thing done, and only the errors that matter.

import { type EngineEvent } from "@pulumi/pulumi/automation/index.js";
import { note } from "../components/render/note.ts";

const verbs: Record<string, string> = {
  create: "created",
  update: "updated",
  delete: "deleted",
  // A replacement is three steps to the engine; to a person it is one, done when the new one is there.
  "create-replacement": "replaced",
};

/** Components and providers are only bookkeeping: nothing on a host changes with them. */
const bookkeeping = /^(siem:|pulumi:)/;

/** Prints a finished step, and what scripts note; keeps the engine's errors for the end. */
export class Progress {
  readonly errors: string[] = [];
  changes = 0;
  readonly #started = new Map<string, number>();

  constructor(private readonly print: (line: string) => void) {}

  readonly onEvent = (event: EngineEvent): void => {
    const before = event.resourcePreEvent?.metadata;
    if (before !== undefined) this.#started.set(before.urn + before.op, Date.now());
    const done = event.resOutputsEvent?.metadata;
    if (done !== undefined && verbs[done.op] !== undefined && !bookkeeping.test(done.type)) {
      this.changes++;
      const began = this.#started.get(done.urn + done.op);
      const seconds = began === undefined ? "" : ` (${((Date.now() - began) / 1000).toFixed(1)} s)`;
      this.print(
        `  ${verbs[done.op]} ${done.urn.split("::").at(-1)} ${done.type.split(":").at(-1)}${seconds}`,
      );
    }
    const said = event.diagnosticEvent;
    if (said?.severity === "error") this.errors.push(readable(strip(said.message)));
    else if (said?.severity === "warning") this.print(`  warning: ${strip(said.message).trim()}`);
    else if (said?.message.startsWith(note)) this.print(`  ${said.message.slice(note.length).trim()}`);
  };
}

/** Pulumi marks colours in its messages as <{%red%}>. */
function strip(message: string): string {
  return message.replace(/<\{%[^%]*%\}>/g, "");
}

/**
 * A failed command's error begins with the whole script; what it printed is what a person can act on. How it ended is said
 * where that tells more: it said nothing, or was killed.
 */
function readable(message: string): string {
  const [frame, status] =
    /^(exit status \d+|signal: \w+): running "[\s\S]*?\n?":(?:\n|$)/.exec(message) ?? [];
  if (frame === undefined) return message.trim();
  const said = message.slice(frame.length).trim();
  return status === "exit status 1" && said !== "" ? said : `${said} (${status})`.trim();
}
