// Takes syslog over TCP (RFC 6587) for one tenant. The protocol has no acknowledgement: what a sender wrote and this
// process didn't read is lost with the process, so whoever needs a guarantee posts over HTTP.

import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isTenantName, type TenantId, tenantRule } from "../common/auth.ts";
import { ConfigError, type Env } from "../common/env.ts";
import { HttpError } from "../common/http.ts";
import { Budget, Share } from "./budget.ts";
import { eventFromLine, InvalidEvent, maxEventBytes, type SiemEvent } from "./event.ts";
import type { Pipeline } from "./pipeline.ts";
import { Turns } from "./turns.ts";

export interface SyslogOptions {
  readonly pipeline: Pick<Pipeline, "pack" | "send">;
  readonly tenant: TenantId;
  readonly warn: (details: object, message: string) => void;
  /** @default the present */
  readonly now?: () => Date;
  readonly limits?: Partial<SyslogLimits>;
}

export interface SyslogLimits {
  /** Connections at once; each may hold what Node reads ahead, 64 KiB. */
  readonly connections: number;
  /** Bytes of unfinished lines of all connections together. */
  readonly unfinishedBytes: number;
  /** Connections whose lines are rows at once: the row of a short line is a hundred times its size. */
  readonly turns: number;
  /** Lines of one connection that are rows at once. */
  readonly turnLines: number;
  /** A connection without a byte for so long is closed. Senders are often silent for a while. */
  readonly idleMs: number;
  /** The same within a line. */
  readonly unfinishedMs: number;
  /** How long a stop waits for the rest of a line. */
  readonly stopMs: number;
  /** How long a stop waits for Kafka to acknowledge what was read. */
  readonly giveUpMs: number;
  /** Between attempts while Kafka doesn't acknowledge. */
  readonly retryMs: number;
}

const defaultLimits: SyslogLimits = {
  connections: 512,
  unfinishedBytes: 16 * 1024 * 1024,
  turns: 32,
  turnLines: 1_000,
  idleMs: 3_600_000,
  unfinishedMs: 60_000,
  stopMs: 1_000,
  giveUpMs: 6_000,
  retryMs: 500,
};

/** Where to listen for syslog and whose events they are; undefined when neither is given. */
export function readSyslog(
  env: Env,
): { readonly address: { host: string; port: number }; readonly tenant: TenantId } | undefined {
  const [addr, tenant] = [env.read("SYSLOG_ADDR", ""), env.read("SYSLOG_TENANT", "")];
  if (addr === "" && tenant === "") return undefined;
  if (addr === "" || tenant === "") {
    const [given, missing] =
      addr === "" ? ["SYSLOG_TENANT", "SYSLOG_ADDR"] : ["SYSLOG_ADDR", "SYSLOG_TENANT"];
    throw new ConfigError(`${given} is set but ${missing} is not; set both to take syslog, or neither`);
  }
  if (!isTenantName(tenant)) {
    throw new ConfigError(`SYSLOG_TENANT must be ${tenantRule}, but is "${String(tenant)}"`);
  }
  return { address: env.address("SYSLOG_ADDR", "0.0.0.0:5514"), tenant: tenant as TenantId };
}

/** A connection that can't be read on; the reason is logged. */
export class BrokenStream extends Error {
  /** What was read and can't be used: bytes, and ends of lines among them. */
  bytes = 0;
  lines = 0;
}

/** What some bytes completed. */
export interface Frames {
  readonly frames: readonly string[];
  /** Bytes of each frame that was too long to be kept, and was left out. */
  readonly skipped: readonly number[];
  /** Nothing can be read after them. */
  readonly problem?: BrokenStream;
}

const newline = 0x0a;
/** Where a frame that is too long doesn't end within this, it isn't one: nobody knows where the next would begin. */
const maxSkippedBytes = 16 * 1024 * 1024;
/** `<length> <`: RFC 6587 counts octets like this, and every counted message begins with its priority. */
const countStart = /^([1-9]\d{0,9}) </;
/** What may still become one. */
const countMaybe = /^[1-9]\d{0,9} ?$/;

/**
 * Cuts a connection's bytes into frames: by a count of octets or, where no count comes first, at the end of the line.
 * The sender may change between the two with each frame.
 */
