// The ingestor as it is, with a Kafka that takes its time: what the drain test runs behind a real HAProxy.

import { setTimeout as sleep } from "node:timers/promises";
import { type Lifecycle, serve } from "../../services/common/http.ts";
import { createIngestor } from "../../services/ingestor/app.ts";
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
const app = createIngestor({
  publisher,
  secret: new TextEncoder().encode(secret),
  rules: parseRules(),
  eventsTopic: "events",
  alertsTopic: "alerts",
  lifecycle,
});
await serve(app, { host: "127.0.0.1", port: Number(port) }, lifecycle, async () => {});
