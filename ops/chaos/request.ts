// What a person asked `npm run chaos` for: which scenarios, in which order, on which stack. Pure; refusals in words.

import { type SiemConfig } from "../../components/config.ts";
import { pairsOf, type Scenario } from "./scenarios.ts";

export interface Options {
  readonly stack: string;
  readonly list: boolean;
  readonly all: boolean;
  readonly fast: boolean;
  readonly pairs: boolean;
  readonly rounds?: string;
  readonly seed?: string;
  readonly breakStack?: string;
  readonly daemonRestart: boolean;
}

/** @throws when this stack may not be broken. */
export function permit(
  { stack, breakStack }: Pick<Options, "stack" | "breakStack">,
  { target }: Pick<SiemConfig, "target">,
): void {
  if (target !== "local") {
    throw new Error(
      `${stack} has the target ${target}; chaos breaks only stacks with the target local, because it needs the Docker daemon under the nodes. Nothing was touched.`,
    );
  }
  if (breakStack !== undefined && breakStack !== stack) {
    throw new Error(
      `--break-stack names ${breakStack}, but the stack is ${stack}; both must be the same. Nothing was touched.`,
    );
  }
  if (stack !== "local" && breakStack === undefined) {
    throw new Error(
      `Somebody may be using the stack ${stack}. To break it all the same, repeat its name: --break-stack ${stack}. Nothing was touched.`,
    );
  }
}

/** A whole number. @throws naming the option */
export function whole(option: string, given: string, least: number): number {
  const number = Number(given);
  if (!/^\d{1,9}$/.test(given) || number < least) {
    throw new Error(
      `--${option} takes a whole number from ${least} to 999999999, but got ${JSON.stringify(given)}`,
    );
  }
  return number;
}

/** The seed: as given, or a new one, which the report names. */
export function seedOf({ seed }: Pick<Options, "seed">, now = Date.now()): number {
  return seed === undefined ? now % 100_000 : whole("seed", seed, 0);
}

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
export function draws(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The same things in another order. */
export function shuffled<T>(things: readonly T[], draw: () => number): T[] {
  const all = [...things];
  for (let last = all.length - 1; last > 0; last--) {
    const other = Math.floor(draw() * (last + 1));
    [all[last], all[other]] = [all[other] as T, all[last] as T];
  }
  return all;
}

/**
 * The scenarios to run, in order. Rounds go through a shuffled list again and again, so that none is left out before
 * another comes twice.
 * @param names as given on the command line
 * @throws for a name that there is none of, and for options that contradict each other.
 */
export function chosen(names: readonly string[], options: Options, known: readonly Scenario[]): Scenario[] {
  const allowed = known.filter(({ needs }) => needs !== "--daemon-restart" || options.daemonRestart);
  const pairs = pairsOf(known);
  const named = names.map((name) => {
    const found = [...known, ...pairs].find((scenario) => scenario.name === name);
    if (found === undefined) {
      throw new Error(
        `there is no scenario ${JSON.stringify(name)}; there are ${known.map((scenario) => scenario.name).join(", ")}; and two at once, such as ${pairs[0]?.name ?? "a+b"}`,
      );
    }
    if (found.needs === "--daemon-restart" && !options.daemonRestart) {
      throw new Error(
        `${name} ends every container of this Docker daemon, others' too. To do it all the same, add --daemon-restart`,
      );
    }
    return found;
  });
  const ways = [names.length > 0, options.all, options.fast].filter(Boolean).length;
  if (ways > 1) throw new Error("give names of scenarios, or --all, or --fast, and only one of them");
  if (options.pairs && options.rounds === undefined)
    throw new Error("--pairs is for rounds: add --rounds N, or name two scenarios as a+b");
  if (ways === 0 && options.rounds === undefined) {
    throw new Error(
      "say what is to be broken: names of scenarios, --fast, --all, or --rounds N; --list shows the names",
    );
  }
  const pool = options.pairs
    ? pairsOf(names.length > 0 ? named : allowed)
    : names.length > 0
      ? named
      : options.fast
        ? allowed.filter(({ fast }) => fast === true)
        : allowed;
  if (options.rounds === undefined) return pool;
  if (pool.length === 0) throw new Error("no two of these scenarios break different things");
  const rounds = whole("rounds", options.rounds, 1);
  const draw = draws(seedOf(options));
  const order: Scenario[] = [];
  while (order.length < rounds) order.push(...shuffled(pool, draw));
  return order.slice(0, rounds);
}
