// The account of events: lost, twice and uninvited are each found, and nothing else is.

import { createServer, type Server } from "node:http";
import { type AddressInfo } from "node:net";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { asked, Ledger, post, postUntilDecided, readAll } from "../../ops/ledger.ts";

describe("a ledger", () => {
  it("finds what is lost, what is there twice, and what was never promised", () => {
    const ledger = new Ledger();
    ledger.open(["a", "b", "c", "d", "e"]);
    ledger.acknowledge(["a", "b", "c"]);
    ledger.refuse(["d"]);
    expect(ledger.settle(["a", "b", "b", "d", "e", "z"])).toEqual({
      lost: ["c"],
      twice: ["b"],
      uninvited: ["d", "z"],
    });
  });

  it("is settled exactly when readers see every acknowledged event once", () => {
    const ids = fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 1 });
    fc.assert(
      fc.property(ids, fc.nat(), (all, at) => {
        const ledger = new Ledger();
        ledger.open(all);
        ledger.acknowledge(all);
        const settled = { lost: [], twice: [], uninvited: [] };
        expect(ledger.settle([...all].reverse())).toEqual(settled);
        const one = all[at % all.length]!;
        expect(ledger.settle(all.filter((id) => id !== one))).toEqual({ ...settled, lost: [one] });
        expect(ledger.settle([...all, one])).toEqual({ ...settled, twice: [one] });
      }),
    );
  });
});

describe("a careful client", () => {
  let server: Server | undefined;
  afterEach(() => server?.close());

  /** Answers with these, one after the other; 0 cuts the connection. */
  async function answering(...answers: (readonly [number, unknown])[]): Promise<string> {
    server = createServer((request, response) => {
      const [status, body] = answers.shift() ?? [500, {}];
      request.resume();
      if (status === 0) request.destroy();
      else response.writeHead(status).end(JSON.stringify(body));
    });
    await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }
  const given = { type: "application/json", body: "{}" } as const;

  it("says why there is no answer, and how long it was asked to wait", async () => {
    const waits = ["7", "Wed, 21 Oct 2026 07:28:00 GMT"];
    server = createServer((request, response) => {
      if (request.url === "/silent") return;
      const wait = waits.shift();
      response.writeHead(503, wait === undefined ? {} : { "retry-after": wait }).end("busy");
    });
    await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    expect(await asked(url, {}, 5000)).toStrictEqual({ status: 503, text: "busy", retryAfterSeconds: 7 });
    expect(await asked(url, {}, 5000)).toStrictEqual({ status: 503, text: "busy" });
    expect(await asked(url, {}, 5000)).toStrictEqual({ status: 503, text: "busy" });
    const late = await asked(`${url}/silent`, {}, 50);
    expect(late).toStrictEqual({ status: 0, text: "The operation was aborted due to timeout" });
    server.closeAllConnections();
  });

  it("takes a cut connection for an answer that says nothing", async () => {
    const ingest = await answering([0, {}]);
    const { status, text } = await post({ ingest, token: "t" }, given);
    expect(status).toBe(0);
    expect(text).toMatch(/closed|ECONNRESET/);
  });

  it("posts again until the platform has decided", async () => {
    const ingest = await answering([0, {}], [503, {}], [429, {}], [202, { accepted: 1 }]);
    const answer = await postUntilDecided({ ingest, api: ingest, token: "t" }, given);
    expect(answer).toEqual({ status: 202, text: '{"accepted":1}' });
  });

  it("tells of every attempt, and loses patience", async () => {
    const ingest = await answering([503, {}], [202, {}]);
    const attempts: number[] = [];
    const client = { ingest, api: ingest, token: "t" };
    await postUntilDecided(client, given, { attempted: ({ status }) => attempts.push(status) });
    expect(attempts).toEqual([503, 202]);
    await expect(postUntilDecided(client, given, { patienceMs: -1 })).rejects.toThrow(/undecided.*last: 500/);
  });

  it("reads page by page, and asks again for one that failed", async () => {
    const event = (event_id: string) => ({ event_id, raw_event: "", event_timestamp: 1 });
    const api = await answering(
      [200, { events: [event("a")], next_cursor: "1" }],
      [503, {}],
      [200, { events: [event("b")], next_cursor: null }],
    );
    const seen = await readAll({ api, ingest: api, token: "t" });
    expect(seen.map(({ event_id }) => event_id)).toEqual(["a", "b"]);
  });
});
