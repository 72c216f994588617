// The witness over HTTP: who holds the virtual IP's lease, for callers that know the token.

import { createHash, timingSafeEqual } from "node:crypto";
import { type FastifyInstance } from "fastify";
import { createServer, HttpError, type Lifecycle } from "../common/http.ts";
import { LeaseTable, longestLeaseMs, shortestLeaseMs } from "./lease.ts";

export interface WitnessOptions {
  readonly token: string;
  readonly lifecycle: Lifecycle;
  /** @default a new one, which waits before its first grant */
  readonly leases?: LeaseTable;
  readonly quiet?: boolean;
}

/** Hashes, so that the comparison takes the same time for every guess and length. */
const digest = (text: string): Buffer => createHash("sha256").update(text).digest();

const holderPattern = /^[a-z][a-z0-9-]{0,62}$/;

interface Ask {
  readonly holder: string;
  readonly ttlMs: number;
}

function readAsk(body: unknown): Ask {
  const { holder, ttlMs } = (body ?? {}) as Partial<Record<keyof Ask, unknown>>;
  if (typeof holder !== "string" || !holderPattern.test(holder)) {
    throw new HttpError(
      400,
      "bad_holder",
      `holder must be a node's name, such as "lb-node-1", but is ${JSON.stringify(holder)}`,
    );
  }
  if (!Number.isInteger(ttlMs) || (ttlMs as number) < shortestLeaseMs || (ttlMs as number) > longestLeaseMs) {
    throw new HttpError(
      400,
      "bad_ttl",
      `ttlMs must be a whole number from ${shortestLeaseMs} to ${longestLeaseMs}, but is ${JSON.stringify(ttlMs)}`,
    );
  }
  return { holder, ttlMs: ttlMs as number };
}

/**
 * `PUT /lease {holder, ttlMs}`: 200 granted, 409 somebody else has it, 503 the witness is too young to
 * promise it, but will refuse others.
 * `GET /lease` looks, `DELETE /lease/<holder>` gives it back, `GET /health` needs no token.
 */
export function createWitness(options: WitnessOptions): FastifyInstance {
  const leases = options.leases ?? new LeaseTable();
  const app = createServer(options.lifecycle, options.quiet ?? false);
  const expected = digest(`Bearer ${options.token}`);
  app.addHook("onRequest", async (request) => {
    if (request.routeOptions.url === "/health") return;
    if (!timingSafeEqual(digest(request.headers.authorization ?? ""), expected)) {
      throw new HttpError(401, "unauthorized", "the token is missing or wrong", {}, {});
    }
    return Promise.resolve();
  });
  app.get("/health", () => ({ status: "ok" }));
  app.get("/lease", () => leases.look());
  app.put("/lease", (request, reply) => {
    const { holder, ttlMs } = readAsk(request.body);
    const decision = leases.ask(holder, ttlMs);
    return reply.code(decision.granted ? 200 : decision.waitMs === undefined ? 409 : 503).send(decision);
  });
  app.delete<{ Params: { holder: string } }>("/lease/:holder", (request) =>
    leases.release(request.params.holder),
  );
  return app;
}
