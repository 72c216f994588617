// Reads the bodies of posts within bounds: their size, their number, and the memory of all of them together.

import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";
import { HttpError, maxBodyBytes } from "../common/http.ts";
import { queueFull } from "./batch.ts";
import { type Budget, Share } from "./budget.ts";

/** Posts that aren't answered yet, at most. Each also costs what isn't its body: a socket, headers, promises. */
export const maxPosts = 2_000;

/** What one post holds until it is answered. */
export interface Post {
  /** Reads the body, or stops as soon as it is too much. */
  readonly read: (body: Readable) => Promise<Buffer>;
  /** The body is no longer needed. */
  readonly forgetBody: () => void;
  readonly close: () => void;
  /** It was answered, or its client is gone. */
  readonly isClosed: boolean;
}

/** Counts what all posts hold together. */
export class Intake {
  readonly #budget: Budget;
  readonly #most: number;
  #posts = 0;

  constructor(budget: Budget, most = maxPosts) {
    this.#budget = budget;
    this.#most = most;
  }

  /** Admits a post by its headers, before anything of its body is read. */
  open(headers: IncomingHttpHeaders): Post {
    // Compressed, a small body could be a large one.
    if ((headers["content-encoding"] ?? "identity").toLowerCase() !== "identity") {
      throw new HttpError(415, "unsupported_encoding", "send the body without Content-Encoding");
    }
    if (Number(headers["content-length"] ?? 0) > maxBodyBytes) throw bodyTooLarge();
    if (this.#posts >= this.#most) throw queueFull();
    this.#posts++;
    const share = new Share(this.#budget);
    let isClosed = false;
    return {
      read: (body) => readAll(body, share),
      forgetBody: () => share.close(),
      get isClosed() {
        return isClosed;
      },
      close: () => {
        isClosed = true;
        share.close();
        this.#posts--;
      },
    };
  }
}

/** What was read counts, not what was announced: who announces much and sends nothing takes no room from others. */
function readAll(body: Readable, share: Share): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const stop = (why: Error): void => {
      chunks.length = 0;
      body.off("data", onData);
      // What still comes is dropped as it comes; the connection closes after the answer.
      body.resume();
      reject(why);
    };
    const onData = (chunk: Buffer): void => {
      length += chunk.length;
      if (length > maxBodyBytes) stop(bodyTooLarge());
      else if (!share.grow(chunk.length)) stop(queueFull());
      else chunks.push(chunk);
    };
    body.on("data", onData);
    const onBroken = (): void => reject(incomplete());
    body.once("end", () => {
      // The stream lives until the answer, and so would all that its listeners hold.
      body.off("data", onData);
      for (const event of ["error", "close"]) body.off(event, onBroken);
      resolve(Buffer.concat(chunks.splice(0)));
    });
    body.once("error", onBroken);
    body.once("close", onBroken);
  });
}

function bodyTooLarge(): HttpError {
  const message = `the body is larger than ${maxBodyBytes / 1024 / 1024} MiB; split it into several posts`;
  return new HttpError(413, "body_too_large", message);
}

function incomplete(): HttpError {
  return new HttpError(400, "incomplete_body", "the connection ended before the body; send all of it again");
}
