// A post's body is memory only while it is read: what waits for Kafka afterwards is the messages, which are counted.

import { once } from "node:events";
import { type AddressInfo, connect } from "node:net";
import { Readable } from "node:stream";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { createIngestor } from "../../services/ingestor/app.ts";
import { Budget } from "../../services/ingestor/budget.ts";
import { Intake } from "../../services/ingestor/intake.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import { mintToken } from "../../services/token.ts";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
/** How many of these objects something still refers to. */
const alive = (refs: readonly WeakRef<object>[]): number => {
  collect();
  return refs.filter((ref) => ref.deref() !== undefined).length;
};

describe("a body that was read", () => {
  it("is not kept by its stream", async () => {
    const refs: WeakRef<object>[] = [];
    const body = new Readable({ read: () => {} });
    const post = new Intake(new Budget(1e6)).open({});
    const read = async (): Promise<number> => {
      const reading = post.read(body);
      for (let n = 0; n < 3; n++) {
        const chunk = Buffer.alloc(10_000, "x");
        refs.push(new WeakRef(chunk));
        body.push(chunk);
      }
      body.push(null);
      const whole = await reading;
      refs.push(new WeakRef(whole));
      return whole.length;
    };
    expect(await read()).toBe(30_000);
    await expect.poll(() => alive(refs)).toBe(0);
    expect(body.destroyed).toBe(true);
  });

  it("is not kept while its events wait for Kafka, and neither are the events", async () => {
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    const publisher = { connected: true, publish: () => gate };
    const rules = parseRules();
    const pipeline = new Pipeline({ publisher, rules, eventsTopic: "events", alertsTopic: "alerts" });
    const refs: WeakRef<object>[] = [];
    const pack = pipeline.pack.bind(pipeline);
    pipeline.pack = (events, between) => {
      refs.push(new WeakRef(events));
      return pack(events, between);
    };
    const secret = "0123456789abcdef0123456789abcdef";
    const keys = { current: new TextEncoder().encode(secret) };
    const app = createIngestor({ pipeline, keys, lifecycle: { draining: false }, quiet: true });
    app.addHook("preHandler", ({ body }, _reply, next) => {
      refs.push(new WeakRef(body as Buffer));
      next();
    });
    try {
      await app.listen({ host: "127.0.0.1", port: 0 });
      const grant = { tenantId: "acme", scope: "events:write", ttlSeconds: 600, subject: "test" };
      const socket = connect((app.server.address() as AddressInfo).port, "127.0.0.1");
      const answered = once(socket, "data");
      const lines = `a${"\n".repeat(100_000)}`;
      socket.write(
        `POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${await mintToken({ secret, ...grant })}\r\n` +
          `content-type: text/plain\r\ncontent-length: ${lines.length}\r\n\r\n${lines}`,
      );
      await expect.poll(() => refs.length).toBe(2);
      await expect.poll(() => alive(refs)).toBe(0);
      acknowledge();
      expect(String((await answered)[0])).toMatch(/^HTTP\/1\.1 202 /);
      socket.destroy();
    } finally {
      acknowledge();
      await app.close();
    }
  });
});
