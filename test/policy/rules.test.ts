// Each policy rule with an example that breaks it, beside one that keeps it. The rules on the stacks themselves are in
// test/engine/aws.test.ts.

import { describe, expect, it } from "vitest";
import { check, type Resource, rules, tooWide } from "../../policy/rules.ts";

type Props = Record<string, unknown>;
const document = (...statements: Props[]) => JSON.stringify({ Version: "2012-10-17", Statement: statements });

function made(type: string, name: string, props: Props, more: Partial<Resource> = {}): Resource {
  return { type, name, urn: `urn:pulumi:prod::siem-ha::${type}::${name}`, props, id: `${name}-id`, ...more };
}

const tlsOnly = {
  Effect: "Deny",
  Principal: "*",
  Action: "s3:*",
  Resource: "*",
  Condition: { Bool: { "aws:SecureTransport": "false" } },
};
const onDisk = (machine: string) =>
  `urn:pulumi:prod::siem-ha::pulumi:providers:docker::${machine}-docker::id`;
const replicas = ["zookeeper", "kafka", "clickhouse"].flatMap((service) =>
  [1, 2, 3].map((index) =>
    made(
      "docker:index/container:Container",
      `${service}-${index}`,
      { name: `${service}-${index}`, image: `sha256:${"ab".repeat(32)}`, envs: ["A=1", "TOKEN_FILE=/run/t"] },
      { provider: onDisk(`node-${index}`) },
    ),
  ),
);
const machines = [1, 2, 3].flatMap((index) => [
  made("aws:ec2/instance:Instance", `node-${index}`, {
    metadataOptions: { httpTokens: "required", httpPutResponseHopLimit: 1 },
    rootBlockDevice: { encrypted: true },
    disableApiTermination: true,
    userData: "#cloud-config",
  }),
  made(
    "aws:ebs/volume:Volume",
    `node-${index}-data`,
    {
      availabilityZone: `eu-central-1${"abc"[index - 1]}`,
      encrypted: true,
      kmsKeyId: "key",
      tags: { "siem-ha:backup": "prod" },
    },
    { protect: true },
  ),
]);

/** A stack that keeps every rule, by the name of each resource. */
const good: Readonly<Record<string, Resource>> = Object.fromEntries(
  [
    made("pulumi:providers:aws", "aws", {
      defaultTags: JSON.stringify({ tags: { project: "siem-ha", stack: "prod", tier: "prod" } }),
    }),
    ...machines,
    ...replicas,
    made("aws:sns/topic:Topic", "topic", { kmsMasterKeyId: "key" }),
    made("aws:ecr/repository:Repository", "repository", {
      encryptionConfigurations: [{ encryptionType: "KMS", kmsKey: "key" }],
    }),
    made("aws:cloudwatch/logGroup:LogGroup", "logs", { kmsKeyId: "key" }),
    made("aws:ec2/securityGroup:SecurityGroup", "group", { description: "machines" }),
    made("aws:ec2/defaultSecurityGroup:DefaultSecurityGroup", "default", { ingress: [], egress: [] }),
    made("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "inside", {
      cidrIpv4: "10.0.0.0/8",
      fromPort: 8080,
      toPort: 8080,
      ipProtocol: "tcp",
      description: "clients to the API",
    }),
    made("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", "entry", {
      cidrIpv4: "0.0.0.0/0",
      fromPort: 443,
      toPort: 443,
      ipProtocol: "tcp",
      securityGroupId: "sg-entry",
      description: "the internet to the API",
    }),
    made("aws:lb/loadBalancer:LoadBalancer", "balancer", {
      securityGroups: ["sg-entry"],
      enableDeletionProtection: true,
    }),
    made("aws:lb/listener:Listener", "listener", { port: 443, protocol: "TLS" }),
    made("aws:iam/role:Role", "role", {
      assumeRolePolicy: document({
        Effect: "Allow",
        Principal: { Service: "ec2.amazonaws.com" },
        Action: "sts:AssumeRole",
      }),
    }),
    made("aws:iam/rolePolicy:RolePolicy", "rights", {
      policy: document(
        {
          Effect: "Allow",
          Action: "ec2:ReplaceRoute",
          Resource: ["arn:aws:ec2:eu-central-1:1:route-table/rtb-1"],
        },
        { Effect: "Allow", Action: "ec2:DescribeRouteTables", Resource: "*" },
        {
          Effect: "Allow",
          Action: "cloudwatch:PutMetricData",
          Resource: "*",
          Condition: { StringEquals: { "cloudwatch:namespace": "siem-ha/prod" } },
        },
      ),
    }),
    made("docker:index/remoteImage:RemoteImage", "image", { name: "confluentinc/cp-kafka:7.9.0" }),
    made("command:local:Command", "gate", { create: "true", environment: { DOCKER: "ssh://ops@i-1" } }),
    made("aws:dlm/lifecyclePolicy:LifecyclePolicy", "snapshots", {
      state: "ENABLED",
      policyDetails: { targetTags: { "siem-ha:backup": "prod" } },
    }),
    made("aws:s3/bucket:Bucket", "backups", {}, { protect: true }),
    made("aws:s3/bucketVersioning:BucketVersioning", "versions", {
      bucket: "backups-id",
      versioningConfiguration: { status: "Enabled" },
    }),
    made(
      "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
      "bucket-key",
      { bucket: "backups-id" },
    ),
    made("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", "block", {
      bucket: "backups-id",
      blockPublicAcls: true,
      blockPublicPolicy: true,
      ignorePublicAcls: true,
      restrictPublicBuckets: true,
    }),
    made("aws:s3/bucketPolicy:BucketPolicy", "bucket-policy", {
      bucket: "backups-id",
      policy: document(tlsOnly),
    }),
  ].map((resource) => [resource.name, resource]),
);

