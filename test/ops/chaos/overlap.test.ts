// For how long two nodes had the address, worked out from the kernel's messages.

import { describe, expect, it } from "vitest";
import { changeOf } from "../../../ops/chaos/holders.ts";
import { holdersAfter, overlapOf, takeoversIn } from "../../../ops/chaos/overlap.ts";

const comes = (at: number, node: string) => ({ at, node, has: true });
const leaves = (at: number, node: string) => ({ at, node, has: false });

describe("two holders at once", () => {
  it("is none where one lets go before the other takes it", () => {
    const changes = [comes(0, "a"), leaves(100, "a"), comes(130, "b")];
    expect(overlapOf(changes, 0, 1000)).toEqual({ longestMs: 0, totalMs: 0 });
    expect(holdersAfter(changes)).toEqual(["b"]);
  });

  it("lasts from the second's taking it to the first's letting go", () => {
    const changes = [comes(0, "a"), comes(300, "b"), leaves(750, "a")];
    expect(overlapOf(changes, 0, 1000)).toEqual({ longestMs: 450, totalMs: 450 });
  });

  it("tells the longest time from all of it", () => {
    const changes = [comes(0, "a"), comes(10, "b"), leaves(30, "b"), comes(100, "b"), leaves(150, "a")];
    expect(overlapOf(changes, 0, 1000)).toEqual({ longestMs: 50, totalMs: 70 });
  });

  it("counts to the end where it does not end, and from the beginning where it began before", () => {
    expect(overlapOf([comes(0, "a"), comes(10, "b")], 100, 400)).toEqual({ longestMs: 300, totalMs: 300 });
  });

  it("leaves out what was over before the span, but not who held the address", () => {
    const changes = [comes(0, "a"), comes(10, "b"), leaves(50, "b"), comes(200, "b"), leaves(220, "a")];
    expect(overlapOf(changes, 100, 400)).toEqual({ longestMs: 20, totalMs: 20 });
  });

  it("does not count an address twice that a node has announced again", () => {
    expect(overlapOf([comes(0, "a"), comes(10, "a")], 0, 100).longestMs).toBe(0);
  });
});

describe("a message of the kernel", () => {
  const line = (text: string) => `[2026-11-21T20:10:00.250000] ${text}`;
  it("is a change if it is about the address", () => {
    const at = Date.UTC(2026, 10, 21, 20, 10, 0, 250);
    const came = line("2: eth0    inet 172.25.0.222/24 scope global secondary eth0");
    expect(changeOf(came, "172.25.0.222", "n")).toEqual({ at, node: "n", has: true });
    const left = line("Deleted 2: eth0    inet 172.25.0.222/24 scope global secondary eth0");
    expect(changeOf(left, "172.25.0.222", "n")).toEqual({ at, node: "n", has: false });
  });
  it("is none if it is about another, or without a time", () => {
    expect(
      changeOf(line("2: eth0 inet 172.25.0.22/24 scope global eth0"), "172.25.0.2", "n"),
    ).toBeUndefined();
    expect(changeOf("2: eth0 inet 172.25.0.222/24 scope global eth0", "172.25.0.222", "n")).toBeUndefined();
  });
});

describe("takeovers", () => {
  const changes = [comes(0, "a"), comes(100, "b"), leaves(130, "a"), comes(150, "b"), leaves(300, "b")];
  it("are counted where the address comes to a node that had not got it", () => {
    expect(takeoversIn(changes, 50, 1000)).toBe(1);
    expect(takeoversIn([...changes, comes(310, "b")], 50, 1000)).toBe(2);
  });
  it("count only within the span", () => {
    expect(takeoversIn(changes, 110, 1000)).toBe(0);
    expect(takeoversIn(changes, 0, 50)).toBe(1);
  });
});
