// Syslog over TCP on the loopback interface: frames of both kinds, back-pressure, bounds, and a stop that loses nothing.

import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { toTenantId } from "../../services/common/auth.ts";
import { Env } from "../../services/common/env.ts";
import type { Message } from "../../services/ingestor/batch.ts";
import { Budget } from "../../services/ingestor/budget.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import {
  FrameReader,
  readSyslog,
  SyslogListener,
  type SyslogLimits,
} from "../../services/ingestor/syslog.ts";
import { Turns } from "../../services/ingestor/turns.ts";

const counted = (text: string): string => `${Buffer.byteLength(text)} ${text}`;
const lines = (...texts: string[]): Buffer => Buffer.from(texts.join(""));

describe("frames", () => {
  /** What a reader makes of a stream that comes in these pieces. */
  const read = (pieces: Buffer[]): (string | undefined)[] => {
    const reader = new FrameReader(new Budget(1e7));
    const frames = pieces.flatMap((piece) => [...reader.read(piece).frames]);
    const rest = reader.rest();
    return rest === undefined ? frames : [...frames, rest];
  };

  it.each([
    ["lines", lines("<1>a\n<1>b\r\n\n<1>c\0\n"), ["<1>a", "<1>b", "<1>c"]],
    [
      "counted",
      lines(counted("<1>a\nb"), counted("<1>é\u{1f600}"), counted("<1>c\n")),
      ["<1>a\nb", "<1>é\u{1f600}", "<1>c"],
    ],
    ["both", lines(counted("<1>a"), "<1>b\n", counted("<1>c")), ["<1>a", "<1>b", "<1>c"]],
    ["a last line without its end", lines("<1>a\n<1>b"), ["<1>a", "<1>b"]],
    ["a count that isn't reached", lines("<1>a\n", "9 <1>b"), ["<1>a"]],
    [
      "lines that begin with digits",
      lines("12 monkeys\n2031-03-04T01:02:03Z h a: x\n7\n0 <1>\n"),
      ["12 monkeys", "2031-03-04T01:02:03Z h a: x", "7", "0 <1>"],
    ],
    ["a number too long for a count", lines("12345678901 <1>x\n"), ["12345678901 <1>x"]],
  ])("%s", (_name, stream, expected) => {
    expect(read([stream])).toEqual(expected);
    expect(read([...stream].map((byte) => Buffer.from([byte])))).toEqual(expected);
  });

  it("are the same however the stream is cut", () => {
    const text = fc
      .string({ unit: fc.constantFrom(..."ab1 <>é\0["), maxLength: 30 })
      .map((body) => `<1>x${body}y`);
    const frame = fc.record({ text, isCounted: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 12 }),
        fc.array(fc.nat(40), { minLength: 1 }),
        (frames, cuts) => {
          const stream = Buffer.from(
            frames.map((f) => (f.isCounted ? counted(f.text) : `${f.text}\n`)).join(""),
          );
          const pieces: Buffer[] = [];
          for (let from = 0, n = 0; from < stream.length; n++) {
            const to = from + 1 + cuts[n % cuts.length]!;
            pieces.push(stream.subarray(from, to));
            from = to;
          }
          expect(read(pieces)).toEqual(frames.map((f) => f.text));
        },
      ),
    );
  });

  it("of 256 KiB are read, longer ones are passed over, and what comes before and after is kept", () => {
    const longest = `<1>${"x".repeat(256 * 1024 - 3)}`;
    for (const encode of [counted, (text: string) => `${text}\n`]) {
      expect(read([Buffer.from(encode(longest))])).toEqual([longest]);
      const long = encode(`${longest}x`);
      const stream = Buffer.from(`<1>a\n${long}${long}<1>b\n${counted("<1>c")}`);
      for (const size of [stream.length, 100_000, 4_099]) {
        const budget = new Budget(1e6);
        const reader = new FrameReader(budget);
        const seen: { frames: string[]; skipped: number[] } = { frames: [], skipped: [] };
        for (let at = 0; at < stream.length; at += size) {
          const { frames, skipped, problem } = reader.read(stream.subarray(at, at + size));
          expect(problem).toBeUndefined();
          seen.frames.push(...frames);
          seen.skipped.push(...skipped);
        }
        expect(seen).toEqual({ frames: ["<1>a", "<1>b", "<1>c"], skipped: [long.length, long.length] });
        expect([reader.pending, budget.held]).toEqual([0, 0]);
      }
    }
  });

  it("without an end in sight end the connection, with what was read and not used", () => {
    const endless = new FrameReader(new Budget(1e7));
    const piece = Buffer.alloc(1024 * 1024, "x");
    const problems = Array.from({ length: 17 }, () => endless.read(piece).problem);
    expect(problems.slice(0, 16)).toEqual(Array(16).fill(undefined));
    expect(problems[16]).toMatchObject({ bytes: 17 * piece.length, lines: 0 });
    const result = new FrameReader(new Budget(1e7)).read(Buffer.from("<1>a\n16777217 <1>b\n<1>c\n"));
    expect(result.frames).toEqual(["<1>a"]);
    expect(result.problem).toMatchObject({ bytes: 19, lines: 2 });
    expect(result.problem?.message).toContain("16777217 bytes was announced");
  });

  it("that are unfinished are bounded over all connections, and given back", () => {
    const budget = new Budget(150_000);
    const [one, other] = [new FrameReader(budget), new FrameReader(budget)];
    expect(one.read(Buffer.alloc(60_000, "x")).problem).toBeUndefined();
    const { problem } = other.read(Buffer.alloc(100_000, "x"));
    expect(problem?.message).toContain("too many unfinished");
    expect(problem).toMatchObject({ bytes: 100_000, lines: 0 });
    one.read(Buffer.from("\n"));
    one.read(Buffer.alloc(100_000, "x"));
    // The lines that it ends and begins are lost with it.
    expect(one.read(Buffer.from(`\n${"y".repeat(40_000)}\n`)).problem).toMatchObject({
      bytes: 140_002,
      lines: 2,
    });
    one.close();
    one.read(Buffer.from("\n"));
    other.close();
    expect(budget.held).toBe(0);
  });
});

