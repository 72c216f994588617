// Failover between replicas: dead, silent, garbled, cut off in mid-answer, lagging; and a query that is called back.

import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import { type AddressInfo, Server as TcpServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { ClickHouseError } from "@clickhouse/client";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Statement } from "../../services/api/query.ts";
import { connect, maxAnswerBytes, type Replica, Replicas, type Row } from "../../services/api/replicas.ts";

const never = new AbortController().signal;
const sql = "SELECT 1" as Statement;
const ask = (replicas: Replicas, signal = never): Promise<Row[]> => replicas.query(sql, signal);
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const down: Replica = () => Promise.reject(Object.assign(new Error("refused"), { code: "ECONNREFUSED" }));
const error =
  (code: string, message = "no"): Replica =>
  () =>
    Promise.reject(new ClickHouseError({ message, code, type: "T" }));
/** 18.16's errors reach us as plain text. */
const old =
  (code: string, message = "no"): Replica =>
  () =>
    Promise.reject(new Error(`Code: ${code}, e.displayText() = DB::Exception: ${message}`));
const up =
  (name: string): Replica =>
  (statement) =>
    Promise.resolve(
      statement.includes("system.replicas") ? [{ tables: "2", delay: "0", cut_off: 0 }] : [{ name }],
    );
/** A replica that says how it is. */
const withState =
  (name: string, state: Row): Replica =>
  (statement) =>
    Promise.resolve(statement.includes("system.replicas") ? [state] : [{ name }]);
const hanging: Replica = (_statement, signal) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Error)));

describe("replicas", () => {
  it("fail over, and the one that answered is asked first from then on", async () => {
    let asked = 0;
    const replicas = new Replicas([(...args) => (asked++, down(...args)), up("b"), up("c")]);
    expect(await ask(replicas)).toEqual([{ name: "b" }]);
    expect(await ask(replicas)).toEqual([{ name: "b" }]);
    expect(asked).toBe(1);
  });

  it.each(["60", "33", "76", "115", "193", "243", "1000", "4711"])(
    "fail over on error %s, which may be one replica's own",
    async (code) => {
      expect(await ask(new Replicas([error(code), up("b")]))).toEqual([{ name: "b" }]);
      expect(await ask(new Replicas([old(code), up("b")]))).toEqual([{ name: "b" }]);
    },
  );

  it.each(["42", "43", "46", "47", "53", "62", "215", "386"])(
    "don't fail over on error %s: the statement is wrong everywhere",
    async (code) => {
      await expect(ask(new Replicas([error(code), up("b")]))).rejects.toThrow(ClickHouseError);
      await expect(ask(new Replicas([old(code), up("b")]))).rejects.toThrow(`Code: ${code}`);
    },
  );

  it.each([
    ["158", "narrow"],
    ["159", "narrow"],
    ["160", "narrow"],
    ["396", "limit"],
  ])("don't fail over on error %s: a limit, and what helps is said", async (code, hint) => {
    for (const replica of [error(code), old(code)]) {
      await expect(ask(new Replicas([replica, up("b")]))).rejects.toMatchObject({
        status: 422,
        code: "too_much",
        message: expect.stringContaining(hint) as string,
      });
    }
  });

  it.each(["Memory limit (for query) exceeded: would use", "Query memory limit exceeded: would use", "no"])(
    "don't fail over when the query itself needs too much memory: %s",
    async (message) => {
      for (const replica of [error("241", message), old("241", message)]) {
        await expect(ask(new Replicas([replica, up("b")]))).rejects.toMatchObject({
          status: 422,
          message: expect.stringContaining("narrow") as string,
        });
      }
    },
  );

  it.each([
    "Memory limit (for user) exceeded: would use",
    "Memory limit (total) exceeded: would use",
    "User memory limit exceeded: would use",
    "(total) memory limit exceeded: would use",
  ])("fail over when other queries have taken the memory: %s", async (message) => {
    for (const replica of [error("241", message), old("241", message)]) {
      expect(await ask(new Replicas([replica, up("b")]))).toEqual([{ name: "b" }]);
      await expect(ask(new Replicas([replica, down]))).rejects.toMatchObject({
        status: 503,
        code: "busy",
        headers: { "retry-after": expect.any(String) as string },
      });
    }
  });

  it("say for the log why each could not answer, when none can", async () => {
    const long: Replica = () =>
      Promise.reject(new Error(`Code: 76, e.displayText() = no\n${"x".repeat(9999)}`));
    const failed = await ask(new Replicas([error("243", "no space"), long, down])).catch(
      (reason: unknown) => reason,
    );
    expect(failed).toMatchObject({
      status: 503,
      code: "database_unreachable",
      headers: { "retry-after": expect.any(String) as string },
    });
    const cause = (failed as Error).cause as Error;
    expect(cause.message).toMatch(/^Code: 243, no space; Code: 76, e\.displayText\(\) = no x+; refused$/);
    expect(cause.message.length).toBeLessThan(1000);
  });

  it("are healthy while one answers, and a ping moves away from a dead one", async () => {
    let asked = 0;
    const replicas = new Replicas([(...args) => (asked++, down(...args)), up("b")]);
    expect(await replicas.ping()).toBe(true);
    await settle();
    await ask(replicas);
    expect(asked).toBe(1);
    const dead = new Replicas([down, down]);
    expect(await dead.ping()).toBe(false);
    await expect(ask(dead)).rejects.toMatchObject({ status: 503, code: "database_unreachable" });
  });

  it("that lag, lost ZooKeeper or have no tables are asked last, and still answer when nobody else does", async () => {
    for (const state of [
      { tables: "2", delay: "31", cut_off: 0 },
      { tables: "2", delay: "0", cut_off: 1 },
      // Its disk is new: no table is late there.
      { tables: "0", delay: "0", cut_off: 0 },
    ]) {
      const replicas = new Replicas([withState("stale", state), up("fresh")]);
      expect(await ask(replicas)).toEqual([{ name: "stale" }]);
      await replicas.ping();
      await settle();
      expect(await ask(replicas)).toEqual([{ name: "fresh" }]);
      const alone = new Replicas([withState("stale", state), down]);
      expect(await alone.ping()).toBe(true);
      await settle();
      expect(await ask(alone)).toEqual([{ name: "stale" }]);
    }
    const slightly = new Replicas([
      withState("slightly", { tables: "2", delay: "30", cut_off: 0 }),
      up("fresh"),
    ]);
    await slightly.ping();
    await settle();
    expect(await ask(slightly)).toEqual([{ name: "slightly" }]);
  });

  it("that fall silent give their running queries back after two missed pings", async () => {
    let silent = false;
    const first: Replica = (statement, signal) =>
      silent && statement.includes("system.replicas") ? down(statement, signal) : hanging(statement, signal);
    const replicas = new Replicas([first, up("b")]);
    const answers: Row[][] = [];
    const running = ask(replicas).then((rows) => answers.push(rows));
    silent = true;
    for (const expected of [[], [[{ name: "b" }]]]) {
      await replicas.ping();
      await settle();
      // At once, not when the attempt's own time is over.
      expect(answers).toEqual(expected);
    }
    await running;
  });

  it("are not asked further once the client has gone", async () => {
    const controller = new AbortController();
    let asked = 0;
    const running = ask(new Replicas([hanging, () => Promise.resolve([{ n: asked++ }])]), controller.signal);
    controller.abort();
    await expect(running).rejects.toMatchObject({ code: "client_gone" });
    expect(asked).toBe(0);
  });
});

