// Names and diffs that are alike for every Docker type.

import { randomBytes } from "node:crypto";
import type { Change, Context, Props, ResourceKind } from "../server.ts";
import { same } from "../server.ts";
import { type Fields, refuse } from "../shape.ts";

/** The name to use where the program gave none: the old one, or the resource's with a random tail. */
export function autoname(news: Props, olds: Props, context: Context): Props {
  if (news.name !== undefined) return {};
  return { name: olds.name ?? `${context.name}-${randomBytes(4).toString("hex").slice(0, 7)}` };
}

/** Compares what was recorded with what is wanted; `inPlace` lists what does not take a replacement. */
export function compare(
  state: Props,
  news: Props,
  fields: Iterable<string>,
  inPlace: readonly string[],
  sets: readonly string[] = [],
): Change {
  const properties = new Map<string, boolean>();
  for (const field of fields) {
    const order = sets.includes(field) ? sorted : (value: unknown) => value;
    if (!same(order(state[field]), order(news[field]))) properties.set(field, !inPlace.includes(field));
  }
  // Two things can't have one name at the same time.
  return { properties, deleteBeforeReplace: state.name === news.name };
}

/** What is decided without a daemon, of a type whose every input forces a replacement. */
export function replacedRules(
  type: string,
  fields: Fields,
  sets: readonly string[],
): Pick<ResourceKind, "check" | "diff"> {
  return {
    check: (news, olds, context) => ({
      defaults: autoname(news, olds, context),
      failures: refuse(news, fields, type),
    }),
    // What the program left to Docker is recorded as Docker chose it, and is no change.
    diff: (state, news, olds) =>
      compare(
        state,
        news,
        Object.keys(fields).filter((field) => field in news || field in olds),
        [],
        sets,
      ),
  };
}

function sorted(value: unknown): unknown {
  if (!Array.isArray(value)) return value;
  return value.map((item) => JSON.stringify(item)).sort();
}