describe("the environment", () => {
  const read = (given: Record<string, string>) => {
    const env = new Env(given);
    const result = readSyslog(env);
    env.check();
    return result;
  };
  it("names an address and a tenant, or neither", () => {
    expect(read({})).toBeUndefined();
    expect(read({ SYSLOG_ADDR: "0.0.0.0:5515", SYSLOG_TENANT: "acme" })).toEqual({
      address: { host: "0.0.0.0", port: 5515 },
      tenant: "acme",
    });
  });
  it.each([
    [{ SYSLOG_ADDR: "0.0.0.0:5515" }, /SYSLOG_ADDR is set but SYSLOG_TENANT is not/],
    [{ SYSLOG_TENANT: "acme" }, /SYSLOG_TENANT is set but SYSLOG_ADDR is not/],
    [{ SYSLOG_ADDR: "5515", SYSLOG_TENANT: "acme" }, /SYSLOG_ADDR must be host:port/],
    [{ SYSLOG_ADDR: "0.0.0.0:5515", SYSLOG_TENANT: "a b" }, /SYSLOG_TENANT must be 1 to 64 .*"a b"/],
  ])("refuses %j", (given, message) => expect(() => read(given)).toThrow(message));
});

describe("a listener", () => {
  const calls: Message[][] = [];
  const warnings: string[] = [];
  const sockets: Socket[] = [];
  let publish: () => Promise<void>;
  let connected = true;
  const feed = { stands: false, retentionHours: 168 };
  let listener: SyslogListener;
  const events = (): Record<string, unknown>[] =>
    calls
      .flat()
      .filter(({ topic }) => topic === "events")
      .map(({ value }) => JSON.parse(value) as Record<string, unknown>);
  const raws = (): unknown[] => events().map((event) => event["raw_event"]);

  async function start(limits: Partial<SyslogLimits> = {}): Promise<void> {
    const publisher = {
      get connected() {
        return connected;
      },
      publish: (messages: readonly Message[]) => {
        calls.push([...messages]);
        return publish();
      },
    };
    const pipeline = new Pipeline({
      publisher,
      feed,
      rules: parseRules(),
      eventsTopic: "events",
      alertsTopic: "alerts",
    });
    listener = new SyslogListener({
      pipeline,
      tenant: toTenantId("acme"),
      warn: (details, message) => warnings.push(`${message} ${JSON.stringify(details)}`),
      now: () => new Date("2031-03-05T12:00:00Z"),
      limits: { retryMs: 10, ...limits },
    });
    await listener.listen({ host: "127.0.0.1", port: 0 });
  }
  /** A sender; `closed` resolves when the other side is gone. */
  async function sender(): Promise<{ socket: Socket; closed: Promise<void> }> {
    const socket = connect(listener.port, "127.0.0.1");
    sockets.push(socket);
    socket.on("error", () => {});
    const closed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
    socket.resume();
    await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
    return { socket, closed };
  }

  beforeEach(() => {
    calls.length = 0;
    warnings.length = 0;
    publish = () => Promise.resolve();
    connected = true;
    feed.stands = false;
  });
  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
    publish = () => Promise.resolve();
    connected = true;
    feed.stands = false;
    await listener.stop();
  });

  it("makes each frame an event of its tenant, with rules and alerts", async () => {
    await start();
    const { socket } = await sender();
    const line = "<38>Mar  5 11:00:00 h sshd[1]: Invalid user eve from 192.0.2.7";
    socket.end(`${counted(line)}<13>Mar  5 11:00:01 h app: last`);
    await expect.poll(raws).toEqual([line, "<13>Mar  5 11:00:01 h app: last"]);
    expect(events()[0]).toMatchObject({
      tenant_id: "acme",
      source_ip: "192.0.2.7",
      source_type: "sshd",
      is_threat: 1,
      event_timestamp: Date.parse("2031-03-05T11:00:00Z") / 1000,
    });
    expect(calls.flat().filter(({ topic }) => topic === "alerts")).toHaveLength(1);
    await expect.poll(() => listener.connections).toBe(0);
    expect(warnings).toEqual([]);
  });

  it("stops reading while Kafka is behind, and loses and repeats nothing", async () => {
    await start();
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const { socket } = await sender();
    const line = `<13>${"x".repeat(10_000)}`;
    const total = 2_000;
    for (let n = 0; n < total; n++) socket.write(`${line}${n}\n`);
    await expect.poll(() => calls.length).toBeGreaterThan(0);
    // Twenty megabytes wait at the sender; what was read is a chunk.
    await expect.poll(() => socket.writableLength).toBeGreaterThan(0);
    await sleep(100);
    expect(raws().length).toBeLessThan(100);
    expect(calls).toHaveLength(1);
    acknowledge();
    publish = () => Promise.resolve();
    await expect.poll(() => raws().length, { timeout: 20_000 }).toBe(total);
    expect(new Set(raws()).size).toBe(total);
  });

  it("makes rows of so many lines at a time, whatever many connections brought", async () => {
    await start({ turns: 2, turnLines: 3 });
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const texts = Array.from({ length: 50 }, (_, n) => `<13>${n}`);
    for (let at = 0; at < texts.length; at += 10) {
      const { socket } = await sender();
      socket.write(
        texts
          .slice(at, at + 10)
          .map((text) => `${text}\n`)
          .join(""),
      );
    }
    await expect.poll(() => raws().length).toBeGreaterThanOrEqual(6);
    await sleep(100);
    const atOnce = raws();
    acknowledge();
    expect(atOnce).toHaveLength(6);
    await expect.poll(() => raws().length).toBe(texts.length);
    expect(raws().sort()).toEqual([...texts].sort());
    expect(warnings).toEqual([]);
  });

  it("stops only when lines that wait for their turn are acknowledged too", async () => {
    const turns = vi.spyOn(Turns.prototype, "run");
    try {
      await start({ turns: 1 });
      let acknowledge = (): void => {};
      const gate = new Promise<void>((resolve) => (acknowledge = resolve));
      publish = () => gate;
      const [first, second] = [await sender(), await sender()];
      first.socket.write("<13>a\n");
      await expect.poll(raws).toEqual(["<13>a"]);
      second.socket.write("<13>b\n");
      await expect.poll(() => turns.mock.calls.length).toBe(2);
      let stopped = false;
      const stop = listener.stop().then(() => (stopped = true));
      await sleep(50);
      expect([stopped, raws()]).toEqual([false, ["<13>a"]]);
      acknowledge();
      await stop;
      expect(raws()).toEqual(["<13>a", "<13>b"]);
      expect(warnings).toEqual([]);
    } finally {
      turns.mockRestore();
    }
  });

  it("counts every line that a stop could not hand over", async () => {
    await start({ turns: 1, turnLines: 2, giveUpMs: 50 });
    publish = () => Promise.reject(new Error("no"));
    const [first, second] = [await sender(), await sender()];
    first.socket.write("<13>a\n<13>b\n<13>c\n");
    await expect.poll(() => calls.length).toBeGreaterThan(1);
    const turns = vi.spyOn(Turns.prototype, "run");
    try {
      second.socket.write("<13>d\n");
      await expect.poll(() => turns.mock.calls.length).toBe(1);
    } finally {
      turns.mockRestore();
    }
    await listener.stop();
    expect(warnings.map((warning) => Number(/"lines":(\d+)/.exec(warning)?.[1]))).toEqual([3, 1]);
  });

  it("tries again with the same ids until Kafka acknowledges", async () => {
    await start();
    let call = 0;
    publish = () => (call++ < 2 ? Promise.reject(new Error("no")) : Promise.resolve());
    const { socket } = await sender();
    socket.write("<13>a\n");
    await expect.poll(() => calls.length).toBe(3);
    connected = false;
    socket.write("<13>b\n");
    await sleep(50);
    expect(calls).toHaveLength(3);
    connected = true;
    await expect.poll(raws).toEqual(["<13>a", "<13>a", "<13>a", "<13>b"]);
    expect(new Set(events().map((event) => event["event_id"])).size).toBe(2);
  });

  it("reads no further while the feed stands, and loses nothing", async () => {
    await start();
    feed.stands = true;
    const { socket } = await sender();
    socket.write("<13>a\n");
    await sleep(50);
    socket.write("<13>b\n");
    await sleep(50);
    expect([calls.length, listener.connections]).toEqual([0, 1]);
    feed.stands = false;
    await expect.poll(raws).toEqual(["<13>a", "<13>b"]);
    expect(warnings).toEqual([]);
  });

  it("closes a connection whose lines have no end, says what it dropped, and keeps what came before", async () => {
    await start();
    const { socket, closed } = await sender();
    socket.write(`<13>a\n300000000 <13>b\n<13>c\n`);
    await closed;
    expect(raws()).toEqual(["<13>a"]);
    expect(warnings).toEqual([
      'syslog: connection closed, and what was read was dropped: a line of 300000000 bytes was announced; at most 16777216 are passed over {"peer":"127.0.0.1","bytes":22,"lines":2}',
    ]);
  });

  it("skips lines that are too long, as they come or as events, says so, and goes on", async () => {
    await start();
    const { socket } = await sender();
    // Short enough as it comes; as JSON each character takes six.
    const escaped = `<13>${"\x01".repeat(60_000)}`;
    const long = `<13>${"x".repeat(300_000)}`;
    socket.write(`<13>a\n${counted(escaped)}<13>b\n${counted(long)}<13>c\n${long}\n${escaped}\n<13>d\n`);
    await expect.poll(raws).toEqual(["<13>a", "<13>b", "<13>c", "<13>d"]);
    expect(listener.connections).toBe(1);
    expect(warnings.map((warning) => Number(/"bytes":(\d+)/.exec(warning)?.[1])).sort()).toEqual(
      [300_004 + 7, 300_005, 60_004, 60_004].sort(),
    );
    for (const warning of warnings) {
      expect(warning).toMatch(/^syslog: a line was skipped: .*at most 262144 .*"peer":"127\.0\.0\.1"/);
    }
    socket.write("<13>e\n");
    await expect.poll(raws).toContain("<13>e");
  });

  it("takes so many connections and no more", async () => {
    await start({ connections: 2 });
    const [one, two, three] = [await sender(), await sender(), await sender()];
    await three.closed;
    expect(warnings.join()).toContain("connection refused: 2 are open");
    one.socket.write("<13>a\n");
    two.socket.write("<13>b\n");
    await expect.poll(() => [...raws()].sort()).toEqual(["<13>a", "<13>b"]);
  });

  it("closes silent connections, sooner within a line, but not one that waits for Kafka", async () => {
    await start({ idleMs: 300, unfinishedMs: 100 });
    let acknowledge = (): void => {};
    publish = () => new Promise((resolve) => (acknowledge = resolve));
    const [busy, silent, half] = [await sender(), await sender(), await sender()];
    busy.socket.write("<13>a\n");
    half.socket.write("<13>half");
    await half.closed;
    await silent.closed;
    await sleep(200);
    expect(listener.connections).toBe(1);
    expect(warnings.join()).toContain('unfinished line was dropped {"peer":"127.0.0.1","bytes":8}');
    acknowledge();
    await busy.closed;
    expect(raws()).toEqual(["<13>a"]);
  });

  it("stops when what was read is acknowledged: no more connections, the line it is in, no line after", async () => {
    await start({ stopMs: 2_000 });
    let acknowledge = (): void => {};
    const gate = new Promise<void>((resolve) => (acknowledge = resolve));
    publish = () => gate;
    const [busy, idle, half] = [await sender(), await sender(), await sender()];
    half.socket.write("<13>first ");
    busy.socket.write("<13>a\n");
    await expect.poll(raws).toEqual(["<13>a"]);
    const { port } = listener;
    let stopped = false;
    const stop = listener.stop().then(() => (stopped = true));
    await idle.closed;
    half.socket.write("half\n");
    await expect.poll(raws).toEqual(["<13>a", "<13>first half"]);
    const refused = connect(port, "127.0.0.1");
    await new Promise((resolve) => refused.on("error", resolve));
    await sleep(50);
    expect(stopped).toBe(false);
    acknowledge();
    await stop;
    await Promise.all([busy.closed, half.closed]);
    expect(listener.connections).toBe(0);
    expect(warnings).toEqual([]);
  });

  it("says how much was read but not acknowledged when a stop can't wait, and drops half a line", async () => {
    await start({ stopMs: 50, giveUpMs: 50 });
    publish = () => Promise.reject(new Error("no"));
    const [busy, half] = [await sender(), await sender()];
    busy.socket.write("<13>a\n");
    half.socket.write("<13>half");
    await expect.poll(() => calls.length).toBeGreaterThan(1);
    await listener.stop();
    expect(warnings.join()).toMatch(
      /stopped before Kafka acknowledged .*"lines":1,"code":"not_acknowledged"/,
    );
    expect(warnings.join()).toMatch(/unfinished line was dropped .*"bytes":8/);
  });
});
