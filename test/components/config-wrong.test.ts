// Every wrong configuration is answered with one line a problem, word for word: the key, what is allowed, what was given.

import * as pulumi from "@pulumi/pulumi";
import { afterEach, describe, expect, it } from "vitest";
import { loadConfig, ownValues, parseConfig } from "../../components/config.ts";
import { operatorKey as key } from "./config-samples.ts";

const dev = { region: "eu-central-1", tier: "dev", admin: { sshPublicKeys: [key] } };
const hidden = "kept-out-of-every-message-0123456789";

/** The lines between "nothing was touched" and what to do. */
function linesOf(run: () => unknown): string[] {
  try {
    run();
  } catch (error) {
    const lines = (error as Error).message.split("\n");
    expect(lines[0]).toBe("The configuration is wrong; nothing was touched.");
    expect(lines.at(-1)).toBe("Change it in Pulumi.<stack>.yaml; docs/configuration.md describes every key.");
    return lines.slice(1, -1).map((line) => line.replace(/^ {2}/, ""));
  }
  return [];
}

describe("a wrong configuration", () => {
  it.each<[string, Record<string, unknown>, string[]]>([
    ["an empty stack file", {}, ['siem-ha:target: is missing; it must be "local" or "aws"']],
    ["another target", { target: "moon" }, ['siem-ha:target: must be "local" or "aws", but is "moon"']],
    [
      "a target that is a list",
      { target: ["local"] },
      ['siem-ha:target: must be "local" or "aws", but is the list ["local"]'],
    ],
    [
      "a target without a value",
      { target: null },
      ['siem-ha:target: has no value; it must be "local" or "aws"'],
    ],
    [
      "a target without a value, as Pulumi hands it over",
      { target: "" },
      ['siem-ha:target: has no value; it must be "local" or "aws"'],
    ],
    [
      "a number for a group",
      { target: "local", kafka: 5 },
      [
        "siem-ha:kafka: must be a group of keys (heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics), but is 5",
      ],
    ],
    [
      "a list for a group",
      { target: "local", api: [] },
      ["siem-ha:api: must be a group of keys (image, secrets), but is the list []"],
    ],
    [
      "text for a group",
      { target: "local", kafka: "fast" },
      [
        'siem-ha:kafka: must be a group of keys (heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics), but is "fast"',
      ],
    ],
    [
      "text that is almost JSON for a group",
      { target: "local", kafka: "{heapMb: 512}" },
      [
        'siem-ha:kafka: must be a group of keys (heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics), but is "{heapMb: 512}", which is not valid JSON',
      ],
    ],
    [
      "a group without a value",
      { target: "local", kafka: null },
      [
        "siem-ha:kafka: has no value; it must be a group of keys (heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics). Without one, remove the line",
      ],
    ],
    [
      "a group without a value, as Pulumi hands it over",
      { target: "local", kafka: "" },
      [
        "siem-ha:kafka: has no value; it must be a group of keys (heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics). Without one, remove the line",
      ],
    ],
    [
      "a group with something wrong, as JSON",
      { target: "local", kafka: '{"heapMb": 1}' },
      ["siem-ha:kafka.heapMb: must be a whole number from 256 to 65536, but is 1"],
    ],
    [
      "a nested key without a value",
      { target: "local", kafka: { heapMb: null } },
      [
        "siem-ha:kafka.heapMb: has no value; it must be a whole number from 256 to 65536. Without one, remove the line",
      ],
    ],
    [
      "a number in quotes",
      { target: "local", zookeeper: { heapMb: "512" } },
      ['siem-ha:zookeeper.heapMb: must be a whole number from 64 to 65536, but is "512": remove the quotes'],
    ],
    [
      "text for a number",
      { target: "local", zookeeper: { heapMb: "lots" } },
      ['siem-ha:zookeeper.heapMb: must be a whole number from 64 to 65536, but is "lots"'],
    ],
    [
      "a fraction",
      { target: "local", clickhouse: { memoryMb: 2048.5 } },
      ["siem-ha:clickhouse.memoryMb: must be a whole number from 1024 to 1048576, but is 2048.5"],
    ],
    [
      "no number at all",
      { target: "local", clickhouse: { memoryMb: Number.NaN } },
      ["siem-ha:clickhouse.memoryMb: must be a whole number from 1024 to 1048576, but is NaN"],
    ],
    [
      "too little memory",
      { target: "local", clickhouse: { memoryMb: 512 } },
      ["siem-ha:clickhouse.memoryMb: must be a whole number from 1024 to 1048576, but is 512"],
    ],
    [
      "too large a heap",
      { target: "local", kafka: { heapMb: 65537 } },
      ["siem-ha:kafka.heapMb: must be a whole number from 256 to 65536, but is 65537"],
    ],
    [
      "events kept for no time",
      { target: "local", clickhouse: { retentionDays: 0 } },
      ["siem-ha:clickhouse.retentionDays: must be a whole number from 1 to 3650, but is 0"],
    ],
    [
      "events kept for ever",
      { target: "local", clickhouse: { retentionDays: 3651 } },
      ["siem-ha:clickhouse.retentionDays: must be a whole number from 1 to 3650, but is 3651"],
    ],
    [
      "no partitions",
      { target: "local", kafka: { topics: { alerts: { partitions: 0 } } } },
      ["siem-ha:kafka.topics.alerts.partitions: must be a whole number from 1 to 1000, but is 0"],
    ],
    [
      "a topic of the team's own",
      { target: "local", kafka: { topics: { audit: { partitions: 3 } } } },
      ["siem-ha:kafka.topics.audit: unknown. Allowed here: ingest-events, alerts"],
    ],
    [
      "more copies than brokers",
      { target: "local", kafka: { replicationFactor: 4 } },
      ["siem-ha:kafka.replicationFactor: must be a whole number from 1 to 3, but is 4"],
    ],
    [
      "a quorum that can't survive",
      { target: "local", kafka: { minInsyncReplicas: 3 } },
      [
        "siem-ha:kafka.minInsyncReplicas: with 3 copies of each partition (replicationFactor) it can be at most 2, or one lost broker stops every write, but is 3",
      ],
    ],
    [
      "a single copy that two must acknowledge",
      { target: "local", kafka: { replicationFactor: 1 } },
      [
        "siem-ha:kafka.minInsyncReplicas: with one copy of each partition (replicationFactor) it can only be 1, or no write succeeds, but is 2",
      ],
    ],
    [
      "a slip in a section's name",
      { target: "local", kafak: {} },
      [
        "siem-ha:kafak: unknown; did you mean kafka? Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "a slip in a nested key",
      { target: "local", kafka: { heapMB: 512 } },
      [
        "siem-ha:kafka.heapMB: unknown; did you mean heapMb? Allowed here: heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics",
      ],
    ],
    [
      "a slip deep inside",
      { target: "local", kafka: { topics: { alerts: { partition: 3 } } } },
      ["siem-ha:kafka.topics.alerts.partition: unknown; did you mean partitions? Allowed here: partitions"],
    ],
    [
      "a key of another section",
      { target: "local", kafka: { memoryMb: 4096 } },
      [
        "siem-ha:kafka.memoryMb: unknown; there is siem-ha:clickhouse.memoryMb. Allowed here: heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics",
      ],
    ],
    [
      "a nested key at the top",
      { target: "local", heapMb: 512 },
      [
        "siem-ha:heapMb: unknown; there is siem-ha:zookeeper.heapMb and siem-ha:kafka.heapMb. Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "a key unlike any other",
      { target: "local", kafka: { x: 1 } },
      [
        "siem-ha:kafka.x: unknown. Allowed here: heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics",
      ],
    ],
    [
      "a key with a line break",
      { target: "local", kafka: { "a\nb": 1 } },
      [
        'siem-ha:kafka["a\\nb"]: unknown. Allowed here: heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics',
      ],
    ],
    [
      "a key that every object has",
      { target: "local", constructor: 1, kafka: { toString: 1 } },
      [
        "siem-ha:kafka.toString: unknown. Allowed here: heapMb, replicationFactor, minInsyncReplicas, retentionHours, segmentBytes, topics",
        "siem-ha:constructor: unknown. Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "a slip in a secret's name, whose value is not shown",
      { target: "local", jwtSecert: hidden },
      [
        "siem-ha:jwtSecert: unknown; did you mean jwtSecret? Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "a secret in a group, whose value is not shown",
      { target: "local", api: { jwtSecret: hidden } },
      ["siem-ha:api.jwtSecret: unknown; there is siem-ha:jwtSecret. Allowed here: image, secrets"],
    ],
    [
      "a slip in a required key",
      { tarlet: "local" },
      [
        "siem-ha:tarlet: unknown; did you mean target? Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "the project as a group",
      { target: "local", "siem-ha": { kafka: {} } },
      [
        "siem-ha:siem-ha: unknown: write each key with the project's name, such as siem-ha:target, and not in a group",
      ],
    ],
    [
      "a slip in the project's name",
      ownValues({ "siem-ha:target": "local", "siem_ha:kafka": {} }),
      ["siem_ha:kafka: unknown, because this project's keys begin with siem-ha: write siem-ha:kafka"],
    ],
    [
      "an encrypted value where no secret is",
      { target: "local", api: { image: { secure: "v1:abc:def" } } },
      [
        "siem-ha:api.image: is encrypted, but only jwtSecret, databasePassword, statsPassword and jwtSecretPrevious are secrets: write it as plain text, or correct its name",
      ],
    ],
    [
      "a moving image tag",
      { target: "local", api: { image: "team/api:latest" } },
      [
        'siem-ha:api.image: must be an image with an exact tag or a digest, such as "registry.example/team/siem:1.4.2" (the tag latest moves), but is "team/api:latest"',
      ],
    ],
    [
      "an image without tag",
      { target: "local", api: { image: "registry.example:5000/team/api" } },
      [
        'siem-ha:api.image: must be an image with an exact tag or a digest, such as "registry.example/team/siem:1.4.2" (the tag latest moves), but is "registry.example:5000/team/api"',
      ],
    ],
    [
      "another way to deliver secrets",
      { target: "local", api: { secrets: "vault" } },
      ['siem-ha:api.secrets: must be "file" or "env", but is "vault"'],
    ],
    [
      "syslog without a tenant",
      { target: "local", ingestor: { syslog: {} } },
      [
        'siem-ha:ingestor.syslog.tenant: is missing; it must be a tenant of 1 to 64 letters, digits, ".", "_" and "-" that begins with a letter or digit',
      ],
    ],
    [
      "syslog as a switch",
      { target: "local", ingestor: { syslog: true } },
      ["siem-ha:ingestor.syslog: must be a group of keys (tenant), but is true"],
    ],
    [
      "syslog for the API",
      { target: "local", api: { syslog: { tenant: "acme" } } },
      ["siem-ha:api.syslog: unknown; there is siem-ha:ingestor.syslog. Allowed here: image, secrets"],
    ],
    [
      "a tenant with a space",
      { target: "local", ingestor: { syslog: { tenant: "acme corp" } } },
      [
        'siem-ha:ingestor.syslog.tenant: must be a tenant of 1 to 64 letters, digits, ".", "_" and "-" that begins with a letter or digit, but is "acme corp"',
      ],
    ],
    [
      "a tenant that is a number",
      { target: "local", ingestor: { syslog: { tenant: 42 } } },
      [
        'siem-ha:ingestor.syslog.tenant: must be a tenant of 1 to 64 letters, digits, ".", "_" and "-" that begins with a letter or digit, but is 42: put it in quotes',
      ],
    ],
    [
      "a tenant that is too long",
      { target: "local", ingestor: { syslog: { tenant: "a".repeat(65) } } },
      [
        'siem-ha:ingestor.syslog.tenant: must be a tenant of 1 to 64 letters, digits, ".", "_" and "-" that begins with a letter or digit, but is "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"',
      ],
    ],
    [
      "a public network",
      { target: "local", local: { net: "8.8.8" } },
      [
        'siem-ha:local.net: must be three octets of a private range other than Docker\'s 172.17, such as "172.25.0", but is "8.8.8"',
      ],
    ],
    [
      "Docker's own network",
      { target: "local", local: { net: "172.17.0" } },
      [
        'siem-ha:local.net: must be three octets of a private range other than Docker\'s 172.17, such as "172.25.0", but is "172.17.0"',
      ],
    ],
    [
      "a whole address for a network",
      { target: "local", local: { net: "172.25.0.0/24" } },
      [
        'siem-ha:local.net: must be three octets of a private range other than Docker\'s 172.17, such as "172.25.0", but is "172.25.0.0/24"',
      ],
    ],
    [
      "two octets, which YAML takes for a number",
      { target: "local", local: { net: 172.25 } },
      [
        'siem-ha:local.net: must be three octets of a private range other than Docker\'s 172.17, such as "172.25.0", but is 172.25',
      ],
    ],
    [
      "a leading zero",
      { target: "local", local: { net: "10.01.1" } },
      [
        'siem-ha:local.net: must be three octets of a private range other than Docker\'s 172.17, such as "172.25.0", but is "10.01.1"',
      ],
    ],
    [
      "a prefix without its end",
      { target: "local", local: { prefix: "test" } },
      [
        'siem-ha:local.prefix: must be a name of at most 20 lower-case letters, digits and "-" that ends in "-", such as "test-", but is "test"',
      ],
    ],
    [
      "a remote daemon",
      { target: "local", local: { dockerHost: "tcp://192.0.2.7:2375" } },
      [
        'siem-ha:local.dockerHost: must be a socket of this machine, such as "unix:///var/run/docker.sock", but is "tcp://192.0.2.7:2375"',
      ],
    ],
    [
      "ports beyond the last",
      { target: "local", local: { portOffset: 60000 } },
      ["siem-ha:local.portOffset: must be a whole number from 0 to 9000, but is 60000"],
    ],
    [
      "a target without its settings",
      { target: "aws" },
      [
        "siem-ha:aws: is missing, and the target is aws: at least region, tier and admin.sshPublicKeys are needed",
      ],
    ],
    [
      "settings without their target",
      { target: "local", aws: { region: "nowhere" } },
      [
        "siem-ha:aws: is only for the target aws, and the target is local: remove it, or change siem-ha:target",
      ],
    ],
    [
      "settings of both targets",
      { target: "aws", aws: dev, local: {} },
      [
        "siem-ha:local: is only for the target local, and the target is aws: remove it, or change siem-ha:target",
      ],
    ],
    [
      "AWS without anything said",
      { target: "aws", aws: {} },
      [
        'siem-ha:aws.region: is missing; it must be a region, such as "eu-central-1"',
        'siem-ha:aws.tier: is missing; it must be "dev" or "prod"',
        "siem-ha:aws.admin: is missing; it must be a group of keys (sshPublicKeys, clients, access)",
      ],
    ],
    [
      "AWS without operators",
      { target: "aws", aws: { ...dev, admin: {} } },
      [
        "siem-ha:aws.admin.sshPublicKeys: is missing; it must be a list of public keys of OpenSSH, at least one, such as the line of ~/.ssh/id_ed25519.pub (without one nobody, this program included, can reach the machines)",
      ],
    ],
    [
      "a list of no keys",
      { target: "aws", aws: { ...dev, admin: { sshPublicKeys: [] } } },
      [
        "siem-ha:aws.admin.sshPublicKeys: must be a list of public keys of OpenSSH, at least one, such as the line of ~/.ssh/id_ed25519.pub (without one nobody, this program included, can reach the machines), but has 0 items",
      ],
    ],
    [
      "a key that is no list",
      { target: "aws", aws: { ...dev, admin: { sshPublicKeys: key } } },
      [
        'siem-ha:aws.admin.sshPublicKeys: must be a list of public keys of OpenSSH, at least one, such as the line of ~/.ssh/id_ed25519.pub (without one nobody, this program included, can reach the machines), but is "ssh-ed25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA…: write it as a list, in [ ]',
      ],
    ],
    [
      "a private key, which is not shown",
      {
        target: "aws",
        aws: { ...dev, admin: { sshPublicKeys: ["-----BEGIN OPENSSH PRIVATE KEY-----\n" + hidden] } },
      },
      [
        "siem-ha:aws.admin.sshPublicKeys[0]: must be a public key of OpenSSH, such as a line of ~/.ssh/id_ed25519.pub, but is a private key, which is not shown here. Take it out of the file, and make a new pair: others may have read it",
      ],
    ],
    [
      "two zones",
      { target: "aws", aws: { ...dev, zones: ["eu-central-1a", "eu-central-1b"] } },
      [
        'siem-ha:aws.zones: must be a list of exactly 3 zones (with fewer, one lost zone can take a quorum), such as ["eu-central-1a", "eu-central-1b", "eu-central-1c"], but has 2 items',
      ],
    ],
    [
      "one zone twice",
      { target: "aws", aws: { ...dev, zones: ["eu-central-1a", "eu-central-1a", "eu-central-1b"] } },
      ["siem-ha:aws.zones: must be different zones, but names one of them twice"],
    ],
    [
      "a zone that is none",
      { target: "aws", aws: { ...dev, zones: ["eu-central-1a", "eu-central-1b", "third"] } },
      ['siem-ha:aws.zones[2]: must be a zone, such as "eu-central-1a", but is "third"'],
    ],
    [
      "a zone of another region",
      { target: "aws", aws: { ...dev, zones: ["eu-central-1a", "eu-central-1b", "eu-west-1c"] } },
      ["siem-ha:aws.zones[2]: zone eu-west-1c is not in the region eu-central-1"],
    ],
    [
      "an address for a range",
      { target: "aws", aws: { ...dev, cidr: "10.42.0.0" } },
      [
        'siem-ha:aws.cidr: must be an IPv4 range in CIDR notation, such as "10.42.0.0/16", but is "10.42.0.0"',
      ],
    ],
    [
      "a VIP inside the VPC",
      { target: "aws", aws: { ...dev, vip: "10.42.3.4" } },
      [
        "siem-ha:aws.cidr: the virtual address 10.42.3.4 lies inside the VPC's range 10.42.0.0/16, where it would belong to one zone's subnet and no route could move it: choose a private address outside the VPC, such as 172.25.0.222",
      ],
    ],
    [
      "a range that Docker takes",
      { target: "aws", aws: { ...dev, cidr: "192.168.0.0/16" } },
      [
        "siem-ha:aws.cidr: 192.168.0.0/16 overlaps with 192.168.0.0/16, which Docker takes for its own networks: choose a range outside 172.17.0.0 to 172.31.255.255 and 192.168.0.0/16, such as 10.42.0.0/16",
      ],
    ],
    [
      "a type nobody knows",
      { target: "aws", aws: { ...dev, lb: { type: "t3.giant" } } },
      [
        'siem-ha:aws.lb.type: "t3.giant" is not a type this project knows; for x86-64 it knows t3.small, t3.medium, t3.large, t3.xlarge, c6i.large, c6i.xlarge, c6i.2xlarge, m6i.large, m6i.xlarge, m6i.2xlarge, m6i.4xlarge, r6i.large, r6i.xlarge, r6i.2xlarge, r6i.4xlarge. Another one needs a line in components/aws-prices.ts',
      ],
    ],
    [
      "a public entry without TLS",
      { target: "aws", aws: { ...dev, entry: { loadBalancer: { public: true, clients: ["0.0.0.0/0"] } } } },
      [
        "siem-ha:aws.entry.loadBalancer.clients[0]: 0.0.0.0/0 is a public range, which needs TLS: give entry.loadBalancer.certificateArn, the ARN of an ACM certificate",
      ],
    ],
    [
      "an entry that is half said",
      { target: "aws", aws: { ...dev, entry: { loadBalancer: { public: "true", clients: [] } } } },
      [
        'siem-ha:aws.entry.loadBalancer.public: must be true or false, but is "true": remove the quotes',
        'siem-ha:aws.entry.loadBalancer.clients: must be a list of IPv4 ranges, at least one, such as ["198.51.100.0/24"], but has 0 items',
      ],
    ],
    [
      "a certificate that is none",
      {
        target: "aws",
        aws: {
          ...dev,
          entry: {
            loadBalancer: { public: false, clients: ["10.0.0.0/8"], certificateArn: "siem.example.org" },
          },
        },
      },
      [
        'siem-ha:aws.entry.loadBalancer.certificateArn: must be the ARN of an ACM certificate (arn:aws:acm:<region>:<account>:certificate/<id>), but is "siem.example.org"',
      ],
    ],
    [
      "a key that is no ARN",
      { target: "aws", aws: { ...dev, kmsKey: "mine" } },
      [
        'siem-ha:aws.kmsKey: must be "aws", "create" or the ARN of a key (arn:aws:kms:<region>:<account>:key/<id>), but is "mine"',
      ],
    ],
    [
      "an address that is no e-mail",
      { target: "aws", aws: { ...dev, alarmEmail: "soc" } },
      ['siem-ha:aws.alarmEmail: must be an e-mail address, such as "soc@example.org", but is "soc"'],
    ],
    [
      "prod without backups and without anybody to tell",
      { target: "aws", aws: { ...dev, tier: "prod" } },
      [
        "siem-ha:aws.backup: prod needs backups: set how long they are kept, such as retentionDays: 35",
        "siem-ha:aws.alarmEmail: prod needs somebody to tell: set the address that alarms go to",
      ],
    ],
    [
      "prod as checked in, with an address to fill in",
      { target: "aws", aws: { ...dev, tier: "prod", backup: { retentionDays: 35 }, alarmEmail: null } },
      [
        'siem-ha:aws.alarmEmail: has no value; it must be an e-mail address, such as "soc@example.org". Without one, remove the line',
      ],
    ],
    [
      "more memory than a machine has",
      { target: "aws", aws: dev, clickhouse: { memoryMb: 16000 } },
      [
        "siem-ha:clickhouse.memoryMb: the containers on a store node may take 16480 MB, and a m6i.xlarge has room for 15360: lower it, or choose a larger type in siem-ha:aws store.type",
      ],
    ],
    [
      "problems of every kind at once",
      {
        kafka: { minInsyncReplicas: 3 },
        zookeeper: { heapMb: "x" },
        clickhouse: { heap: 1 },
        aws: { ...dev, tier: "prod", cidr: "8.8.0.0/16", vip: 1, lb: { dataGb: 5 } },
      },
      [
        'siem-ha:target: is missing; it must be "local" or "aws"',
        'siem-ha:aws.vip: must be an IPv4 address, such as "172.25.0.222", but is 1',
        "siem-ha:aws.lb.dataGb: must be a whole number from 10 to 16384, but is 5",
        'siem-ha:zookeeper.heapMb: must be a whole number from 64 to 65536, but is "x"',
        "siem-ha:clickhouse.heap: unknown. Allowed here: memoryMb, retentionDays",
        "siem-ha:kafka.minInsyncReplicas: with 3 copies of each partition (replicationFactor) it can be at most 2, or one lost broker stops every write, but is 3",
        "siem-ha:aws.cidr: 8.8.0.0/16 is not a private range: it must lie in one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10",
        "siem-ha:aws.backup: prod needs backups: set how long they are kept, such as retentionDays: 35",
        "siem-ha:aws.alarmEmail: prod needs somebody to tell: set the address that alarms go to",
      ],
    ],
  ])("%s", (_, values, expected) => {
    const said = linesOf(() => parseConfig(values));
    expect(said).toEqual(expected);
    expect(said.join()).not.toContain(hidden);
  });
});

describe("a wrong secret", () => {
  const good = {
    jwtSecret: "a-signing-key-of-this-test-0123456789",
    databasePassword: "a-password-of-this-test",
    statsPassword: "another-one-of-this-test",
  };
  const remedy = (name: string) =>
    `set it with: pulumi config set --secret ${name} "$(openssl rand -hex 32)"`;
  const former =
    "set it to the former jwtSecret with: pulumi config set --secret jwtSecretPrevious, or remove it with: pulumi config rm jwtSecretPrevious";
  /** What loadConfig says of a stack with these values, all but the named ones encrypted where they are secrets. */
  const load = (values: Record<string, string | undefined>, plain: readonly string[] = []): string[] => {
    const given = Object.entries({ target: "local", ...good, ...values }).filter(
      (entry): entry is [string, string] => entry[1] !== undefined,
    );
    pulumi.runtime.setAllConfig(
      Object.fromEntries(given.map(([name, value]) => [`siem-ha:${name}`, value])),
      given.map(([name]) => `siem-ha:${name}`).filter((name) => !["siem-ha:target", ...plain].includes(name)),
    );
    return linesOf(() => loadConfig());
  };
  afterEach(() => {
    pulumi.runtime.setAllConfig({});
  });

  it("is none of these", () => {
    expect(load({})).toEqual([]);
    expect(load({ jwtSecretPrevious: "the-signing-key-before-0123456789abc" })).toEqual([]);
  });

  it.each<[string, Record<string, string | undefined>, string[]]>([
    ["missing", { jwtSecret: undefined }, [`siem-ha:jwtSecret: is missing; ${remedy("jwtSecret")}`]],
    [
      "all missing",
      { jwtSecret: undefined, databasePassword: undefined, statsPassword: undefined },
      ["jwtSecret", "databasePassword", "statsPassword"].map(
        (name) => `siem-ha:${name}: is missing; ${remedy(name)}`,
      ),
    ],
    ["empty", { statsPassword: "" }, [`siem-ha:statsPassword: is empty; ${remedy("statsPassword")}`]],
    [
      "too short",
      { jwtSecret: "secret-of-31-characters-1234567" },
      [`siem-ha:jwtSecret: has 31 characters; at least 32 are needed; ${remedy("jwtSecret")}`],
    ],
    [
      "a password that is too short",
      { databasePassword: "hunter2" },
      [`siem-ha:databasePassword: has 7 characters; at least 16 are needed; ${remedy("databasePassword")}`],
    ],
    [
      "bad characters",
      { statsPassword: `${hidden}"$%&` },
      [`siem-ha:statsPassword: has characters other than A-Z a-z 0-9 _ . ~ -; ${remedy("statsPassword")}`],
    ],
    [
      "a line break at its end",
      { databasePassword: `${hidden}\n` },
      [
        `siem-ha:databasePassword: has characters other than A-Z a-z 0-9 _ . ~ - (white space at an end); ${remedy("databasePassword")}`,
      ],
    ],
    [
      "one secret twice",
      { statsPassword: good.databasePassword },
      [
        `siem-ha:statsPassword: is the same as databasePassword, and who learns one would have both; ${remedy("statsPassword")}`,
      ],
    ],
    [
      "the previous key is the current one",
      { jwtSecretPrevious: good.jwtSecret },
      [
        "siem-ha:jwtSecretPrevious: is the same as jwtSecret; set jwtSecret to a new one, or remove this with: pulumi config rm jwtSecretPrevious",
      ],
    ],
    [
      "a previous key that never was one",
      { jwtSecretPrevious: "short" },
      [`siem-ha:jwtSecretPrevious: has 5 characters; at least 32 are needed; ${former}`],
    ],
    [
      "a slip in its name, told once and not as missing too",
      { jwtSecret: undefined, jwtSecrt: hidden },
      [
        "siem-ha:jwtSecrt: unknown; did you mean jwtSecret? Allowed here: target, local, aws, zookeeper, kafka, clickhouse, api, ingestor",
      ],
    ],
    [
      "a secret encrypted into a group",
      { api: JSON.stringify({ image: hidden }) },
      [
        "siem-ha:api: is encrypted, but only jwtSecret, databasePassword, statsPassword and jwtSecretPrevious are secrets: write it as plain text, or correct its name",
      ],
    ],
  ])("%s", (_, values, expected) => {
    const said = load(values);
    expect(said).toEqual(expected);
    for (const value of [hidden, ...Object.values(good)]) expect(said.join()).not.toContain(value);
  });

  it("in plain text", () => {
    const said = load({ jwtSecret: `${hidden}-and-more` }, ["siem-ha:jwtSecret"]);
    expect(said).toEqual([
      `siem-ha:jwtSecret: is in plain text, where everybody who reads the file can read it; ${remedy("jwtSecret")}`,
    ]);
  });

  it("is named together with what else is wrong", () => {
    const said = load({ target: "moon", kafka: '{"heapMb":1}', statsPassword: undefined }, ["siem-ha:kafka"]);
    expect(said.map((line) => line.split(": ")[0])).toEqual([
      "siem-ha:target",
      "siem-ha:kafka.heapMb",
      "siem-ha:statsPassword",
    ]);
  });
});
