// Which key encrypts what, and who may use it.

import { describe, expect, it } from "vitest";
import { encryptionKey, keyPolicy } from "../../components/storage/key.ts";
import { account, counts, only, record, valueOf } from "./mocked.ts";

const dev = { region: "eu-central-1", tier: "dev", kmsKey: "aws" } as const;
const arn = `arn:aws:kms:eu-central-1:${account}:key/0a1b2c3d`;

interface Statement {
  readonly Sid: string;
  readonly Effect: string;
  readonly Principal: Record<string, string>;
  readonly Action: string | string[];
  readonly Condition?: Record<string, Record<string, string | string[]>>;
}
const statements = (document: string): Statement[] =>
  (JSON.parse(document) as { Statement: Statement[] }).Statement;

describe("encryptionKey", () => {
  it("leaves it to AWS, and takes what the team brings, without making anything", async () => {
    const { resources, result } = await record(() => [
      encryptionKey("key", { config: dev, stack: "dev" }, {}),
      encryptionKey("key", { config: { ...dev, kmsKey: arn }, stack: "dev" }, {}),
    ]);
    expect(resources).toEqual([]);
    expect(result[0]).toBeUndefined();
    if (result[1] === undefined) throw new Error("no key");
    expect(await valueOf(result[1])).toBe(arn);
  });

  it("makes a rotating key with a name", async () => {
    const { resources, result } = await record((opts) =>
      encryptionKey("key", { config: { ...dev, kmsKey: "create" }, stack: "dev" }, opts),
    );
    expect(counts(resources)).toEqual({ "aws:kms/key:Key": 1, "aws:kms/alias:Alias": 1 });
    const key = only(resources, "aws:kms/key:Key");
    expect(key.inputs).toMatchObject({ enableKeyRotation: true, deletionWindowInDays: 7 });
    expect(only(resources, "aws:kms/alias:Alias").inputs).toMatchObject({
      name: "alias/siem-ha-dev-key",
      targetKeyId: "key-key-id",
    });
    if (result === undefined) throw new Error("no key");
    expect(await valueOf(result)).toBe(`arn:aws:kms:eu-central-1:${account}:key/key`);
    expect(statements(key.inputs["policy"] as string)[0]?.Principal).toEqual({
      AWS: `arn:aws:iam::${account}:root`,
    });
  });
});

it("a key of production outlives the stack, and can't be removed by accident", async () => {
  for (const tier of ["dev", "prod"] as const) {
    const { resources } = await record((opts) =>
      encryptionKey("key", { config: { ...dev, tier, kmsKey: "create" }, stack: tier }, opts),
    );
    const { protect = false, retainOnDelete = false } = only(resources, "aws:kms/key:Key").opts;
    expect([protect, retainOnDelete]).toEqual([tier === "prod", tier === "prod"]);
  }
});

describe("keyPolicy", () => {
  const policy = statements(
    keyPolicy({
      account,
      partition: "aws",
      dnsSuffix: "amazonaws.com",
      region: "eu-central-1",
      stack: "prod",
    }),
  );

  it("names who is let in: the account, whose policies decide, and one service", () => {
    expect(policy.map(({ Effect, Principal }) => ({ Effect, Principal }))).toEqual([
      { Effect: "Allow", Principal: { AWS: `arn:aws:iam::${account}:root` } },
      { Effect: "Allow", Principal: { Service: "logs.eu-central-1.amazonaws.com" } },
    ]);
  });

  it("lets CloudWatch encrypt the log groups of this stack only", () => {
    const logs = policy.find(({ Principal }) => Principal["Service"] === "logs.eu-central-1.amazonaws.com");
    expect(logs?.Condition).toEqual({
      ArnLike: {
        "kms:EncryptionContext:aws:logs:arn": `arn:aws:logs:eu-central-1:${account}:log-group:/siem-ha/prod/*`,
      },
    });
  });
});
