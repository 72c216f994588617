// The readers of a chaos run look at what they are shown: an id that comes twice in one walk from page to page, or that
// nobody sent, is counted while the load lasts.

import { createServer, type Server } from "node:http";
import { type AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, it } from "vitest";
import { Load } from "../../../ops/chaos/load.ts";

interface Row {
  readonly event_id: string;
}
/** The page of this number within a walk, of all that was posted so far, newest first. */
type Page = (posted: readonly string[], number: number) => { events: Row[]; next_cursor: string | null };

const size = 20;
const rows = (ids: readonly string[]) => ids.map((event_id) => ({ event_id }));
/** As the API does it: after the last id of the page before. */
const pages: Page = (posted, number) => ({
  events: rows(posted.slice(number * size, (number + 1) * size)),
  next_cursor: posted.length > (number + 1) * size ? String(number + 1) : null,
});

let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

/** Runs a load against a platform that shows such pages, until its readers have made some walks. */
async function runAgainst(page: Page): Promise<{ load: Load; asked: string[] }> {
  // What was posted before the walk began: a walk sees nothing newer.
  const posted: string[] = [];
  let known: string[] = [];
  const asked: string[] = [];
  server = createServer((request, response) => {
    if (request.method === "POST") {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        for (const { event_id } of JSON.parse(body) as Row[])
          if (!posted.includes(event_id)) posted.unshift(event_id);
        response.writeHead(202).end("{}");
      });
      return;
    }
    const cursor = new URL(request.url ?? "", "http://x").searchParams.get("cursor");
    asked.push(cursor ?? "first");
    if (cursor === null && posted.length >= 3 * size && known.length === 0) known = [...posted];
    response.end(JSON.stringify(page(known, Number(cursor ?? 0))));
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server?.once("listening", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const load = new Load({ api: url, ingest: url, token: "x" }, "run");
  load.start();
  for (const deadline = Date.now() + 15_000; !asked.includes("2") && Date.now() < deadline;) await sleep(20);
  await sleep(300);
  await load.stop();
  return { load, asked };
}

describe("a reader", () => {
  it("goes from page to page, and finds nothing where all is well", async () => {
    const { load, asked } = await runAgainst(pages);
    expect(asked).toContain("1");
    expect(asked).toContain("2");
    expect([...load.twice, ...load.uninvited, ...load.wrong]).toEqual([]);
  });

  it("begins anew after a few pages, however many there are", async () => {
    const { asked } = await runAgainst((posted, number) => ({
      ...pages(posted, 0),
      events: number === 0 ? pages(posted, 0).events : [],
      next_cursor: String(number + 1),
    }));
    expect(asked).toContain("4");
    expect(asked).not.toContain("5");
  });

  it("counts an id that comes again on a later page", async () => {
    const { load } = await runAgainst((posted, number) => {
      const page = pages(posted, number);
      return number === 2 ? { ...page, events: [...page.events, ...rows(posted.slice(0, 1))] } : page;
    });
    expect(load.twice.size).toBe(1);
    expect(load.uninvited.size).toBe(0);
  });

  it("counts an id that comes twice on one page, and one that nobody sent", async () => {
    const { load } = await runAgainst((posted, number) => {
      const page = pages(posted, number);
      const [first] = page.events;
      return first === undefined ? page : { ...page, events: [first, ...page.events, ...rows(["stranger"])] };
    });
    expect(load.twice.size).toBeGreaterThan(0);
    expect([...load.uninvited]).toEqual(["stranger"]);
  });

  it("does not take an id for a second one that it sees in its next walk", async () => {
    const { load } = await runAgainst((posted, number) => ({
      ...pages(posted, number),
      next_cursor: number < 2 ? String(number + 1) : null,
    }));
    expect(load.twice.size).toBe(0);
  });

  it("says so where it is given no page", async () => {
    const { load } = await runAgainst((posted, number) =>
      number === 2 ? ({} as ReturnType<Page>) : { ...pages(posted, number), next_cursor: "2" },
    );
    expect(load.wrong[0]).toContain("a reader was given no page: {}");
  });
});
