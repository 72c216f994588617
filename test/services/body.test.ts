// What may not come in, over real sockets: too much, too slow, compressed, nested, twice named, or two requests in one.

import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { AddressInfo } from "node:net";
import { createIngestor } from "../../services/ingestor/app.ts";
import type { Message } from "../../services/ingestor/batch.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import { mintToken } from "../../services/token.ts";

const secret = "0123456789abcdef0123456789abcdef";
const keys = { current: new TextEncoder().encode(secret) };
const calls: Message[][] = [];
let publish = (): Promise<void> => Promise.resolve();
const publisher = {
  connected: true,
  publish: (messages: readonly Message[]) => {
    calls.push([...messages]);
    return publish();
  },
};
const mebibyte = 1024 * 1024;
const rules = parseRules();
const pipeline = new Pipeline({
  publisher,
  rules,
  eventsTopic: "events",
  alertsTopic: "alerts",
  maxHeldBytes: 6 * mebibyte,
});
const lifecycle = { draining: false, refusing: false };
const app = createIngestor({
  pipeline,
  keys,
  lifecycle,
  quiet: true,
  maxPosts: 8,
  arrivalTimes: { requestMs: 400, headersMs: 400, checkMs: 50 },
});
let port = 0;
let authorization = "";

beforeAll(async () => {
  await app.listen({ host: "127.0.0.1", port: 0 });
  port = (app.server.address() as AddressInfo).port;
  const grant = { tenantId: "acme", scope: "events:write", ttlSeconds: 600, subject: "test" };
  authorization = `Bearer ${await mintToken({ secret, ...grant })}`;
});
afterAll(() => app.close());
beforeEach(() => {
  calls.length = 0;
  publish = () => Promise.resolve();
  Object.assign(lifecycle, { draining: false, refusing: false });
});

const post = (payload: string | Buffer, type = "application/json", headers: Record<string, string> = {}) =>
  app.inject({
    method: "POST",
    url: "/v1/events",
    payload,
    headers: { authorization, "content-type": type, ...headers },
  });

interface Raw {
  readonly said: () => string;
  readonly send: (bytes: string | Buffer) => void;
  readonly closed: Promise<string>;
  readonly destroy: () => void;
}
/** A connection that says what it is told to, and no more. */
function raw(bytes: string | Buffer): Raw {
  let said = "";
  const socket = connect(port, "127.0.0.1");
  socket.write(bytes);
  socket.on("data", (chunk) => (said += chunk.toString()));
  const closed = new Promise<string>((resolve) => socket.on("close", () => resolve(said)));
  socket.on("error", () => {});
  return { said: () => said, send: (more) => socket.write(more), closed, destroy: () => socket.destroy() };
}
const head = (lines: string): string =>
  `POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\ncontent-type: text/plain\r\n${lines}\r\n\r\n`;

