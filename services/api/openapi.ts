// The API described for programs: an OpenAPI 3.1 document, made from the schemas that check the requests.

import { z } from "zod";
import { ownAnswers } from "../../components/render/own-answers.ts";
import { scopes } from "../common/auth.ts";
import {
  alertsAnswer,
  alertsQuery,
  type ErrorStatus,
  errorAnswer,
  errorCodes,
  event,
  eventQuery,
  eventsAnswer,
  eventsQuery,
  healthAnswer,
  noQuery,
  rangeQuery,
  statsAnswer,
} from "./schemas.ts";

interface Operation {
  readonly summary: string;
  readonly query: z.ZodObject;
  /** Names in the path, with what they are. */
  readonly path?: Readonly<Record<string, string>>;
  /** The answers that are no errors, by status: what they say, and their body. */
  readonly answers: Readonly<Record<number, readonly [description: string, body: z.ZodType]>>;
  /** Whether anybody may ask. @default a token is needed */
  readonly open?: true;
  /** A replica's errors; the load balancer's may come instead of any answer. */
  readonly errors: readonly ErrorStatus[];
}

const reading = [400, 401, 403, 422, 429, 500, 503] as const;

/** Every operation by its path; each is a GET. */
export const operations: Readonly<Record<string, Operation>> = {
  "/v1/events": {
    summary: "List events, newest first",
    query: eventsQuery,
    answers: { 200: ["A page of events.", eventsAnswer] },
    errors: reading,
  },
  "/v1/events/{id}": {
    summary: "Read one event",
    query: eventQuery,
    path: { id: "The event's event_id." },
    answers: { 200: ["The event.", event] },
    errors: [...reading, 404, 414],
  },
  "/v1/stats": {
    summary: "Count events",
    query: rangeQuery,
    answers: { 200: ["Counts of the range.", statsAnswer] },
    errors: reading,
  },
  "/v1/alerts": {
    summary: "List alerts, newest first",
    query: alertsQuery,
    answers: { 200: ["A page of alerts.", alertsAnswer] },
    errors: reading,
  },
  "/v1/health": {
    summary: "Whether this replica can serve",
    query: noQuery,
    open: true,
    errors: [],
    answers: {
      200: ["It can.", healthAnswer("ok")],
      404: ["It is about to stop: finish what runs, send nothing new.", healthAnswer("draining")],
      503: ["No replica of the database answers.", healthAnswer("database_unreachable")],
    },
  },
  "/v1/openapi.json": {
    summary: "This document",
    query: noQuery,
    open: true,
    errors: [400, 500, 503],
    answers: { 200: ["An OpenAPI 3.1 document.", z.looseObject({ openapi: z.literal("3.1.0") })] },
  },
};

/** What a status stands for: its codes, with their meaning. */
type Codes = Readonly<Record<string, string>>;

/** What the load balancer answers in a replica's place, by status. */
const byBalancer: Readonly<Record<number, Codes>> = Object.fromEntries(
  Object.entries(ownAnswers.api).map(([status, [code, message]]) => [
    status,
    { [code]: `from the load balancer, ${message}` },
  ]),
);

/** The document; what it says is true of every replica of this version, and of the load balancer before it. */
export function openApiDocument(): object {
  return {
    openapi: "3.1.0",
    info: {
      title: "siem-ha API",
      version: "1",
      description:
        "A tenant reads its own events, alerts and counts. The tenant is the token's. HEAD answers like GET, without a body. 429, 502, 503 and 504 come with Retry-After. What is no HTTP is answered with 400 bad_request, 408 request_timeout or 431 headers_too_large, in the same shape as every error; by the load balancer with a page of HTML.",
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    paths: Object.fromEntries(
      Object.entries(operations).map(([path, operation]) => [path, { get: describe(path, operation) }]),
    ),
    components: {
      securitySchemes: {
        token: {
          type: "http",
          scheme: "bearer",
          bearerFormat: "JWT",
          description: `HS256, with exp, tenant_id and scope (${Object.keys(scopes).join(", ")}), as npm run token makes them.`,
        },
      },
    },
  };
}

function describe(path: string, operation: Operation): object {
  const statuses = [operation.answers, byBalancer].flatMap((answers) => Object.keys(answers).map(Number));
  const responses = [...new Set([...statuses, ...operation.errors])].map((status) => [
    status,
    describeAnswers(operation, status),
  ]);
  return {
    operationId: `get_${path
      .replace(/^\/v1\//, "")
      .replace(/\W+/g, "_")
      .replace(/_$/, "")}`,
    summary: operation.summary,
    security: operation.open ? [] : [{ token: ["events:read"] }],
    parameters: [
      ...Object.entries(operation.path ?? {}).map(([name, description]) => ({
        name,
        in: "path",
        required: true,
        description,
        schema: { type: "string", minLength: 1, maxLength: 1024 },
      })),
      ...Object.entries(operation.query.shape).map(([name, schema]) => {
        const { description, ...rest } = toSchema(schema as z.ZodType, "input");
        return { name, in: "query", required: false, description, schema: rest };
      }),
    ],
    responses: Object.fromEntries(responses) as object,
  };
}

/** All that may come with a status: an answer of the operation's own, errors, or both. */
function describeAnswers(operation: Operation, status: number): object {
  const [description, body] = operation.answers[status] ?? [];
  const error = operation.errors.find((other) => other === status);
  const codes: Codes = { ...(error === undefined ? {} : errorCodes[error]), ...byBalancer[status] };
  const names = Object.keys(codes);
  const bodies = [...(body === undefined ? [] : [body]), ...(names.length === 0 ? [] : [errorAnswer(names)])];
  // Headers of every answer with the status: an operation's own answer has none.
  const header = body === undefined ? headers[status] : undefined;
  return {
    description: [
      ...(description === undefined ? [] : [description]),
      ...Object.entries(codes).map(([code, meaning]) => `\`${code}\`: ${meaning}.`),
    ].join(" "),
    ...(header === undefined ? {} : { headers: header }),
    content: json(bodies.length === 1 ? bodies[0]! : z.union(bodies)),
  };
}

const again = { "retry-after": { description: "Seconds to wait.", schema: { type: "string" } } };
/** Headers of an error, by status. */
const headers: Readonly<Record<number, object>> = {
  401: { "www-authenticate": { description: "Bearer.", schema: { type: "string" } } },
  429: again,
  502: again,
  503: again,
  504: again,
};

function json(body: z.ZodType): object {
  return { "application/json": { schema: toSchema(body, "output") } };
}

function toSchema(schema: z.ZodType, io: "input" | "output"): { description?: string } {
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io });
  return rest;
}
