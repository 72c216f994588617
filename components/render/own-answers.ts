// What HAProxy answers in a service's place: data for its configuration, and for the API's description of itself.

/** Seconds that a service has for its answer, and a client for its part. */
export const answerSeconds = 50;
/** Seconds after which a client may ask again that got a 5xx from HAProxy itself: the services' own for a 503. */
export const retryAfter = 2;
const mayBeTaken =
  "the events may or may not have been taken. Send all of them again: with the same event_ids readers see them once";

/**
 * What HAProxy answers in a service's place, in the services' form. The codes stand in docs/api.md and docs/ingest.md.
 * A 503 means that no server was reached; 502 and 504 come after one was; a 400 while the body was on its way.
 *
 * Before it has all headers of a request, HAProxy answers with pages of its own: 400, 408, 413 or 422, in HTML. No
 * setting changes them before version 3.3, and from then on only files do (`errorfile`).
 */
export const ownAnswers = {
  api: {
    400: ["bad_request", "the body broke off, or its chunks are no valid HTTP; correct the client"],
    502: ["replica_lost", "the replica ended before it had answered; ask again"],
    503: ["no_replica", "no replica of the API can answer now; ask again"],
    504: ["replica_silent", `the replica did not answer within ${answerSeconds} s; ask again, for less`],
  },
  ingest: {
    400: [
      "bad_request",
      "the body broke off, or its chunks are no valid HTTP: none of the events was taken. Correct the client, or send all of them again",
    ],
    502: ["replica_lost", `the ingestor ended before it had answered: ${mayBeTaken}`],
    503: ["no_replica", "no ingestor can take events now; send all of them again"],
    504: ["replica_silent", `the ingestor did not answer within ${answerSeconds} s: ${mayBeTaken}`],
  },
} as const satisfies Record<string, Record<number, readonly [code: string, message: string]>>;
