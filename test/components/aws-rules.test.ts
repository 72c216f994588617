// Wrong AWS configurations: each gets a message of its own, before anything is touched.

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";

const key = `ssh-ed25519 ${"A".repeat(68)} operator@example`;
const dev = { region: "eu-central-1", tier: "dev", admin: { sshPublicKeys: [key] } };
const prod = { ...dev, tier: "prod", alarmEmail: "soc@example.org", backup: { retentionDays: 35 } };
const account = "123456789012";
const certificateArn = `arn:aws:acm:eu-central-1:${account}:certificate/0a1b2c3d-0000-0000-0000-000000000000`;
const parse = (aws: object) => parseConfig({ target: "aws", aws });

describe("a good AWS configuration", () => {
  it("needs only region, tier and a key for dev", () => {
    expect(parse(dev).aws).toMatchObject({ cidr: "10.42.0.0/16", vip: "172.25.0.222", kmsKey: "aws" });
  });
  it("needs backups and somebody to tell for prod", () => {
    expect(parse(prod).aws?.backup).toEqual({ retentionDays: 35 });
  });
  it("may have a public entry with TLS, and operators from named public addresses", () => {
    parse({
      ...prod,
      entry: { loadBalancer: { public: true, clients: ["0.0.0.0/0"], certificateArn } },
      admin: { ...dev.admin, clients: ["198.51.100.7/32"], access: "bastion" },
    });
  });
});

describe("a wrong AWS configuration is refused:", () => {
  it.each<[string, object, RegExp[]]>([
    ["two zones", { ...dev, zones: ["eu-central-1a", "eu-central-1b"] }, [/aws\.zones/, /exactly 3 zones/]],
    [
      "one zone twice",
      { ...dev, zones: ["eu-central-1a", "eu-central-1a", "eu-central-1b"] },
      [/must be different/],
    ],
    [
      "a zone of another region",
      { ...dev, zones: ["eu-central-1a", "eu-central-1b", "eu-west-1c"] },
      [/zone eu-west-1c is not in the region eu-central-1/],
    ],
    ["a region that is none", { ...dev, region: "Frankfurt" }, [/aws\.region/, /such as "eu-central-1"/]],
    ["a range that is too small", { ...dev, cidr: "10.42.0.0/26" }, [/aws\.cidr/, /10\.42\.0\.0\/26/]],
    ["a public range", { ...dev, cidr: "8.8.0.0/16" }, [/aws\.cidr/, /8\.8\.0\.0\/16/]],
    ["host bits", { ...dev, cidr: "10.42.1.7/16" }, [/aws\.cidr/, /10\.42\.0\.0\/16/]],
    ["Docker's range", { ...dev, cidr: "172.17.0.0/16" }, [/aws\.cidr/, /Docker/]],
    ["a VIP inside the VPC", { ...dev, vip: "10.42.3.4" }, [/10\.42\.3\.4/, /10\.42\.0\.0\/16/]],
    ["a VPC around the overlay address", { ...dev, cidr: "172.25.0.0/16" }, [/172\.25\.0\.222/]],
    ["a VIP in Docker's range", { ...dev, vip: "172.17.0.9" }, [/172\.17\.0\.9/, /Docker/]],
    ["the metadata address as VIP", { ...dev, vip: "169.254.169.254" }, [/169\.254\.169\.254/]],
    [
      "an unknown instance type",
      { ...dev, store: { type: "m9x.huge" } },
      [/m9x\.huge/, /it knows .*m6i\.large/],
    ],
    [
      "a type of other processors",
      { ...dev, architecture: "arm64" },
      [/t3\.medium has x86-64 processors/, /architecture is arm64/],
    ],
    [
      "administration for everybody",
      { ...dev, admin: { ...dev.admin, clients: ["0.0.0.0/0"] } },
      [/admin\.clients/, /0\.0\.0\.0\/0 opens administration to everybody/],
    ],
    [
      "everybody in two halves",
      { ...dev, admin: { ...dev.admin, clients: ["0.0.0.0/1", "128.0.0.0/1"] } },
      [/0\.0\.0\.0\/1 opens/, /128\.0\.0\.0\/1 opens/],
    ],
    [
      "the plain entry for everybody",
      { ...dev, entry: { clients: ["0.0.0.0/0"] } },
      [/entry\.clients/, /plain HTTP/],
    ],
    [
      "a public load balancer without TLS",
      { ...dev, entry: { loadBalancer: { public: true, clients: ["0.0.0.0/0"] } } },
      [/loadBalancer\.clients/, /certificateArn/],
    ],
    [
      "a certificate of another region",
      {
        ...dev,
        region: "us-east-1",
        entry: { loadBalancer: { public: true, clients: ["0.0.0.0/0"], certificateArn } },
      },
      [/in the region eu-central-1, and the stack is in us-east-1/],
    ],
    ["prod without backups", { ...prod, backup: undefined }, [/prod needs backups/, /retentionDays/]],
    ["prod without a contact", { ...prod, alarmEmail: undefined }, [/prod needs somebody to tell/]],
    [
      "an address for a range",
      { ...dev, entry: { clients: ["10.1.2.3/16"] } },
      [/10\.1\.2\.3\/16 is no range, but an address in 10\.1\.0\.0\/16/],
    ],
    [
      "a bastion for nobody",
      { ...dev, admin: { ...dev.admin, access: "bastion" } },
      [/admin\.clients/, /lets nobody in/],
    ],
    ["the virtual IP's name as domain", { ...dev, domain: "siem.vip" }, [/aws\.domain/, /siem\.internal/]],
    [
      "more ranges than a security group takes",
      { ...dev, entry: { clients: Array.from({ length: 40 }, (_, n) => `10.${n}.0.0/16`) } },
      [/aws\.entry/, /60/],
    ],
    ["no key", { ...dev, admin: { sshPublicKeys: [] } }, [/sshPublicKeys/, /can reach the machines/]],
    [
      "a private key",
      { ...dev, admin: { sshPublicKeys: ["-----BEGIN OPENSSH PRIVATE KEY-----"] } },
      [/a public key of OpenSSH/],
    ],
    ["an unknown key", { ...dev, nat: 1 }, [/aws\.nat: unknown/, /Allowed here: region, tier, zones/]],
    ["a key that is no ARN", { ...dev, kmsKey: "mine" }, [/aws\.kmsKey/]],
  ])("%s", (_name, aws, patterns) => {
    let said = "";
    try {
      parse(aws);
    } catch (error) {
      said = (error as Error).message;
    }
    expect(said).toContain("nothing was touched");
    for (const pattern of patterns) expect(said).toMatch(pattern);
  });

  it("more memory than the machine has", () => {
    const config = { target: "aws", aws: dev, clickhouse: { memoryMb: 16000 }, kafka: { heapMb: 7000 } };
    expect(() => parseConfig(config)).toThrow(
      /clickhouse\.memoryMb: .*16480 MB, and a m6i\.xlarge has room for 15360/,
    );
    expect(() => parseConfig(config)).toThrow(/kafka\.heapMb: .*8312 MB, and a m6i\.large has room for 7168/);
  });

  it("the target without its settings, and the settings without the target", () => {
    expect(() => parseConfig({ target: "aws" })).toThrow(/aws: is missing/);
    expect(() => parseConfig({ target: "local", aws: dev })).toThrow(/only for the target aws/);
  });
});
