// The editors' schema is the one that zod checks with, and says about stack files what the program would say.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv } from "ajv";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { instanceTypes } from "../../components/aws-prices.ts";
import { configSchema, parseConfig, previousKey, secretKeys } from "../../components/config.ts";
import { renderSchema, schemaPath } from "../../ops/schema.ts";
import { root } from "../../ops/workspace.ts";
import { distorted, wellFormed } from "../components/config-samples.ts";

interface Described {
  readonly description?: string;
  readonly properties?: Readonly<Record<string, Described>>;
}

const text = readFileSync(schemaPath, "utf8");
const schema = JSON.parse(text) as { properties: { config: Described } } & Described;
const ajv = new Ajv({ validateFormats: false, strict: true, strictRequired: false });
const validate = ajv.compile(schema);

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO0 somebody";
const aws = { region: "eu-central-1", tier: "dev", admin: { sshPublicKeys: [key] } };
const stack = (values: Record<string, unknown>) => ({
  config: Object.fromEntries(Object.entries(values).map(([name, value]) => [`siem-ha:${name}`, value])),
});

describe("the schema of stack files", () => {
  it("is fresh (if not: npm run schema)", async () => {
    expect(await renderSchema()).toBe(text);
  });

  it("explains the keys of an AWS stack", () => {
    const described = schema.properties.config.properties?.["siem-ha:aws"]?.properties;
    expect(described?.["tier"]?.description).toContain("NAT gateway a zone");
    expect(described?.["zones"]?.description).toMatch(/ Default: the region's first three\. Changed on a /);
    expect(described?.["store"]?.properties?.["dataGb"]?.description).toContain("never shrink");
    expect(described?.["entry"]?.properties?.["loadBalancer"]?.properties?.["clients"]?.description).toMatch(
      /^Ranges that may reach it\. Public ones need TLS\./,
    );
  });

  // With an encrypted secret and another package's settings, as Pulumi writes them.
  const full = {
    encryptionsalt: "v1:abc:def",
    config: {
      ...stack({ target: "aws", aws, kafka: { heapMb: 1024 } }).config,
      "siem-ha:jwtSecret": { secure: "v1:abc:def" },
      "aws:profile": "siem",
    },
  };
  it("takes what the program takes", () => {
    for (const good of [full, stack({ target: "local" }), stack({ target: "aws", aws })]) {
      expect(validate(good), JSON.stringify(validate.errors)).toBe(true);
    }
    expect(() => parseConfig({ target: "aws", aws, kafka: { heapMb: 1024 } })).not.toThrow();
  });

  it.each<[string, Record<string, unknown>]>([
    ["no target", {}],
    ["another target", { target: "moon" }],
    ["an unknown key", { target: "local", kafak: {} }],
    ["an unknown key inside", { target: "aws", aws: { ...aws, lb: { size: 3 } } }],
    ["a type nobody knows", { target: "aws", aws: { ...aws, store: { type: "m6i.huge" } } }],
    ["two zones", { target: "aws", aws: { ...aws, zones: ["eu-central-1a", "eu-central-1b"] } }],
    ["no public key", { target: "aws", aws: { ...aws, admin: { sshPublicKeys: [] } } }],
    ["a range that is none", { target: "aws", aws: { ...aws, cidr: "10.0.0.0" } }],
    ["aws without its settings", { target: "aws" }],
    ["settings of aws for another target", { target: "local", aws }],
    ["settings of a daemon for another target", { target: "aws", aws, local: {} }],
    ["one zone twice", { target: "aws", aws: { ...aws, zones: ["eu-west-1a", "eu-west-1a", "eu-west-1b"] } }],
    ["syslog without a tenant", { target: "local", ingestor: { syslog: {} } }],
    ["a group without a value", { target: "local", kafka: null }],
    ["an encrypted value where no secret is", { target: "local", api: { image: { secure: "v1:a:b" } } }],
  ])("refuses %s, as the program does", (_, values) => {
    expect(validate(stack(values))).toBe(false);
    expect(() => parseConfig(values)).toThrow("The configuration is wrong");
  });

  it("refuses a secret that is not encrypted", () => {
    for (const name of [...Object.keys(secretKeys), previousKey]) {
      expect(validate(stack({ target: "local", [name]: { secure: "v1:abc:def" } }))).toBe(true);
      expect(validate(stack({ target: "local", [name]: "plain" }))).toBe(false);
    }
  });

  it("agrees with the program on all that is not a rule between keys, or an instance type", () => {
    const taken = { yes: 0, no: 0 };
    fc.assert(
      fc.property(fc.oneof(wellFormed, distorted), (values) => {
        const { target } = values;
        const other = target === "aws" ? "local" : "aws";
        const fits =
          configSchema.safeParse(values).success &&
          !(other in values) &&
          (target !== "aws" || "aws" in values);
        const types = configSchema.safeParse(values).data?.aws;
        fc.pre([types?.lb, types?.stream, types?.store].every((role) => !role || role.type in instanceTypes));
        taken[fits ? "yes" : "no"] += 1;
        expect(validate(stack(values)), JSON.stringify({ values, errors: validate.errors })).toBe(fits);
      }),
      { numRuns: 500 },
    );
    expect(Math.min(taken.yes, taken.no)).toBeGreaterThan(0);
  });

  it.each(["local", "test"])("agrees with Pulumi.%s.yaml", (name) => {
    const file: unknown = parse(readFileSync(join(root, `Pulumi.${name}.yaml`), "utf8"));
    expect(validate(file), JSON.stringify(validate.errors)).toBe(true);
  });
  it.each(["dev", "prod"])("finds nothing in Pulumi.%s.yaml but what has to be filled in", (name) => {
    const source = readFileSync(join(root, `Pulumi.${name}.yaml`), "utf8");
    const filled = source
      .replace(/sshPublicKeys: \[\]/, `sshPublicKeys: ["${key}"]`)
      .replace(/alarmEmail:(?= *#)/, "alarmEmail: siem@example.com");
    expect(validate(parse(source))).toBe(false);
    expect(validate(parse(filled)), JSON.stringify(validate.errors)).toBe(true);
  });
});
