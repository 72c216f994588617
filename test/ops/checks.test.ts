// The requests of `verify`: by way of a machine, as they go over the wire; and what it does without an answer.

import { createServer as createHttp } from "node:http";
import { type AddressInfo, connect, createServer } from "node:net";
import { describe, expect, it } from "vitest";
import { answered, parseAnswer, renderLag, renderRequest, renderUnreadable } from "../../ops/checks.ts";

const exchange = (port: number, text: string) =>
  new Promise<string>((resolve, reject) => {
    let said = "";
    const socket = connect(port, "127.0.0.1", () => socket.end(text));
    socket.on("data", (chunk: Buffer) => (said += chunk.toString()));
    socket.on("end", () => resolve(said));
    socket.on("error", reject);
  });

describe("a request over the wire", () => {
  it("is one that an HTTP server understands, body and all", async () => {
    const server = createHttp((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        response.writeHead(202, { "content-type": "application/json" });
        response.end(JSON.stringify([request.method, request.url, request.headers["authorization"], body]));
      });
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as AddressInfo;
    const text = renderRequest("siem.vip", "POST", "/v1/events", { authorization: "Bearer t" }, '{"ä":1}');
    const { status, text: answer } = parseAnswer(await exchange(port, text));
    server.close();
    expect(status).toBe(202);
    expect(JSON.parse(answer)).toEqual(["POST", "/v1/events", "Bearer t", '{"ä":1}']);
  });

  it("gets no answer that is not HTTP", async () => {
    const server = createServer((socket) => socket.end("SSH-2.0\r\n")).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const said = await exchange((server.address() as AddressInfo).port, "GET / HTTP/1.0\r\n\r\n");
    server.close();
    expect(() => parseAnswer(said)).toThrow(/no HTTP answer, but "SSH-2.0/);
  });
});

describe("a request of the probe", () => {
  it("is sent again where no answer came, and says so", async () => {
    const said = [undefined, undefined, { status: 503, text: "stopping" }, { status: 202, text: "" }];
    const ask = () => {
      const next = said.shift();
      return next ? Promise.resolve(next) : Promise.reject(new Error("timeout"));
    };
    // An answer is one, whatever it says.
    expect(await answered(ask)).toEqual({ status: 503, text: "stopping", tries: 3 });
    expect(said).toHaveLength(1);
  });

  it("fails with the last reason when there never is an answer", async () => {
    let asked = 0;
    const ask = () => Promise.reject(new Error(`timeout ${++asked}`));
    await expect(answered(ask)).rejects.toThrow("no answer to 3 requests; to the last: timeout 3");
  });
});

describe("the consumer lag", () => {
  const lag = (unread: number, deletedUnread: number) => [
    { group: "a", topic: "t", unread: 0, deletedUnread: 0 },
    { group: "b", topic: "t", unread, deletedUnread },
  ];

  it("is shown for each group, and fails beyond 1,000, or where Kafka deleted what was unread", () => {
    expect(renderLag(lag(1000, 0))).toBe("a: 0 unread; b: 1000 unread");
    expect(() => renderLag(lag(1001, 0))).toThrow(/b: 1001 unread \(allowed: 1000\)/);
    expect(() => renderLag(lag(0, 7))).toThrow(/b: 0 unread, 7 deleted before it read them/);
  });
});

describe("what was set aside", () => {
  it("is counted, with the last reason", () => {
    expect(renderUnreadable("0\t0\t")).toBe("no message was set aside");
    expect(renderUnreadable("5\t2\tnot a JSON object")).toBe(
      "set aside: 2 messages in 24 h, 5 in all, the last one because not a JSON object; see dev.unreadable_once",
    );
  });
});
