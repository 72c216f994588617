// `npm run schema`: writes the JSON Schema of Pulumi.<stack>.yaml, so that editors complete and check those files.
// Types, limits and patterns come from the zod schema, descriptions from the comments beside its keys.

import { readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { format, resolveConfig } from "prettier";
import ts from "typescript";
import { z } from "zod";
import { instanceTypes } from "../components/aws-prices.ts";
import { configSchema, secretKeys } from "../components/config.ts";
import { project, root } from "./workspace.ts";

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
  describe(config, comments(configPath, "configSchema"));
  for (const role of ["lb", "stream", "store"]) {
    property(property(property(config, "aws"), role), "type").enum = Object.keys(instanceTypes);
  }
  const keys = Object.fromEntries(
    Object.entries(config.properties ?? {}).map(([key, schema]) => [`${project}:${key}`, schema]),
  );
  for (const [key, least] of Object.entries(secretKeys)) {
    keys[`${project}:${key}`] = {
      description: `Secret of at least ${least} characters, encrypted. Set it with: pulumi config set --secret ${key} "$(openssl rand -hex 32)"`,
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
        then: { required: [`${project}:aws`] },
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
interface Comments {
  readonly text?: string;
  readonly keys: Readonly<Record<string, Comments>>;
}

function describe(schema: JsonSchema, { text, keys }: Comments): void {
  if (text !== undefined) schema.description = text;
  for (const [key, comment] of Object.entries(keys)) describe(property(schema, key), comment);
}

/** Reads the comments of a zod object out of its source: a comment says more than a repetition of it would. */
function comments(path: string, name: string): Comments {
  const source = ts.createSourceFile(path, readFileSync(path, "utf8"), ts.ScriptTarget.Latest, true);
  const values = new Map<string, ts.Expression>();
  source.forEachChild((node) => {
    if (!ts.isVariableStatement(node)) return;
    for (const { name: variable, initializer } of node.declarationList.declarations) {
      if (ts.isIdentifier(variable) && initializer !== undefined) values.set(variable.text, initializer);
    }
  });
  /** The object literal that an expression such as `z.strictObject({…}).optional()` or `named.prefault({})` is about. */
  const shapeOf = (node: ts.Expression): ts.ObjectLiteralExpression | undefined => {
    if (ts.isIdentifier(node)) {
      const value = values.get(node.text);
      return value === undefined ? undefined : shapeOf(value);
    }
    if (ts.isArrowFunction(node)) return ts.isBlock(node.body) ? undefined : shapeOf(node.body);
    if (!ts.isCallExpression(node)) return undefined;
    const { expression, arguments: given } = node;
    if (!ts.isPropertyAccessExpression(expression)) return shapeOf(expression);
    const [first] = given;
    if (expression.name.text === "strictObject" && first !== undefined) {
      return ts.isObjectLiteralExpression(first) ? first : undefined;
    }
    return shapeOf(expression.expression);
  };
  const read = (node: ts.Expression): Comments["keys"] => {
    const keys: Record<string, Comments> = {};
    for (const member of shapeOf(node)?.properties ?? []) {
      if (!ts.isPropertyAssignment(member)) continue;
      const key = ts.isComputedPropertyName(member.name) ? undefined : member.name.text;
      if (key === undefined) continue;
      const text = textOf(member);
      keys[key] = { ...(text === undefined ? {} : { text }), keys: read(member.initializer) };
    }
    return keys;
  };
  const start = values.get(name);
  if (start === undefined) throw new Error(`${relative(root, path)} has no ${name}`);
  return { keys: read(start) };
}

function textOf(node: ts.Node): string | undefined {
  const parts: string[] = [];
  for (const doc of ts.getJSDocCommentsAndTags(node)) {
    const comment = ts.getTextOfJSDocComment(doc.comment)?.replace(/\s+/g, " ").trim();
    if (comment === undefined || comment === "") continue;
    if (ts.isJSDoc(doc)) parts.push(comment);
    else if (doc.tagName.text === "default") parts.push(`Default: ${comment}.`);
    if (!ts.isJSDoc(doc)) continue;
    for (const tag of doc.tags ?? []) {
      const value = ts.getTextOfJSDocComment(tag.comment)?.replace(/\s+/g, " ").trim();
      if (tag.tagName.text === "default" && value) parts.push(`Default: ${value}.`);
    }
  }
  return parts.length === 0 ? undefined : parts.join(" ");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  writeFileSync(schemaPath, await renderSchema());
  process.stdout.write(`${relative(root, schemaPath)} is up to date\n`);
}
