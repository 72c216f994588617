// Docker's API over its socket, as little of it as the supervisor needs. dockerode would bring SSH and gRPC with native
// parts into an image that shall be small.

import { type IncomingMessage, request } from "node:http";

/** The daemon refused, or could not be reached. */
export class DockerError extends Error {
  /** HTTP status of a refusal; undefined where no daemon answered. */
  readonly status: number | undefined;

  constructor(message: string, status?: number) {
    super(message);
    this.status = status;
  }
}

/** Longest wait for an answer that is not a stream, milliseconds; a restart waits for the container's grace. */
const limitMs = 30_000;

export class DockerApi {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** Asks, and returns the answer's JSON; undefined where there is none. */
  async call(
    method: "GET" | "POST" | "DELETE",
    path: string,
    query: Readonly<Record<string, string>> = {},
    body?: object,
  ): Promise<unknown> {
    const answer = await this.#open(method, path, query, body, AbortSignal.timeout(limitMs));
    const text = await textOf(answer);
    return answer.headers["content-type"]?.includes("json") === true && text !== ""
      ? (JSON.parse(text) as unknown)
      : undefined;
  }

  /** Asks, and returns the answer's text as it is. */
  async text(method: "GET" | "POST", path: string, body: object): Promise<string> {
    return textOf(await this.#open(method, path, {}, body, AbortSignal.timeout(limitMs)));
  }

  /** Asks, and returns the answer while it comes. */
  stream(path: string, query: Readonly<Record<string, string>>): Promise<IncomingMessage> {
    return this.#open("GET", path, query);
  }

  async #open(
    method: string,
    path: string,
    query: Readonly<Record<string, string>>,
    body?: object,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    const text = body === undefined ? "" : JSON.stringify(body);
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      request(
        {
          socketPath: this.#socketPath,
          method,
          path: `${path}?${new URLSearchParams(query).toString()}`,
          headers: {
            host: "docker",
            "content-type": "application/json",
            "content-length": Buffer.byteLength(text),
          },
          ...(signal === undefined ? {} : { signal }),
        },
        resolve,
      )
        .once("error", (error) => reject(new DockerError(`${method} ${path}: ${error.message}`)))
        .end(text);
    });
    const { statusCode = 500 } = answer;
    // 304: it is in that state already.
    if (statusCode >= 400) {
      const said = await textOf(answer);
      throw new DockerError(`${method} ${path}: ${statusCode} ${messageIn(said)}`, statusCode);
    }
    return answer;
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

function messageIn(text: string): string {
  try {
    return (JSON.parse(text) as { message?: string }).message ?? text;
  } catch {
    return text.trim();
  }
}