export class FrameReader {
  #buffer = Buffer.alloc(0);
  #length = 0;
  /** How far the end of the line was looked for. */
  #looked = 0;
  /** The frame that is too long: what came of it, and what is still to come, if it was counted. */
  #skipping: { bytes: number; left: number | undefined } | undefined;
  readonly #share: Share;

  /** Holds unfinished frames within the budget. */
  constructor(budget: Budget) {
    this.#share = new Share(budget);
  }

  /** Bytes of the frame that isn't complete. */
  get pending(): number {
    return this.#length + (this.#skipping?.bytes ?? 0);
  }

  /**
   * The frames that these bytes complete, without blank ones and those that are too long. A problem means that where the
   * next one begins is unknown, or that too much is unfinished.
   */
  read(chunk: Buffer): Frames {
    const frames: string[] = [];
    const skipped: number[] = [];
    // What isn't read yet, should there be a problem.
    let bytes = chunk;
    let start = 0;
    try {
      bytes = this.#append(chunk);
      while (start < bytes.length) {
        if (this.#skipping) {
          start = this.#skip(bytes, start);
          this.#looked = start;
          if (this.#skipping.left === 0) {
            skipped.push(this.#skipping.bytes);
            this.#skipping = undefined;
          }
          continue;
        }
        const frame = this.#next(bytes, start);
        if (frame === "too long") continue;
        if (!frame) break;
        const text = frameText(bytes.subarray(frame.start, frame.end));
        if (text !== "") frames.push(text);
        start = frame.next;
        this.#looked = start;
      }
      this.#keep(bytes, start);
      return { frames, skipped };
    } catch (error) {
      if (!(error instanceof BrokenStream)) throw error;
      const held = bytes === chunk ? this.#length : 0;
      error.bytes = (this.#skipping?.bytes ?? 0) + held + bytes.length - start;
      for (let at = bytes.indexOf(newline, start); at >= 0; at = bytes.indexOf(newline, at + 1))
        error.lines++;
      // It is told with the problem, not as an unfinished line.
      this.#length = 0;
      this.#skipping = undefined;
      return { frames, skipped, problem: error };
    }
  }

  /** At the end of the stream: a last line without its end is a line, but a count that wasn't reached is none. */
  rest(): string | undefined {
    const bytes = this.#buffer.subarray(0, this.#length);
    if (bytes.length === 0 || countStart.test(bytes.toString("latin1", 0, 13))) return undefined;
    const text = frameText(bytes);
    this.#length = 0;
    return text === "" ? undefined : text;
  }

  close(): void {
    this.#share.close();
    this.#buffer = Buffer.alloc(0);
    this.#length = 0;
    this.#skipping = undefined;
  }

  /** Passes over what has come of a frame that is too long; where it ends, nothing is left of it. */
  #skip(bytes: Buffer, start: number): number {
    const frame = this.#skipping!;
    const line = frame.left === undefined ? bytes.indexOf(newline, start) + 1 || undefined : undefined;
    const end = Math.min(line ?? start + (frame.left ?? Number.POSITIVE_INFINITY), bytes.length);
    if (frame.left !== undefined) frame.left -= end - start;
    else if (line !== undefined) frame.left = 0;
    else if (frame.bytes + end - start > maxSkippedBytes) {
      throw new BrokenStream(`a line has no end within ${maxSkippedBytes} bytes`);
    }
    frame.bytes += end - start;
    return end;
  }

  #next(bytes: Buffer, start: number): { start: number; end: number; next: number } | "too long" | undefined {
    const head = bytes.toString("latin1", start, start + 13);
    const count = countStart.exec(head);
    if (count) {
      const length = Number(count[1]);
      if (length > maxSkippedBytes) {
        throw new BrokenStream(
          `a line of ${length} bytes was announced; at most ${maxSkippedBytes} are passed over`,
        );
      }
      if (length > maxEventBytes) {
        this.#skipping = { bytes: 0, left: count[1]!.length + 1 + length };
        return "too long";
      }
      const from = start + count[1]!.length + 1;
      return from + length > bytes.length
        ? undefined
        : { start: from, end: from + length, next: from + length };
    }
    if (countMaybe.test(head)) return undefined;
    const end = bytes.indexOf(newline, Math.max(start, this.#looked));
    if ((end < 0 ? bytes.length : end) - start > maxEventBytes) {
      this.#skipping = { bytes: 0, left: undefined };
      return "too long";
    }
    this.#looked = bytes.length;
    return end < 0 ? undefined : { start, end, next: end + 1 };
  }

  /** Doubles where it grows: a long line may come byte by byte. */
  #append(chunk: Buffer): Buffer {
    if (this.#length === 0) return chunk;
    const length = this.#length + chunk.length;
    if (length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(length, this.#buffer.length * 2));
      if (!this.#share.grow(larger.length - this.#buffer.length)) throw tooMany();
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    chunk.copy(this.#buffer, this.#length);
    return this.#buffer.subarray(0, length);
  }

  #keep(bytes: Buffer, start: number): void {
    const rest = bytes.subarray(start);
    this.#looked -= start;
    if (rest.length === 0) {
      // Lines are short: what a long one needed isn't kept.
      this.#buffer = Buffer.alloc(0);
      this.#share.clear();
      this.#looked = 0;
    } else if (rest.length > this.#buffer.length) {
      if (!this.#share.grow(rest.length - this.#buffer.length)) throw tooMany();
      this.#buffer = Buffer.from(rest);
    } else rest.copy(this.#buffer);
    this.#length = rest.length;
  }
}

function frameText(bytes: Buffer): string {
  let end = bytes.length;
  // Some senders end a line with a NUL, and a counted one may have its newline.
  while (end > 0 && (bytes[end - 1]! === 0 || bytes[end - 1]! === 0x0a || bytes[end - 1]! === 0x0d)) end--;
  const text = bytes.toString("utf8", 0, end);
  return text.trim() === "" ? "" : text;
}

function tooMany(): BrokenStream {
  return new BrokenStream("too many unfinished lines on all connections");
}

interface Connection {
  readonly socket: Socket;
  readonly reader: FrameReader;
  readonly peer: string | undefined;
  /** Lines that were read, and that Kafka has not acknowledged. */
  lines: number;
}

/** Listens for syslog senders. A connection is read on when Kafka has acknowledged what it brought before. */
export class SyslogListener {
  readonly #options: SyslogOptions;
  readonly #limits: SyslogLimits;
  readonly #server: Server;
  readonly #unfinished: Budget;
  readonly #turns: Turns;
  /** Those that wait for their sender, not for Kafka. */
  readonly #waiting = new Set<Connection>();
  readonly #running = new Set<Promise<void>>();
  #stoppedAt = Number.POSITIVE_INFINITY;

  constructor(options: SyslogOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#unfinished = new Budget(this.#limits.unfinishedBytes);
    this.#turns = new Turns(this.#limits.turns);
    this.#server = createServer((socket) => {
      const running = this.#serve(socket).finally(() => this.#running.delete(running));
      this.#running.add(running);
    });
    this.#server.maxConnections = this.#limits.connections;
    this.#server.on("drop", (drop) => {
      const message = `syslog: connection refused: ${this.#limits.connections} are open`;
      options.warn({ peer: drop?.remoteAddress }, message);
    });
  }

  /** The port that it listens on. */
  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** How many connections are open. */
  get connections(): number {
    return this.#running.size;
  }

  async listen(address: { readonly host: string; readonly port: number }): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(address.port, address.host, () => resolve());
    });
  }