describe("JSON that is refused", () => {
  it.each([
    [`{"raw_event":"a","raw_event":"b"}`, 1, "raw_event"],
    [`[{"raw_event":"a"},{"event_id":"x","event_id":"x"}]`, 2, "event_id"],
    [String.raw`{"event_id":"x","\u0065vent_id":"y"}`, 1, "event_id"],
    [`{"tenant_id":"a" , "tenant_id"\n:"a"}`, 1, "tenant_id"],
  ])("a key that occurs twice: %s", async (body, line, field) => {
    const response = await post(body);
    expect({ status: response.statusCode, ...response.json<object>() }).toMatchObject({
      status: 400,
      error: "duplicate_key",
      line,
      field,
    });
    expect(calls).toEqual([]);
  });

  it("names the line in NDJSON", async () => {
    const response = await post(
      `{"raw_event":"a"}\n\n{"raw_event":"b","raw_event":"c"}`,
      "application/x-ndjson",
    );
    expect(response.json()).toMatchObject({ error: "duplicate_key", line: 3, field: "raw_event" });
  });

  it.each([
    [`{"tenant_id":{"a":{"b":1}}}`, "tenant_id"],
    [`{"raw_event":["a"]}`, "raw_event"],
    [`{"color":{}}`, "color"],
    [`[[{"raw_event":"a"}]]`, "(event)"],
    ["[".repeat(100_000), "(event)"],
    [`{"a":`.repeat(100_000), "a"],
    [`{"tenant_id":${"[".repeat(100_000)}${"]".repeat(100_000)}}`, "tenant_id"],
  ])("arrays and objects in an event %#", async (body, field) => {
    const response = await post(body);
    expect({ status: response.statusCode, ...response.json<object>() }).toMatchObject({
      status: 400,
      error: "invalid_event",
      line: 1,
      field,
    });
  });

  it("names an unknown field with those that are allowed", async () => {
    for (const body of [`{"color":1}`, `{"color":{"a":1}}`]) {
      expect((await post(body)).json<{ message: string }>().message).toMatch(
        /unknown field; .*event_id, .*is_threat/,
      );
    }
  });

  it("takes text that only looks like it", async () => {
    const raw_event = String.raw`{"a":1,"a":[{}]} \" "raw_event": ${"\\".repeat(1000)}`;
    expect((await post(JSON.stringify([{ raw_event }, { raw_event }]))).statusCode).toBe(202);
    expect(calls.flat().map(({ value }) => (JSON.parse(value) as { raw_event: string }).raw_event)).toEqual([
      raw_event,
      raw_event,
    ]);
  });
});

