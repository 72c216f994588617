// Strict mocks for a single component: what it registered, in order, with plausible answers from AWS.

import type * as pulumi from "@pulumi/pulumi";
import { account, type Answers, recordWith, type Registered } from "../recorded.ts";

export { account, valueOf } from "../recorded.ts";

const region = "eu-central-1";

/** What AWS adds to the inputs, for each type that the components here make. Another type throws. */
const answers: Answers = {
  "aws:kms/key:Key": (name) => ({
    arn: `arn:aws:kms:${region}:${account}:key/${name}`,
    keyId: `${name}-key-id`,
  }),
  "aws:kms/alias:Alias": () => ({}),
  "aws:s3/bucket:Bucket": (name) => ({ bucket: `${name}-1a2b3c4`, arn: `arn:aws:s3:::${name}-1a2b3c4` }),
  "aws:s3/bucketVersioning:BucketVersioning": () => ({}),
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": () => ({}),
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": () => ({}),
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": () => ({}),
  "aws:s3/bucketPolicy:BucketPolicy": () => ({}),
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": () => ({}),
  "aws:iam/role:Role": (name, inputs) => {
    const { name: given } = inputs;
    const roleName = typeof given === "string" ? given : `${name}-1a2b3c4`;
    return { name: roleName, arn: `arn:aws:iam::${account}:role/${roleName}` };
  },
  "aws:iam/rolePolicy:RolePolicy": () => ({}),
  "aws:dlm/lifecyclePolicy:LifecyclePolicy": () => ({}),
  "aws:ecr/repository:Repository": (_, inputs) => ({
    arn: `arn:aws:ecr:${region}:${account}:repository/${String(inputs["name"])}`,
    repositoryUrl: `${account}.dkr.ecr.${region}.amazonaws.com/${String(inputs["name"])}`,
  }),
  "aws:ecr/lifecyclePolicy:LifecyclePolicy": () => ({}),
  "aws:ec2/instance:Instance": () => ({}),
  "docker:index/remoteImage:RemoteImage": (_, inputs) => ({ imageId: `sha256:${String(inputs["name"])}` }),
  "command:local:Command": (name) => ({ stdout: `stdout of ${name}\n`, stderr: "" }),
  "pulumi:providers:docker": () => ({}),
};

/** Runs the construction under mocks that know the types of storage and registry. */
export const record = <T>(construct: (opts: pulumi.ComponentResourceOptions) => T) =>
  recordWith(answers, construct);

/** The only resource of a type, or the one with that name. */
export function only(resources: readonly Registered[], type: string, name?: string): Registered {
  const found = resources.filter(
    (resource) => resource.type === type && (name === undefined || resource.name === name),
  );
  if (found.length !== 1 || found[0] === undefined) {
    throw new Error(
      `expected one ${type} ${name ?? ""}, found ${found.length} among ${resources.map((r) => `${r.type} ${r.name}`).join(", ")}`,
    );
  }
  return found[0];
}

/** How many of each type there are. */
export function counts(resources: readonly Registered[]): Record<string, number> {
  const result: Record<string, number> = {};
  for (const { type } of resources) result[type] = (result[type] ?? 0) + 1;
  return result;
}
