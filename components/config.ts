// What a stack may say, checked whole before any resource exists; the only file that touches pulumi.Config.

import * as pulumi from "@pulumi/pulumi";
import { z } from "zod";
import { awsProblems, memoryProblems } from "./aws-rules.ts";
import {
  decoded,
  distinct,
  isSlipOf,
  line,
  phrases,
  type Problem,
  problemsOf,
  text,
} from "./config-problems.ts";
import { type OwnImage } from "./images.ts";
import { planAddresses } from "./network/addresses.ts";
import { leastMb } from "./services/memory.ts";
import { plan, tenantPattern, type Topology, zones } from "./topology.ts";

/** The project's name in Pulumi.yaml, with which its keys begin. */
export const project = "siem-ha";

const octet = "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const heap = (least: number) => z.int().min(least).max(65536);

/*
 * The comments beside the keys are what docs/configuration.md and the editors' schema say of them (`npm run schema`):
 * `@default` what happens without the key, `@change` what a changed value does to a running stack.
 */

const localSchema = z.strictObject({
  /**
   * Put before every Docker name, so that a second stack can stand on the same daemon.
   * @default no prefix
   * @change refused: every node would be made anew. Take the stack down first
   */
  prefix: text(
    /^([a-z][a-z0-9-]{0,18}-)?$/,
    'a name of at most 20 lower-case letters, digits and "-" that ends in "-", such as "test-"',
  ).default(""),
  /**
   * First three octets of the stack's /24 network.
   * @default the VIP is 172.25.0.222
   * @change refused: every node would be made anew. Take the stack down first
   */
  net: text(
    // Without 172.17, where Docker has its own bridge.
    new RegExp(`^(10\\.${octet}\\.${octet}|172\\.(1[689]|2\\d|3[01])\\.${octet}|192\\.168\\.${octet})$`),
    'three octets of a private range other than Docker\'s 172.17, such as "172.25.0"',
  ).default("172.25.0"),
  /**
   * Added to every port published on 127.0.0.1.
   * @default ports are published under their own numbers
   * @change refused: every node would be made anew. Take the stack down first
   */
  portOffset: z.int().min(0).max(9000).default(0),
  /**
   * Docker daemon to deploy to.
   * @default the one at Docker's usual socket
   * @change no: what it made stays on the old daemon. Take the stack down first
   */
  dockerHost: text(/^unix:\/\/\//, 'a socket of this machine, such as "unix:///var/run/docker.sock"').default(
    "unix:///var/run/docker.sock",
  ),
});

const topicSchema = z.strictObject({
  /**
   * Number of partitions. Kafka can't take one away.
   * @change grows without replacing anything; a smaller number is refused
   */
  partitions: z.int().min(1).max(1000),
});

const kafkaSchema = z.strictObject({
  /**
   * JVM heap of each broker, MB.
   * @default enough for a trial
   * @change brokers are replaced one at a time
   */
  heapMb: heap(leastMb["kafka.heapMb"]).default(256),
  /**
   * Copies of each partition; there are three brokers.
   * @default every broker has every partition
   * @change refused where topics exist: moving copies takes a reassignment, which `up` does not do
   */
  replicationFactor: z.int().min(1).max(3).default(3),
  /**
   * In-sync copies that a write needs; fewer than `replicationFactor`, so that one broker can be lost.
   * @default writes survive the loss of one broker
   * @change brokers are replaced one at a time
   */
  minInsyncReplicas: z.int().min(1).max(3).default(2),
  /**
   * How long a topic keeps events, hours.
   * @default a week
   * @change brokers, then ingestors, are replaced one at a time
   */
  retentionHours: z.int().min(1).max(87600).default(168),
  /**
   * Size of a log segment, bytes.
   * @default 1 GiB
   * @change brokers are replaced one at a time
   */
  segmentBytes: z
    .int()
    .min(1048576)
    .max(2147483647)
    .default(1024 ** 3),
  /** The topics, which are these two. */
  topics: z
    .strictObject({
      /** Events on their way to ClickHouse. */
      "ingest-events": topicSchema.default({ partitions: 6 }),
      /** Threats found on the way in. */
      alerts: topicSchema.default({ partitions: 3 }),
    })
    .prefault({}),
});

