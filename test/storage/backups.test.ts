// The backup bucket is what an auditor asks for, and the snapshot role can do nothing else.

import * as pulumi from "@pulumi/pulumi";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Backups, backupTag, snapshotPolicy, tlsOnlyPolicy } from "../../components/storage/backups.ts";
import { account, counts, only, record, valueOf } from "./mocked.ts";

const make = (tier: "dev" | "prod", key?: string) =>
  record((opts) => {
    const config = { region: "eu-central-1", tier };
    const stack = tier;
    return new Backups(
      "backups",
      {
        config,
        stack,
        retentionDays: 35,
        key: key === undefined ? undefined : pulumi.output(key),
      },
      opts,
    );
  });

describe("Backups", () => {
  it("is a bucket with every lock on it, and a daily snapshot policy", async () => {
    const { resources, result } = await make("prod");
    expect(counts(resources)).toEqual({
      "aws:s3/bucket:Bucket": 1,
      "aws:s3/bucketVersioning:BucketVersioning": 1,
      "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": 1,
      "aws:s3/bucketOwnershipControls:BucketOwnershipControls": 1,
      "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": 1,
      "aws:s3/bucketPolicy:BucketPolicy": 1,
      "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": 1,
      "aws:iam/role:Role": 1,
      "aws:iam/rolePolicy:RolePolicy": 1,
      "aws:dlm/lifecyclePolicy:LifecyclePolicy": 1,
    });
    expect(await valueOf(result.bucket)).toBe("backups-bucket-1a2b3c4");
    const bucket = "backups-bucket-1a2b3c4";
    for (const { type, inputs } of resources) {
      if (type.startsWith("aws:s3/bucket") && type !== "aws:s3/bucket:Bucket") {
        expect(inputs).toMatchObject({ bucket });
      }
    }
    expect(only(resources, "aws:s3/bucketVersioning:BucketVersioning").inputs).toMatchObject({
      versioningConfiguration: { status: "Enabled" },
    });
    expect(only(resources, "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock").inputs).toEqual({
      bucket,
      blockPublicAcls: true,
      blockPublicPolicy: true,
      ignorePublicAcls: true,
      restrictPublicBuckets: true,
    });
    expect(
      only(resources, "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration").inputs,
    ).toMatchObject({
      rules: [
        { expiration: { days: 35 }, noncurrentVersionExpiration: { noncurrentDays: 35 } },
        { expiration: { expiredObjectDeleteMarker: true } },
      ],
    });
    expect(only(resources, "aws:dlm/lifecyclePolicy:LifecyclePolicy").inputs).toMatchObject({
      state: "ENABLED",
      executionRoleArn: `arn:aws:iam::${account}:role/backups-snapshots-1a2b3c4`,
      policyDetails: {
        targetTags: { [backupTag]: "prod" },
        schedules: [{ copyTags: true, retainRule: { interval: 35, intervalUnit: "DAYS" } }],
      },
    });
  });

  it("goes with a development stack, and refuses to go with production's", async () => {
    for (const tier of ["dev", "prod"] as const) {
      const { resources } = await make(tier);
      const prod = tier === "prod";
      const bucket = only(resources, "aws:s3/bucket:Bucket");
      expect(bucket.inputs).toMatchObject({ forceDestroy: !prod });
      expect(bucket.opts.protect ?? false).toBe(prod);
      const stays = resources.filter(({ opts }) => opts.retainOnDelete).map(({ type }) => type);
      const ofS3 = resources.map(({ type }) => type).filter((type) => type.startsWith("aws:s3/"));
      expect(stays).toEqual(prod ? ofS3 : []);
    }
  });

  it("encrypts with the stack's key where there is one", async () => {
    const encryption =
      "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration";
    const key = `arn:aws:kms:eu-central-1:${account}:key/0a1b`;
    expect(only((await make("prod", key)).resources, encryption).inputs["rules"]).toEqual([
      {
        applyServerSideEncryptionByDefault: { sseAlgorithm: "aws:kms", kmsMasterKeyId: key },
        bucketKeyEnabled: true,
      },
    ]);
    expect(only((await make("prod")).resources, encryption).inputs["rules"]).toEqual([
      { applyServerSideEncryptionByDefault: { sseAlgorithm: "AES256" } },
    ]);
  });
});

interface Statement {
  readonly Effect: string;
  readonly Action: string | string[];
  readonly Resource: string | string[];
  readonly Condition?: unknown;
}

describe("policies", () => {
  it("TLS: both the bucket and what is in it, for everybody and everything", () => {
    const { Statement } = JSON.parse(tlsOnlyPolicy("arn:aws:s3:::b")) as { Statement: Statement[] };
    expect(Statement).toHaveLength(2);
    for (const statement of Statement) {
      expect(statement).toMatchObject({
        Effect: "Deny",
        Principal: "*",
        Action: "s3:*",
        Resource: ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
      });
    }
    expect(Statement[0]?.Condition).toEqual({ Bool: { "aws:SecureTransport": "false" } });
  });

  it("snapshots: whatever the stack, only its tagged volumes are read and only its snapshots expire", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z][a-z0-9-]{0,20}$/), (stack) => {
        const { Statement } = JSON.parse(
          snapshotPolicy({ account, partition: "aws", region: "eu-central-1", stack }),
        ) as { Statement: Statement[] };
        const actions = Statement.flatMap(({ Action }) => Action);
        expect(actions.filter((action) => action.includes("*"))).toEqual([]);
        for (const { Action, Resource, Condition } of Statement) {
          if (Resource === "*") {
            for (const action of [Action].flat()) expect(action).toMatch(/^ec2:Describe/);
          }
          if (Action === "ec2:DeleteSnapshot" || String(Resource).includes("volume/")) {
            expect(Condition).toEqual({ StringEquals: { [`aws:ResourceTag/${backupTag}`]: stack } });
          }
        }
      }),
    );
  });
});
