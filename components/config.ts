// What a stack may say, checked whole before any resource exists; the only file that touches pulumi.Config.

import * as pulumi from "@pulumi/pulumi";
import { z } from "zod";

const octet = "(?:25[0-5]|2[0-4]\\d|1?\\d?\\d)";
const heap = (fallback: number) =>
  z
    .int()
    .min(64, "a JVM heap needs at least 64 MB")
    .max(65536)
    .default(fallback)
    .describe("JVM heap of each replica, MB");

const localSchema = z.strictObject({
  /** Put before every Docker name, so that a second stack can stand on the same daemon. @default no prefix */
  prefix: z
    .string()
    .regex(/^([a-z][a-z0-9-]{0,18}-)?$/, 'a prefix is lower case and ends in "-", for example "test-"')
    .default(""),
  /** First three octets of the stack's /24. @default 172.25.0, so the VIP is 172.25.0.222 */
  net: z
    .string()
    .regex(
      new RegExp(`^(10|172|192)\\.${octet}\\.${octet}$`),
      'three octets of a private range, such as "172.25.0"',
    )
    .default("172.25.0"),
  /** Added to every port published on 127.0.0.1. @default ports are published under their own numbers */
  portOffset: z.int().min(0).max(9000).default(0),
  /** Docker daemon to deploy to. @default the daemon that the `docker` command reaches */
  dockerHost: z
    .string()
    .regex(/^unix:\/\/\//, 'a socket of this machine, such as "unix:///var/run/docker.sock"')
    .default("unix:///var/run/docker.sock"),
});

const topicSchema = z.strictObject({
  /** Number of partitions. It can grow later, never shrink: Kafka can't take a partition away. */
  partitions: z.int().min(1).max(1000),
});

const kafkaSchema = z.strictObject({
  heapMb: heap(256),
  /** Copies of each partition; at most the number of brokers (3). @default every broker has every partition */
  replicationFactor: z.int().min(1).max(3).default(3),
  /** In-sync copies that an acks=all write needs. @default survives the loss of one broker */
  minInsyncReplicas: z.int().min(1).max(3).default(2),
  /** How long a topic keeps events, hours. @default a week */
  retentionHours: z.int().min(1).max(87600).default(168),
  /** Size of a log segment, bytes. @default 1 GiB */
  segmentBytes: z
    .int()
    .min(1048576)
    .max(2147483647)
    .default(1024 ** 3),
  topics: z
    .strictObject({
      "ingest-events": topicSchema.default({ partitions: 6 }),
      alerts: topicSchema.default({ partitions: 3 }),
    })
    .prefault({}),
});

const serviceSchema = z.strictObject({
  /** The team's own image, with an exact tag or digest. @default built from this repository */
  image: z
    .string()
    .regex(/(:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})$/, "an image needs an exact tag or a digest")
    .refine((image) => !image.endsWith(":latest"), "the tag latest moves; name a version")
    .optional(),
  /** `env` puts secrets into the environment, for images that can't read `JWT_SECRET_FILE`. @default files */
  secrets: z.enum(["file", "env"]).default("file"),
});

/** Everything a stack can say except secrets. Unknown keys are refused. */
export const configSchema = z
  .strictObject({
    /** Where the platform runs. Only `local` exists so far. */
    target: z.enum(["local"]),
    local: localSchema.prefault({}),
    zookeeper: z.strictObject({ heapMb: heap(128) }).prefault({}),
    kafka: kafkaSchema.prefault({}),
    api: serviceSchema.prefault({}),
    ingestor: serviceSchema.prefault({}),
  })
  .superRefine((config, context) => {
    const { minInsyncReplicas, replicationFactor } = config.kafka;
    if (minInsyncReplicas >= replicationFactor && replicationFactor > 1) {
      context.addIssue({
        code: "custom",
        path: ["kafka", "minInsyncReplicas"],
        message: `min.insync.replicas ${minInsyncReplicas} must be below the replication factor ${replicationFactor}, or one lost broker stops every write`,
      });
    }
  });

