// What both services share as HTTP servers: one error shape, quiet logs, and a stop that loses nothing.

import { setTimeout as sleep } from "node:timers/promises";
import fastify, { type FastifyError, type FastifyInstance } from "fastify";

/** An answer other than success: `{error, message, …details}`. */
export class HttpError extends Error {
  readonly status: number;
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: string,
    message: string,
    details: Readonly<Record<string, unknown>> = {},
    headers: Readonly<Record<string, string>> = status === 503 ? { "retry-after": "2" } : {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
    this.headers = headers;
  }
}

/** Set before a stop: health turns to 404 while requests are still served. */
export interface Lifecycle {
  draining: boolean;
}

/** What a health check answers: 404 asks the load balancer for no new requests, 503 also ends the running ones. */
export function healthCode(status: "ok" | "draining" | "kafka_unreachable" | "database_unreachable"): number {
  return status === "ok" ? 200 : status === "draining" ? 404 : 503;
}

/** How many requests of a server are not answered yet. */
const unanswered = new WeakMap<FastifyInstance, { count: number }>();

const frameworkMessages: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: "the body is larger than 5 MiB; split it into several posts",
};

/** A server without routes. `quiet` turns the log off, for tests. */
export function createServer(lifecycle: Lifecycle, quiet = false): FastifyInstance {
  const app = fastify({
    logger: quiet ? false : { level: "warn", redact: ["req.headers", "headers", "*.headers"] },
    bodyLimit: 5 * 1024 * 1024,
    forceCloseConnections: "idle",
    requestTimeout: 30_000,
  });
  const open = { count: 0 };
  unanswered.set(app, open);
  app.addHook("onRequest", async (_request, reply) => {
    open.count++;
    // Comes once, whether the answer went out or the client went away.
    reply.raw.once("close", () => open.count--);
  });
  app.setErrorHandler((error: FastifyError | HttpError, request, reply) => {
    if (error instanceof HttpError) {
      if (error.status >= 500)
        request.log.warn(
          { code: error.code, cause: error.cause instanceof Error ? error.cause.message : undefined },
          error.message,
        );
      return reply
        .code(error.status)
        .headers(error.headers)
        .send({ error: error.code, message: error.message, ...error.details });
    }
    const status = error.statusCode ?? 500;
    if (status < 500) {
      return reply
        .code(status)
        .send({ error: error.code.toLowerCase(), message: frameworkMessages[error.code] ?? error.message });
    }
    request.log.error(error);
    return reply
      .code(500)
      .send({ error: "internal", message: "unexpected error; the service's log has the cause" });
  });
  app.setNotFoundHandler((request, reply) =>
    reply
      .code(404)
      .send({ error: "not_found", message: `no ${request.method} ${request.url.split("?")[0]} here` }),
  );
  app.addHook("onSend", async (_request, reply) => {
    if (lifecycle.draining) reply.header("connection", "close");
  });
  return app;
}

/** Time for the load balancer to see the 404 and send no more requests. */
const noticeMs = 2_000;
/** Docker's and the operators' patience is 10 s; this ends before. */
const hardStopMs = 9_500;

/** Listens, and on SIGTERM or SIGINT drains: health 404, a pause, the last requests, `finish`, exit 0. */
export async function serve(
  app: FastifyInstance,
  address: { host: string; port: number },
  lifecycle: Lifecycle,
  finish: () => Promise<void>,
  onDraining: () => void = () => {},
): Promise<void> {
  const stop = async (): Promise<void> => {
    if (lifecycle.draining) return;
    lifecycle.draining = true;
    onDraining();
    setTimeout(() => process.exit(1), hardStopMs).unref();
    await sleep(noticeMs);
    // Until the last answer the health check must go on: refused, it would mark the server as down, and HAProxy
    // cuts the requests of a server that is down.
    while ((unanswered.get(app)?.count ?? 0) > 0) await sleep(50);
    await app.close();
    await finish();
    process.exit(0);
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      stop().catch((error: unknown) => {
        app.log.error(error);
        process.exit(1);
      });
    });
  }
  await app.listen(address);
}
