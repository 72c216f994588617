// Which key encrypts disks, bucket, registry and logs: AWS's own, one of the stack's, or one that the team brings.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";

export interface KeyArgs {
  readonly config: Pick<AwsConfig, "kmsKey" | "region" | "tier">;
  readonly stack: string;
}

/**
 * The ARN of the key that everything at rest is encrypted with, or undefined where each service uses AWS's own.
 * A key that the team brings has to let the services in that `keyPolicy` names.
 */
export function encryptionKey(
  name: string,
  args: KeyArgs,
  opts: pulumi.CustomResourceOptions,
): pulumi.Output<string> | undefined {
  const { config, stack } = args;
  if (config.kmsKey === "aws") return undefined;
  if (config.kmsKey !== "create") return pulumi.output(config.kmsKey);
  const { accountId } = aws.getCallerIdentityOutput({}, opts);
  const { partition, dnsSuffix } = aws.getPartitionOutput({}, opts);
  const prod = config.tier === "prod";
  const key = new aws.kms.Key(
    name,
    {
      description: `siem-ha ${stack}: data at rest`,
      enableKeyRotation: true,
      deletionWindowInDays: prod ? 30 : 7,
      policy: pulumi
        .all([accountId, partition, dnsSuffix])
        .apply(([account, part, suffix]) =>
          keyPolicy({ account, partition: part, dnsSuffix: suffix, region: config.region, stack }),
        ),
      tags: { Name: `${stack}-${name}` },
    },
    // Without the key the data that it encrypted is gone as well.
    { ...opts, ...(prod ? { protect: true, retainOnDelete: true } : {}) },
  );
  new aws.kms.Alias(
    name,
    { name: `alias/siem-ha-${stack}-${name}`, targetKeyId: key.keyId },
    { ...opts, parent: key },
  );
  return key.arn;
}

/**
 * Who may use the key. The account's own policies decide about people and roles: disks and repositories get grants from
 * whoever makes them, so neither machines nor the snapshot role need a right of their own. Services that act for nobody
 * in the account are named here.
 */
export function keyPolicy(args: {
  readonly account: string;
  readonly partition: string;
  readonly dnsSuffix: string;
  readonly region: string;
  readonly stack: string;
}): string {
  const { account, partition, dnsSuffix, region, stack } = args;
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "TheAccountDecides",
        Effect: "Allow",
        Principal: { AWS: `arn:${partition}:iam::${account}:root` },
        Action: "kms:*",
        Resource: "*",
      },
      {
        Sid: "LogsOfThisStack",
        Effect: "Allow",
        Principal: { Service: `logs.${region}.${dnsSuffix}` },
        Action: ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
        Resource: "*",
        Condition: {
          ArnLike: {
            "kms:EncryptionContext:aws:logs:arn": `arn:${partition}:logs:${region}:${account}:log-group:/siem-ha/${stack}/*`,
          },
        },
      },
    ],
  });
}
