// The JSON Schema of Pulumi.<stack>.yaml, so that editors complete and check those files (`npm run schema`).
// Types, limits and patterns come from the zod schema, descriptions from the comments beside its keys.

import { readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { format, resolveConfig } from "prettier";
import ts from "typescript";
import { z } from "zod";
import { instanceTypes } from "../components/aws-prices.ts";
import { configSchema, previousKey, project, secretKeys } from "../components/config.ts";
import { root } from "./workspace.ts";

export interface JsonSchema {
  description?: string;
  properties?: Record<string, JsonSchema>;
  enum?: string[];
  [keyword: string]: unknown;
}

export const schemaPath = join(root, "schema/pulumi-stack.schema.json");
const configPath = join(root, "components/config.ts");

/** The text of the schema file. */
export async function renderSchema(): Promise<string> {
  const config = z.toJSONSchema(configSchema, { io: "input", target: "draft-7" }) as JsonSchema;
  delete config["$schema"];
  describe(config, comments("configSchema"));
  for (const role of ["lb", "stream", "store"]) {
    property(property(property(config, "aws"), role), "type").enum = Object.keys(instanceTypes);
  }
  const keys = Object.fromEntries(
    Object.entries(config.properties ?? {}).map(([key, schema]) => [`${project}:${key}`, schema]),
  );
  const zones = property(property(config, "aws"), "zones");
  zones["uniqueItems"] = true;
  const secrets = { ...secretKeys, [previousKey]: secretKeys.jwtSecret };
  for (const [key, least] of Object.entries(secrets)) {
    const value = key === previousKey ? "" : ' "$(openssl rand -hex 32)"';
    keys[`${project}:${key}`] = {
      description: `Secret of at least ${least} characters, encrypted. Set it with: pulumi config set --secret ${key}${value}`,
      type: "object",
      properties: { secure: { type: "string" } },
      required: ["secure"],
      additionalProperties: false,
    };
  }
  const schema = {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: `Configuration of a stack of ${project}`,
    description: "Made by `npm run schema` from components/config.ts; don't change it by hand.",
    type: "object",
    properties: {
      config: {
        type: "object",
        properties: keys,
        // Other packages' settings, such as aws:profile, are theirs to check.
        patternProperties: { [`^(?!${project}:)[^:]+:`]: {} },
        additionalProperties: false,
        required: (config["required"] as string[]).map((key) => `${project}:${key}`),
        if: { properties: { [`${project}:target`]: { const: "aws" } } },
        then: { required: [`${project}:aws`], not: { required: [`${project}:local`] } },
        else: { not: { required: [`${project}:aws`] } },
      },
    },
    required: ["config"],
  };
  return format(JSON.stringify(schema), { ...(await resolveConfig(schemaPath)), filepath: schemaPath });
}

function property(schema: JsonSchema, key: string): JsonSchema {
  const found = schema.properties?.[key];
  if (found === undefined) {
    throw new Error(`components/config.ts has no key ${key} where the editor's schema expects one`);
  }
  return found;
}

/** What the comment beside a key says, and what those inside it say. */
export interface Comments {
  /** What it is. */
  readonly text?: string;
  /** What happens without it. */
  readonly default?: string;
  /** What a changed value does to a running stack. */
  readonly change?: string;
  readonly keys: Readonly<Record<string, Comments>>;
}

function describe(schema: JsonSchema, { text, default: fallback, change, keys }: Comments): void {
  const parts = [
    text,
    fallback === undefined ? undefined : `Default: ${fallback}.`,
    change === undefined ? undefined : `Changed on a running stack: ${change}.`,
  ].filter((part) => part !== undefined);
  if (parts.length > 0) schema.description = parts.join(" ");
  for (const [key, comment] of Object.entries(keys)) describe(property(schema, key), comment);
}

/** Reads the comments of an object in components/config.ts out of its source: no repetition of them can go stale. */
export function comments(name: string): Comments {
  const source = ts.createSourceFile(
    configPath,
    readFileSync(configPath, "utf8"),
    ts.ScriptTarget.Latest,
    true,
  );
  const values = new Map<string, ts.Expression>();
  source.forEachChild((node) => {
    if (!ts.isVariableStatement(node)) return;
    for (const { name: variable, initializer } of node.declarationList.declarations) {
      if (ts.isIdentifier(variable) && initializer !== undefined) values.set(variable.text, initializer);
    }
  });
  /** What a schema that extends another one builds on. */
  const baseOf = (node: ts.Expression): ts.Expression | undefined => {
    if (ts.isIdentifier(node)) {
      const value = values.get(node.text);
      return value === undefined ? undefined : baseOf(value);
    }
    if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return undefined;
    const { name: method, expression } = node.expression;
    return method.text === "extend" ? expression : baseOf(expression);
  };
  /** The object literal that an expression such as `z.strictObject({…}).optional()` or `named.prefault({})` is about. */
  const shapeOf = (node: ts.Expression): ts.ObjectLiteralExpression | undefined => {
    if (ts.isIdentifier(node)) {
      const value = values.get(node.text);
      return value === undefined ? undefined : shapeOf(value);
    }
    if (ts.isObjectLiteralExpression(node)) return node;
    if (ts.isAsExpression(node)) return shapeOf(node.expression);
    if (ts.isArrowFunction(node)) return ts.isBlock(node.body) ? undefined : shapeOf(node.body);
    if (!ts.isCallExpression(node)) return undefined;
    const { expression, arguments: given } = node;
    if (!ts.isPropertyAccessExpression(expression)) return shapeOf(expression);
    const [first] = given;
    if (["strictObject", "extend"].includes(expression.name.text) && first !== undefined) {
      return ts.isObjectLiteralExpression(first) ? first : undefined;
    }
    return shapeOf(expression.expression);
  };
  const read = (node: ts.Expression): Comments["keys"] => {
    const base = baseOf(node);
    const keys: Record<string, Comments> = base === undefined ? {} : { ...read(base) };
    for (const member of shapeOf(node)?.properties ?? []) {
      if (!ts.isPropertyAssignment(member)) continue;
      const key = ts.isComputedPropertyName(member.name) ? undefined : member.name.text;
      if (key === undefined) continue;
      keys[key] = { ...commentOf(member), keys: read(member.initializer) };
    }
    return keys;
  };
  const start = values.get(name);
  if (start === undefined) throw new Error(`${relative(root, configPath)} has no ${name}`);
  return { keys: read(start) };
}

function commentOf(node: ts.Node): Omit<Comments, "keys"> {
  const found: Record<string, string> = {};
  const plain = (comment: ts.JSDoc["comment"]) =>
    ts.getTextOfJSDocComment(comment)?.replace(/\s+/g, " ").trim();
  for (const doc of ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc)) {
    const text = plain(doc.comment);
    if (text) found["text"] = text;
    for (const tag of doc.tags ?? []) {
      const value = plain(tag.comment);
      if (value && ["default", "change"].includes(tag.tagName.text)) found[tag.tagName.text] = value;
    }
  }
  return found;
}