/** Rules that the good stack breaks once one of its resources is changed, or gone. */
function broken(name: string, change: Props | undefined, more: Partial<Resource> = {}): string[] {
  const before = good[name];
  if (before === undefined) throw new Error(`the good stack has no ${name}`);
  const after = change === undefined ? [] : [{ ...before, ...more, props: { ...before.props, ...change } }];
  const others = Object.values(good).filter((resource) => resource !== before);
  return [...new Set(check([...others, ...after]).map(({ rule }) => rule))];
}

const wide = (statement: Props) => ({ policy: document({ Effect: "Allow", ...statement }) });
const arn = "arn:aws:s3:::bucket/*";

/** Rule → what breaks it: the resource, and what is changed in it. */
const examples: Readonly<Record<string, readonly [string, Props | undefined, Partial<Resource>?][]>> = {
  "disks-and-topics-encrypted": [
    ["node-1-data", { encrypted: false }],
    ["node-1-data", { encrypted: undefined }],
    ["node-1", { rootBlockDevice: {} }],
    ["node-1", { ebsBlockDevices: [{ deviceName: "/dev/sdb" }] }],
    ["topic", { kmsMasterKeyId: undefined }],
  ],
  "one-key-for-all": [
    ["logs", { kmsKeyId: undefined }],
    ["repository", { encryptionConfigurations: [{ encryptionType: "AES256" }] }],
  ],
  "imdsv2-only": [
    ["node-1", { metadataOptions: { httpTokens: "optional", httpPutResponseHopLimit: 1 } }],
    ["node-1", { metadataOptions: { httpTokens: "required", httpPutResponseHopLimit: 2 } }],
    ["node-1", { metadataOptions: undefined }],
  ],
  "no-public-data-ports": [
    ["inside", { cidrIpv4: "0.0.0.0/0" }],
    ["inside", { cidrIpv4: undefined, cidrIpv6: "::/0" }],
    ["inside", { cidrIpv4: "8.0.0.0/6" }],
    ["inside", { cidrIpv4: "172.0.0.0/8" }],
    ["inside", { cidrIpv4: "0.0.0.0/0", fromPort: 22, toPort: 22 }],
    ["entry", { toPort: 9000 }],
    ["entry", { securityGroupId: "sg-machines" }],
    ["listener", { protocol: "TCP" }],
    ["group", { ingress: [{ fromPort: 1, toPort: 2 }] }],
    ["default", { egress: [{}] }],
  ],
  "described-rules": [["inside", { description: undefined }]],
  "least-privilege": [
    ["rights", wide({ Action: "*", Resource: arn })],
    ["rights", wide({ Action: ["s3:GetObject", "s3:*"], Resource: arn })],
    ["rights", wide({ Action: "s3:GetObject", Resource: "*" })],
    ["rights", wide({ Action: "cloudwatch:PutMetricData", Resource: "*" })],
    ["rights", wide({ NotAction: "iam:*", Resource: "*" })],
    ["rights", wide({ Action: "s3:GetObject", NotResource: arn })],
    ["role", { inlinePolicies: [wide({ Action: "ec2:*", Resource: arn })] }],
    [
      "role",
      { assumeRolePolicy: document({ Effect: "Allow", Principal: { AWS: "*" }, Action: "sts:AssumeRole" }) },
    ],
    [
      "bucket-policy",
      { policy: document(tlsOnly, { Effect: "Allow", Principal: "*", Action: "s3:GetObject" }) },
    ],
  ],
  tagged: [
    ["aws", { defaultTags: { tags: { project: "siem-ha", tier: "prod" } } }],
    ["topic", { tags: { stack: "other" } }],
    ["topic", {}, { provider: "urn:pulumi:prod::siem-ha::pulumi:providers:aws::default_7_48_0::id" }],
  ],
  "pinned-images": [
    ["image", { name: "haproxy" }],
    ["image", { name: "haproxy:latest" }],
    ["image", { name: "registry:5000/haproxy" }],
    ["kafka-1", { image: "confluentinc/cp-kafka" }],
  ],
  "quorum-over-zones": [
    ["node-2-data", { availabilityZone: "eu-central-1a" }],
    ["kafka-2", {}, { provider: onDisk("node-1") }],
    ["zookeeper-3", undefined],
    ["clickhouse-3", {}, { provider: undefined }],
  ],
  "backups-in-prod": [
    ["node-1-data", { tags: {} }],
    ["snapshots", undefined],
    ["snapshots", { state: "DISABLED" }],
    ["versions", { versioningConfiguration: { status: "Suspended" } }],
    ["backups", undefined],
  ],
  "protected-in-prod": [
    ["node-1", { disableApiTermination: false }],
    ["balancer", { enableDeletionProtection: undefined }],
    ["node-1-data", {}, { protect: false }],
    ["backups", { forceDestroy: true }],
  ],
  "no-plain-secrets": [
    ["kafka-1", { envs: ["JWT_SECRET=abc"] }],
    ["kafka-1", { envs: ["DATABASE_URL=http://siem:hunter2@clickhouse-1:8123/dev"] }],
    ["gate", { environment: { DB_PASSWORD: "abc" } }],
    ["gate", { create: "curl http://user:pass@host/" }],
    ["node-1", { userData: "-----BEGIN OPENSSH PRIVATE KEY-----" }],
    ["node-1", { userDataBase64: Buffer.from("key AKIAABCDEFGHIJKLMNOP").toString("base64") }],
  ],
  "buckets-closed": [
    ["bucket-policy", undefined],
    ["bucket-policy", { policy: document({ ...tlsOnly, Action: "s3:GetObject" }) }],
    ["bucket-policy", { bucket: "another" }],
    ["block", { restrictPublicBuckets: false }],
    ["bucket-key", undefined],
  ],
};

