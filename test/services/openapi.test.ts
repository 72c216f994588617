// The OpenAPI document is valid, and true: every operation's real answers are what it says they are.

import { Validator } from "@seriousme/openapi-schema-validator";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { ownAnswers } from "../../components/render/own-answers.ts";
import { createApi } from "../../services/api/app.ts";
import { openApiDocument, operations } from "../../services/api/openapi.ts";
import type { Row } from "../../services/api/replicas.ts";
import { defaultSlots } from "../../services/api/slots.ts";
import { HttpError } from "../../services/common/http.ts";
import { mintToken } from "../../services/token.ts";

interface Described {
  readonly security: readonly object[];
  readonly parameters: readonly { name: string; in: string; description?: string; schema: object }[];
  readonly responses: Readonly<
    Record<string, { headers?: object; content: { "application/json": { schema: Answer } } }>
  >;
}
interface Answer {
  readonly properties?: { readonly error?: { readonly enum: readonly string[] } };
}
const document = openApiDocument() as { paths: Record<string, { get: Described }> };
const secret = "0123456789abcdef0123456789abcdef";
const ajv = new Ajv2020({ strict: true, allErrors: true, formats: { "date-time": true } });

let answer: (sql: string) => Promise<Row[]> = () => Promise.resolve([]);
let alive = true;
const lifecycle = { draining: false, refusing: false };
const options = { keys: { current: new TextEncoder().encode(secret) }, lifecycle, quiet: true };
const reader = { query: (sql: string) => answer(sql), ping: () => Promise.resolve(alive) };
const app = createApi({ reader, ...options });

const text = Object.fromEntries(
  ["source_ip", "source_type", "raw_event", "event_category", "event_outcome", "event_action"].map((name) => [
    name,
    "x",
  ]),
);
const eventRow = { event_id: "e1", tenant_id: "acme", event_timestamp: 5, ...text, is_threat: 1 };
const alertRow = {
  ...{ alert_id: "a1", tenant_id: "acme", event_id: "e1", event_timestamp: 5 },
  ...{ source_ip: "", rule: "r", severity: "high", summary: "s" },
};
const rows = (sql: string): Promise<Row[]> => {
  if (sql.includes("UNION ALL")) {
    const parts = ["total", "source_type", "event_category", "event_outcome", "source_ip"];
    return Promise.resolve(parts.map((part) => ({ part, value: "v", count: "18446744073", threats: "2" })));
  }
  return Promise.resolve(sql.includes("alerts") ? [alertRow] : [eventRow]);
};
const full = (sql: string): Promise<Row[]> =>
  Promise.resolve(
    Array.from({ length: 17 }, (_, id) =>
      sql.includes("alerts") ? { ...alertRow, alert_id: `a${id}` } : { ...eventRow, event_id: `e${id}` },
    ),
  );

async function ask(path: string, query = "", { scope = "events:read", token = "", id = "e1" } = {}) {
  const minted = await mintToken({ secret, tenantId: "acme", scope, ttlSeconds: 60, subject: "t" });
  const url = `${path.replace("{id}", id)}${query}`;
  return app.inject({ url, headers: { authorization: `Bearer ${token || minted}` } });
}

/** Checks one real answer against what the document says of its status. */
function check(
  path: string,
  response: Awaited<ReturnType<typeof ask>>,
  status: number,
  error?: string,
): void {
  expect(response.statusCode, response.body).toBe(status);
  const described = document.paths[path]!.get.responses[String(status)];
  expect(described, `${path} documents ${status}`).toBeDefined();
  expect(response.headers["content-type"]).toMatch(/^application\/json/);
  const validate = ajv.compile(described!.content["application/json"].schema);
  const valid = validate(response.json());
  expect(valid, `${response.body} ${JSON.stringify(validate.errors)}`).toBe(true);
  for (const header of Object.keys(described!.headers ?? {})) expect(response.headers).toHaveProperty(header);
  if (error !== undefined) expect(response.json()).toMatchObject({ error });
}