const zookeeperSchema = z.strictObject({
  /**
   * JVM heap of each replica, MB.
   * @default enough for a trial
   * @change replicas are replaced one at a time
   */
  heapMb: heap(leastMb["zookeeper.heapMb"]).default(128),
});

const clickhouseSchema = z.strictObject({
  /**
   * Memory limit of each replica, MB: half of what is beyond 512 is for queries, and half of that for one.
   * @default enough for a trial
   * @change replicas are replaced one at a time
   */
  memoryMb: z.int().min(leastMb["clickhouse.memoryMb"]).max(1048576).default(2048),
  /**
   * How long events and alerts are kept, days by their own time.
   * @default a year
   * @change no server is replaced; a shorter time deletes what is older
   */
  retentionDays: z.int().min(1).max(3650).default(365),
});

const serviceSchema = z.strictObject({
  /**
   * The team's own image, with an exact tag or digest.
   * @default built from this repository
   * @change replicas are replaced one at a time
   */
  image: text(
    /^[A-Za-z0-9][\w.\-/:]*(:(?!latest$)\w[\w.-]{0,127}|@sha256:[0-9a-f]{64})$/,
    'an image with an exact tag or a digest, such as "registry.example/team/siem:1.4.2" (the tag latest moves)',
  ).optional(),
  /**
   * How secrets are delivered: `env` puts them into the environment, for images that can't read `JWT_SECRET_FILE`.
   * @default as files
   * @change replicas are replaced one at a time
   */
  secrets: z.enum(["file", "env"]).default("file"),
});

const ingestorSchema = serviceSchema.extend({
  /**
   * Takes syslog over TCP on port 514 of the VIP.
   * @default no listener
   * @change ingestors are replaced one at a time, and HAProxy is reloaded
   */
  syslog: z
    .strictObject({
      /**
       * Tenant that every line belongs to: syslog has no token.
       * @change ingestors are replaced one at a time, and HAProxy is reloaded
       */
      tenant: text(
        tenantPattern,
        'a tenant of 1 to 64 letters, digits, ".", "_" and "-" that begins with a letter or digit',
      ),
    })
    .optional(),
});

const cidr = () =>
  z.cidrv4().register(phrases, { phrase: 'an IPv4 range in CIDR notation, such as "10.42.0.0/16"' });
const machineSchema = (type: string, dataGb: number) =>
  z
    .strictObject({
      /**
       * EC2 instance type.
       * @change `up` changes no machine and warns; `npm run replace-node` brings it, one machine at a time
       */
      type: z
        .string()
        .register(phrases, {
          phrase: 'an EC2 instance type of components/aws-prices.ts, such as "m6i.large"',
        })
        .default(type),
      /**
       * Size of the data volume, GiB.
       * @change grows while it is in use; it never shrinks
       */
      dataGb: z.int().min(10).max(16384).default(dataGb),
    })
    .prefault({});

const zoneText = text(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/, 'a zone, such as "eu-central-1a"');
const arnOf = (service: string) => `arn:aws[a-z-]*:${service}:[a-z0-9-]+:\\d{12}:`;

