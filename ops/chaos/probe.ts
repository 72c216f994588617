// Measures what clients of the virtual IP lose: runs the client beside, and keeps what it reports.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Attempt } from "./outage.ts";

export interface ProbeOptions {
  /** A connection for each request, or a few that are kept. @default new */
  readonly mode?: "new" | "keep-alive";
  readonly host: string;
  readonly port: number;
  readonly path: string;
  /** How long it waits for an answer, milliseconds. @default 900, so that a lost first packet is a loss */
  readonly limitMs?: number;
}

export class Probe {
  readonly attempts: Attempt[] = [];
  readonly #child;
  readonly #ready: Promise<void>;
  readonly #ended: Promise<void>;

  constructor({ mode = "new", host, port, path, limitMs = 900 }: ProbeOptions) {
    this.#child = spawn(
      process.execPath,
      [
        ...["--import", "tsx", join(import.meta.dirname, "vip-client.ts"), mode],
        ...[host, String(port), path, String(limitMs)],
      ],
      // A group of its own: a Ctrl-C must not end the measuring before the fault is undone.
      { stdio: ["pipe", "pipe", "inherit"], detached: true },
    );
    this.#ended = new Promise((resolve) => this.#child.once("close", () => resolve()));
    this.#ready = new Promise((resolve, reject) => {
      this.#child.once("close", () => reject(new Error("the client of the VIP ended without an answer")));
      createInterface({ input: this.#child.stdout }).on("line", (line) => {
        if (line === "ready") resolve();
        else this.attempts.push(attemptOf(line));
      });
    });
    // Whoever never waits for the first answer is not told by an unhandled rejection either.
    this.#ready.catch(() => undefined);
  }

  /** Waits for the first answer. */
  ready(): Promise<void> {
    return this.#ready;
  }

  /** Ends it when its last request has been answered or given up. */
  async stop(): Promise<readonly Attempt[]> {
    this.#child.stdin.end();
    await this.#ended;
    return this.attempts;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}

/** A line of the client's. */
export function attemptOf(line: string): Attempt {
  const [at = "", ms = "", ...error] = line.split(" ");
  const why = error.join(" ");
  return { at: Number(at), ms: Number(ms), ...(why === "" ? {} : { error: why }) };
}
