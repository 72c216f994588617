// A client of the virtual IP, in a process of its own so that nothing else slows it down: opens a connection every ten
// milliseconds, or keeps a few open. Says "ready" after its first answer; on the end of its input it prints what failed.

import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** What the client saw. */
export interface Seen {
  readonly requests: number;
  readonly failed: number;
  /** Longest time from a failed request to the next one that was answered, milliseconds. */
  readonly outageMs: number;
  /** How the failed ones failed: message → count. */
  readonly errors: Readonly<Record<string, number>>;
}

const [mode = "", host = "", port = "", path = "", limit = ""] = process.argv.slice(2);
const limitMs = Number(limit);

interface Attempt {
  readonly started: number;
  readonly error?: string;
}

const attempts: Attempt[] = [];
let going = true;

function once(agent: Agent | false): Promise<void> {
  const started = performance.now();
  return new Promise((resolve) => {
    const done = (error?: string) => {
      if (attempts.length === 0 && error === undefined) process.stdout.write("ready\n");
      // Before the first answer there is nothing to lose yet.
      if (attempts.length > 0 || error === undefined)
        attempts.push({ started, ...(error === undefined ? {} : { error }) });
      resolve();
    };
    const signal = AbortSignal.timeout(limitMs);
    const asked = request({ host, port: Number(port), path, agent, signal }, (answer) => {
      answer.resume();
      answer.once("end", () =>
        done((answer.statusCode ?? 500) < 500 ? undefined : `status ${answer.statusCode}`),
      );
      answer.once("error", (error) => done((error as NodeJS.ErrnoException).code ?? error.message));
    });
    asked.once("error", (error) => done((error as NodeJS.ErrnoException).code ?? error.message));
    asked.end();
  });
}

async function everyTenMs(): Promise<void> {
  const open = new Set<Promise<void>>();
  for (let next = performance.now(); going; next = Math.max(next + 10, performance.now())) {
    await sleep(Math.max(0, next - performance.now()));
    const attempt = once(false);
    open.add(attempt);
    void attempt.then(() => open.delete(attempt));
  }
  await Promise.all(open);
}

async function keepAlive(): Promise<void> {
  const one = async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    while (going) {
      await once(agent);
      await sleep(4);
    }
    agent.destroy();
  };
  await Promise.all([one(), one(), one(), one()]);
}

function seen(): Seen {
  const errors: Record<string, number> = {};
  let failed = 0;
  let outageMs = 0;
  let since: number | undefined;
  for (const { started, error } of attempts.sort((a, b) => a.started - b.started)) {
    if (error === undefined) {
      if (since !== undefined) outageMs = Math.max(outageMs, started - since);
      since = undefined;
      continue;
    }
    failed++;
    errors[error] = (errors[error] ?? 0) + 1;
    since ??= started;
  }
  // Still out at the end.
  const last = attempts.at(-1);
  if (since !== undefined && last !== undefined)
    outageMs = Math.max(outageMs, last.started + limitMs - since);
  return { requests: attempts.length, failed, outageMs: Math.round(outageMs), errors };
}

process.stdin.resume().once("end", () => {
  going = false;
});
await (mode === "keep-alive" ? keepAlive() : everyTenMs());
process.stdout.write(`${JSON.stringify(seen())}\n`);
