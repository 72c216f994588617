// docs/configuration.md is fresh, says everything of every key, and its examples are stack files that work.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { configSchema, ownValues, parseConfig, previousKey, secretKeys } from "../../components/config.ts";
import { referencePath, renderReference, rowsOf } from "../../ops/reference.ts";
import { comments } from "../../ops/schema.ts";

const text = readFileSync(referencePath, "utf8");
const rows = rowsOf(configSchema, comments("configSchema"));
const nameOf = (row: (typeof rows)[number]) => row.path.join(".");

describe("the reference of the configuration", () => {
  it("is fresh (if not: npm run schema)", async () => {
    expect(await renderReference()).toBe(text);
  });

  it("says of every key what it is", () => {
    expect(rows.length).toBeGreaterThan(40);
    expect(rows.filter(({ comment }) => comment.text === undefined).map(nameOf)).toEqual([]);
  });

  it("says of every key that is no group, and of every group that may be missing, what a change does", () => {
    const silent = rows.filter(
      ({ isGroup, isOptional, comment }) => (!isGroup || isOptional) && comment.change === undefined,
    );
    // The whole of `aws` comes and goes with the target.
    expect(silent.map(nameOf)).toEqual(["aws"]);
  });

  it("says of every key that may be missing what happens then", () => {
    const silent = rows.filter(
      ({ isGroup, isOptional, isRequired, value, comment }) =>
        (isOptional || (!isGroup && !isRequired)) && value === undefined && comment.default === undefined,
    );
    expect(silent.map(nameOf)).toEqual(["aws"]);
  });

  it("says it in short sentences", () => {
    for (const { path, comment } of rows) {
      const sentences = [comment.text, comment.default, comment.change].flatMap(
        (said) => said?.split(". ") ?? [],
      );
      for (const sentence of sentences) expect(sentence.length, path.join(".")).toBeLessThanOrEqual(120);
    }
  });

  it("has a row for every key and secret, in the section it belongs to", () => {
    for (const [key] of Object.entries(configSchema.shape)) expect(text).toContain(`\n## siem-ha:${key}\n`);
    for (const { path, isGroup } of rows) {
      const [section, ...rest] = path;
      if (rest.length === 0 && isGroup) continue;
      const start = text.indexOf(`\n## siem-ha:${section}\n`);
      const own = text.slice(start, text.indexOf("\n## ", start + 1));
      expect(own).toContain(`\n| \`${rest.length === 0 ? section : rest.join(".")}\` `);
    }
    for (const key of [...Object.keys(secretKeys), previousKey]) expect(text).toContain(`\n| \`${key}\` `);
  });

  it("gives the defaults that the program has", () => {
    expect(text).toMatch(/\| `topics\.ingest-events\.partitions` +\|.*\| `6` +\|/);
    expect(text).toMatch(/\| `topics\.alerts\.partitions` +\|.*\| `3` +\|/);
    expect(text).toMatch(/\| `store\.type` +\|.*\| `"m6i\.xlarge"` +\|/);
    expect(text).toMatch(/\| `retentionDays` +\|.*\| `365`: a year +\|/);
    expect(text).toMatch(/\| `tier` +\|.*\| \*\*required\*\* +\|/);
  });

  const examples = [...text.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, example]) => example ?? "");
  it("has four examples: local, local with more, dev, prod", () => {
    expect(examples).toHaveLength(4);
  });
  it.each(examples)("has an example that the program takes:\n%s", (example) => {
    const { config } = parse(example) as { config: Record<string, unknown> };
    expect(() => parseConfig(ownValues(config))).not.toThrow();
  });
});