const awsSchema = z.strictObject({
  /**
   * Where the platform runs.
   * @change no: everything would be made anew. `prod` refuses it
   */
  region: text(/^[a-z]{2}(-[a-z]+)+-\d$/, 'a region, such as "eu-central-1"'),
  /**
   * `prod` protects and retains data, has a NAT gateway a zone, and needs `backup` and `alarmEmail`.
   * @change `up` makes or removes NAT gateways, flow logs and protection
   */
  tier: z.enum(["dev", "prod"]),
  /**
   * The availability zones, by name.
   * @default the region's first three
   * @change no: machines and data volumes belong to a zone. `prod` refuses it
   */
  zones: z
    .array(zoneText)
    .length(zones)
    .refine(
      (names) => new Set(names).size === names.length,
      "must be different zones, but names one of them twice",
    )
    .register(phrases, {
      phrase: `a list of exactly ${zones} zones (with fewer, one lost zone can take a quorum), such as ["eu-central-1a", "eu-central-1b", "eu-central-1c"]`,
    })
    .optional(),
  /**
   * Private address range of the VPC, /16 to /22.
   * @change no: everything would be made anew. `prod` refuses it
   */
  cidr: cidr().default("10.42.0.0/16"),
  /**
   * The overlay address that the load balancers share: private, and outside the VPC.
   * @change routes and load balancers change; clients have to follow
   */
  vip: z
    .ipv4()
    .register(phrases, { phrase: 'an IPv4 address, such as "172.25.0.222"' })
    .default(plan().vip.address),
  /**
   * Processors of the machines, and so of the images built for them.
   * @default Intel and AMD
   * @change no: machines and images have to change together
   */
  architecture: z.enum(["x86-64", "arm64"]).default("x86-64"),
  /** The three load balancers, which run the API and the ingestors too. */
  lb: machineSchema("t3.medium", 20),
  /** The three machines of ZooKeeper and Kafka. */
  stream: machineSchema("m6i.large", 100),
  /** The three machines of ClickHouse. */
  store: machineSchema("m6i.xlarge", 200),
  /**
   * Name of the private DNS zone, and the machines' search domain.
   * @change no: machines know each other by it
   */
  domain: text(
    /^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$/,
    'a domain, such as "siem.internal"',
  ).default("siem.internal"),
  /** Who may reach the API and the ingestors. */
  entry: z
    .strictObject({
      /**
       * Private ranges that may reach the VIP, and no others: name the VPC's too, if it has clients.
       * @default the VPC
       * @change the firewalls' rules follow
       */
      clients: z.array(cidr()).default([]),
      /**
       * A Network Load Balancer as entry from outside.
       * @default none: only the VIP
       * @change it is made or removed; each new one has another name
       */
      loadBalancer: z
        .strictObject({
          /**
           * Whether it has public addresses.
           * @change another load balancer takes its place, with another name
           */
          public: z.boolean(),
          /**
           * Ranges that may reach it. Public ones need TLS.
           * @change the firewall's rules follow
           */
          clients: z.array(cidr()).min(1).register(phrases, {
            phrase: 'a list of IPv4 ranges, at least one, such as ["198.51.100.0/24"]',
          }),
          /**
           * ARN of the ACM certificate with which it ends TLS.
           * @default plain TCP, refused for public ranges
           * @change the listeners follow
           */
          certificateArn: text(
            new RegExp(`^${arnOf("acm")}certificate\\/[0-9a-f-]+$`),
            "the ARN of an ACM certificate (arn:aws:acm:<region>:<account>:certificate/<id>)",
          ).optional(),
        })
        .optional(),
    })
    .prefault({}),
  /** How operators get in: SSH to a machine, for Docker. */
  admin: z.strictObject({
    /**
     * Public keys of the operators, as in `~/.ssh/*.pub`.
     * @change they are read when a machine is made: `npm run replace-node` brings them, one machine at a time
     */
    sshPublicKeys: z
      .array(
        text(
          /^(ssh-ed25519|ecdsa-sha2-nistp\d+|ssh-rsa) [A-Za-z0-9+/=]+( [^\n]*)?$/,
          "a public key of OpenSSH, such as a line of ~/.ssh/id_ed25519.pub",
        ),
      )
      .min(1)
      .register(phrases, {
        phrase:
          "a list of public keys of OpenSSH, at least one, such as the line of ~/.ssh/id_ed25519.pub (without one nobody, this program included, can reach the machines)",
      }),
    /**
     * Ranges that may use HAProxy's statistics page, and the bastion if there is one.
     * @default nobody
     * @change the firewalls' rules follow
     */
    clients: z.array(cidr()).default([]),
    /**
     * The way in.
     * @default EC2 Instance Connect Endpoint, which needs no open port
     * @change `up` makes the new way and removes the old one
     */
    access: z.enum(["instance-connect", "bastion"]).default("instance-connect"),
  }),
  /**
   * Address that alarms are sent to; it has to confirm the subscription once.
   * @default nobody is told; `prod` refuses that
   * @change the new address has to confirm
   */
  alarmEmail: z
    .email()
    .register(phrases, { phrase: 'an e-mail address, such as "soc@example.org"' })
    .optional(),
  /**
   * Snapshots of the data volumes, and a bucket.
   * @default no backups; `prod` refuses that
   * @change they begin, or in `dev` end
   */
  backup: z
    .strictObject({
      /**
       * How long snapshots and objects in the bucket are kept, days.
       * @change the rules follow; a shorter time deletes what is older
       */
      retentionDays: z.int().min(1).max(3650),
    })
    .optional(),
  /**
   * Key for disks, bucket, registry and logs: `aws` for AWS's own, `create` for one of the stack's, or an ARN.
   * @default AWS's own
   * @change no: volumes would be made anew. `prod` refuses it
   */
  kmsKey: text(
    new RegExp(`^(aws|create|${arnOf("kms")}key\\/[0-9a-f-]+)$`),
    '"aws", "create" or the ARN of a key (arn:aws:kms:<region>:<account>:key/<id>)',
  ).default("aws"),
});