describe("a replica over HTTP", () => {
  const servers: Server[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) {
      server.closeAllConnections();
      server.close();
    }
  });
  async function serve(listener: RequestListener): Promise<Replica> {
    const server = createServer(listener).listen(0, "127.0.0.1");
    servers.push(server);
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return connect(url, { urls: [url], username: "u", password: "p", database: "d" });
  }
  const answer = { meta: [{ name: "a", type: "String" }], data: [{ a: "1" }, { a: "2" }], rows: 2 };
  const text = JSON.stringify(answer);

  it("gives its rows", async () => {
    expect(await (await serve((_, response) => response.end(text)))(sql, never)).toEqual(answer.data);
  });

  it("that takes no new connection is left, though it answers on those that it has", async () => {
    const server = createServer((request, response) => {
      const state = { tables: "2", delay: "0", cut_off: 0 };
      request.on("data", (sql) => {
        const data = String(sql).includes("system.replicas") ? [state] : [{ name: "stops" }];
        response.end(JSON.stringify({ data }));
      });
    }).listen(0, "127.0.0.1");
    servers.push(server);
    await once(server, "listening");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const replicas = new Replicas([
      connect(url, { urls: [url], username: "u", password: "p", database: "d" }),
      up("b"),
    ]);
    const asked = async (): Promise<Row[]> => {
      await replicas.ping();
      await settle();
      return ask(replicas);
    };
    expect(await asked()).toEqual([{ name: "stops" }]);
    // An HTTP server of Node's would close idle connections too.
    TcpServer.prototype.close.call(server);
    await vi.waitFor(async () => expect(await asked()).toEqual([{ name: "b" }]), 5_000);
  });

  it.each<[string, RequestListener]>([
    ["garbage", (_, response) => response.end("<html>wrong door</html>")],
    ["nothing", (_, response) => response.end()],
    ["JSON that is no answer", (_, response) => response.end('{"data": 7}')],
    ["half an answer, then ends as if it were whole", (_, response) => response.end(text.slice(0, 60))],
    [
      "half an answer, then dies",
      (_, response) => {
        response.write(text.slice(0, 60));
        setTimeout(() => response.destroy(), 20);
      },
    ],
    [
      "rows, then an error",
      (_, response) => response.end(`${text.slice(0, 60)}Code: 241, e.displayText() = no`),
    ],
    ["an error of the proxy before it", (_, response) => response.writeHead(502).end("bad gateway")],
    ["no answer: it closes", (request) => request.socket.destroy()],
  ])("that answers %s is passed over", async (_, listener) => {
    const replicas = new Replicas([await serve(listener), up("b")]);
    expect(await ask(replicas)).toEqual([{ name: "b" }]);
  });

  it("sends the bound of an answer, and none for memory: the server's own holds", async () => {
    let asked = new URLSearchParams();
    const replica = await serve((request, response) => {
      asked = new URL(request.url!, "http://x").searchParams;
      request.resume().on("end", () => response.end(text));
    });
    await replica(sql, never);
    expect(asked.get("max_result_bytes")).toBe(String(maxAnswerBytes));
    expect([...asked.keys()].filter((key) => key.includes("memory"))).toEqual([]);
  });

  it("with an answer beyond the bound is read no further, and no other replica is asked", async () => {
    // One byte in the database is six here.
    const part = JSON.stringify("\0".repeat(64 * 1024));
    let [sent, closed] = [0, false];
    const replica = await serve((request, response) => {
      request.resume();
      response.on("close", () => (closed = true));
      response.write('{"data":[{"a":""}');
      const more = (): void => {
        while (!closed && sent < 20 * maxAnswerBytes) {
          sent += part.length;
          if (!response.write(`,{"a":${part}}`)) return;
        }
        if (!closed) response.end("]}");
      };
      response.on("drain", more);
      more();
    });
    await expect(ask(new Replicas([replica, up("b")]))).rejects.toMatchObject({
      status: 422,
      code: "too_much",
      message: expect.stringContaining("limit") as string,
    });
    await expect.poll(() => closed).toBe(true);
    expect(sent).toBeLessThan(4 * maxAnswerBytes);
  });

  it("with an answer just within the bound is read", async () => {
    const row = { a: "\0é".repeat(Math.floor(maxAnswerBytes / 8) - 10) };
    const whole = JSON.stringify({ data: [row] });
    expect(Buffer.byteLength(whole)).toBeGreaterThan(maxAnswerBytes - 100);
    expect(Buffer.byteLength(whole)).toBeLessThanOrEqual(maxAnswerBytes);
    const replica = await serve((request, response) => {
      request.resume().on("end", () => response.end(whole));
    });
    expect(await replica(sql, never)).toEqual([row]);
  });

  /** Begins an answer, and never comes to its end. */
  const trickling = (closed = (): void => {}): RequestListener => {
    return (request, response) => {
      request.resume();
      response.writeHead(200, { "content-type": "application/json" }).write(text.slice(0, 60));
      const more = setInterval(() => response.write(" "), 20);
      response.on("close", () => {
        clearInterval(more);
        closed();
      });
    };
  };

  it("that stalls within an answer is left when nobody waits for it any more", async () => {
    const controller = new AbortController();
    let [asked, closed] = [0, 0];
    const stalled = trickling(() => closed++);
    const replica = await serve((request, response) => {
      if (asked++ === 0) stalled(request, response);
      else response.end();
    });
    const running = replica(sql, controller.signal);
    running.catch(() => {});
    await expect.poll(() => asked).toBe(1);
    // Later than the head of the answer.
    await sleep(100);
    controller.abort();
    await expect(running).rejects.toThrow();
    await expect.poll(() => closed).toBe(1);
  });

  it("that stalls within its answer to a ping does not answer", async () => {
    const replicas = new Replicas([await serve(trickling())]);
    expect(await replicas.ping()).toBe(false);
  });

  it("is told to end a query that nobody waits for", async () => {
    const asked: { query: string; id: string | null; readonly: string | null }[] = [];
    const controller = new AbortController();
    const replica = await serve((request, response) => {
      let query = "";
      request.on("data", (part: Buffer) => (query += part.toString()));
      request.on("end", () => {
        const { searchParams } = new URL(request.url!, "http://x");
        asked.push({ query, id: searchParams.get("query_id"), readonly: searchParams.get("readonly") });
        if (asked.length === 1) controller.abort();
        else response.end();
      });
    });
    await expect(replica(sql, controller.signal)).rejects.toThrow();
    await expect.poll(() => asked.length, { timeout: 10_000 }).toBe(2);
    expect(asked[0]!.readonly).toBe("2");
    expect(asked[1]!.query).toContain(`KILL QUERY WHERE query_id = '${asked[0]!.id}'`);
    expect(asked[1]!.readonly).toBe("0");
  });
});
