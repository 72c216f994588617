// `npm run send -- FILE`: posts log lines through the VIP and waits until every acknowledged one can be read.

import { createReadStream, existsSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Command } from "commander";
import { topologyOf } from "../components/config.ts";
import { uuidV7 } from "../services/common/uuid.ts";
import { isTenantName, tenantRule } from "../services/common/auth.ts";
import { mintToken } from "../services/token.ts";
import { parse, toItsEnd } from "./command.ts";
import { entry } from "./entry.ts";
import { type Answer, asked, isPassing, post } from "./ledger.ts";
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

/** A line of the input: its event has an id of ours, so that a post which is repeated stores the same events. */
interface Line {
  /** Counted from 1, with the empty ones, as an editor does. */
  readonly number: number;
  readonly json: string;
}

/** A post is cut here too: the ingestor takes 5 MiB. */
const maxBodyBytes = 4 * 1024 * 1024;
const maxTries = 10;

/** Posts in flight at once: enough to keep three ingestors busy, few enough not to be a load test. */
const inFlight = 6;

/** Asks until the answer says something, or gives the last one that did not. */
async function decided(ask: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 1; ; tries++) {
    const answer = await ask();
    if (!isPassing(answer.status) || tries === maxTries) return answer;
    await sleep(1000 * (answer.retryAfterSeconds ?? 1));
  }
}

async function readTotal({ api, token }: SendTarget): Promise<number> {
  const now = Math.floor(Date.now() / 1000);
  const url = `${api}/v1/stats?from=0&to=${now + 86400}`;
  const headers = { authorization: `Bearer ${token}` };
  const { status, text } = await decided(() => asked(url, { headers }, 30_000));
  if (status === 0) throw new Error(`no answer from the API: ${text}`);
  if (status !== 200) throw new Error(`the API answered ${status}: ${text}`);
  return (JSON.parse(text) as { total: number }).total;
}

/** Posts until it is acknowledged; whether something was stored before does not matter, the ids being the same. */
async function postLines(target: SendTarget, lines: readonly Line[]): Promise<number> {
  const given = { type: "application/x-ndjson", body: lines.map(({ json }) => json).join("\n") } as const;
  const { status, text } = await decided(() => post(target, given, 60_000));
  if (status === 202) return (JSON.parse(text) as { accepted: number }).accepted;
  if (status === 0) throw new Error(`no answer: ${text}`);
  const line = lines[Number(/"line":(\d+)/.exec(text)?.[1]) - 1];
  const where = line ? ` about line ${line.number} of the input (below, lines are the post's)` : "";
  throw new Error(`the ingestor answered ${status}${where}: ${text.trim()}`);
}

/** "3 to 5, 8": the first and last lines of posts. */
function ranges(posts: readonly (readonly Line[])[]): string {
  return posts
    .map((lines) => [lines[0]?.number, lines.at(-1)?.number])
    .sort(([a = 0], [b = 0]) => a - b)
    .map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`))
    .join(", ");
}

/**
 * Sends every non-empty line. The lines are opened only here: a readline interface that is already reading while
 * something else is awaited loses lines.
 * @throws when a post is refused or stays without an answer, naming the lines that are not acknowledged; and when an
 * acknowledged event isn't readable in 120 s.
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
  const failed: Line[][] = [];
  let failure: Error | undefined;
  const dispatch = async (lines: Line[]) => {
    if (active.size >= inFlight) await Promise.race(active);
    if (failure) return;
    const job = postLines(target, lines)
      .then((accepted) => {
        acknowledged += accepted;
        progress(acknowledged);
      })
      .catch((error: unknown) => {
        failure ??= error as Error;
        failed.push(lines);
      })
      .finally(() => active.delete(job));
    active.add(job);
    next = lines.at(-1)!.number + 1;
  };
  let batch: Line[] = [];
  let bytes = 0;
  let number = 0;
  let next = 1;
  for await (const text of open()) {
    number++;
    if (text.trim() === "") continue;
    const line = { number, json: JSON.stringify({ event_id: uuidV7(new Date()), raw_event: text }) };
    const size = Buffer.byteLength(line.json) + 1;
    if (batch.length === batchSize || (batch.length > 0 && bytes + size > maxBodyBytes)) {
      await dispatch(batch);
      batch = [];
      bytes = 0;
    }
    if (failure) break;
    count++;
    batch.push(line);
    bytes += size;
  }
  if (batch.length > 0) await dispatch(batch);
  await Promise.all(active);
  if (failure) {
    throw new Error(
      `${failure.message}\n${acknowledged} lines were acknowledged. Lines ${ranges(failed)} were not, though some of them may be stored; nothing from line ${next} on was sent.`,
    );
  }
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
  if (!isTenantName(options.tenant)) {
    throw new Error(`--tenant must be ${tenantRule}, but is ${JSON.stringify(options.tenant)}`);
  }
  const path = file === undefined || file === "-" ? undefined : resolve(process.env["INIT_CWD"] ?? ".", file);
  if (path !== undefined && statSync(path, { throwIfNoEntry: false })?.isDirectory() !== false) {
    throw new Error(
      `${path} ${existsSync(path) ? "is a directory" : "does not exist"}: give a file of log lines, or "-" for standard input`,
    );
  }
  const config = stackConfig(options.stack);
  const stack = await openStack(
    options.stack,
    await ensurePulumi((line) => process.stderr.write(`${line}\n`)),
  );
  const { api, ingest } = entry(topologyOf(config), config);
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
      input: path === undefined ? process.stdin : createReadStream(path),
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
  await toItsEnd(() => parse(program));
}