export type AwsConfig = z.infer<typeof awsSchema>;

/** Everything a stack can say except secrets. Unknown keys are refused. {@link parseConfig} knows the rules between keys. */
export const configSchema = z.strictObject({
  /**
   * Where the platform runs: one Docker daemon, or nine machines on AWS.
   * @change no: it is another platform. Use another stack
   */
  target: z.enum(["local", "aws"]),
  /** How the stack stands on the Docker daemon; only for the target `local`. */
  local: localSchema.prefault({}),
  /** Needed for, and only for, the target `aws`. */
  aws: awsSchema.optional(),
  /** The three ZooKeeper replicas. */
  zookeeper: zookeeperSchema.prefault({}),
  /** The three Kafka brokers. */
  kafka: kafkaSchema.prefault({}),
  /** The three ClickHouse replicas. */
  clickhouse: clickhouseSchema.prefault({}),
  /** The three replicas of the API. */
  api: serviceSchema.prefault({}),
  /** The three ingestors. */
  ingestor: ingestorSchema.prefault({}),
});

export type SiemConfig = z.infer<typeof configSchema>;

/**
 * Value of the label on everything that a stack makes in Docker. The slash can be in neither part, so no two pairs of
 * prefix and stack share a label.
 */
export function labelOf({ local: { prefix } }: SiemConfig, stack: string): string {
  return prefix === "" ? stack : `${prefix}/${stack}`;
}

