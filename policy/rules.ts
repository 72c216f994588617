// What must be true of every stack, as pure functions over its resources. The tests run them on what a recorded `up`
// made; index.ts makes a policy pack of them.

/** One resource of a stack: what it was asked to be, and its outputs where they are known. */
export interface Resource {
  readonly type: string;
  readonly name: string;
  readonly urn: string;
  readonly props: Readonly<Record<string, unknown>>;
  /** @default not known yet, as in a preview */
  readonly id?: string | undefined;
  /** URN of its explicit provider. */
  readonly provider?: string | undefined;
  readonly protect?: boolean | undefined;
}

export interface Violation {
  readonly rule: string;
  readonly urn: string;
  /** What is wrong, what was given, what to do. */
  readonly message: string;
}

/** A rule looks at one resource at a time, so that it can stop it before it is made, or at all of them. */
export type Rule = { readonly name: string; readonly description: string } & (
  { one(resource: Resource): readonly string[] } | { all(stack: Stack): readonly Finding[] }
);

interface Finding {
  readonly resource: Resource;
  readonly message: string;
}

/** The resources, with what several rules ask of them. */
export class Stack {
  constructor(readonly resources: readonly Resource[]) {}

  ofType(...types: readonly string[]): Resource[] {
    return this.resources.filter((resource) => types.includes(resource.type));
  }

  get provider(): Resource | undefined {
    return this.ofType("pulumi:providers:aws")[0];
  }

  /** Tags that the provider puts on everything. */
  get tags(): Readonly<Record<string, string>> {
    const given = this.provider?.props["defaultTags"];
    // The engine hands a provider's settings over as JSON.
    const value = typeof given === "string" ? (JSON.parse(given) as unknown) : given;
    return (value as { tags?: Record<string, string> } | undefined)?.tags ?? {};
  }

  get prod(): boolean {
    return this.tags["tier"] === "prod";
  }

  /** Machines that keep data: each has a volume with its name. */
  get machines(): Resource[] {
    const volumes = new Set(this.ofType(types.volume).map((volume) => volume.name));
    return this.ofType(types.instance).filter((instance) => volumes.has(`${instance.name}-data`));
  }

  /** The availability zone of the machine with this name, from its data volume. */
  zoneOf(machine: string): string | undefined {
    const volume = this.ofType(types.volume).find(({ name }) => name === `${machine}-data`);
    return volume?.props["availabilityZone"] as string | undefined;
  }
}

const types = {
  instance: "aws:ec2/instance:Instance",
  volume: "aws:ebs/volume:Volume",
  group: "aws:ec2/securityGroup:SecurityGroup",
  defaultGroup: "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
  ingress: "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
  listener: "aws:lb/listener:Listener",
  balancer: "aws:lb/loadBalancer:LoadBalancer",
  topic: "aws:sns/topic:Topic",
  topicPolicy: "aws:sns/topicPolicy:TopicPolicy",
  repository: "aws:ecr/repository:Repository",
  logGroup: "aws:cloudwatch/logGroup:LogGroup",
  bucket: "aws:s3/bucket:Bucket",
  bucketPolicy: "aws:s3/bucketPolicy:BucketPolicy",
  bucketEncryption: "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
  bucketVersioning: "aws:s3/bucketVersioning:BucketVersioning",
  bucketBlock: "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
  key: "aws:kms/key:Key",
  role: "aws:iam/role:Role",
  rolePolicy: "aws:iam/rolePolicy:RolePolicy",
  policy: "aws:iam/policy:Policy",
  attachment: "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
  snapshots: "aws:dlm/lifecyclePolicy:LifecyclePolicy",
  container: "docker:index/container:Container",
  image: "docker:index/remoteImage:RemoteImage",
  command: "command:local:Command",
} as const;

/** Tag by which the snapshot policy finds the data volumes. */
const backupTag = "siem-ha:backup";