describe("the policy rules", () => {
  it("let a good stack pass", () => {
    expect(check(Object.values(good))).toEqual([]);
  });

  it("each have examples that break them", () => {
    expect(Object.keys(examples).sort()).toEqual(rules.map(({ name }) => name).sort());
  });

  for (const [rule, cases] of Object.entries(examples)) {
    it.each(cases)(`${rule} is broken by %s %j`, (name, change, more) => {
      expect(broken(name, change, more ?? {})).toEqual([rule]);
    });
  }

  it("ask for backups and protection in prod only", () => {
    const dev = { defaultTags: { tags: { project: "siem-ha", stack: "dev", tier: "dev" } } };
    const resources = Object.values(good)
      .filter(({ name }) => name !== "snapshots")
      .map((resource) => (resource.name === "aws" ? { ...resource, props: dev } : resource))
      .map((resource) => ({ ...resource, protect: false }));
    expect(check(resources)).toEqual([]);
  });

  it("allow SSH from a named public range, and nothing else from there", () => {
    const ssh = { cidrIpv4: "198.51.100.0/24", fromPort: 22, toPort: 22 };
    expect(broken("inside", ssh)).toEqual([]);
    expect(broken("inside", { ...ssh, toPort: 23 })).toEqual(["no-public-data-ports"]);
  });

  it("say what is wrong and what to do", () => {
    expect(tooWide(document({ Sid: "All", Effect: "Allow", Action: "s3:GetObject", Resource: "*" }))).toEqual(
      ["All allows s3:GetObject on every resource; name the resources"],
    );
  });
});