  /**
   * Takes no more connections, reads none beyond the line it is in, and resolves when what was read is acknowledged.
   * What Kafka doesn't take in time is logged with the number of its messages.
   */
  async stop(): Promise<void> {
    this.#stoppedAt = Date.now();
    this.#server.close();
    for (const { socket, reader } of this.#waiting) {
      if (reader.pending === 0 && socket.readableLength === 0) socket.destroy();
    }
    const late = setTimeout(() => {
      for (const { socket } of this.#waiting) socket.destroy();
    }, this.#limits.stopMs);
    await Promise.all(this.#running);
    clearTimeout(late);
  }

  async #serve(socket: Socket): Promise<void> {
    const { warn } = this.#options;
    const peer = socket.remoteAddress;
    const reader = new FrameReader(this.#unfinished);
    const connection: Connection = { socket, reader, peer, lines: 0 };
    socket.setKeepAlive(true, 60_000);
    socket.on("timeout", () => socket.destroy());
    // A connection that breaks ends the loop; what it brought is on its way.
    socket.on("error", () => {});
    try {
      this.#wait(connection);
      for await (const chunk of socket) {
        this.#waiting.delete(connection);
        // While Kafka is behind nothing is read, and that is no silence of the sender.
        socket.setTimeout(0);
        await this.#turns.run(async () => {
          const { frames, skipped, problem } = reader.read(chunk as Buffer);
          for (const bytes of skipped) this.#skipped(connection, bytes);
          await this.#take(frames, connection);
          if (problem) throw problem;
        });
        if (this.#sinceStop() > (reader.pending > 0 ? this.#limits.stopMs : -1)) break;
        this.#wait(connection);
      }
      const last = socket.readableEnded ? reader.rest() : undefined;
      if (last !== undefined) await this.#turns.run(() => this.#take([last], connection));
    } catch (error) {
      if (error instanceof BrokenStream) {
        const { bytes, lines, message } = error;
        warn({ peer, bytes, lines }, `syslog: connection closed, and what was read was dropped: ${message}`);
      } else if ((error as NodeJS.ErrnoException).code === undefined) {
        const details = { peer, lines: connection.lines, cause: String(error) };
        warn(details, "syslog: connection closed, and the lines were dropped: unexpected error");
      }
    } finally {
      if (reader.pending > 0) {
        warn({ peer, bytes: reader.pending }, "syslog: an unfinished line was dropped");
      }
      reader.close();
      this.#waiting.delete(connection);
      socket.destroy();
    }
  }

  #wait(connection: Connection): void {
    const { unfinishedMs, idleMs } = this.#limits;
    this.#waiting.add(connection);
    connection.socket.setTimeout(connection.reader.pending > 0 ? unfinishedMs : idleMs);
  }

  /** Milliseconds since a stop was asked for; negative before. */
  #sinceStop(): number {
    return Date.now() - this.#stoppedAt;
  }