describe("the document", () => {
  it("is valid OpenAPI 3.1", async () => {
    const result = await new Validator().validate(
      JSON.parse(JSON.stringify(document)) as Record<string, unknown>,
    );
    expect(result.errors ?? []).toEqual([]);
    expect(result.valid).toBe(true);
  });

  it("is what the service answers, to anybody", async () => {
    const response = await app.inject("/v1/openapi.json");
    expect(response.json()).toEqual(JSON.parse(JSON.stringify(document)));
    expect(response.headers["content-type"]).toMatch(/^application\/json/);
  });

  it("has every route of the service, and no other", () => {
    const routes: string[] = [];
    const parents: string[] = [];
    for (const line of app.printRoutes({ commonPrefix: false }).split("\n").filter(Boolean)) {
      const [, indent, part, methods] = /^([│ ]*)[├└]── (\S+) \((.*)\)$/.exec(line)!;
      const depth = indent!.length / 4;
      parents.splice(depth, Infinity, part!);
      // Fastify answers HEAD wherever there is a GET.
      expect(methods).toBe("GET, HEAD");
      routes.push(parents.join("").replace(/:(\w+)/g, "{$1}"));
    }
    expect(routes.sort()).toEqual(Object.keys(document.paths).sort());
  });

  it("describes every parameter, and says which operations need a token", () => {
    for (const [path, { get }] of Object.entries(document.paths)) {
      for (const { name, description } of get.parameters)
        expect(description, `${path} ${name}`).toMatch(/\.$/);
      const open = path === "/v1/health" || path === "/v1/openapi.json";
      expect(get.security, path).toEqual(open ? [] : [{ token: ["events:read"] }]);
    }
  });

  it("has parameters that the service takes, and no other", async () => {
    answer = rows;
    for (const [path, { get }] of Object.entries(document.paths)) {
      if (path === "/v1/health") continue;
      const names = get.parameters.filter((parameter) => parameter.in === "query").map(({ name }) => name);
      const refused = await ask(path, "?no_such=1");
      expect(refused.json<Row>()["message"]).toContain(`allowed: ${names.join(", ") || "none"}`);
    }
  });

  it("has schemas of parameters that say what the service takes", async () => {
    answer = rows;
    const values = [
      "",
      "0",
      "1",
      "5",
      "1000",
      "1001",
      "01",
      "true",
      "yes",
      "x",
      "2025-03-05T12:00:00Z",
      "2025-03-05",
      "9".repeat(11),
    ];
    const strict = new Ajv2020({
      strict: true,
      formats: { "date-time": /^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:\d\d)$/ },
    });
    for (const [path, { get }] of Object.entries(document.paths)) {
      for (const { name, in: place, schema } of get.parameters) {
        // Only the service knows which cursors it gave.
        if (place === "path" || name === "cursor") continue;
        const validate = strict.compile(schema);
        for (const value of values) {
          const range = name === "to" ? "from=0&" : "";
          const response = await ask(path, `?${range}${name}=${encodeURIComponent(value)}`);
          expect([200, 400]).toContain(response.statusCode);
          expect(validate(value), `${path} ${name}=${value}: ${response.body}`).toBe(
            response.statusCode === 200,
          );
        }
      }
    }
  });
});

const protectedPaths = Object.keys(document.paths).filter(
  (path) => document.paths[path]!.get.security.length > 0,
);

