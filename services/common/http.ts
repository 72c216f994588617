// What both services share as HTTP servers: one error shape, quiet logs, and a stop that loses nothing.

import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";

/** Seconds after which a refused client may ask again: a full queue empties sooner than a service comes back. */
const retryAfter: Readonly<Record<number, Readonly<Record<string, string>>>> = {
  429: { "retry-after": "1" },
  503: { "retry-after": "2" },
};

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
    headers: Readonly<Record<string, string>> = retryAfter[status] ?? {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
    this.headers = headers;
  }
}

/** Nobody reads this answer; it ends what the request still does. */
export function clientGone(): HttpError {
  return new HttpError(499, "client_gone", "the client has closed the connection");
}

/** How far a stop has come. */
export interface Lifecycle {
  /** Set when a stop is asked for: health turns to 404 while requests are still served. */
  draining: boolean;
  /** Set when the load balancer had its notice: new requests are refused, the running ones finish. */
  refusing?: boolean;
}

/**
 * What a health check answers: 404 asks the load balancer for no new requests, 503 also ends the running ones. Posts
 * that wait for Kafka may still be acknowledged, so they are not cut; a read has nothing to wait for.
 */
export function healthCode(status: "ok" | "draining" | "kafka_unreachable" | "database_unreachable"): number {
  return status === "ok" ? 200 : status === "database_unreachable" ? 503 : 404;
}

/** How many requests of a server are not answered yet. */
const unanswered = new WeakMap<FastifyInstance, { count: number }>();

const frameworkMessages: Readonly<Record<string, string>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: "the body is larger than 5 MiB; split it into several posts",
};

/** A post's largest body. */
export const maxBodyBytes = 5 * 1024 * 1024;
/** How long a request may take to arrive as a whole; what is slower is answered with 408. */
export interface ArrivalTimes {
  readonly requestMs: number;
  readonly headersMs: number;
  /** How often both are looked at. */
  readonly checkMs: number;
}
const arrivalTimes: ArrivalTimes = { requestMs: 30_000, headersMs: 10_000, checkMs: 1_000 };

/** A server without routes. `quiet` turns the log off, for tests. */
export function createServer(
  lifecycle: Lifecycle,
  quiet = false,
  { requestMs, headersMs, checkMs } = arrivalTimes,
): FastifyInstance {
  const app = fastify({
    logger: quiet ? false : { level: "warn", redact: ["req.headers", "headers", "*.headers"] },
    bodyLimit: maxBodyBytes,
    forceCloseConnections: "idle",
    requestTimeout: requestMs,
    http: { headersTimeout: headersMs, requestTimeout: requestMs, connectionsCheckingInterval: checkMs },
    clientErrorHandler: refuseBrokenRequest,
    // An id has up to 128 characters; the default ends a route at 100.
    routerOptions: { maxParamLength: 1024 },
    // What the router refuses gets to no error handler.
    frameworkErrors: (error, _request, reply) => void refuseBadUrl(error, reply),
  });
  const open = { count: 0 };
  unanswered.set(app, open);
  app.addHook("onRequest", async (request, reply) => {
    open.count++;
    onceClosed(request, reply, () => open.count--);
    // The health check goes on: see `serve`.
    if (lifecycle.refusing && !request.routeOptions.url?.endsWith("/health")) {
      throw new HttpError(503, "stopping", "this replica stops; try again, another one will answer");
    }
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

/** What waits for the end of each connection. One listener each would be many where requests are pipelined. */
const endings = new WeakMap<Socket, Set<() => void>>();

/**
 * Calls back once: when the answer is out, or when the client is gone, at once if it is gone already. Node tells an
 * answer neither while it waits behind another one of the same connection.
 */
export function onceClosed(request: FastifyRequest, reply: FastifyReply, done: () => void): void {
  const { socket } = request.raw;
  if (socket.destroyed || reply.raw.closed) {
    done();
    return;
  }
  const ends = endings.get(socket) ?? watch(socket);
  const end = (): void => {
    ends.delete(end);
    reply.raw.off("close", end);
    done();
  };
  ends.add(end);
  reply.raw.once("close", end);
}

function watch(socket: Socket): Set<() => void> {
  const ends = new Set<() => void>();
  endings.set(socket, ends);
  socket.once("close", () => {
    for (const end of ends) end();
  });
  return ends;
}

/** A path that no route can take, in the shape of every error. */
function refuseBadUrl(error: FastifyError, reply: FastifyReply): FastifyReply {
  const [status, code, message] =
    error.code === "FST_ERR_MAX_PARAM_LENGTH"
      ? [414, "url_too_long", "a part of the path is longer than 1024 characters"]
      : [
          400,
          "bad_url",
          "the path is not valid: percent signs must be followed by UTF-8 in hexadecimal digits",
        ];
  return reply.code(Number(status)).send({ error: code, message });
}

/** What Node's parser refuses never gets to a route; it has the same shape all the same. */
function refuseBrokenRequest(problem: Error & { code?: string }, socket: Socket): void {
  if (problem.code === "ECONNRESET" || socket.destroyed || !socket.writable) return;
  const [status, error, message] =
    problem.code === "ERR_HTTP_REQUEST_TIMEOUT"
      ? ["408 Request Timeout", "request_timeout", "the request did not arrive in time; send it again"]
      : problem.code === "HPE_HEADER_OVERFLOW"
        ? ["431 Request Header Fields Too Large", "headers_too_large", "the headers exceed 16 KiB"]
        : ["400 Bad Request", "bad_request", "this is not a valid HTTP request"];
  const body = JSON.stringify({ error, message });
  const headers = `content-type: application/json; charset=utf-8\r\ncontent-length: ${body.length}\r\nconnection: close`;
  socket.end(`HTTP/1.1 ${status}\r\n${headers}\r\n\r\n${body}`, () => socket.destroy());
}

/** Time for the load balancer to see the 404 and send no more requests. */
const noticeMs = 2_000;
/** Docker's and the operators' patience is 10 s; this ends before. */
const hardStopMs = 9_500;

/**
 * Listens, and on SIGTERM or SIGINT drains: health 404 and a pause, then 503 for what still comes while the last
 * requests finish, then `finish`, exit 0.
 */
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
    lifecycle.refusing = true;
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
