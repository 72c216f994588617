// `send` against a small server: what is repeated carries the same ids, and a stop says which lines are missing.

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { send, type SendResult } from "../../ops/send.ts";

interface Sent {
  event_id: string;
  raw_event: string;
}

/** By id, as ClickHouse's count of distinct ids sees them. */
const stored = new Map<string, string>();
const posts: { type: string | undefined; events: Sent[] }[] = [];
/** So many questions for the number of stored events are answered 503 before one is answered. */
let unavailable = 0;
/** Answers a post; what it stores is up to it. */
let answer: (events: Sent[], response: ServerResponse, post: number) => void;

const reply = (response: ServerResponse, status: number, body: object = {}): void => {
  response.writeHead(status, { "retry-after": "0" }).end(JSON.stringify(body));
};
const keep = (events: readonly Sent[]): void => {
  for (const { event_id, raw_event } of events) stored.set(event_id, raw_event);
};
const accept = (events: Sent[], response: ServerResponse): void => {
  keep(events);
  reply(response, 202, { accepted: events.length, ids: events.map(({ event_id }) => event_id) });
};

const server = createServer((request: IncomingMessage, response) => {
  if (request.method === "GET") {
    if (unavailable-- > 0) return reply(response, 503, { error: "no_replica" });
    return reply(response, 200, { total: stored.size });
  }
  let body = "";
  request.on("data", (chunk: Buffer) => (body += chunk.toString()));
  request.on("end", () => {
    const events = body.split("\n").map((line) => JSON.parse(line) as Sent);
    posts.push({ type: request.headers["content-type"], events });
    answer(events, response, posts.length);
  });
});
let url = "";
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());
beforeEach(() => {
  stored.clear();
  posts.length = 0;
  unavailable = 0;
  answer = accept;
});

const numbered = (count: number): string[] => Array.from({ length: count }, (_, n) => `line ${n + 1}`);
const run = (lines: string[], batch: number): Promise<SendResult> =>
  send(
    () => lines,
    { api: url, ingest: url, token: "t" },
    batch,
    () => {},
  );

describe("send", () => {
  it("posts every line that is not empty, once, with an id of its own", async () => {
    expect(await run(["a", "", " ", "b", "c"], 2)).toMatchObject({ lines: 3, acknowledged: 3 });
    expect(posts.map(({ events }) => events.map(({ raw_event }) => raw_event)).sort()).toEqual([
      ["a", "b"],
      ["c"],
    ]);
    expect(posts[0]?.type).toBe("application/x-ndjson");
    expect([...stored.values()].sort()).toEqual(["a", "b", "c"]);
  });

  it("asks again for what is stored, where the API can't answer for a while", async () => {
    answer = (events, response) => {
      unavailable = 5;
      accept(events, response);
    };
    expect(await run(["a", "b"], 2)).toMatchObject({ lines: 2, acknowledged: 2 });
    expect(unavailable).toBeLessThan(0);
  });

  it.each([429, 500, 502, 503, 504])(
    "repeats a post that was answered %d with the same ids, so that what was stored of it isn't stored anew",
    async (status) => {
      answer = (events, response, post) => {
        if (post > 2) return accept(events, response);
        keep(events.slice(0, 3));
        reply(response, status, { error: "not_acknowledged" });
      };
      expect(await run(numbered(5), 10)).toMatchObject({ lines: 5, acknowledged: 5 });
      expect(posts).toHaveLength(3);
      expect([...stored.values()].sort()).toEqual(numbered(5));
    },
  );

  it("repeats a post whose connection broke", async () => {
    answer = (events, response, post) => {
      if (post > 1) return accept(events, response);
      keep(events);
      response.socket?.destroy();
    };
    expect(await run(numbered(5), 10)).toMatchObject({ acknowledged: 5 });
    expect([...stored.values()].sort()).toEqual(numbered(5));
  });

  it("stops at a refusal, and names the line, what is missing, and where the rest begins", async () => {
    answer = (events, response) => {
      if (events.some(({ raw_event }) => raw_event === "line 23")) {
        return reply(response, 400, { error: "invalid_event", line: 3, field: "raw_event" });
      }
      accept(events, response);
    };
    // The second line is empty, so that numbers and lines differ.
    const lines = numbered(1000).flatMap((line, index) => (index === 1 ? ["", line] : [line]));
    const failure = await run(lines, 10).then(
      () => "",
      (error: Error) => error.message,
    );
    expect(failure).toMatch(/the ingestor answered 400 about line 24 of the input/);
    expect(failure).toMatch(/Lines 22 to 31 were not/);
    const next = Number(/nothing from line (\d+) on was sent/.exec(failure)?.[1]);
    const acknowledged = Number(/(\d+) lines were acknowledged/.exec(failure)?.[1]);
    expect(next).toBeLessThan(300);
    // One line is empty, and ten were refused.
    expect(acknowledged).toBe(next - 1 - 1 - 10);
    expect(stored.size).toBe(acknowledged);
    expect(
      posts.filter(({ events }) => events.some(({ raw_event }) => raw_event === "line 23")),
    ).toHaveLength(1);
  });

  it("gives up after ten tries", async () => {
    answer = (_events, response) => reply(response, 503, { error: "kafka_unreachable" });
    await expect(run(numbered(3), 10)).rejects.toThrow(/503.*kafka_unreachable[^]*Lines 1 to 3 were not/);
    expect(posts).toHaveLength(10);
  });

  it("cuts a post below the 5 MiB that the ingestor takes", async () => {
    const lines = Array.from({ length: 60 }, () => "x".repeat(200_000));
    expect(await run(lines, 10_000)).toMatchObject({ acknowledged: 60 });
    expect(posts.length).toBeGreaterThan(2);
    for (const { events } of posts) expect(JSON.stringify(events).length).toBeLessThan(5 * 1024 * 1024);
  });
});
