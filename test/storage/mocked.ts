// Strict mocks for a single component: what it registered, in order, with plausible answers from AWS.

import * as pulumi from "@pulumi/pulumi";

export interface Registered {
  readonly type: string;
  readonly name: string;
  readonly inputs: Readonly<Record<string, unknown>>;
  /** What the engine does besides, where the construction passes on the options it gets. */
  readonly protect?: boolean | undefined;
  readonly retainOnDelete?: boolean | undefined;
}

export const account = "123456789012";
const region = "eu-central-1";

/** What AWS adds to the inputs, for each type that the components here make. Another type throws. */
const answers: Record<string, (inputs: Record<string, unknown>, name: string) => Record<string, unknown>> = {
  "aws:kms/key:Key": (_, name) => ({
    arn: `arn:aws:kms:${region}:${account}:key/${name}`,
    keyId: `${name}-key-id`,
  }),
  "aws:kms/alias:Alias": () => ({}),
  "aws:s3/bucket:Bucket": (_, name) => ({ bucket: `${name}-1a2b3c4`, arn: `arn:aws:s3:::${name}-1a2b3c4` }),
  "aws:s3/bucketVersioning:BucketVersioning": () => ({}),
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": () => ({}),
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": () => ({}),
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": () => ({}),
  "aws:s3/bucketPolicy:BucketPolicy": () => ({}),
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": () => ({}),
  "aws:iam/role:Role": (inputs, name) => {
    const { name: given } = inputs;
    const roleName = typeof given === "string" ? given : `${name}-1a2b3c4`;
    return { name: roleName, arn: `arn:aws:iam::${account}:role/${roleName}` };
  },
  "aws:iam/rolePolicy:RolePolicy": () => ({}),
  "aws:dlm/lifecyclePolicy:LifecyclePolicy": () => ({}),
  "aws:ecr/repository:Repository": (inputs) => ({
    arn: `arn:aws:ecr:${region}:${account}:repository/${String(inputs["name"])}`,
    repositoryUrl: `${account}.dkr.ecr.${region}.amazonaws.com/${String(inputs["name"])}`,
  }),
  "aws:ecr/lifecyclePolicy:LifecyclePolicy": () => ({}),
  "aws:ec2/instance:Instance": () => ({}),
  "docker:index/remoteImage:RemoteImage": (inputs) => ({ imageId: `sha256:${String(inputs["name"])}` }),
  "command:local:Command": (_, name) => ({ stdout: `stdout of ${name}\n`, stderr: "" }),
  "pulumi:providers:docker": () => ({}),
};

const calls: Record<string, Record<string, unknown>> = {
  "aws:index/getCallerIdentity:getCallerIdentity": { accountId: account, arn: "", id: account, userId: "" },
  "aws:index/getPartition:getPartition": {
    partition: "aws",
    dnsSuffix: "amazonaws.com",
    id: "aws",
    reverseDnsPrefix: "com.amazonaws",
  },
};

/** Runs the construction under mocks and returns what it registered and what it returned. */
export async function record<T>(
  construct: (opts: pulumi.ComponentResourceOptions) => T,
): Promise<{ readonly resources: readonly Registered[]; readonly result: T }> {
  const resources: Registered[] = [];
  const options = new Map<string, pulumi.ResourceOptions>();
  const note: pulumi.ResourceTransformation = ({ type, name, opts }) => {
    options.set(`${type}::${name}`, opts);
    return undefined;
  };
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs }) => {
        if (type.startsWith("siem:")) return { id: "", state: {} };
        const answer = answers[type];
        if (answer === undefined) throw new Error(`the mocks don't know ${type}: say what it returns`);
        const given = inputs as Record<string, unknown>;
        const { protect, retainOnDelete } = options.get(`${type}::${name}`) ?? {};
        resources.push({ type, name, inputs: given, protect, retainOnDelete });
        return { id: `${name}-id`, state: { ...given, ...answer(given, name) } };
      },
      call: ({ token }) => {
        const answer = calls[token];
        if (answer === undefined) throw new Error(`the mocks don't know the call ${token}`);
        return answer;
      },
    },
    "siem-ha",
    "test",
    false,
  );
  const result = construct({ transformations: [note] });
  // Answers start further registrations: wait until no new ones come.
  for (let before = -1; before !== resources.length;) {
    before = resources.length;
    await pulumi.runtime.disconnect();
  }
  return { resources, result };
}

/** The value of an output, awaited, so that a failing expectation on it fails the test. */
export async function valueOf<T>(output: pulumi.Output<T>): Promise<T> {
  return new Promise<T>((resolve) => {
    output.apply(resolve);
  });
}

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
