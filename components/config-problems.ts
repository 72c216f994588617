// What a wrong configuration is told: one line a problem, with the key, what is allowed, what was given, what to do.

import leven, { closestMatch } from "leven";
import { z } from "zod";

/** Something wrong at a place in the configuration; the message goes on after the key's name. */
export interface Problem {
  readonly path: readonly PropertyKey[];
  readonly message: string;
  /** Nothing stands there. */
  readonly isMissing?: boolean;
  /** The key that this unknown one probably is: that it is missing need not be said too. */
  readonly meant?: readonly PropertyKey[];
}

/** What a text or a list must be, in words. Messages and the reference read it. */
export const phrases = z.registry<{ readonly phrase: string }>();

/** A text that a pattern describes to programs and a phrase to people. */
export function text(pattern: RegExp, phrase: string): z.ZodString {
  return z.string().regex(pattern).register(phrases, { phrase });
}

/** Longest part of a wrong value that is shown, characters. */
const longestShown = 80;

/** The schema inside defaults and optionals. */
export function unwrap(schema: z.core.$ZodType): z.core.$ZodType {
  return schema instanceof z.ZodPrefault || schema instanceof z.ZodDefault || schema instanceof z.ZodOptional
    ? unwrap(schema.unwrap())
    : schema;
}

/** Keys of an object's schema; empty for any other. */
export function shapeOf(schema: z.core.$ZodType): Readonly<Record<string, z.core.$ZodType>> {
  const inner = unwrap(schema);
  return inner instanceof z.ZodObject ? inner.shape : {};
}

function schemaAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): z.core.$ZodType {
  const [key, ...rest] = path;
  if (key === undefined) return schema;
  const inner = unwrap(schema);
  const next = inner instanceof z.ZodArray ? inner.element : shapeOf(inner)[String(key)];
  return next === undefined ? inner : schemaAt(next, rest);
}

/** What a key takes, in words. */
export function allowed(schema: z.core.$ZodType): string {
  const inner = unwrap(schema);
  const phrase = phrases.get(inner)?.phrase;
  if (phrase !== undefined) return phrase;
  if (inner instanceof z.ZodEnum) return inner.options.map((option) => JSON.stringify(option)).join(" or ");
  if (inner instanceof z.ZodNumber) {
    return `a whole number from ${inner.minValue ?? "any"} to ${inner.maxValue ?? "any"}`;
  }
  if (inner instanceof z.ZodBoolean) return "true or false";
  if (inner instanceof z.ZodArray) return `a list, each item ${allowed(inner.element)}`;
  if (inner instanceof z.ZodObject) return `a group of keys (${Object.keys(inner.shape).join(", ")})`;
  return "text";
}

/** A key as `pulumi config set --path` takes it. */
export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>((before, key) => {
    if (typeof key === "number") return `${before}[${key}]`;
    const name = /^[\w:-]+$/.test(String(key)) ? String(key) : `[${JSON.stringify(key)}]`;
    return before === "" || name.startsWith("[") ? before + name : `${before}.${name}`;
  }, "");
}

/** The line of a problem, without a line break in it, whatever was given. */
export function line({ path, message }: Problem, project: string): string {
  const [first] = path;
  // A key with a namespace of its own is shown as it stands in the file.
  const key = typeof first === "string" && first.includes(":") ? first : `${project}:${pathText(path)}`;
  return `  ${key}: ${message}`.replace(/[\r\n\u2028\u2029]+/g, " ");
}

/** What is known of keys beside the schema. */
export interface Keys {
  readonly project: string;
  /** Further names of top-level keys, which are checked elsewhere: the secrets. */
  readonly others: readonly string[];
}

/** What zod found, in our words. */
export function problemsOf(
  schema: z.core.$ZodType,
  issues: readonly z.core.$ZodIssue[],
  about: Keys,
): Problem[] {
  return issues.flatMap((issue): Problem[] => {
    const { path } = issue;
    if (issue.code === "unrecognized_keys")
      return issue.keys.map((key) => unknownKey(schema, path, key, about));
    if (issue.code === "custom") return [{ path, message: issue.message }];
    return [{ path, ...mismatch(schemaAt(schema, path), issue.input) }];
  });
}

/** Every problem once: not what follows from another one. */
export function distinct(problems: readonly Problem[]): Problem[] {
  const meant = new Set(problems.map((problem) => problem.meant && pathText(problem.meant)));
  return problems.filter(({ isMissing, path }) => isMissing !== true || !meant.has(pathText(path)));
}

