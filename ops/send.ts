// `npm run send -- FILE`: posts log lines through the VIP and waits until every acknowledged one can be read.

import { createReadStream } from "node:fs";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Command } from "commander";
import { plan } from "../components/topology.ts";
import { mintToken } from "../services/token.ts";
import { entry } from "./entry.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, readSecret, stackConfig } from "./workspace.ts";

/** What `send` needs to know of the platform. */
export interface SendTarget {
  readonly api: string;
  readonly ingest: string;
  readonly token: string;
}

export interface SendResult {
  readonly lines: number;
  readonly acknowledged: number;
  readonly sendSeconds: number;
  /** From the last acknowledgement until every acknowledged event was readable. */
  readonly readableSeconds: number;
}

/** Posts in flight at once: enough to keep three ingestors busy, few enough not to be a load test. */
const inFlight = 6;

async function readTotal({ api, token }: SendTarget): Promise<number> {
  const now = Math.floor(Date.now() / 1000);
  const answer = await fetch(`${api}/v1/stats?from=0&to=${now + 86400}`, {
    headers: { authorization: `Bearer ${token}` },
    signal: AbortSignal.timeout(30_000),
  });
  if (!answer.ok) throw new Error(`the API answered ${answer.status}: ${await answer.text()}`);
  return ((await answer.json()) as { total: number }).total;
}

async function post({ ingest, token }: SendTarget, lines: readonly string[]): Promise<number> {
  for (let tries = 1; ; tries++) {
    const answer = await fetch(`${ingest}/v1/events`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "text/plain" },
      body: lines.join("\n"),
      signal: AbortSignal.timeout(60_000),
    });
    if (answer.status === 202) return ((await answer.json()) as { accepted: number }).accepted;
    const text = await answer.text();
    // Only an answer that says "not taken, come again" is tried again; anything else could double the events.
    if ((answer.status !== 429 && answer.status !== 503) || tries === 10) {
      throw new Error(`the ingestor answered ${answer.status}: ${text}`);
    }
    await sleep(1000 * Number(answer.headers.get("retry-after") ?? 1));
  }
}

/**
 * Sends every non-empty line. The lines are opened only here: a readline interface that is already reading while
 * something else is awaited loses lines.
 * @throws when a post is refused or an acknowledged event isn't readable in 120 s.
 */
export async function send(
  open: () => AsyncIterable<string> | Iterable<string>,
  target: SendTarget,
  batchSize: number,
  progress: (acknowledged: number) => void,
): Promise<SendResult> {
  const before = await readTotal(target);
  const began = Date.now();
  let count = 0;
  let acknowledged = 0;
  const active = new Set<Promise<void>>();
  const dispatch = async (batch: string[]) => {
    if (active.size >= inFlight) await Promise.race(active);
    const job = post(target, batch).then((accepted) => {
      acknowledged += accepted;
      progress(acknowledged);
      active.delete(job);
    });
    // A failure is reported where the jobs are awaited, at the latest at the end.
    job.catch(() => undefined);
    active.add(job);
  };
  let batch: string[] = [];
  for await (const line of open()) {
    if (line.trim() === "") continue;
    count++;
    batch.push(line);
    if (batch.length === batchSize) {
      await dispatch(batch);
      batch = [];
    }
  }
  if (batch.length > 0) await dispatch(batch);
  await Promise.all(active);
  const sent = Date.now();
  while ((await readTotal(target)) - before < acknowledged) {
    if (Date.now() - sent > 120_000) {
      throw new Error(
        `${acknowledged} events were acknowledged, but after 120 s only ${(await readTotal(target)) - before} can be read`,
      );
    }
    await sleep(100);
  }
  return {
    lines: count,
    acknowledged,
    sendSeconds: (sent - began) / 1000,
    readableSeconds: (Date.now() - sent) / 1000,
  };
}

async function main(file: string | undefined, options: { stack: string; tenant: string; batch: string }) {
  const batchSize = Number(options.batch);
  if (!Number.isInteger(batchSize) || batchSize < 1 || batchSize > 10000) {
    throw new Error(`--batch must be a whole number from 1 to 10000, but is ${options.batch}`);
  }
  const config = stackConfig(options.stack);
  const stack = await openStack(
    options.stack,
    await ensurePulumi((line) => process.stderr.write(`${line}\n`)),
  );
  const { api, ingest } = entry(plan(config.local), config);
  const token = await mintToken({
    secret: await readSecret(stack, "jwtSecret"),
    tenantId: options.tenant,
    scope: "events:write events:read",
    ttlSeconds: 3600,
    subject: "npm run send",
  });
  let shown = 0;
  const open = () =>
    createInterface({
      input:
        file === undefined || file === "-"
          ? process.stdin
          : createReadStream(resolve(process.env["INIT_CWD"] ?? ".", file)),
      crlfDelay: Infinity,
    });
  const result = await send(open, { api, ingest, token }, batchSize, (acknowledged) => {
    if (Date.now() - shown < 200) return;
    shown = Date.now();
    process.stderr.write(
      `${process.stderr.isTTY ? "\r" : ""}${acknowledged} acknowledged${process.stderr.isTTY ? "" : "\n"}`,
    );
  });
  if (process.stderr.isTTY) process.stderr.write("\r");
  const rate = Math.round(result.acknowledged / Math.max(result.sendSeconds, 0.001));
  process.stdout.write(
    `${result.acknowledged} of ${result.lines} lines acknowledged in ${result.sendSeconds.toFixed(2)} s (${rate} events/s); all readable ${result.readableSeconds.toFixed(2)} s later\n`,
  );
}

if (process.argv[1]?.endsWith("send.ts") === true) {
  const program = new Command("send")
    .description("posts log lines through the VIP and waits until they can be read")
    .argument("[file]", "log file; standard input without one")
    .option("-s, --stack <name>", "the stack", "local")
    .option("-t, --tenant <id>", "the tenant the events belong to", "demo")
    .option("--batch <n>", "lines in a post", "100")
    .action(main);
  try {
    await program.parseAsync();
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 1;
  }
  process.exit();
}