/** Actions that AWS can't limit to a resource, by name. Anything else with the resource `*` is refused. */
export const unlimitedActions: readonly string[] = [
  "ec2:DescribeRouteTables",
  "ec2:DescribeInstances",
  "ec2:DescribeVolumes",
  "ec2:DescribeSnapshots",
  "ec2:DescribeNetworkInterfaces",
  "ecr:GetAuthorizationToken",
  // Limited by the condition on the namespace, which the rule asks for.
  "cloudwatch:PutMetricData",
  "logs:DescribeLogGroups",
  "ssmmessages:CreateControlChannel",
  "ssmmessages:CreateDataChannel",
  "ssmmessages:OpenControlChannel",
  "ssmmessages:OpenDataChannel",
];

/** Conditions without which an action of the list above is not allowed either. */
const neededConditions: Readonly<Record<string, string>> = {
  "cloudwatch:PutMetricData": "cloudwatch:namespace",
};

interface Statement {
  readonly Sid?: string;
  readonly Effect: string;
  readonly Action?: string | readonly string[];
  readonly NotAction?: unknown;
  readonly Resource?: string | readonly string[];
  readonly NotResource?: unknown;
  readonly Principal?: string | Readonly<Record<string, string | readonly string[]>>;
  readonly NotPrincipal?: unknown;
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/** A value as text, whatever it is. */
function text(value: unknown): string {
  if (value === undefined || value === null) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

function list(value: unknown): readonly string[] {
  if (value === undefined || value === null) return [];
  return (Array.isArray(value) ? value : [value]) as string[];
}

function statements(document: unknown): readonly Statement[] {
  const parsed = (typeof document === "string" ? JSON.parse(document) : document) as
    { Statement?: Statement | Statement[] } | undefined;
  return parsed?.Statement === undefined ? [] : ([] as Statement[]).concat(parsed.Statement);
}

function conditionKeys(statement: Statement): string[] {
  return Object.values(statement.Condition ?? {}).flatMap((tests) => Object.keys(tests));
}

/** What is too wide in a policy of an identity (a role). */
export function tooWide(document: unknown): string[] {
  return statements(document)
    .filter((statement) => statement.Effect === "Allow")
    .flatMap((statement) => {
      const name = statement.Sid ?? "a statement without Sid";
      const problems: string[] = [];
      if (statement.NotAction !== undefined || statement.NotResource !== undefined) {
        problems.push(`${name} allows everything but what it lists; list what is allowed instead`);
      }
      for (const action of list(statement.Action)) {
        if (action.includes("*")) {
          problems.push(`${name} allows the action ${action}; name each action`);
        } else if (list(statement.Resource).includes("*")) {
          const condition = neededConditions[action];
          if (!unlimitedActions.includes(action)) {
            problems.push(`${name} allows ${action} on every resource; name the resources`);
          } else if (condition !== undefined && !conditionKeys(statement).includes(condition)) {
            problems.push(`${name} allows ${action} without a condition on ${condition}`);
          }
        }
      }
      return problems;
    });
}

/** Who else than named accounts and services a policy of a resource lets in. */
function openTo(document: unknown): string[] {
  return statements(document).flatMap((statement) => {
    if (statement.Effect !== "Allow") return [];
    const everybody =
      statement.NotPrincipal !== undefined ||
      statement.Principal === "*" ||
      (typeof statement.Principal === "object" &&
        Object.values(statement.Principal).some((who) => list(who).includes("*")));
    return everybody ? [`${statement.Sid ?? "a statement without Sid"} lets everybody in; name who may`] : [];
  });
}

/** True if the document refuses every call that does not come over TLS. */
function refusesPlain(document: unknown): boolean {
  return statements(document).some((statement) => {
    const { Principal: who } = statement;
    const everybody = who === "*" || (typeof who === "object" && list(who["AWS"]).includes("*"));
    const secure = statement.Condition?.["Bool"]?.["aws:SecureTransport"];
    return (
      statement.Effect === "Deny" &&
      everybody &&
      String(secure) === "false" &&
      list(statement.Action).includes("s3:*")
    );
  });
}

function octets(address: string): number {
  return address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
}

const privateRanges = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"].map((range) => {
  const [address = "", bits] = range.split("/");
  return { first: octets(address), bits: Number(bits) };
});