export type SiemConfig = z.infer<typeof configSchema>;

/** Secrets of a stack and the least length of each, characters. */
export const secretKeys = { jwtSecret: 32, databasePassword: 16, statsPassword: 16 } as const;
export type SecretKey = keyof typeof secretKeys;
export type Secrets = Readonly<Record<SecretKey, pulumi.Output<string>>>;

/** Values go into config files of several syntaxes, so only characters that none of them treats specially. */
const secretPattern = /^[A-Za-z0-9_.~-]+$/;

/**
 * Checks plain config values (already parsed from JSON).
 * @throws RunError that names each wrong key, what was given and what is allowed.
 */
export function parseConfig(values: Readonly<Record<string, unknown>>): SiemConfig {
  const result = configSchema.safeParse(values, { reportInput: true });
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => {
    const path = issue.path.join(".");
    const given = issue.input === undefined ? "" : `, but is ${JSON.stringify(issue.input)}`;
    return `  siem-ha:${path === "" ? "*" : path}: ${issue.message}${issue.code === "unrecognized_keys" ? `; allowed: ${allowedKeys(issue.path).join(", ")}` : given}`;
  });
  throw new pulumi.RunError(
    `The configuration is wrong; nothing was touched.\n${lines.join("\n")}\nChange it in Pulumi.<stack>.yaml or with: pulumi config set`,
  );
}

function allowedKeys(path: readonly PropertyKey[]): string[] {
  let schema: unknown = configSchema;
  const inner = (value: unknown): unknown => {
    while (
      value instanceof z.ZodPrefault ||
      value instanceof z.ZodDefault ||
      value instanceof z.ZodOptional
    ) {
      value = value.unwrap();
    }
    return value;
  };
  for (const key of path) {
    schema = inner(schema);
    if (schema instanceof z.ZodObject) schema = (schema.shape as Record<string, unknown>)[String(key)];
  }
  schema = inner(schema);
  return schema instanceof z.ZodObject ? Object.keys(schema.shape) : [];
}

/**
 * Reads the stack's configuration.
 * @throws RunError before any resource is registered when a key is unknown, wrong or missing.
 */
export function loadConfig(): { config: SiemConfig; secrets: Secrets } {
  const project = pulumi.getProject();
  const source = new pulumi.Config();
  const values: Record<string, unknown> = {};
  const problems: string[] = [];
  const all = pulumi.runtime.allConfig();
  for (const [full, raw] of Object.entries(all)) {
    const [namespace, ...rest] = full.split(":");
    const key = rest.join(":");
    if (namespace !== project || key in secretKeys) continue;
    try {
      values[key] = JSON.parse(raw);
    } catch {
      values[key] = raw;
    }
  }
  const config = parseConfig(values);
  for (const [key, least] of Object.entries(secretKeys)) {
    const value = all[`${project}:${key}`];
    const remedy = `set it with: pulumi config set --secret ${key} "$(openssl rand -hex 32)"`;
    if (value === undefined) problems.push(`  siem-ha:${key}: missing; ${remedy}`);
    else if (value.length < least) {
      problems.push(
        `  siem-ha:${key}: has ${value.length} characters; at least ${least} are needed; ${remedy}`,
      );
    } else if (!secretPattern.test(value)) {
      problems.push(`  siem-ha:${key}: has characters other than A-Z a-z 0-9 _ . ~ -; ${remedy}`);
    }
  }
  if (problems.length > 0) {
    throw new pulumi.RunError(`The secrets are not usable; nothing was touched.\n${problems.join("\n")}`);
  }
  return {
    config,
    secrets: {
      jwtSecret: source.requireSecret("jwtSecret"),
      databasePassword: source.requireSecret("databasePassword"),
      statsPassword: source.requireSecret("statsPassword"),
    },
  };
}