describe("too much", () => {
  it("refuses a compressed body by its headers, whatever it holds", async () => {
    const bomb = gzipSync(Buffer.alloc(4 * mebibyte));
    for (const encoding of ["gzip", "deflate", "br", "GZIP", "gzip, identity"]) {
      const connection = raw(head(`content-length: ${bomb.length}\r\ncontent-encoding: ${encoding}`));
      // Nothing of the body was sent yet.
      await expect.poll(connection.said).toMatch(/^HTTP\/1\.1 415 .*"unsupported_encoding"/s);
      connection.destroy();
    }
    expect((await post(bomb, "text/plain", { "content-encoding": "identity" })).statusCode).not.toBe(415);
    expect(pipeline.budget.held).toBe(0);
  });

  it("refuses 5 MiB and a byte, announced or not", async () => {
    const announced = raw(head(`content-length: ${5 * mebibyte + 1}`));
    await expect.poll(announced.said).toMatch(/^HTTP\/1\.1 413 .*"body_too_large"/s);
    announced.destroy();
    const chunked = raw(head("transfer-encoding: chunked"));
    chunked.send(`${(5 * mebibyte + 1).toString(16)}\r\n`);
    chunked.send(Buffer.alloc(5 * mebibyte + 1, "x"));
    await expect.poll(chunked.said).toMatch(/^HTTP\/1\.1 413 .*"body_too_large"/s);
    chunked.destroy();
    await expect.poll(() => pipeline.budget.held).toBe(0);
  });

  it("answers 429 with Retry-After when bodies that arrive would fill the memory", async () => {
    const part = Buffer.alloc(2 * mebibyte, "x");
    const open = [1, 2].map(() => raw(Buffer.concat([Buffer.from(head("content-length: 4194304")), part])));
    await expect.poll(() => pipeline.budget.held).toBe(4 * mebibyte);
    const third = raw(Buffer.concat([Buffer.from(head("content-length: 4194304")), part, part]));
    await expect.poll(third.said).toMatch(/^HTTP\/1\.1 429 .*retry-after: 1\r\n.*"queue_full"/s);
    for (const connection of [...open, third]) connection.destroy();
    await expect.poll(() => pipeline.budget.held).toBe(0);
    expect(calls).toEqual([]);
  });

  it("answers 429 when what waits for Kafka leaves no room, and takes nothing of that post", async () => {
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const lines = (letter: string): string => `${letter.repeat(100_000)}\n`.repeat(25);
    const first = post(lines("a"), "text/plain");
    await expect.poll(() => pipeline.budget.held).toBeGreaterThan(2 * mebibyte);
    const second = post(lines("b"), "text/plain");
    await expect.poll(() => pipeline.budget.held).toBeGreaterThan(4 * mebibyte);
    const refused = await post(lines("c"), "text/plain");
    expect({ status: refused.statusCode, retry: refused.headers["retry-after"] }).toEqual({
      status: 429,
      retry: "1",
    });
    acknowledge();
    expect([(await first).statusCode, (await second).statusCode]).toEqual([202, 202]);
    expect(calls.flat().some(({ value }) => value.includes("c".repeat(40)))).toBe(false);
    expect(pipeline.budget.held).toBe(0);
    expect((await post(lines("c"), "text/plain")).statusCode).toBe(202);
  });

  it("answers 429 when so many posts wait, and takes the next when one is answered", async () => {
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const waiting = Array.from({ length: 8 }, () => post("x", "text/plain"));
    await expect.poll(() => calls.flat().length).toBe(8);
    expect((await post("y", "text/plain")).statusCode).toBe(429);
    expect((await app.inject("/health")).statusCode).toBe(200);
    acknowledge();
    expect((await Promise.all(waiting)).map(({ statusCode }) => statusCode)).toEqual(Array(8).fill(202));
    expect((await post("y", "text/plain")).statusCode).toBe(202);
  });

  it("gives back the places of pipelined posts whose client went away", async () => {
    let acknowledge = (): void => {};
    let gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const accepted = once(app.server, "connection");
    const connection = raw(`${head("content-length: 1")}x`.repeat(6));
    const [socket] = (await accepted) as [Socket];
    await expect.poll(() => calls.flat().length).toBe(6);
    const closed = once(socket, "close");
    connection.destroy();
    await closed;
    acknowledge();
    gate = new Promise<void>((resolve) => (acknowledge = resolve));
    const waiting = Array.from({ length: 8 }, () => post("x", "text/plain"));
    try {
      await expect.poll(() => calls.flat().length).toBe(6 + 8);
    } finally {
      acknowledge();
    }
    expect((await Promise.all(waiting)).map(({ statusCode }) => statusCode)).toEqual(Array(8).fill(202));
  });

  it("is 202 only when every batch of a post is acknowledged, and frees the room of one that isn't", async () => {
    let call = 0;
    publish = () => (call++ === 0 ? Promise.reject(new Error("no")) : Promise.resolve());
    const response = await post(`${"x".repeat(100_000)}\n`.repeat(20), "text/plain");
    expect(calls.length).toBeGreaterThan(1);
    expect(response.statusCode).toBe(503);
    expect(response.headers["retry-after"]).toBe("2");
    expect(response.json()).toMatchObject({ error: "not_acknowledged" });
    expect(pipeline.budget.held).toBe(0);
  });
});

