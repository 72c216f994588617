// What inputs a stand-in knows. Anything else is refused by name: an input ignored in silence would be a lie.

import type { Failure, Props } from "./server.ts";
import { unknown } from "./server.ts";

/** A scalar, a map of scalars, a list of one shape, or an object with named fields. */
export type Shape =
  | "string"
  | "number"
  | "boolean"
  | "map"
  | { readonly list: Shape }
  | { readonly fields: Readonly<Record<string, Shape>> };

export type Fields = Readonly<Record<string, Shape>>;

/** Every input that is unknown or of the wrong type, by its path. */
export function refuse(props: Props, fields: Fields, what: string, path = ""): Failure[] {
  return Object.entries(props).flatMap(([key, value]) => {
    const property = path === "" ? key : `${path}.${key}`;
    const shape = Object.hasOwn(fields, key) ? fields[key] : undefined;
    if (shape === undefined) {
      const known = Object.keys(fields).sort().join(", ");
      return [{ property, reason: `the offline stand-in of ${what} has no "${property}"; it has ${known}` }];
    }
    return refuseValue(value, shape, what, property);
  });
}

function refuseValue(value: unknown, shape: Shape, what: string, property: string): Failure[] {
  if (value === null || value === undefined || value === unknown) return [];
  const wrong = (allowed: string): Failure[] => [
    { property, reason: `"${property}" of ${what} must be ${allowed}, but is ${describe(value)}` },
  ];
  if (shape === "map") {
    return typeof value === "object" && !Array.isArray(value) ? [] : wrong("a map");
  }
  if (typeof shape === "string") {
    return typeof value === shape ? [] : wrong(`a ${shape}`);
  }
  if ("list" in shape) {
    if (!Array.isArray(value)) return wrong("a list");
    return value.flatMap((item, index) => refuseValue(item, shape.list, what, `${property}[${index}]`));
  }
  if (typeof value !== "object" || Array.isArray(value)) return wrong("an object");
  return refuse(value as Props, shape.fields, what, property);
}

/** Names the type, never the value: it may be a secret. */
function describe(value: unknown): string {
  return Array.isArray(value) ? "a list" : `a ${typeof value}`;
}
