// What a stack may say, checked whole before any resource exists; the only file that touches pulumi.Config.

import * as pulumi from "@pulumi/pulumi";
import { z } from "zod";
import { awsProblems, memoryProblems } from "./aws-rules.ts";
import { type OwnImage } from "./images.ts";
import { planAddresses } from "./network/addresses.ts";
import { plan, type Topology, zones } from "./topology.ts";

/** Tenant names, as the services take them too: they end up in keys and queries. */
export const tenantPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const octet = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
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
      new RegExp(`^(10\\.${octet}\\.${octet}|172\\.(1[6-9]|2\\d|3[01])\\.${octet}|192\\.168\\.${octet})$`),
      'three octets of a private range, such as "172.25.0"',
    )
    .default("172.25.0"),
  /** Added to every port published on 127.0.0.1. @default ports are published under their own numbers */
  portOffset: z.int().min(0).max(9000).default(0),
  /** Docker daemon to deploy to. @default the one at Docker's usual socket */
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

const clickhouseSchema = z.strictObject({
  /** Memory limit of each replica, MB; the server takes about nine tenths of it. @default enough for a trial */
  memoryMb: z.int().min(1024).max(1048576).default(2048),
  /** How long events and alerts are kept, days by their own time. @default a year */
  retentionDays: z.int().min(1).max(3650).default(365),
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

const ingestorSchema = serviceSchema.extend({
  /** Takes syslog over TCP on port 514 of the VIP. @default no listener */
  syslog: z
    .strictObject({
      /** Tenant that every line belongs to: syslog has no token. */
      tenant: z.string().regex(tenantPattern, 'a tenant: 1 to 64 of letters, digits, ".", "_" and "-"'),
    })
    .optional(),
});

const cidr = z.cidrv4("an IPv4 range such as 10.42.0.0/16");
const machineSchema = (type: string, dataGb: number) =>
  z
    .strictObject({
      /** EC2 instance type, one of those in components/aws-prices.ts. */
      type: z.string().default(type),
      /** Size of the data volume, GiB. It can grow, never shrink. */
      dataGb: z.int().min(10).max(16384).default(dataGb),
    })
    .prefault({});

const awsSchema = z.strictObject({
  region: z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d$/, 'a region, such as "eu-central-1"'),
  /** `prod` protects and retains data, has a NAT gateway a zone, and needs `backup` and `alarmEmail`. */
  tier: z.enum(["dev", "prod"]),
  /** The availability zones, by name. @default the region's first three */
  zones: z
    .array(z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/, 'a zone, such as "eu-central-1a"'))
    .length(zones, `the platform needs exactly ${zones} zones: with fewer, one lost zone can take a quorum`)
    .refine((names) => new Set(names).size === names.length, "the zones must be different ones")
    .optional(),
  /** Address range of the VPC. @default 10.42.0.0/16 */
  cidr: cidr.default("10.42.0.0/16"),
  /** The overlay address that the load balancers share: outside every range of the VPC. */
  vip: z.ipv4("an IPv4 address, such as 172.25.0.222").default(plan().vip.address),
  /** Processors of the machines, and so of the images built for them. @default Intel and AMD */
  architecture: z.enum(["x86-64", "arm64"]).default("x86-64"),
  lb: machineSchema("t3.medium", 20),
  stream: machineSchema("m6i.large", 100),
  store: machineSchema("m6i.xlarge", 200),
  /** Name of the private DNS zone, and the machines' search domain. */
  domain: z
    .string()
    .regex(/^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$/, 'a domain, such as "siem.internal"')
    .default("siem.internal"),
  /** Who may reach the API and the ingestors. */
  entry: z
    .strictObject({
      /** Private ranges that may reach the VIP, and no others: name the VPC's too, if it has clients. @default the VPC */
      clients: z.array(cidr).default([]),
      /** A Network Load Balancer as entry from outside. @default none: only the VIP */
      loadBalancer: z
        .strictObject({
          public: z.boolean(),
          /** Ranges that may reach it. */
          clients: z.array(cidr).min(1),
          /** ARN of the ACM certificate with which it ends TLS. @default plain TCP, refused for public ranges */
          certificateArn: z
            .string()
            .regex(
              /^arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[0-9a-f-]+$/,
              "the ARN of an ACM certificate",
            )
            .optional(),
        })
        .optional(),
    })
    .prefault({}),
  /** How operators get in: SSH to a machine, for Docker. */
  admin: z.strictObject({
    /** Public keys of the operators, as in `~/.ssh/*.pub`. Read when a machine is made. */
    sshPublicKeys: z
      .array(
        z
          .string()
          .regex(
            /^(ssh-ed25519|ecdsa-sha2-nistp\d+|ssh-rsa) [A-Za-z0-9+/=]+( [^\n]*)?$/,
            "a public key of OpenSSH",
          ),
      )
      .min(1, "without a key nobody, this program included, can reach the machines"),
    /** Ranges that may use HAProxy's statistics page, and the bastion if there is one. @default nobody */
    clients: z.array(cidr).default([]),
    /** @default EC2 Instance Connect Endpoint, which needs no open port */
    access: z.enum(["instance-connect", "bastion"]).default("instance-connect"),
  }),
  /** Address that alarms are sent to; it has to confirm the subscription once. */
  alarmEmail: z.email("an e-mail address").optional(),
  /** Snapshots of the data volumes, and how long they and objects in the backup bucket are kept, days. */
  backup: z.strictObject({ retentionDays: z.int().min(1).max(3650) }).optional(),
  /** Key for disks, bucket, registry and logs: `aws` for AWS's own, `create` for one of the stack's, or an ARN. */
  kmsKey: z
    .union([
      z.enum(["aws", "create"]),
      z
        .string()
        .regex(
          /^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/[0-9a-f-]+$/,
          '"aws", "create" or the ARN of a key',
        ),
    ])
    .default("aws"),
});