  /** Resolves when Kafka has these lines, or a stop can wait no longer. */
  async #take(frames: readonly string[], connection: Connection): Promise<void> {
    const { turnLines } = this.#limits;
    for (let at = 0; at < frames.length; at += turnLines) {
      connection.lines = frames.length - at;
      const problem = await this.#send(frames.slice(at, at + turnLines), connection);
      connection.lines = 0;
      if (!problem) continue;
      const details = { peer: connection.peer, lines: frames.length - at, code: problem.code };
      this.#options.warn(details, "syslog: stopped before Kafka acknowledged these lines");
      return;
    }
  }

  /**
   * Tells why Kafka doesn't have them when a stop can wait no longer. The rows are made once, so that an attempt after a
   * failure sends the same ids: readers see each event once. A line that can't be an event takes no other with it: they
   * are other senders', where a relay brings them.
   */
  async #send(frames: readonly string[], connection: Connection): Promise<HttpError | undefined> {
    const { pipeline, tenant } = this.#options;
    const now = this.#options.now?.() ?? new Date();
    const eventsOf = (): SiemEvent[] =>
      frames.flatMap((frame) => {
        try {
          return [eventFromLine(frame, tenant, now)];
        } catch (error) {
          if (!(error instanceof InvalidEvent)) throw error;
          this.#skipped(connection, Buffer.byteLength(frame), error.message);
          return [];
        }
      });
    const parcel = await pipeline.pack(eventsOf());
    while (parcel.messages.length > 0) {
      try {
        await pipeline.send(parcel);
        return undefined;
      } catch (error) {
        if (!(error instanceof HttpError)) throw error;
        if (this.#sinceStop() > this.#limits.giveUpMs) return error;
        await sleep(this.#limits.retryMs);
      }
    }
    return undefined;
  }

  /** Says that a line was left out; who repeats it gets no further by closing the connection. */
  #skipped({ peer }: Connection, bytes: number, why = `at most ${maxEventBytes} bytes are taken`): void {
    this.#options.warn({ peer, bytes }, `syslog: a line was skipped: ${why}`);
  }
}