/** The label as the beginning of a Docker name, in which a slash is not allowed. */
export function nameFrom(label: string): string {
  return label.replace("/", ".");
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
export const secretKeys = {
  /**
   * Signs and checks the tokens of the API and the ingestors.
   * @change replicas are replaced one at a time; tokens of the old one end, unless it becomes `jwtSecretPrevious`
   */
  jwtSecret: 32,
  /**
   * The services' password at ClickHouse.
   * @change ClickHouse and API replicas are replaced one at a time; queries can fail until the last one is
   */
  databasePassword: 16,
  /**
   * Password of the user `admin` on HAProxy's statistics page.
   * @change HAProxy is reloaded
   */
  statsPassword: 16,
} as const;
export type SecretKey = keyof typeof secretKeys;
/** The key that `jwtSecret` replaced: tokens signed with it are taken as long as it is there. */
export const previousKey = "jwtSecretPrevious";
export type Secrets = Readonly<Record<SecretKey, pulumi.Output<string>>> & {
  readonly [previousKey]?: pulumi.Output<string>;
};

/** Values go into config files of several syntaxes, so only characters that none of them treats specially. */
const secretPattern = /^[A-Za-z0-9_.~-]+$/;

/** Whether a key is one of the secrets, which have rules of their own. */
export const isSecretKey = (key: string): boolean => key === previousKey || Object.hasOwn(secretKeys, key);

/**
 * The project's own values among all of a stack, without its name before them. A key without a namespace is the
 * project's, as Pulumi has it; one whose namespace looks like a slip of the project's name keeps it, and is refused.
 */
export function ownValues(all: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const own: Record<string, unknown> = {};
  for (const [full, value] of Object.entries(all)) {
    const colon = full.indexOf(":");
    const namespace = colon === -1 ? project : full.slice(0, colon);
    if (namespace === project) own[full.slice(colon + 1)] = value;
    else if (isSlipOf(namespace, project)) own[full] = value;
  }
  return own;
}

/** Pulumi hands over groups as JSON, and a key without a value as an empty text. */
function decode(value: unknown): unknown {
  if (typeof value !== "string") return value;
  return value === "" ? null : decoded(value);
}

type Path = readonly PropertyKey[];
const isWithin = (path: Path, around: Path): boolean => around.every((key, index) => path[index] === key);

/** The values without what stands at a path of groups. */
function without(values: unknown, path: Path): unknown {
  const [key, ...rest] = path;
  if (typeof values !== "object" || values === null || key === undefined) return values;
  const entries = Object.entries(values);
  if (rest.length === 0) return Object.fromEntries(entries.filter(([name]) => name !== key));
  return Object.fromEntries(
    entries.map(([name, value]) => [name, name === key ? without(value, rest) : value]),
  );
}

/** Places of values that `pulumi config set --secret` encrypted, as the stack's file has them. */
function encryptedIn(value: unknown, path: Path = []): Path[] {
  if (typeof value !== "object" || value === null) return [];
  if ("secure" in value && typeof value.secure === "string" && Object.keys(value).length === 1) return [path];
  return Object.entries(value).flatMap(([key, inner]) =>
    encryptedIn(inner, [...path, Array.isArray(value) ? Number(key) : key]),
  );
}

/** What only one target has, for another one. */
function targetProblems(values: Readonly<Record<string, unknown>>): Problem[] {
  const { target } = values;
  if (target === "aws" && !("aws" in values)) {
    return [
      {
        path: ["aws"],
        message:
          "is missing, and the target is aws: at least region, tier and admin.sshPublicKeys are needed",
      },
    ];
  }
  return configSchema.shape.target.options
    .filter(
      (other) => configSchema.shape.target.safeParse(target).success && other !== target && other in values,
    )
    .map((other) => ({
      path: [other],
      message: `is only for the target ${other}, and the target is ${String(target)}: remove it, or change ${project}:target`,
    }));
}

function kafkaProblems({ kafka: { minInsyncReplicas, replicationFactor } }: SiemConfig): Problem[] {
  const most = Math.max(1, replicationFactor - 1);
  if (minInsyncReplicas <= most) return [];
  const why =
    replicationFactor === 1
      ? "with one copy of each partition (replicationFactor) it can only be 1, or no write succeeds"
      : `with ${replicationFactor} copies of each partition (replicationFactor) it can be at most ${most}, or one lost broker stops every write`;
  return [{ path: ["kafka", "minInsyncReplicas"], message: `${why}, but is ${minInsyncReplicas}` }];
}

/** Everything wrong in the values, all at once; the configuration if nothing is. */
function check(
  given: Readonly<Record<string, unknown>>,
  isEncrypted: (key: string) => boolean,
): { readonly config?: SiemConfig; readonly problems: readonly Problem[] } {
  const all = Object.fromEntries(
    Object.entries(given)
      .filter(([key]) => !isSecretKey(key))
      .map(([key, value]) => [key, decode(value)]),
  );
  // An unknown key is told as one: it may be a secret's name with a slip in it.
  const encrypted = Object.entries(all)
    .filter(([key]) => Object.hasOwn(configSchema.shape, key))
    .flatMap(([key, value]) => (isEncrypted(key) ? [[key]] : encryptedIn(value, [key])));
  const problems: Problem[] = [
    ...encrypted.map((path) => ({
      path,
      message: `is encrypted, but only ${Object.keys(secretKeys).join(", ")} and ${previousKey} are secrets: write it as plain text, or correct its name`,
    })),
  ];
  // What is said once is taken out, so that the rest is judged without it.
  const dropped: Path[] = [];
  let rest: unknown = all;
  const drop = (place: Path) => {
    // From a list nothing is taken: the whole list goes.
    const item = place.findIndex((key) => typeof key === "number");
    const path = item === -1 ? place : place.slice(0, item);
    dropped.push(path);
    rest = path[0] === "target" ? { ...all, target: "aws" in all ? "aws" : "local" } : without(rest, path);
  };
  encrypted.forEach(drop);
  for (const problem of targetProblems(all)) {
    problems.push(problem);
    drop(problem.path);
  }
  for (let first = true; ; first = false) {
    const result = configSchema.safeParse(rest, { reportInput: true });
    if (result.success) {
      const between = [...kafkaProblems(result.data), ...machineProblems(result.data)];
      const news = between.filter(
        ({ path }) => !dropped.some((other) => isWithin(path, other) || isWithin(other, path)),
      );
      problems.push(...news);
      return problems.length === 0 ? { config: result.data, problems } : { problems };
    }
    const found = problemsOf(configSchema, result.error.issues, {
      project,
      others: [...Object.keys(secretKeys), previousKey],
    });
    if (first) {
      problems.push(...found.filter(({ path }) => !dropped.some((other) => isWithin(path, other))));
    }
    // A missing key can't be taken out: what it is missing from can.
    for (const issue of result.error.issues) {
      const { path } = issue;
      if (issue.code === "unrecognized_keys") issue.keys.forEach((key) => drop([...path, key]));
      else drop(issue.input === undefined && path.length > 1 ? path.slice(0, -1) : path);
    }
  }
}

function machineProblems(config: SiemConfig): Problem[] {
  if (config.aws === undefined) return [];
  return [
    ...awsProblems(config.aws).map(({ path, message }) => ({ path: ["aws", ...path], message })),
    ...memoryProblems(config.aws, config),
  ];
}

function refusal(problems: readonly Problem[]): pulumi.RunError {
  const lines = distinct(problems).map((problem) => line(problem, project));
  return new pulumi.RunError(
    `The configuration is wrong; nothing was touched.\n${[...new Set(lines)].join("\n")}\nChange it in Pulumi.<stack>.yaml; docs/configuration.md describes every key.`,
  );
}

/**
 * Checks plain config values: as the stack's file has them, or as JSON. Secrets among them are passed over.
 * @throws RunError that names each wrong key, what was given and what is allowed.
 */
export function parseConfig(values: Readonly<Record<string, unknown>>): SiemConfig {
  const { config, problems } = check(values, () => false);
  if (config === undefined) throw refusal(problems);
  return config;
}

/** Everything wrong with a stack's secrets; never a part of one. */
export function secretProblems(
  values: Readonly<Record<string, unknown>>,
  isEncrypted: (key: string) => boolean,
): Problem[] {
  const lengths: readonly (readonly [string, number])[] = [
    ...Object.entries(secretKeys),
    ...(previousKey in values ? [[previousKey, secretKeys.jwtSecret] as const] : []),
  ];
  const seen = new Map<unknown, string>();
  return lengths.flatMap(([key, least]): Problem[] => {
    const value = values[key];
    const remedy =
      key === previousKey
        ? `set it to the former jwtSecret with: pulumi config set --secret ${key}, or remove it with: pulumi config rm ${key}`
        : `set it with: pulumi config set --secret ${key} "$(openssl rand -hex 32)"`;
    const problem = (what: string): Problem[] => [{ path: [key], message: `${what}; ${remedy}` }];
    if (value === undefined) return [{ path: [key], message: `is missing; ${remedy}`, isMissing: true }];
    if (typeof value !== "string") return problem("must be one text");
    if (value === "") return problem("is empty");
    if (!isEncrypted(key)) return problem("is in plain text, where everybody who reads the file can read it");
    if (!secretPattern.test(value)) {
      const where = secretPattern.test(value.trim()) ? " (white space at an end)" : "";
      return problem(`has characters other than A-Z a-z 0-9 _ . ~ -${where}`);
    }
    if (value.length < least) {
      return problem(`has ${value.length} characters; at least ${least} are needed`);
    }
    const other = seen.get(value);
    seen.set(value, key);
    if (other === undefined) return [];
    return key === previousKey && other === "jwtSecret"
      ? [
          {
            path: [key],
            message: `is the same as jwtSecret; set jwtSecret to a new one, or remove this with: pulumi config rm ${key}`,
          },
        ]
      : problem(`is the same as ${other}, and who learns one would have both`);
  });
}

// Pulumi leaves it out of its types, and has no other way to tell a secret from plain text.
const { isConfigSecret } = pulumi.runtime as unknown as { isConfigSecret: (key: string) => boolean };

/**
 * Reads the stack's configuration.
 * @throws RunError before any resource is registered when a key is unknown, wrong or missing.
 */
export function loadConfig(): { config: SiemConfig; secrets: Secrets } {
  const source = new pulumi.Config(project);
  const values = ownValues(pulumi.runtime.allConfig());
  const isEncrypted = (key: string) => isConfigSecret(`${project}:${key}`);
  const { config, problems } = check(values, isEncrypted);
  const all = [...problems, ...secretProblems(values, isEncrypted)];
  if (config === undefined || all.length > 0) throw refusal(all);
  return {
    config,
    secrets: {
      jwtSecret: source.requireSecret("jwtSecret"),
      databasePassword: source.requireSecret("databasePassword"),
      statsPassword: source.requireSecret("statsPassword"),
      ...(previousKey in values ? { [previousKey]: source.requireSecret(previousKey) } : {}),
    },
  };
}