function mismatch(schema: z.core.$ZodType, given: unknown): Omit<Problem, "path"> {
  const what = allowed(schema);
  const inner = unwrap(schema);
  if (given === undefined) return { message: `is missing; it must be ${what}`, isMissing: true };
  if (given === null) {
    const remedy = z.safeParse(schema, undefined).success ? ". Without one, remove the line" : "";
    return { message: `has no value; it must be ${what}${remedy}` };
  }
  if (typeof given === "string" && given.includes("PRIVATE KEY")) {
    return {
      message: `must be ${what}, but is a private key, which is not shown here. Take it out of the file, and make a new pair: others may have read it`,
    };
  }
  if (Array.isArray(given) && inner instanceof z.ZodArray) {
    const items = given.length === 1 ? "item" : "items";
    return { message: `must be ${what}, but has ${given.length} ${items}` };
  }
  return { message: `must be ${what}, but is ${show(given)}${hint(inner, given)}` };
}

/** The usual slip behind a value of the wrong kind, if mending it would do. */
function hint(schema: z.core.$ZodType, given: unknown): string {
  const takes = (value: unknown) => z.safeParse(schema, value).success;
  if (typeof given === "string") {
    if (takes(decoded(given))) return ": remove the quotes";
    if (takes([given])) return ": write it as a list, in [ ]";
    if (schema instanceof z.ZodObject && /^\s*[{[]/.test(given)) return ", which is not valid JSON";
  }
  return (typeof given === "number" || typeof given === "boolean") && takes(String(given))
    ? ": put it in quotes"
    : "";
}

/** What a text says as JSON, or the text itself. */
export function decoded(given: string): unknown {
  try {
    return JSON.parse(given) as unknown;
  } catch {
    return given;
  }
}

/** A value as it may be shown. */
function show(given: unknown): string {
  // JSON has no words for some numbers that YAML has.
  const value = typeof given === "number" ? given.toString() : JSON.stringify(given);
  const whole = Array.isArray(given)
    ? `the list ${value}`
    : typeof given === "object"
      ? `the group ${value}`
      : value;
  return whole.length <= longestShown ? whole : `${whole.slice(0, longestShown)}…`;
}

function unknownKey(
  schema: z.core.$ZodType,
  path: readonly PropertyKey[],
  key: string,
  { project, others }: Keys,
): Problem {
  const own = [...path, key];
  const keys = Object.keys(shapeOf(schemaAt(schema, path)));
  const [, ...rest] = key.split(":");
  if (path.length === 0 && rest.length > 0) {
    const right = rest.join(":");
    return {
      path: own,
      message: `unknown, because this project's keys begin with ${project}: write ${project}:${right}`,
      meant: [right],
    };
  }
  if (path.length === 0 && key === project) {
    return {
      path: own,
      message: `unknown: write each key with the project's name, such as ${project}:${keys[0] ?? ""}, and not in a group`,
    };
  }
  const top = path.length === 0 ? others : [];
  const near = closestMatch(key, [...keys, ...top], { maxDistance: nearness(key) });
  const elsewhere = [
    ...placesOf(schema, key),
    ...others.filter((other) => other === key).map((other) => [other]),
  ];
  const guess =
    near !== undefined
      ? `; did you mean ${near}?`
      : elsewhere.length > 0
        ? `; there is ${elsewhere.map((place) => `${project}:${pathText(place)}`).join(" and ")}.`
        : ".";
  return {
    path: own,
    message: `unknown${guess} Allowed here: ${keys.join(", ")}`,
    ...(near === undefined ? {} : { meant: [...path, near] }),
  };
}

/** How many letters a slip may change in a name of this length. */
export function nearness(name: string): number {
  return name.length < 4 ? 1 : name.length < 8 ? 2 : 3;
}

/** Whether a name is another one with a slip in it. */
export function isSlipOf(name: string, right: string): boolean {
  return name !== right && leven(name, right) <= nearness(right);
}

function placesOf(
  schema: z.core.$ZodType,
  wanted: string,
  path: readonly PropertyKey[] = [],
): (readonly PropertyKey[])[] {
  return Object.entries(shapeOf(schema)).flatMap(([key, inner]) => [
    ...(key === wanted ? [[...path, key]] : []),
    ...placesOf(inner, wanted, [...path, key]),
  ]);
}
