// An instance's metadata service on loopback, version 2 only: a token by PUT, the role and its keys by GET.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { type AddressInfo } from "node:net";
import { type Credentials } from "./moto.ts";

export interface Imds {
  readonly url: string;
  /** Requests so far, as `PUT /latest/api/token 200`. */
  readonly requests: readonly string[];
  /** Answers everything with 503 while it is set. */
  broken: boolean;
  stop(): Promise<void>;
}

/** Hands out the keys of one role, to whoever shows a token that it gave. */
export async function startImds(role: string, credentials: () => Credentials): Promise<Imds> {
  const tokens = new Set<string>();
  const requests: string[] = [];
  const state = { broken: false };
  const server = createServer((request, response) => {
    const answer = (status: number, body: string): void => {
      requests.push(`${request.method} ${request.url} ${status}`);
      response.writeHead(status, { "content-type": "text/plain" }).end(body);
    };
    if (state.broken) return answer(503, "");
    if (request.url === "/latest/api/token") {
      if (request.method !== "PUT") return answer(405, "");
      const lifetime = Number(request.headers["x-aws-ec2-metadata-token-ttl-seconds"]);
      if (!(lifetime >= 1 && lifetime <= 21_600)) return answer(400, "");
      const token = randomUUID();
      tokens.add(token);
      return answer(200, token);
    }
    if (!tokens.has(String(request.headers["x-aws-ec2-metadata-token"]))) return answer(401, "");
    const path = "/latest/meta-data/iam/security-credentials/";
    if (request.url === path) return answer(200, role);
    if (request.url !== path + role) return answer(404, "");
    const { accessKeyId, secretAccessKey, sessionToken } = credentials();
    const body = {
      Code: "Success",
      LastUpdated: new Date().toISOString().replace(/\.\d+Z$/, "Z"),
      Type: "AWS-HMAC",
      AccessKeyId: accessKeyId,
      SecretAccessKey: secretAccessKey,
      Token: sessionToken ?? "",
      Expiration: new Date(Date.now() + 6 * 3_600_000).toISOString().replace(/\.\d+Z$/, "Z"),
    };
    // The real service answers in this very layout, one field a line.
    return answer(200, JSON.stringify(body, null, 2).replaceAll('": ', '" : '));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    get broken() {
      return state.broken;
    },
    set broken(value) {
      state.broken = value;
    },
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
