// The end of a request, whichever way it comes: the answer is out, or the client is gone, also behind another answer.

import { once } from "node:events";
import { type AddressInfo, connect, type Socket } from "node:net";
import type { FastifyInstance } from "fastify";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { createServer, onceClosed, serve } from "../../services/common/http.ts";

const many = 30;
const lifecycle = { draining: false };
let app: FastifyInstance;
let release: () => void;
let [begun, ended] = [0, 0];
const warnings: string[] = [];
const onWarning = ({ name }: Error): void => void warnings.push(name);

beforeEach(() => {
  [begun, ended] = [0, 0];
  lifecycle.draining = false;
  warnings.length = 0;
  process.on("warning", onWarning);
  const held = new Promise<void>((resolve) => (release = resolve));
  app = createServer(lifecycle, true);
  app.get("/", async (request, reply) => {
    onceClosed(request, reply, () => ended++);
    begun++;
    await held;
    return { fine: true };
  });
});
afterEach(async () => {
  release();
  process.off("warning", onWarning);
  await app.close();
});

/** So many requests on one connection, none of them answered yet. */
async function pipelined(): Promise<{ client: Socket; gone: Promise<unknown> }> {
  const accepted = once(app.server, "connection");
  const client = connect((app.server.address() as AddressInfo).port, "127.0.0.1");
  client.on("error", () => {});
  client.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(many));
  const [socket] = (await accepted) as [Socket];
  await expect.poll(() => begun).toBe(many);
  return { client, gone: once(socket, "close") };
}
const listen = (): Promise<string> => app.listen({ host: "127.0.0.1", port: 0 });

describe("the end of a request", () => {
  it("is told when the client goes away, of those too that wait behind an earlier answer", async () => {
    await listen();
    const { client, gone } = await pipelined();
    expect(ended).toBe(0);
    client.destroy();
    await gone;
    await expect.poll(() => ended).toBe(many);
    expect(warnings).toEqual([]);
  });

  it("is told once when the answers go out, and not again when the connection ends", async () => {
    await listen();
    const { client, gone } = await pipelined();
    client.resume();
    release();
    await expect.poll(() => ended).toBe(many);
    client.destroy();
    await gone;
    expect(ended).toBe(many);
  });

  it("is told at once when the client is gone already, and without a connection too", async () => {
    app.addHook("preHandler", async (request) => {
      if (!request.headers["x-leave"]) return;
      const { socket } = request.raw;
      socket.destroy();
      await once(socket, "close");
    });
    const address = await listen();
    await expect(fetch(address, { headers: { "x-leave": "1" } })).rejects.toThrow();
    await expect.poll(() => [begun, ended]).toEqual([1, 1]);
    release();
    expect((await app.inject("/")).statusCode).toBe(200);
    await expect.poll(() => ended).toBe(2);
  });
});

describe("a stop", () => {
  it("does not wait for pipelined requests whose client is gone", async () => {
    const handlers: (() => void)[] = [];
    const on = vi
      .spyOn(process, "on")
      .mockImplementation((_event, handler) => (handlers.push(handler as () => void), process));
    const exit = vi.spyOn(process, "exit").mockImplementation((() => {}) as () => never);
    const finish = vi.fn(() => Promise.resolve());
    try {
      await serve(app, { host: "127.0.0.1", port: 0 }, lifecycle, finish);
      on.mockRestore();
      const { client, gone } = await pipelined();
      client.destroy();
      await gone;
      // The first timer is the hard stop: it would end the test's own process.
      const timer = vi.spyOn(globalThis, "setTimeout").mockReturnValueOnce({
        unref: () => {},
      } as unknown as NodeJS.Timeout);
      handlers[0]!();
      timer.mockRestore();
      await expect.poll(() => exit.mock.calls, { timeout: 20_000 }).toEqual([[0]]);
      expect(finish).toHaveBeenCalledOnce();
    } finally {
      on.mockRestore();
      exit.mockRestore();
    }
  });
});
