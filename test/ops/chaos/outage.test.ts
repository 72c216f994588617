// What clients lost, worked out from the times of their requests.

import { describe, expect, it } from "vitest";
import { type Attempt, firstAnswerAfter, seen } from "../../../ops/chaos/outage.ts";
import { attemptOf } from "../../../ops/chaos/probe.ts";

const good = (at: number, ms = 2): Attempt => ({ at, ms });
const bad = (at: number, error = "ECONNREFUSED", ms = 1): Attempt => ({ at, ms, error });

describe("what a client saw", () => {
  it("is nothing lost where every request was answered", () => {
    expect(seen([good(0), good(10), good(20)])).toEqual({
      requests: 3,
      failed: 0,
      outageMs: 0,
      longestGapMs: 10,
      errors: {},
    });
  });

  it("is an outage from the first failed request to the next one that was answered", () => {
    const found = seen([good(0), bad(10), bad(20, "TimeoutError", 900), good(250), bad(260), good(290)]);
    expect(found).toMatchObject({ requests: 6, failed: 3, outageMs: 240 });
    expect(found.errors).toEqual({ ECONNREFUSED: 2, TimeoutError: 1 });
  });

  it("takes requests in any order", () => {
    expect(seen([good(250), bad(10), good(0)]).outageMs).toBe(240);
  });

  it("counts an outage that did not end until the last request gave up", () => {
    expect(seen([good(0), bad(10), bad(500, "TimeoutError", 900)]).outageMs).toBe(1390);
  });

  it("has a gap where answers are slow, though none failed", () => {
    expect(seen([good(0), good(10, 600), good(20, 595)])).toMatchObject({ outageMs: 0, longestGapMs: 608 });
  });

  it("has a gap at the end where nothing is answered any more", () => {
    expect(seen([good(0), bad(100, "TimeoutError", 900)]).longestGapMs).toBe(998);
  });

  it("is empty without requests", () => {
    expect(seen([])).toEqual({ requests: 0, failed: 0, outageMs: 0, longestGapMs: 0, errors: {} });
  });
});

describe("the first answer after a fault", () => {
  it("is the one after a failed request, and not one that the fault had not reached yet", () => {
    expect(firstAnswerAfter([good(0), good(105), bad(110), good(300, 5)], 100)).toBe(205);
  });
  it("is at once where none failed", () => {
    expect(firstAnswerAfter([bad(0), good(110)], 100)).toBe(0);
  });
  it("is unknown where nothing was answered any more", () => {
    expect(firstAnswerAfter([good(0), bad(110)], 100)).toBeUndefined();
  });
});

describe("a line of the client", () => {
  it("says when, how long, and why not", () => {
    expect(attemptOf("1700000000000.5 12.1 status 503")).toEqual({
      at: 1700000000000.5,
      ms: 12.1,
      error: "status 503",
    });
    expect(attemptOf("1700000000000.5 12.1 ")).toEqual({ at: 1700000000000.5, ms: 12.1 });
  });
});
