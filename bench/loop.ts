// How long one request holds the event loop of an ingestor or of an API: the largest that each takes, beside one JSON
// text of the same size that is read or written in one piece.

import { once } from "node:events";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { FastifyInstance } from "fastify";
import { createApi } from "../services/api/app.ts";
import { maxAnswerBytes, type Row } from "../services/api/replicas.ts";
import { createIngestor } from "../services/ingestor/app.ts";
import { Pipeline } from "../services/ingestor/pipeline.ts";
import { parseRules } from "../services/ingestor/rules.ts";
import { mintToken } from "../services/token.ts";
import { median, report, verdict } from "./report.ts";

const rounds = 9;
/** Milliseconds that no request may hold the loop (decision 19). */
const allowedMs = 25;
const secret = "0123456789abcdef0123456789abcdef";

const line = (n: number) =>
  `Dec 10 07:13:${String(n % 60).padStart(2, "0")} host sshd[${n}]: Failed password for root from 192.0.2.${n % 250} port ${1000 + n} ssh2`;
const lines = Array.from({ length: 10_000 }, (_, n) => line(n));
const events = JSON.stringify(lines.map((raw_event) => ({ raw_event })));
const rows: Row[] = Array.from({ length: 1000 }, (_, n) => ({
  event_id: `event-${n}`,
  event_timestamp: 1_900_000_000 - n,
  raw_event: line(n).repeat(70),
  version: "1",
}));
const answer = JSON.stringify({ events: rows });
if (answer.length > maxAnswerBytes) throw new Error("no API would read so much");

interface Case {
  readonly what: string;
  readonly app: FastifyInstance;
  readonly path: string;
  readonly contentType?: string;
  /** What is posted. @default it is a GET */
  readonly body?: string;
  /** The same in one piece. */
  readonly plain: () => unknown;
}

/** The longest that the loop was held while this was done, milliseconds. */
async function held(work: () => Promise<unknown>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  try {
    // It counts from its second look on, and what is held last is seen at the next one.
    await sleep(10);
    await work();
    await sleep(10);
  } finally {
    delay.disable();
  }
  return delay.max / 1e6;
}

/** What the client runs, in a thread with a loop of its own; each message is one request. */
const clientProgram = `const { parentPort, workerData } = require("node:worker_threads");
parentPort.on("message", async () => {
  const answer = await fetch(workerData.url, workerData.init);
  await answer.arrayBuffer();
  parentPort.postMessage(answer.status);
});`;

async function request(client: Worker): Promise<void> {
  const answered = once(client, "message");
  client.postMessage("ask");
  const [status] = (await answered) as [number];
  if (status >= 300) throw new Error(`answered ${status}`);
}

/** Runs by itself, without a stack. */
export async function benchLoop(): Promise<void> {
  const keys = { current: new TextEncoder().encode(secret) };
  const quiet = { keys, lifecycle: { draining: false }, quiet: true };
  const publisher = { connected: true, publish: () => Promise.resolve() };
  const ingestor = createIngestor({
    pipeline: new Pipeline({ publisher, rules: parseRules(), eventsTopic: "e", alertsTopic: "a" }),
    ...quiet,
  });
  const reader = { query: () => Promise.resolve(rows), ping: () => Promise.resolve(true) };
  const api = createApi({ reader, ...quiet });
  const ingest = { app: ingestor, path: "/v1/events" };
  const read = () => JSON.parse(events) as unknown;
  const cases: readonly Case[] = [
    { ...ingest, what: "10,000 events as JSON", contentType: "application/json", body: events, plain: read },
    {
      ...ingest,
      what: "10,000 lines of text",
      contentType: "text/plain",
      body: lines.join("\n"),
      plain: read,
    },
    {
      app: api,
      what: `a page of ${(answer.length / 2 ** 20).toFixed(1)} MiB`,
      path: "/v1/events?limit=1000",
      plain: () => Buffer.from(JSON.stringify({ events: rows })),
    },
  ];
  const token = await mintToken({
    secret,
    tenantId: "bench",
    scope: "events:read events:write",
    ttlSeconds: 600,
    subject: "bench",
  });
  const authorization = `Bearer ${token}`;
  const urls = new Map<FastifyInstance, string>();
  for (const app of [ingestor, api]) urls.set(app, await app.listen({ host: "127.0.0.1", port: 0 }));
  const table: string[] = [];
  const ours: number[] = [];
  try {
    for (const one of cases) {
      const { app, path, contentType, body } = one;
      const init =
        body === undefined
          ? { headers: { authorization } }
          : { method: "POST", headers: { authorization, "content-type": contentType }, body };
      const worker = new Worker(clientProgram, {
        eval: true,
        workerData: { url: `${urls.get(app)}${path}`, init },
      });
      const times = { request: [] as number[], plain: [] as number[] };
      // The first round compiles what the others run.
      for (let round = 0; round <= rounds; round++) {
        const ofRequest = await held(() => request(worker));
        const plain = await held(() => Promise.resolve(one.plain()));
        if (round === 0) continue;
        times.request.push(ofRequest);
        times.plain.push(plain);
      }
      await worker.terminate();
      ours.push(...times.request);
      const cell = (all: readonly number[]) =>
        `${median(all).toFixed(1)} / ${Math.max(...all).toFixed(1)} ms`;
      table.push(`| ${one.what} | ${cell(times.request)} | ${cell(times.plain)} |`);
    }
  } finally {
    await ingestor.close();
    await api.close();
  }
  await report(
    "loop",
    "What one request holds up",
    `The longest turn of the event loop during one request, in one process without a stack behind it (median / worst of ${rounds}), beside JSON of the same content in one piece:

| request | loop held | in one piece |
| ------- | --------- | ------------ |
${table.join("\n")}

The worst of all, as a part of the ${allowedMs} ms that no request may take ([decision 19](decisions/0019-no-request-holds-the-event-loop.md)): ${verdict(Math.max(...ours) / allowedMs, { most: 1 })}.`,
  );
}
