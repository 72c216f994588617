// What a person may ask of chaos, and in what words the rest is refused.

import { describe, expect, it } from "vitest";
import { plan } from "../../../components/topology.ts";
import { chosen, draws, type Options, permit, seedOf, shuffled } from "../../../ops/chaos/request.ts";
import { scenariosOf } from "../../../ops/chaos/scenarios.ts";

const known = scenariosOf(plan());
const none: Options = {
  stack: "local",
  list: false,
  all: false,
  fast: false,
  pairs: false,
  daemonRestart: false,
};
const order = (names: string[], options: Partial<Options>) =>
  chosen(names, { ...none, ...options }, known).map(({ name }) => name);

describe("permission", () => {
  const local = { target: "local" } as const;
  it("is given for the stack local, and for another whose name is repeated", () => {
    expect(() => permit({ stack: "local" }, local)).not.toThrow();
    expect(() => permit({ stack: "test", breakStack: "test" }, local)).not.toThrow();
  });
  it("is refused for another stack, for another name, and for every cloud", () => {
    expect(() => permit({ stack: "test" }, local)).toThrow("--break-stack test");
    expect(() => permit({ stack: "test", breakStack: "local" }, local)).toThrow("both must be the same");
    expect(() => permit({ stack: "local", breakStack: "test" }, local)).toThrow("both must be the same");
    expect(() => permit({ stack: "prod", breakStack: "prod" }, { target: "aws" })).toThrow("target aws");
  });
});

describe("the order", () => {
  it("is as named, with two at once joined by a plus", () => {
    expect(order(["zone-1-kill", "api-kill"], {})).toEqual(["zone-1-kill", "api-kill"]);
    expect(order(["haproxy-holder-kill+clickhouse-kill"], {})).toEqual([
      "haproxy-holder-kill+clickhouse-kill",
    ]);
  });

  it("is all of them once, without the daemon's restart unless it is allowed", () => {
    expect(order([], { all: true })).toHaveLength(known.length - 1);
    expect(order([], { all: true, daemonRestart: true })).toEqual(known.map(({ name }) => name));
  });

  it("is the fast half", () => {
    expect(order([], { fast: true })).toHaveLength(6);
  });

  it("is the same for the same seed, another for another, and goes through all before any comes twice", () => {
    const rounds = (seed: string) => order([], { rounds: "100", seed });
    expect(rounds("7")).toEqual(rounds("7"));
    expect(rounds("7")).not.toEqual(rounds("8"));
    expect(new Set(rounds("7").slice(0, known.length - 1)).size).toBe(known.length - 1);
    expect(rounds("7")).toHaveLength(100);
  });

  it("draws pairs of the named ones", () => {
    const pairs = order(["api-kill", "haproxy-holder-kill", "clickhouse-kill"], {
      pairs: true,
      rounds: "4",
      seed: "1",
    });
    expect(new Set(pairs.slice(0, 3))).toEqual(
      new Set([
        "api-kill+haproxy-holder-kill",
        "haproxy-holder-kill+clickhouse-kill",
        "api-kill+clickhouse-kill",
      ]),
    );
    expect(pairs).toHaveLength(4);
  });

  it.each<[string, string[], Partial<Options>, RegExp]>([
    ["an unknown name", ["haproxy"], {}, /no scenario "haproxy"; there are haproxy-holder-stop, /],
    ["nothing at all", [], {}, /say what is to be broken/],
    ["names and all", ["api-kill"], { all: true }, /only one of them/],
    ["pairs without rounds", ["api-kill"], { pairs: true }, /--pairs is for rounds/],
    ["rounds that are no number", [], { rounds: "many" }, /--rounds takes a whole number/],
    ["no rounds", [], { rounds: "0" }, /--rounds takes a whole number from 1/],
    ["a seed that is no number", [], { rounds: "1", seed: "x" }, /--seed takes a whole number/],
    ["the daemon's restart without leave", ["daemon-restart"], {}, /add --daemon-restart/],
    ["pairs of one thing", ["api-kill"], { pairs: true, rounds: "1" }, /no two of these/],
  ])("refuses %s", (_what, names, options, message) => {
    expect(() => order(names, options)).toThrow(message);
  });
});

describe("chance", () => {
  it("shuffles without losing or doubling anything", () => {
    const things = Array.from({ length: 50 }, (_, index) => index);
    const mixed = shuffled(things, draws(3));
    expect(mixed).not.toEqual(things);
    expect([...mixed].sort((a, b) => a - b)).toEqual(things);
  });
  it("has a seed even where none is given", () => {
    expect(seedOf({}, 1_700_000_012_345)).toBe(12_345);
    expect(seedOf({ seed: "42" })).toBe(42);
  });
});
