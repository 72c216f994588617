// `npm run schema`: writes docs/configuration.md, every key of a stack's file for people, and the editors' schema beside it.

import { readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { format, resolveConfig } from "prettier";
import { z } from "zod";
import { instanceTypes } from "../components/aws-prices.ts";
import { configSchema, previousKey, project, secretKeys } from "../components/config.ts";
import { allowed, shapeOf, unwrap } from "../components/config-problems.ts";
import { comments, type Comments, renderSchema, schemaPath } from "./schema.ts";
import { root } from "./workspace.ts";

export const referencePath = join(root, "docs/configuration.md");

/** One key of the configuration, as a row of a table. */
export interface Row {
  /** The names from the section's own down to it. */
  readonly path: readonly string[];
  readonly isGroup: boolean;
  readonly isOptional: boolean;
  readonly isRequired: boolean;
  readonly allowed: string;
  /** Its value where it isn't given, if it has one. */
  readonly value: unknown;
  readonly comment: Comments;
}

/** Every key inside a section, groups before what is in them. */
export function rowsOf(schema: z.core.$ZodType, comment: Comments, path: readonly string[] = []): Row[] {
  return Object.entries(shapeOf(schema)).flatMap(([key, inner]) => {
    const own = [...path, key];
    const beside = comment.keys[key] ?? { keys: {} };
    const isGroup = unwrap(inner) instanceof z.ZodObject;
    const absent = z.safeParse(inner, undefined);
    const row: Row = {
      path: own,
      isGroup,
      isOptional: inner instanceof z.ZodOptional,
      isRequired: !absent.success,
      allowed: isGroup ? "a group" : allowed(inner),
      value: isGroup ? undefined : valueAt(schema, key, absent),
      comment: beside,
    };
    return [row, ...(isGroup ? rowsOf(inner, beside, own) : [])];
  });
}

/** A group's default may say more than the key inside it: a topic's number of partitions differs from topic to topic. */
function valueAt(group: z.core.$ZodType, key: string, absent: { data?: unknown }): unknown {
  const whole = z.safeParse(group, undefined);
  const inWhole = whole.success ? (whole.data as Record<string, unknown> | undefined)?.[key] : undefined;
  return inWhole ?? absent.data;
}

/** The text of docs/configuration.md. */
export async function renderReference(): Promise<string> {
  const said = comments("configSchema");
  const sections = Object.entries(configSchema.shape).map(([key, schema]) => section(key, schema, said));
  const text = [opening, ...sections, between, secrets(), examples()].join("\n\n");
  return format(text, { ...(await resolveConfig(referencePath)), filepath: referencePath });
}

const opening = `<!-- Made by \`npm run schema\` from components/config.ts; don't change it by hand. -->

# Configuration

What a stack is stands in \`Pulumi.<stack>.yaml\`. This page lists every key. Only \`${project}:target\` is required, and on
AWS a few keys of \`${project}:aws\`.

- A key begins with the project's name: \`${project}:kafka\`. Keys inside a group don't.
- Change the file, or use \`pulumi config set --path '${project}:kafka.heapMb' 512\`. Then \`npm run up\`, or
  \`npm run up -- -s <stack>\`.
- A wrong value, an unknown key and a key without a value are refused before anything is touched. All problems are
  named at once.
- Editors that speak YAML check the file while you type, if its first line is
  \`# yaml-language-server: $schema=./schema/pulumi-stack.schema.json\`.
- "Changed on a running stack" says what \`up\` does with a changed value. Where replicas are replaced one at a time, each waits until
  the one before is back, and the service goes on.`;

function section(key: string, schema: z.core.$ZodType, said: Comments): string {
  const comment = said.keys[key] ?? { keys: {} };
  const title = `## ${project}:${key}`;
  const rows = rowsOf(schema, comment);
  if (rows.length === 0) {
    const [row] = rowsOf(configSchema, said).filter(({ path }) => path.join() === key);
    return [title, table(row === undefined ? [] : [row])].join("\n\n");
  }
  return [title, comment.text ?? "", table(rows), ...(key === "aws" ? [instanceTable()] : [])].join("\n\n");
}

function table(rows: readonly Row[]): string {
  return grid(
    ["key", "what it is", "allowed", "default", "changed on a running stack"],
    rows.map((row) => [
      `\`${row.path.join(".")}\``,
      row.comment.text ?? "",
      row.allowed,
      fallback(row),
      row.comment.change ?? "",
    ]),
  );
}

function fallback({ isRequired, isGroup, value, comment }: Row): string {
  if (value !== undefined) {
    const shown = `\`${JSON.stringify(value)}\``;
    return comment.default === undefined ? shown : `${shown}: ${comment.default}`;
  }
  return comment.default ?? (isRequired && !isGroup ? "**required**" : "");
}

function instanceTable(): string {
  return [
    `Instance types that \`type\` may name:`,
    grid(
      ["type", "architecture", "memory, GiB"],
      Object.entries(instanceTypes).map(([type, { architecture, memoryGib }]) => [
        `\`${type}\``,
        `\`${architecture}\``,
        String(memoryGib),
      ]),
    ),
  ].join("\n\n");
}

const between = `## Rules between keys

- \`kafka.minInsyncReplicas\` is at least one less than \`replicationFactor\`: else one lost broker stops every write. With one copy
  it is 1.
- \`${project}:local\` is only for the target \`local\`, \`${project}:aws\` only for the target \`aws\`.
- \`aws.zones\` are three different zones of \`aws.region\`. The certificate and the key are of that region too.
- \`aws.cidr\` is private, from /16 to /22, and meets none of Docker's own ranges (172.17.0.0 to 172.31.255.255 and
  192.168.0.0/16). \`aws.vip\` is private and outside it, and not in 172.17.0.0/16.
- A range begins at its first address: 10.42.0.0/16, not 10.42.1.7/16.
- \`aws.entry.clients\` are private ranges. Public ones come in through \`entry.loadBalancer\`, and only with a
  \`certificateArn\`.
- \`aws.admin.clients\` holds no public range wider than /8. A bastion needs at least one range.
- The instance types have the processors that \`aws.architecture\` names. The containers of a machine fit into its memory:
  \`kafka.heapMb\` and \`zookeeper.heapMb\` into \`stream\`, \`clickhouse.memoryMb\` into \`store\`.
- On one Docker daemon none of these makes a container larger than the daemon's machine; \`npm run up\` looks at that.
- The tier \`prod\` needs \`aws.backup\` and \`aws.alarmEmail\`.`;

function secrets(): string {
  const said = comments("secretKeys").keys;
  const rows = Object.entries(secretKeys).map(([key, least]) => [
    `\`${key}\``,
    said[key]?.text ?? "",
    `${least} characters`,
    said[key]?.change ?? "",
  ]);
  return [
    "## Secrets",
    `\`npm run up\` makes random ones and keeps them encrypted. With plain Pulumi, or to set your own:`,
    `\`\`\`sh\npulumi config set --secret jwtSecret "$(openssl rand -hex 32)"\n\`\`\``,
    `A secret has letters, digits, \`_\`, \`.\`, \`~\` and \`-\` only, and is no other's copy. In plain text it is refused.`,
    grid(
      ["key", "what it is", "at least", "changed on a running stack"],
      [
        ...rows,
        [
          `\`${previousKey}\``,
          "The signing key before `jwtSecret`. Optional: tokens signed with it are taken as long as it is there.",
          `${secretKeys.jwtSecret} characters`,
          "replicas are replaced one at a time",
        ],
      ],
    ),
    `To change the signing key without refusing anybody: set \`${previousKey}\` to the old key and \`jwtSecret\` to a new one,
\`up\`; when the last old token has ended, \`pulumi config rm ${previousKey}\`, \`up\`.`,
  ].join("\n\n");
}

const localExample = `config:
  ${project}:target: local
  ${project}:local:
    prefix: team- # beside another stack on the same daemon
    net: 172.25.1
    portOffset: 100
  ${project}:kafka:
    heapMb: 512
    retentionHours: 24
    topics:
      ingest-events:
        partitions: 12
  ${project}:clickhouse:
    memoryMb: 4096
    retentionDays: 90
  ${project}:ingestor:
    syslog:
      tenant: acme
  ${project}:api:
    image: registry.example/team/siem-api:1.4.2
    secrets: env
`;

/** A checked-in stack file with what its reader has to fill in. */
function filled(stack: string): string {
  const name = `Pulumi.${stack}.yaml`;
  const key =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDl0b3RhbGx5LW5vdC1hLXJlYWwta2V5LW9mLWFueW9u operator@example.org";
  return readFileSync(join(root, name), "utf8")
    .replace(/sshPublicKeys: \[\](.*)/, `sshPublicKeys:$1\n        - ${key}`)
    .replace(/alarmEmail:(?= *#)/, "alarmEmail: soc@example.org");
}

function examples(): string {
  const fence = (text: string) => `\`\`\`yaml\n${text.trimEnd()}\n\`\`\``;
  return [
    "## Complete stack files",
    "The smallest, `Pulumi.local.yaml`:",
    fence(filled("local")),
    "One Docker daemon with more said:",
    fence(localExample),
    "`Pulumi.dev.yaml`, with an operator's key:",
    fence(filled("dev")),
    "`Pulumi.prod.yaml`, with an operator's key and an address for alarms:",
    fence(filled("prod")),
  ].join("\n\n");
}

function grid(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const lines = [head, head.map(() => "---"), ...rows];
  return lines
    .map((cells) => `| ${cells.map((cell) => cell.replace(/\|/g, "\\|")).join(" | ")} |`)
    .join("\n");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const texts: readonly (readonly [string, string])[] = [
    [schemaPath, await renderSchema()],
    [referencePath, await renderReference()],
  ];
  for (const [path, text] of texts) {
    writeFileSync(path, text);
    process.stdout.write(`${relative(root, path)} is up to date\n`);
  }
}
