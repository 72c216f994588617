// The ingestor as it is, with a Kafka that takes its time: what the drain test runs behind a real HAProxy.

import { setTimeout as sleep } from "node:timers/promises";
import { type Lifecycle, serve } from "../../services/common/http.ts";
import { createIngestor } from "../../services/ingestor/app.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";

const { JWT_SECRET: secret = "", PORT: port = "" } = process.env;
const lifecycle: Lifecycle = { draining: false };
const publisher = {
  connected: true,
  async publish(messages: readonly { value: string }[]): Promise<void> {
    for (const { value } of messages) console.log("arrived", value);
    if (messages.some(({ value }) => value.includes("slow"))) await sleep(6_000);
  },
};
// As if Kafka were lost, and back.
process.on("SIGUSR2", () => {
  publisher.connected = !publisher.connected;
  console.log("connected", publisher.connected);
});
const rules = parseRules();
const pipeline = new Pipeline({ publisher, rules, eventsTopic: "events", alertsTopic: "alerts" });
const keys = { current: new TextEncoder().encode(secret) };
const app = createIngestor({ pipeline, keys, lifecycle });
await serve(app, { host: "127.0.0.1", port: Number(port) }, lifecycle, () => pipeline.idle());