/** True if some address of the range is one of the internet's. */
function isPublic(range: string): boolean {
  // Unique local addresses (fc00::/7) are IPv6's private ones.
  if (range.includes(":")) return !/^f[cd]/i.test(range);
  const [address = "", given] = range.split("/");
  const bits = Number(given ?? 32);
  return !privateRanges.some(
    (outer) =>
      bits >= outer.bits && Math.floor((octets(address) - outer.first) / 2 ** (32 - outer.bits)) === 0,
  );
}

/** The settings of a bucket: those that name it, or where names aren't known yet, those of the only bucket. */
function settingsOf(stack: Stack, type: string, bucket: Resource): Resource[] {
  const only = stack.ofType(types.bucket).length === 1;
  return stack.ofType(type).filter(({ props }) => {
    const named = props["bucket"];
    return named === undefined ? only : named === bucket.id || named === bucket.props["bucket"];
  });
}

/** Names of variables and settings whose value is a secret. */
const secretName = /(PASSWORD|PASSWD|SECRET|TOKEN|PRIVATE_?KEY|ACCESS_?KEY|CREDENTIALS?)$/i;
/** Texts that are a secret wherever they stand. */
const secretText = [
  { pattern: /-----BEGIN [A-Z ]*PRIVATE KEY-----/, what: "a private key" },
  { pattern: /\b(AKIA|ASIA)[A-Z0-9]{16}\b/, what: "an AWS access key" },
  { pattern: /\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+/, what: "a JSON Web Token" },
  { pattern: /:\/\/[^/\s:@$"']+:[^/\s:@$"']+@/, what: "a password in a URL" },
];

function secretsIn(what: string, text: string): string[] {
  return secretText
    .filter(({ pattern }) => pattern.test(text))
    .map((found) => `${what} holds ${found.what} in plain text; deliver it as a file`);
}

/** The tag or digest of an image reference; undefined if there is none. */
function version(reference: string): string | undefined {
  return /@(sha256:[0-9a-f]{64})$/.exec(reference)?.[1] ?? /:([\w][\w.-]{0,127})$/.exec(reference)?.[1];
}

function imageProblem(reference: unknown): string | undefined {
  if (typeof reference !== "string" || /^sha256:[0-9a-f]{64}$/.test(reference)) return undefined;
  const found = version(reference);
  if (found === undefined) return `the image ${reference} has no version; give an exact tag or a digest`;
  return found === "latest" ? `the image ${reference} moves; give an exact tag or a digest` : undefined;
}

function encrypted(resource: Resource): string[] {
  const { props } = resource;
  switch (resource.type) {
    case types.volume:
      return props["encrypted"] === true ? [] : ["the volume is not encrypted; set encrypted: true"];
    case types.instance: {
      const root = props["rootBlockDevice"] as { encrypted?: boolean } | undefined;
      const others = (props["ebsBlockDevices"] ?? []) as { encrypted?: boolean; deviceName?: string }[];
      return [
        ...(root?.encrypted === true
          ? []
          : ["the root disk is not encrypted; set rootBlockDevice.encrypted: true"]),
        ...others
          .filter((disk) => disk.encrypted !== true)
          .map((disk) => `the disk ${disk.deviceName} is not encrypted`),
      ];
    }
    case types.topic:
      return props["kmsMasterKeyId"] === undefined ? ["the topic is not encrypted; set kmsMasterKeyId"] : [];
    default:
      return [];
  }
}

const bucketSettings = [
  { type: types.bucketEncryption, missing: "has no encryption of its own" },
  { type: types.bucketBlock, missing: "does not block public access" },
] as const;

export const rules: readonly Rule[] = [
  {
    name: "disks-and-topics-encrypted",
    description: "Volumes, root disks and topics are encrypted.",
    one: encrypted,
  },
  {
    name: "one-key-for-all",
    description: "Where the data volumes have a key of one's own, so have the registry and the logs.",
    all(stack) {
      if (!stack.ofType(types.volume).some((volume) => volume.props["kmsKeyId"] !== undefined)) return [];
      const repositories = stack.ofType(types.repository).filter((repository) => {
        const [settings] = (repository.props["encryptionConfigurations"] ?? []) as {
          encryptionType?: string;
          kmsKey?: string;
        }[];
        return settings?.encryptionType !== "KMS" || settings.kmsKey === undefined;
      });
      const logs = stack.ofType(types.logGroup).filter((group) => group.props["kmsKeyId"] === undefined);
      return [...repositories, ...logs].map((resource) => ({
        resource,
        message: "is not encrypted with the key that the data volumes have",
      }));
    },
  },
  {
    name: "imdsv2-only",
    description: "Instance metadata only by IMDSv2, one hop far.",
    one({ type, props }) {
      if (type !== types.instance) return [];
      const options = (props["metadataOptions"] ?? {}) as Record<string, unknown>;
      return [
        ...(options["httpTokens"] === "required"
          ? []
          : [
              `metadataOptions.httpTokens must be "required", but is ${JSON.stringify(options["httpTokens"])}`,
            ]),
        ...(options["httpPutResponseHopLimit"] === 1
          ? []
          : [
              `metadataOptions.httpPutResponseHopLimit must be 1, but is ${JSON.stringify(options["httpPutResponseHopLimit"])}`,
            ]),
      ];
    },
  },
  {
    name: "no-public-data-ports",
    description: "The internet reaches nothing but TLS listeners of the entry, and SSH from named ranges.",
    all(stack) {
      const entryGroups = new Set(
        stack.ofType(types.balancer).flatMap((balancer) => list(balancer.props["securityGroups"])),
      );
      const tls = new Set(
        stack
          .ofType(types.listener)
          .filter((listener) => ["TLS", "HTTPS"].includes(String(listener.props["protocol"])))
          .map((listener) => listener.props["port"]),
      );
      const inline = stack
        .ofType(types.group, types.defaultGroup)
        .filter(({ props }) => [props["ingress"], props["egress"]].some((rules) => list(rules).length > 0))
        .map((resource) => ({
          resource,
          message: "has rules inside it; every rule is a resource of its own, with a description",
        }));
      const open = stack.ofType(types.ingress).flatMap((resource) => {
        const { props } = resource;
        const range = (props["cidrIpv4"] ?? props["cidrIpv6"]) as string | undefined;
        if (range === undefined || !isPublic(range)) return [];
        const { fromPort, toPort } = props;
        const onePort = fromPort === toPort && props["ipProtocol"] === "tcp";
        if (onePort && tls.has(fromPort) && entryGroups.has(props["securityGroupId"] as string)) return [];
        if (onePort && fromPort === 22 && Number(range.split("/")[1]) >= (range.includes(":") ? 48 : 16)) {
          return [];
        }
        return [
          {
            resource,
            message: `lets ${range} in to ${JSON.stringify(props["ipProtocol"])} ${JSON.stringify(fromPort)}-${JSON.stringify(toPort)}; public ranges may reach only TLS listeners of the load balancer, and SSH from a range of 16 bits or more`,
          },
        ];
      });
      return [...inline, ...open];
    },
  },
  {
    name: "described-rules",
    description: "Every security-group rule says what it is for.",
    one: ({ type, props }) =>
      type.startsWith("aws:vpc/securityGroup") && (props["description"] ?? "") === ""
        ? ["has no description; say who may call what"]
        : [],
  },
  {
    name: "least-privilege",
    description:
      "Roles name their actions and resources; only calls that AWS can't limit have the resource *.",
    one({ type, props }) {
      switch (type) {
        case types.rolePolicy:
        case types.policy:
          return tooWide(props["policy"]);
        case types.role: {
          const inline = (props["inlinePolicies"] ?? []) as { policy?: string }[];
          return [...openTo(props["assumeRolePolicy"]), ...inline.flatMap(({ policy }) => tooWide(policy))];
        }
        case types.attachment: {
          const policy = String(props["policyArn"]);
          return /(Admin|Administrator|FullAccess|PowerUser)/.test(policy)
            ? [`attaches ${policy}, which allows far more than is needed; write a policy of its own`]
            : [];
        }
        case types.key:
        case types.topicPolicy:
        case types.bucketPolicy:
          return openTo(props["policy"]);
        default:
          return [];
      }
    },
  },
  {
    name: "tagged",
    description: "Everything carries project, stack and tier, and nothing says otherwise of itself.",
    all(stack) {
      const { provider } = stack;
      if (provider === undefined) return [];
      const needed = ["project", "stack", "tier"];
      const missing = needed
        .filter((tag) => (stack.tags[tag] ?? "") === "")
        .map((tag) => ({ resource: provider, message: `defaultTags lacks the tag ${tag}` }));
      const contrary = stack.resources
        .filter((resource) => resource.type.startsWith("aws:"))
        .flatMap((resource) => {
          const tags = (resource.props["tags"] ?? {}) as Record<string, string>;
          return needed
            .filter((tag) => tag in tags && tags[tag] !== stack.tags[tag])
            .map((tag) => ({
              resource,
              message: `says ${tag}=${tags[tag]}, but everything in the stack has ${tag}=${stack.tags[tag]}`,
            }));
        });
      const foreign = stack.resources
        .filter(({ type, provider: own }) => type.startsWith("aws:") && own?.includes("::default") === true)
        .map((resource) => ({
          resource,
          message: "is made by the default provider, which gives it no tags; use the stack's own",
        }));
      return [...missing, ...contrary, ...foreign];
    },
  },
  {
    name: "pinned-images",
    description: "Images have an exact tag or a digest.",
    one({ type, props }) {
      const problem =
        type === types.container
          ? imageProblem(props["image"])
          : type === types.image
            ? imageProblem(props["name"])
            : undefined;
      return problem === undefined ? [] : [problem];
    },
  },
  {
    name: "quorum-over-zones",
    description: "Losing any one zone leaves a majority of every ensemble.",
    all(stack) {
      if (stack.machines.length === 0) return [];
      return ["zookeeper", "kafka", "clickhouse"].flatMap((service) => {
        const replicas = stack
          .ofType(types.container)
          .filter(({ props }) => new RegExp(`^([a-z0-9-]+-)?${service}-\\d+$`).test(String(props["name"])));
        const zones = replicas.map(({ provider }) => {
          // …::lb-node-1-docker::<id>
          const machine = /::([^:]+)-docker(::|$)/.exec(provider ?? "")?.[1];
          return machine === undefined ? undefined : stack.zoneOf(machine);
        });
        return replicas.flatMap((resource, index) => {
          const zone = zones[index];
          if (zone === undefined) return [{ resource, message: "is on no machine of a known zone" }];
          const lost = zones.filter((other) => other === zone).length;
          return (replicas.length - lost) * 2 > replicas.length
            ? []
            : [
                {
                  resource,
                  message: `losing ${zone} takes ${lost} of ${replicas.length} replicas of ${service}, and no majority is left; spread them over more zones`,
                },
              ];
        });
      });
    },
  },
  {
    name: "backups-in-prod",
    description: "In prod every data volume is snapshotted, and the backup bucket keeps old versions.",
    all(stack) {
      if (!stack.prod) return [];
      const tagged = (volume: Resource): string | undefined =>
        (volume.props["tags"] as Record<string, string> | undefined)?.[backupTag];
      const covered = stack.ofType(types.snapshots).flatMap((policy) => {
        const details = policy.props["policyDetails"] as { targetTags?: Record<string, string> } | undefined;
        return policy.props["state"] === "DISABLED" ? [] : [details?.targetTags?.[backupTag]];
      });
      const volumes = stack
        .ofType(types.volume)
        .filter((volume) => !covered.includes(tagged(volume)) || tagged(volume) === undefined)
        .map((resource) => ({
          resource,
          message: `no enabled snapshot policy covers it (tag ${backupTag}=${String(tagged(resource))}); set backup in the configuration`,
        }));
      const buckets = stack.ofType(types.bucket).flatMap((resource) => {
        const kept = settingsOf(stack, types.bucketVersioning, resource).some(
          ({ props }) =>
            (props["versioningConfiguration"] as { status?: string } | undefined)?.status === "Enabled",
        );
        return kept ? [] : [{ resource, message: "keeps no old versions; enable versioning" }];
      });
      const none =
        stack.ofType(types.bucket).length === 0 && stack.provider !== undefined
          ? [
              {
                resource: stack.provider,
                message: "there is no backup bucket; set backup in the configuration",
              },
            ]
          : [];
      return [...volumes, ...buckets, ...none];
    },
  },
  {
    name: "protected-in-prod",
    description: "In prod machines can't be terminated by mistake, and what holds data is protected.",
    all(stack) {
      if (!stack.prod) return [];
      return [
        ...stack.machines
          .filter(({ props }) => props["disableApiTermination"] !== true)
          .map((resource) => ({ resource, message: "can be terminated; set disableApiTermination: true" })),
        ...stack
          .ofType(types.balancer)
          .filter(({ props }) => props["enableDeletionProtection"] !== true)
          .map((resource) => ({ resource, message: "can be deleted; set enableDeletionProtection: true" })),
        ...stack
          .ofType(types.volume, types.bucket)
          .filter(({ protect }) => protect === false)
          .map((resource) => ({ resource, message: "holds data and is not protected; set protect: true" })),
        ...stack
          .ofType(types.bucket)
          .filter(({ props }) => props["forceDestroy"] === true)
          .map((resource) => ({ resource, message: "would be deleted with all that is in it" })),
      ];
    },
  },
  {
    name: "no-plain-secrets",
    description: "No secret in an environment, a command, a label, a parameter or user data.",
    one({ type, props }) {
      const named = (name: string, value: unknown): string[] =>
        secretName.test(name) && text(value) !== ""
          ? [`${name} is given by its value; deliver it as a file, by ${name}_FILE`]
          : [];
      switch (type) {
        case types.container:
          return list(props["envs"]).flatMap((variable) => {
            const [name = "", ...value] = variable.split("=");
            return [...named(name, value.join("=")), ...secretsIn(name, value.join("="))];
          });
        case types.command: {
          const environment = Object.entries((props["environment"] ?? {}) as Record<string, unknown>);
          return [
            ...environment.flatMap(([name, value]) => [
              ...named(name, value),
              ...secretsIn(name, text(value)),
            ]),
            ...["create", "update", "delete"].flatMap((key) => secretsIn(key, text(props[key]))),
          ];
        }
        case types.instance:
          return ["userData", "userDataBase64"].flatMap((key) => {
            const data = text(props[key]);
            return secretsIn(key, key === "userData" ? data : Buffer.from(data, "base64").toString());
          });
        case "aws:ssm/parameter:Parameter":
          return props["type"] === "SecureString"
            ? []
            : [
                ...named(
                  String(props["name"]).split("/").at(-1) ?? "",
                  props["value"] ?? props["insecureValue"],
                ),
              ];
        default:
          return [];
      }
    },
  },
  {
    name: "buckets-closed",
    description: "Buckets are encrypted, take no call without TLS, and block public access.",
    all: (stack) =>
      stack.ofType(types.bucket).flatMap((resource) => {
        const blocks = settingsOf(stack, types.bucketBlock, resource).some(({ props }) =>
          ["blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"].every(
            (key) => props[key] === true,
          ),
        );
        const plain = !settingsOf(stack, types.bucketPolicy, resource).some(({ props }) =>
          refusesPlain(props["policy"]),
        );
        return [
          ...bucketSettings
            .filter(({ type }) => settingsOf(stack, type, resource).length === 0)
            .map(({ missing }) => ({ resource, message: missing })),
          ...(blocks ? [] : [{ resource, message: "lets some kind of public access through" }]),
          ...(plain
            ? [{ resource, message: "takes calls without TLS; deny them by aws:SecureTransport" }]
            : []),
        ];
      }),
  },
];

/** Every violation of every rule. */
export function check(resources: readonly Resource[]): Violation[] {
  const stack = new Stack(resources);
  return rules.flatMap((rule) =>
    "one" in rule
      ? resources.flatMap((resource) =>
          rule.one(resource).map((message) => ({ rule: rule.name, urn: resource.urn, message })),
        )
      : rule.all(stack).map(({ resource, message }) => ({ rule: rule.name, urn: resource.urn, message })),
  );
}
