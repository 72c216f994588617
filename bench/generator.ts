// Makes the load, inside the stack's own network: posts through the VIP, or the same messages straight to Kafka.
// It reads one task as JSON on standard input, and writes what it measured as JSON.

import { randomBytes } from "node:crypto";
import { text } from "node:stream/consumers";
import { Agent, request } from "node:http";
import { ProduceAcks, Producer, stringSerializers } from "@platformatic/kafka";
import { mintToken } from "../services/token.ts";

/** What one run does. Secrets come in here too, on standard input. */
export interface Task {
  readonly mode: "posts" | "kafka";
  readonly seconds: number;
  /** Posts, or sends, in flight at once. */
  readonly concurrency: number;
  /** Events in each post or send. */
  readonly batch: number;
  readonly ingest: string;
  readonly jwtSecret: string;
  readonly tenant: string;
  readonly brokers: readonly string[];
  readonly topic: string;
}

/** What one run measured. */
export interface Measured {
  readonly events: number;
  readonly seconds: number;
  /** Answers other than success. */
  readonly failed: number;
  /** From request to acknowledgement, milliseconds. */
  readonly p50: number;
  readonly p99: number;
}

// About as long as a line of sshd's log.
const line =
  "Dec 10 07:00:01 web-1 sshd[4711]: Failed password for invalid user admin from 192.0.2.7 port 4711 ssh2";

function poster({ ingest, batch }: Task, token: string): () => Promise<boolean> {
  const agent = new Agent({ keepAlive: true });
  const body = Array.from({ length: batch }, () => line).join("\n");
  const options = {
    method: "POST",
    agent,
    headers: {
      authorization: `Bearer ${token}`,
      "content-type": "text/plain",
      "content-length": Buffer.byteLength(body),
    },
  };
  return () =>
    new Promise((resolve) => {
      const sent = request(`${ingest}/v1/events`, options, (answer) => {
        answer.resume();
        answer.once("end", () => resolve(answer.statusCode === 202));
      });
      sent.once("error", () => resolve(false));
      sent.end(body);
    });
}

function producer({ brokers, topic, batch, tenant }: Task): () => Promise<boolean> {
  const client = new Producer({
    clientId: "siem-ha-bench",
    bootstrapBrokers: [...brokers],
    serializers: stringSerializers,
    retries: 0,
  });
  // The row that an ingestor makes of the line; the feed stores it like any other.
  const row = (id: string) =>
    JSON.stringify({
      event_id: id,
      tenant_id: tenant,
      event_timestamp: Math.floor(Date.now() / 1000),
      source_ip: "192.0.2.7",
      source_type: "sshd",
      raw_event: line,
      event_category: "authentication",
      event_outcome: "failure",
      event_action: "login",
      is_threat: 0,
    });
  return async () => {
    const messages = Array.from({ length: batch }, () => {
      const key = randomBytes(16).toString("hex");
      return { topic, key, value: row(key) };
    });
    await client.send({ messages, acks: ProduceAcks.ALL });
    return true;
  };
}

const task = JSON.parse(await text(process.stdin)) as Task;
const token = await mintToken({
  secret: task.jwtSecret,
  tenantId: task.tenant,
  scope: "events:write",
  ttlSeconds: 3600,
  subject: "bench",
});
const once = task.mode === "kafka" ? producer(task) : poster(task, token);
// Connections, metadata and compiled code are there before the clock starts.
for (let i = 0; i < 20; i++) await once();
const took: number[] = [];
let failed = 0;
const began = performance.now();
const end = began + task.seconds * 1000;
await Promise.all(
  Array.from({ length: task.concurrency }, async () => {
    while (performance.now() < end) {
      const at = performance.now();
      if (await once()) took.push(performance.now() - at);
      else failed++;
    }
  }),
);
const seconds = (performance.now() - began) / 1000;
took.sort((a, b) => a - b);
const share = (part: number) => took[Math.min(took.length - 1, Math.floor(took.length * part))] ?? Number.NaN;
const measured: Measured = {
  events: took.length * task.batch,
  seconds,
  failed,
  p50: share(0.5),
  p99: share(0.99),
};
process.stdout.write(JSON.stringify(measured), () => process.exit());
