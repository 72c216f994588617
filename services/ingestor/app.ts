// The ingestor's routes: an event is answered with 202 only when Kafka has it for good.

import type { Readable } from "node:stream";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { type Keys, requireScope, tenantOf } from "../common/auth.ts";
import {
  type ArrivalTimes,
  clientGone,
  createServer,
  healthCode,
  type Lifecycle,
  onceClosed,
} from "../common/http.ts";
import { pause } from "../common/loop-share.ts";
import { mediaTypes, parseBody, type MediaType } from "./body.ts";
import { Intake, type Post } from "./intake.ts";
import { type Parcel, type Pipeline } from "./pipeline.ts";
import { Turns } from "./turns.ts";

/** Bodies that are made into messages at once: meanwhile their events are in memory too, and no budget counts them. */
const bodiesAtOnce = 4;

export interface IngestorOptions {
  readonly pipeline: Pipeline;
  readonly keys: Keys;
  readonly lifecycle: Lifecycle;
  /** @default the present */
  readonly now?: () => Date;
  /** Turns the log off, for tests. */
  readonly quiet?: boolean;
  /** @default 2,000 */
  readonly maxPosts?: number;
  /** @default 30 s for a whole request */
  readonly arrivalTimes?: ArrivalTimes;
}

/** The ingestor as a server that doesn't listen yet. */
export function createIngestor(options: IngestorOptions): FastifyInstance {
  const { pipeline, lifecycle } = options;
  const app = createServer(lifecycle, options.quiet, options.arrivalTimes);
  const intake = new Intake(pipeline.budget, options.maxPosts);
  const posts = new WeakMap<FastifyRequest, Post>();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser([...mediaTypes], (request: FastifyRequest, body: Readable) =>
    posts.get(request)!.read(body),
  );

  const bodies = new Turns(bodiesAtOnce);

  /** Its own function, so that nothing holds the body and its events while the messages wait for Kafka. */
  const read = async (request: FastifyRequest): Promise<{ ids: string[]; parcel: Parcel }> => {
    const post = posts.get(request)!;
    const between = (): Promise<void> | undefined => {
      if (post.isClosed) throw clientGone();
      return pause();
    };
    const type = request.headers["content-type"]?.split(";")[0]?.trim().toLowerCase() as MediaType;
    const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
    request.body = undefined;
    const events = await parseBody(type, body, tenantOf(request), options.now?.() ?? new Date(), between);
    return { ids: events.map((event) => event.event_id), parcel: await pipeline.pack(events, between) };
  };

  app.get("/health", async (_request, reply) => {
    const status = lifecycle.draining ? "draining" : pipeline.connected ? "ok" : "kafka_unreachable";
    // A feed that stands is no reason to turn the load balancer away: senders then got its answer, which can't say why.
    const said = status === "ok" && pipeline.feedStands ? "feed_stands" : status;
    return reply.code(healthCode(status)).send({ status: said });
  });

  app.post(
    "/v1/events",
    {
      onRequest: requireScope(options.keys, "events:write"),
      // The last step before the body is read.
      preParsing: async (request, reply) => {
        pipeline.admit();
        const post = intake.open(request.headers);
        posts.set(request, post);
        onceClosed(request, reply, () => {
          // It may still wait to be looked at.
          request.body = undefined;
          post.close();
        });
      },
    },
    async (request, reply) => {
      const { ids, parcel } = await bodies.run(() => read(request));
      posts.get(request)!.forgetBody();
      await pipeline.send(parcel);
      return reply.code(202).send({ accepted: ids.length, ids });
    },
  );
  return app;
}
