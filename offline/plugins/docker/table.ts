// One table a Docker type: its inputs, what is filled in where the program says nothing, and how a change is carried
// out. Checks and diffs follow from it, for every type alike.

import type { Failure, Props, ResourceKind } from "../server.ts";
import { refuse, type Shape } from "../shape.ts";

export interface Field {
  readonly shape: Shape;
  /** Recorded as the input where the program gives none. */
  readonly fill?: unknown;
  /** The same within an object, or within each object of a list. */
  readonly within?: Props;
  /** Left out, it is as the image or the daemon has it, and no change. */
  readonly computed?: true;
  /** A change takes no replacement. */
  readonly inPlace?: true;
  /** The order of its lists is part of it. */
  readonly ordered?: true;
}

export type Table = Readonly<Record<string, Field>>;

/** Which inputs were filled in is itself an input. */
const filledKey = "__defaults";

/** Check and diff of a type; `required` are the inputs that the program must give. */
export function rules(
  type: string,
  table: Table,
  required: readonly string[],
  further: (news: Props) => Failure[] = () => [],
): Pick<ResourceKind, "check" | "diff"> {
  const shapes = Object.fromEntries(Object.entries(table).map(([key, { shape }]) => [key, shape]));
  return {
    check: (given) => {
      // What the program ignores comes from the state, with its notes.
      const news = plain(given);
      const failures = [
        ...refuse(news, shapes, type),
        ...required
          .filter((key) => news[key] === undefined)
          .map((property) => ({ property, reason: `${type} needs a "${property}"` })),
      ];
      return {
        defaults: filled(news, table),
        failures: failures.length > 0 ? failures : further(news),
      };
    },
    diff: (state, news) => ({
      properties: changes(table, state, news),
      // Two things can't have one name at the same time.
      deleteBeforeReplace: state.name === news.name,
    }),
  };
}

/** What `check` adds to the inputs. */
function filled(news: Props, table: Table): Props {
  const added: Props = {};
  const names: string[] = [];
  for (const [key, { shape, fill, within = {} }] of Object.entries(table)) {
    const value = news[key];
    if (value === undefined) {
      if (fill === undefined) continue;
      added[key] = fill;
      names.push(key);
    } else if (typeof shape === "object") {
      added[key] = Array.isArray(value) ? value.map((item) => inner(item, within)) : inner(value, within);
    }
  }
  return { ...added, [filledKey]: names.sort() };
}

function inner(value: unknown, within: Props): unknown {
  if (typeof value !== "object" || value === null) return value;
  const missing = Object.entries(within).filter(([key]) => (value as Props)[key] === undefined);
  return { ...value, ...Object.fromEntries(missing), [filledKey]: missing.map(([key]) => key).sort() };
}

/** The inputs that are not as recorded; true where the change takes a replacement. */
function changes(table: Table, state: Props, news: Props): Map<string, boolean> {
  const properties = new Map<string, boolean>();
  for (const [key, { computed, inPlace, ordered = false }] of Object.entries(table)) {
    if (computed === true && news[key] === undefined) continue;
    if (canonical(state[key], ordered) === canonical(news[key], ordered)) continue;
    properties.set(key, inPlace !== true);
  }
  return properties;
}

/** As text, without what says nothing: to these plugins zero, false, empty and absent are one. */
function canonical(value: unknown, ordered: boolean): string {
  if (value === undefined || value === null || value === 0 || value === "" || value === false) return "";
  if (Array.isArray(value)) {
    const items = value.map((item) => canonical(item, ordered));
    return items.length === 0 ? "" : `[${(ordered ? items : items.sort()).join()}]`;
  }
  if (typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value)
    .map(([key, item]) => [key, canonical(item, ordered)] as const)
    .filter(([key, text]) => key !== filledKey && text !== "")
    .map(([key, text]) => `${key}:${text}`);
  return entries.length === 0 ? "" : `{${entries.sort().join()}}`;
}

/** Without the notes about what was filled in. */
export function plain(news: Props): Props {
  return Object.fromEntries(
    Object.entries(news).flatMap(([key, value]) => (key === filledKey ? [] : [[key, unmarked(value)]])),
  );
}

function unmarked(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unmarked);
  return typeof value === "object" && value !== null ? plain(value as Props) : value;
}
