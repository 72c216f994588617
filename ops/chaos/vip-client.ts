// A client of the virtual IP, in a process of its own so that nothing else slows it down: opens a connection every ten
// milliseconds, or keeps a few open. Says "ready" after its first answer, then one line for each request: when it began
// (milliseconds since 1970), how long it took, and why it failed. It ends with its input.

import { Agent, request } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

const [mode = "", host = "", port = "", path = "", limit = ""] = process.argv.slice(2);
const limitMs = Number(limit);

let answered = false;
let going = true;

function once(agent: Agent | false): Promise<void> {
  const started = performance.now();
  return new Promise((resolve) => {
    const done = (error?: string) => {
      // Before the first answer there is nothing to lose yet.
      if (!answered && error === undefined) process.stdout.write("ready\n");
      answered ||= error === undefined;
      if (answered) {
        const at = performance.timeOrigin + started;
        const ms = performance.now() - started;
        process.stdout.write(`${at.toFixed(1)} ${ms.toFixed(1)} ${error ?? ""}\n`);
      }
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

process.stdin.resume().once("end", () => {
  going = false;
});
// Whoever started it is gone, and there is nobody to tell.
process.stdout.on("error", () => process.exit());
await (mode === "keep-alive" ? keepAlive() : everyTenMs());