describe("too slow or broken", () => {
  it("ends half-sent headers and bodies with 408, and frees what they held", async () => {
    const connections = [
      raw("POST /v1/events HTTP/1.1\r\nhost: x\r\n"),
      raw(`${head("content-length: 100000")}${"x".repeat(50_000)}`),
      raw(`${head("transfer-encoding: chunked")}5\r\nhello\r\n`),
    ];
    await expect.poll(() => pipeline.budget.held).toBe(50_005);
    for (const connection of connections) {
      expect(await connection.closed).toMatch(/^HTTP\/1\.1 408 .*"request_timeout"/s);
    }
    await expect.poll(() => pipeline.budget.held).toBe(0);
    expect(calls).toEqual([]);
  });

  it("ends a body that drips, however steadily", async () => {
    const connection = raw(head("content-length: 100000"));
    const drip = setInterval(() => connection.send("x"), 20);
    try {
      expect(await connection.closed).toMatch(/^HTTP\/1\.1 408 /);
    } finally {
      clearInterval(drip);
    }
    await expect.poll(() => pipeline.budget.held).toBe(0);
  });

  it("takes nothing of a post whose client went away in the middle", async () => {
    const connection = raw(`${head("content-length: 100000")}whole line\n`);
    await expect.poll(() => pipeline.budget.held).toBe(11);
    connection.destroy();
    await expect.poll(() => pipeline.budget.held).toBe(0);
    expect(calls).toEqual([]);
  });

  it.each([
    ["content-length: 5\r\ntransfer-encoding: chunked"],
    ["transfer-encoding: chunked\r\ncontent-length: 5"],
    ["content-length: 5\r\ncontent-length: 6"],
    ["transfer-encoding: chunked, x"],
    ["content-length: +5"],
  ])("refuses a body with two ends: %j", async (headers) => {
    const inner = "0\r\n\r\nPOST /v1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    const said = await raw(`${head(headers)}${inner}`).closed;
    expect(said).toMatch(/^HTTP\/1\.1 400 .*"bad_request"/s);
    expect(said.match(/HTTP\/1\.1 /g)).toHaveLength(1);
    expect(calls).toEqual([]);
  });

  it.each(["HEAD", "PUT", "DELETE", "PATCH", "GET"] as const)("has no %s for events", async (method) => {
    const response = await app.inject({ method, url: "/v1/events", headers: { authorization } });
    expect(response.statusCode).toBe(404);
  });

  it("keeps NUL and control characters as they are", async () => {
    expect((await post("a\0b\x1b[31m\tc", "text/plain")).statusCode).toBe(202);
    expect(JSON.parse(calls[0]![0]!.value)).toMatchObject({ raw_event: "a\0b\x1b[31m\tc" });
  });
});

describe("a post of many events", () => {
  afterEach(() => void vi.restoreAllMocks());

  it("leaves the event loop to others after each event, when its time is up", async () => {
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 1000));
    let turns = 0;
    let watching = setImmediate(function turn() {
      turns++;
      watching = setImmediate(turn);
    });
    try {
      const events = Array.from({ length: 200 }, (_, n) => ({ raw_event: `line ${n}`, is_threat: 1 }));
      const bodies = [
        [JSON.stringify(events), "application/json"],
        [events.map((event) => JSON.stringify(event)).join("\n"), "application/x-ndjson"],
        [events.map(({ raw_event }) => raw_event).join("\n"), "text/plain"],
      ] as const;
      for (const [body, type] of bodies) {
        const before = turns;
        expect((await post(body, type)).statusCode).toBe(202);
        // Each is read, packed and put into a batch.
        expect(turns - before).toBeGreaterThan(3 * 199);
      }
      const before = turns;
      expect((await post("\n".repeat(256 * 100), "text/plain")).json()).toMatchObject({
        error: "empty_body",
      });
      expect(turns - before).toBeGreaterThan(90);
    } finally {
      clearImmediate(watching);
    }
  });

  it("is dropped with all it holds when its client goes away before it was sent", async () => {
    let now = 0;
    vi.spyOn(performance, "now").mockImplementation(() => (now += 1000));
    const text = `${"x".repeat(100)}\n`.repeat(9_000);
    const connections = Array.from({ length: 6 }, () =>
      raw(`${head(`content-length: ${text.length}`)}${text}`),
    );
    await expect.poll(() => pipeline.budget.held).toBe(6 * text.length);
    for (const { destroy } of connections) destroy();
    await expect.poll(() => pipeline.budget.held).toBe(0);
    expect((await post("x", "text/plain")).statusCode).toBe(202);
    expect(calls.flat()).toHaveLength(1);
  });
});

describe("a stop", () => {
  it("refuses new posts after the notice with 503, Retry-After and Connection: close; health goes on", async () => {
    Object.assign(lifecycle, { draining: true, refusing: true });
    const response = await post("x", "text/plain");
    expect(response.statusCode).toBe(503);
    expect(response.headers).toMatchObject({ "retry-after": "2", connection: "close" });
    expect(response.json()).toMatchObject({ error: "stopping" });
    expect((await app.inject("/health")).statusCode).toBe(404);
    expect(calls).toEqual([]);
  });
});
