// The ingestor's routes: an event is answered with 202 only when Kafka has it for good.

import type { FastifyInstance } from "fastify";
import { requireScope, tenantOf } from "../common/auth.ts";
import { createServer, healthCode, HttpError, type Lifecycle } from "../common/http.ts";
import { Batcher, type Message, type Publish } from "./batch.ts";
import { mediaTypes, parseBody, type MediaType } from "./body.ts";
import { alertId, eventColumns, type SiemEvent } from "./event.ts";
import { type Columns, toRow } from "./row.ts";
import { type Finding, type Rule, RuleEngine } from "./rules.ts";

export interface IngestorOptions {
  readonly publisher: { readonly connected: boolean; readonly publish: Publish };
  readonly secret: Uint8Array;
  readonly rules: readonly Rule[];
  readonly eventsTopic: string;
  readonly alertsTopic: string;
  readonly lifecycle: Lifecycle;
  /** @default the present */
  readonly now?: () => Date;
  /** Turns the log off, for tests. */
  readonly quiet?: boolean;
}

const alertColumns = {
  alert_id: "String",
  tenant_id: "String",
  event_id: "String",
  event_timestamp: "UInt32",
  source_ip: "String",
  rule: "String",
  severity: "String",
  summary: "String",
} as const satisfies Columns;

/** The ingestor as a server that doesn't listen yet. */
export function createIngestor(options: IngestorOptions): FastifyInstance {
  const { publisher, lifecycle } = options;
  const app = createServer(lifecycle, options.quiet);
  const batcher = new Batcher((messages) => publisher.publish(messages));
  const engine = new RuleEngine(options.rules);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser([...mediaTypes], { parseAs: "buffer" }, (_request, body, done) =>
    done(null, body),
  );

  app.get("/health", async (_request, reply) => {
    const status = lifecycle.draining ? "draining" : publisher.connected ? "ok" : "kafka_unreachable";
    return reply.code(healthCode(status)).send({ status });
  });

  app.post(
    "/v1/events",
    { onRequest: requireScope(options.secret, "events:write") },
    async (request, reply) => {
      const type = request.headers["content-type"]?.split(";")[0]?.trim().toLowerCase() as MediaType;
      if ((request.headers["content-encoding"] ?? "identity") !== "identity") {
        throw new HttpError(415, "unsupported_encoding", "send the body without Content-Encoding");
      }
      const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
      const events = parseBody(type, body, tenantOf(request), options.now?.() ?? new Date());
      if (!publisher.connected) {
        throw new HttpError(503, "kafka_unreachable", "Kafka can't be reached; try again");
      }
      const messages = events.flatMap((event) => {
        const finding = engine.find(event);
        if (finding) event.is_threat = 1;
        const value = toRow(eventColumns, event);
        const message = { topic: options.eventsTopic, key: event.event_id, value };
        return finding ? [message, alertMessage(options.alertsTopic, event, finding)] : [message];
      });
      try {
        await batcher.add(messages);
      } catch (error) {
        if (error instanceof HttpError) throw error;
        const message = "Kafka did not acknowledge all events; send them all again";
        throw Object.assign(new HttpError(503, "not_acknowledged", message), { cause: error });
      }
      return reply.code(202).send({ accepted: events.length, ids: events.map((event) => event.event_id) });
    },
  );
  return app;
}

function alertMessage(topic: string, event: SiemEvent, finding: Finding): Message {
  const { tenant_id, event_id, event_timestamp, source_ip } = event;
  const { id: rule, severity, summary } = finding;
  const alert_id = alertId(event, rule);
  const alert = { alert_id, tenant_id, event_id, event_timestamp, source_ip, rule, severity, summary };
  return { topic, key: alert_id, value: toRow(alertColumns, alert) };
}
