// What brings data back: daily snapshots of the data volumes, and a bucket that keeps every version.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";

/** Volumes with this tag, and the stack as its value, are snapshotted. */
export const backupTag = "siem-ha:backup";

export interface BackupsArgs {
  readonly config: Pick<AwsConfig, "region" | "tier">;
  readonly stack: string;
  /** Days that a snapshot, an object and an overwritten or deleted version are kept. */
  readonly retentionDays: number;
  /** ARN of the key that the bucket is encrypted with. @default a key that S3 manages */
  readonly key?: pulumi.Output<string> | undefined;
}

export class Backups extends pulumi.ComponentResource {
  /** Name of the bucket. */
  readonly bucket: pulumi.Output<string>;

  constructor(name: string, args: BackupsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:storage:Backups", name, {}, opts);
    this.bucket = this.#makeBucket(name, args);
    this.#makeSnapshots(name, args);
    this.registerOutputs({ bucket: this.bucket });
  }

  #makeBucket(name: string, { config, stack, key, retentionDays }: BackupsArgs): pulumi.Output<string> {
    const prod = config.tier === "prod";
    const bucket = new aws.s3.Bucket(
      `${name}-bucket`,
      // A development stack goes as a whole; elsewhere a bucket that holds something refuses to go.
      { forceDestroy: !prod, tags: { Name: `${stack}-${name}` } },
      { parent: this, ...(prod ? { protect: true, retainOnDelete: true } : {}) },
    );
    // A bucket that stays behind keeps its rules too.
    const settings = { parent: bucket, protect: false, retainOnDelete: prod };
    const versioning = new aws.s3.BucketVersioning(
      `${name}-versions`,
      { bucket: bucket.bucket, versioningConfiguration: { status: "Enabled" } },
      settings,
    );
    new aws.s3.BucketServerSideEncryptionConfiguration(
      `${name}-encryption`,
      {
        bucket: bucket.bucket,
        rules: [
          key === undefined
            ? { applyServerSideEncryptionByDefault: { sseAlgorithm: "AES256" } }
            : {
                applyServerSideEncryptionByDefault: { sseAlgorithm: "aws:kms", kmsMasterKeyId: key },
                bucketKeyEnabled: true,
              },
        ],
      },
      settings,
    );
    new aws.s3.BucketOwnershipControls(
      `${name}-ownership`,
      { bucket: bucket.bucket, rule: { objectOwnership: "BucketOwnerEnforced" } },
      settings,
    );
    const closed = new aws.s3.BucketPublicAccessBlock(
      `${name}-not-public`,
      {
        bucket: bucket.bucket,
        blockPublicAcls: true,
        blockPublicPolicy: true,
        ignorePublicAcls: true,
        restrictPublicBuckets: true,
      },
      settings,
    );
    new aws.s3.BucketPolicy(
      `${name}-tls-only`,
      { bucket: bucket.bucket, policy: bucket.arn.apply(tlsOnlyPolicy) },
      // S3 refuses to change both at the same moment.
      { ...settings, dependsOn: [closed] },
    );
    new aws.s3.BucketLifecycleConfiguration(
      `${name}-lifecycle`,
      {
        bucket: bucket.bucket,
        rules: [
          {
            id: "retention",
            status: "Enabled",
            filter: { prefix: "" },
            expiration: { days: retentionDays },
            noncurrentVersionExpiration: { noncurrentDays: retentionDays },
            abortIncompleteMultipartUpload: { daysAfterInitiation: 7 },
          },
          {
            id: "markers-of-deleted-objects",
            status: "Enabled",
            filter: { prefix: "" },
            expiration: { expiredObjectDeleteMarker: true },
          },
        ],
      },
      { ...settings, dependsOn: [versioning] },
    );
    return bucket.bucket;
  }

  #makeSnapshots(name: string, { config, stack, retentionDays }: BackupsArgs): void {
    const { accountId } = aws.getCallerIdentityOutput({}, { parent: this });
    const { partition } = aws.getPartitionOutput({}, { parent: this });
    const role = new aws.iam.Role(
      `${name}-snapshots`,
      {
        description: `siem-ha ${stack}: takes and expires snapshots of the data volumes`,
        assumeRolePolicy: accountId.apply((account) =>
          JSON.stringify({
            Version: "2012-10-17",
            Statement: [
              {
                Effect: "Allow",
                Principal: { Service: "dlm.amazonaws.com" },
                Action: "sts:AssumeRole",
                Condition: { StringEquals: { "aws:SourceAccount": account } },
              },
            ],
          }),
        ),
        tags: { Name: `${stack}-${name}-snapshots` },
      },
      { parent: this },
    );
    const policy = new aws.iam.RolePolicy(
      `${name}-snapshots`,
      {
        role: role.name,
        policy: pulumi
          .all([accountId, partition])
          .apply(([account, part]) =>
            snapshotPolicy({ account, partition: part, region: config.region, stack }),
          ),
      },
      { parent: role },
    );
    new aws.dlm.LifecyclePolicy(
      `${name}-daily`,
      {
        description: `siem-ha ${stack} data volumes daily`,
        executionRoleArn: role.arn,
        state: "ENABLED",
        policyDetails: {
          policyType: "EBS_SNAPSHOT_MANAGEMENT",
          resourceTypes: ["VOLUME"],
          targetTags: { [backupTag]: stack },
          schedules: [
            {
              name: "daily",
              // Well before the morning in Europe, after the evening in America.
              createRule: { interval: 24, intervalUnit: "HOURS", times: "03:00" },
              retainRule: { interval: retentionDays, intervalUnit: "DAYS" },
              // The role may delete only snapshots that carry the tag of their volume.
              copyTags: true,
            },
          ],
        },
        tags: { Name: `${stack}-${name}-daily` },
      },
      { parent: this, dependsOn: [policy] },
    );
  }
}