describe.each(protectedPaths)("%s", (path) => {
  it("answers as described, and gives every error that is described", async () => {
    const seen = new Set<string>();
    const expectAnswer = (
      response: Awaited<ReturnType<typeof ask>>,
      status: number,
      error?: string,
    ): void => {
      check(path, response, status, error);
      seen.add(error ?? String(status));
    };
    answer = rows;
    expectAnswer(await ask(path), 200);
    if (!path.includes("{id}") && !path.includes("stats")) {
      answer = full;
      const page = await ask(path, "?limit=1");
      expectAnswer(page, 200);
      expect(page.json<Row>()["next_cursor"]).toBeTypeOf("string");
    }
    answer = () => Promise.resolve([]);
    if (path.includes("{id}")) expectAnswer(await ask(path), 404, "no_such_event");
    else expectAnswer(await ask(path), 200);

    expectAnswer(await ask(path, "?from=never"), 400, "bad_query");
    expectAnswer(await ask(path, "", { token: "abc" }), 401, "bad_token");
    expectAnswer(await ask(path, "", { scope: "events:write" }), 403, "missing_scope");
    if (path.includes("{id}")) {
      expectAnswer(await ask(path, "", { id: "%FF" }), 400, "bad_url");
      expectAnswer(await ask(path, "", { id: "x".repeat(1025) }), 414, "url_too_long");
    }
    const failing = async (error: Error, status: number, code: string): Promise<void> => {
      answer = () => Promise.reject(error);
      expectAnswer(await ask(path), status, code);
    };
    await failing(new HttpError(422, "too_much", "no"), 422, "too_much");
    await failing(new HttpError(503, "database_unreachable", "no"), 503, "database_unreachable");
    await failing(new Error("a defect"), 500, "internal");

    lifecycle.refusing = true;
    expectAnswer(await ask(path), 503, "stopping");
    lifecycle.refusing = false;

    const slots = { ...defaultSlots, total: 1, perTenant: 1, waitMs: 1, waitingPerTenant: 0 };
    for (const [tenant, status, error] of [
      ["acme", 429, "tenant_busy"],
      ["other", 503, "busy"],
    ] as const) {
      let release = (): void => {};
      const held = new Promise<Row[]>((resolve) => (release = () => resolve([])));
      let taken = (): void => {};
      const hasSlot = new Promise<void>((resolve) => (taken = resolve));
      const query = () => {
        taken();
        return held;
      };
      const small = createApi({ reader: { ...reader, query }, ...options, slots });
      const get = async (tenantId: string) =>
        small.inject({
          url: path.replace("{id}", "e"),
          headers: {
            authorization: `Bearer ${await mintToken({ secret, tenantId, scope: "events:read", ttlSeconds: 60, subject: "t" })}`,
          },
        });
      const running = get("acme");
      await hasSlot;
      expectAnswer(await get(tenant), status, error);
      release();
      await running;
    }
    const documented = Object.entries(document.paths[path]!.get.responses).flatMap(
      ([status, { content }]) => content["application/json"].schema.properties?.error?.enum ?? [status],
    );
    // A path without a name in it has nothing that could be a bad URL.
    if (!path.includes("{id}")) seen.add("bad_url");
    // These come from before the service: see below.
    for (const [code] of Object.values(ownAnswers.api)) seen.add(code);
    expect([...seen].sort()).toEqual(documented.sort());
  });
});

describe.each(Object.keys(document.paths))("the load balancer's own answers at %s", (path) => {
  it.each(Object.entries(ownAnswers.api))("%s are as described", (status, [error, message]) => {
    const { schema } = document.paths[path]!.get.responses[status]!.content["application/json"];
    const validate = ajv.compile(schema);
    expect(validate({ error, message }), JSON.stringify(validate.errors)).toBe(true);
    expect(validate({ error: "no_such_code", message })).toBe(false);
  });
});

describe("/v1/health", () => {
  it("answers as described", async () => {
    check("/v1/health", await ask("/v1/health"), 200);
    lifecycle.draining = true;
    check("/v1/health", await ask("/v1/health"), 404);
    lifecycle.draining = false;
    alive = false;
    check("/v1/health", await ask("/v1/health"), 503);
    alive = true;
    expect(Object.keys(operations["/v1/health"]!.answers)).toEqual(["200", "404", "503"]);
  });
});

describe("/v1/openapi.json", () => {
  it("answers as described", async () => {
    check("/v1/openapi.json", await ask("/v1/openapi.json"), 200);
    check("/v1/openapi.json", await ask("/v1/openapi.json", "?a=1"), 400, "bad_query");
    lifecycle.refusing = true;
    check("/v1/openapi.json", await ask("/v1/openapi.json"), 503, "stopping");
    lifecycle.refusing = false;
  });
});