export type AwsConfig = z.infer<typeof awsSchema>;

/** Everything a stack can say except secrets. Unknown keys are refused. */
export const configSchema = z
  .strictObject({
    /** Where the platform runs: one Docker daemon, or nine machines on AWS. */
    target: z.enum(["local", "aws"]),
    local: localSchema.prefault({}),
    /** Needed for, and only for, the target `aws`. */
    aws: awsSchema.optional(),
    zookeeper: z.strictObject({ heapMb: heap(128) }).prefault({}),
    kafka: kafkaSchema.prefault({}),
    clickhouse: clickhouseSchema.prefault({}),
    api: serviceSchema.prefault({}),
    ingestor: ingestorSchema.prefault({}),
  })
  .superRefine((config, context) => {
    if ((config.target === "aws") !== (config.aws !== undefined)) {
      context.addIssue({
        code: "custom",
        path: ["aws"],
        message:
          config.target === "aws"
            ? "is missing, and the target is aws: at least region, tier and admin.sshPublicKeys are needed"
            : `is only for the target aws, and the target is ${config.target}`,
      });
    }
    // The rules between keys take keys that are well-formed.
    if (config.aws !== undefined && context.issues.length === 0) {
      for (const { path, message } of awsProblems(config.aws)) {
        context.addIssue({ code: "custom", path: ["aws", ...path], message });
      }
      for (const { path, message } of memoryProblems(config.aws, config)) {
        context.addIssue({ code: "custom", path: [...path], message });
      }
    }
    const { minInsyncReplicas, replicationFactor } = config.kafka;
    const most = Math.max(1, replicationFactor - 1);
    if (minInsyncReplicas > most) {
      context.addIssue({
        code: "custom",
        path: ["kafka", "minInsyncReplicas"],
        input: minInsyncReplicas,
        message:
          replicationFactor === 1
            ? "with one copy of each partition, min.insync.replicas can only be 1, or no write succeeds"
            : `with ${replicationFactor} copies of each partition, min.insync.replicas can be at most ${most}, or one lost broker stops every write`,
      });
    }
  });

export type SiemConfig = z.infer<typeof configSchema>;

/**
 * Value of the label on everything that a stack makes in Docker. The slash can be in neither part, so no two pairs of
 * prefix and stack share a label.
 */
export function labelOf({ local: { prefix } }: SiemConfig, stack: string): string {
  return prefix === "" ? stack : `${prefix}/${stack}`;
}

/** Images that the team brings instead of ours. */
export function replacementsOf({ api, ingestor }: SiemConfig): Partial<Record<OwnImage, string>> {
  return {
    ...(api.image === undefined ? {} : { api: api.image }),
    ...(ingestor.image === undefined ? {} : { ingestor: ingestor.image }),
  };
}

/** The topology that a configuration asks for. */
export function topologyOf({ aws, local, ingestor }: SiemConfig): Topology {
  const syslog = ingestor.syslog !== undefined;
  if (aws === undefined) return plan({ ...local, syslog });
  const addresses = planAddresses(aws.cidr);
  return plan({ syslog, machines: { address: (role, zone) => addresses.address(role, zone), vip: aws.vip } });
}

/** Secrets of a stack and the least length of each, characters. */
export const secretKeys = { jwtSecret: 32, databasePassword: 16, statsPassword: 16 } as const;
export type SecretKey = keyof typeof secretKeys;
/** The key that `jwtSecret` replaced, while tokens signed with it are still good. It may be missing. */
export const previousKey = "jwtSecretPrevious";
export type Secrets = Readonly<Record<SecretKey, pulumi.Output<string>>> & {
  readonly [previousKey]?: pulumi.Output<string>;
};

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
    // A rule between keys says itself what was given: its input is the whole configuration.
    const shown = issue.input !== undefined && (issue.code !== "custom" || typeof issue.input !== "object");
    const given = shown ? `, but is ${JSON.stringify(issue.input)}` : "";
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
    if (namespace !== project || key in secretKeys || key === previousKey) continue;
    try {
      values[key] = JSON.parse(raw);
    } catch {
      values[key] = raw;
    }
  }
  const config = parseConfig(values);
  const previous = all[`${project}:${previousKey}`];
  const wanted = previous === undefined ? secretKeys : { ...secretKeys, [previousKey]: secretKeys.jwtSecret };
  for (const [key, least] of Object.entries(wanted)) {
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
  if (previous !== undefined && previous === all[`${project}:jwtSecret`]) {
    problems.push(
      `  siem-ha:${previousKey}: is the same as jwtSecret; set jwtSecret to a new one, or remove it with: pulumi config rm ${previousKey}`,
    );
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
      ...(previous === undefined ? {} : { [previousKey]: source.requireSecret(previousKey) }),
    },
  };
}