/** Refuses every request that does not come over TLS 1.2 or newer. */
export function tlsOnlyPolicy(bucketArn: string): string {
  const refuse = (sid: string, condition: Record<string, Record<string, string>>) => ({
    Sid: sid,
    Effect: "Deny",
    Principal: "*",
    Action: "s3:*",
    Resource: [bucketArn, `${bucketArn}/*`],
    Condition: condition,
  });
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      refuse("OnlyTls", { Bool: { "aws:SecureTransport": "false" } }),
      refuse("OnlyRecentTls", { NumericLessThan: { "s3:TlsVersion": "1.2" } }),
    ],
  });
}

/** Snapshots of this stack's tagged volumes, their tags and their end, and nothing else. */
export function snapshotPolicy(args: {
  readonly account: string;
  readonly partition: string;
  readonly region: string;
  readonly stack: string;
}): string {
  const { account, partition, region, stack } = args;
  const snapshots = `arn:${partition}:ec2:${region}::snapshot/*`;
  const tagged = { StringEquals: { [`aws:ResourceTag/${backupTag}`]: stack } };
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "FindVolumesAndSnapshots",
        Effect: "Allow",
        Action: ["ec2:DescribeVolumes", "ec2:DescribeSnapshots", "ec2:DescribeInstances"],
        Resource: "*",
      },
      {
        Sid: "SnapshotTaggedVolumes",
        Effect: "Allow",
        Action: "ec2:CreateSnapshot",
        Resource: `arn:${partition}:ec2:${region}:${account}:volume/*`,
        Condition: tagged,
      },
      { Sid: "MakeSnapshots", Effect: "Allow", Action: "ec2:CreateSnapshot", Resource: snapshots },
      { Sid: "TagSnapshots", Effect: "Allow", Action: "ec2:CreateTags", Resource: snapshots },
      {
        Sid: "ExpireOwnSnapshots",
        Effect: "Allow",
        Action: "ec2:DeleteSnapshot",
        Resource: snapshots,
        Condition: tagged,
      },
    ],
  });
}
