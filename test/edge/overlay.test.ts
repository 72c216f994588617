// The overlay address as resources: which routes, alarms and rights there are, and what they say.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { beforeAll, describe, expect, it } from "vitest";
import { type AwsConfig, parseConfig } from "../../components/config.ts";
import { keeperOf } from "../../components/edge/keeper.ts";
import { keeperAlarms, keeperPolicy, OverlayAddress } from "../../components/edge/overlay.ts";
import { witnessToken, witnessUrl } from "../../components/edge/witness.ts";
import {
  keeperFiles,
  renderKeepalived,
  renderKeeperSettings,
  vipUser,
} from "../../components/render/keepalived.ts";
import { ports } from "../../components/ports.ts";
import { plan } from "../../components/topology.ts";
import { imageTag } from "../../images/build.ts";

const vip = "172.25.0.222";
const topology = plan({
  machines: { address: (role, zone) => `10.42.${zone}.${{ lb: 11, stream: 21, store: 31 }[role]}`, vip },
});
const [first, second] = topology.keepalived;
if (first === undefined || second === undefined) throw new Error("the pair is missing");
const config: AwsConfig = (() => {
  const { aws } = parseConfig({
    target: "aws",
    aws: {
      region: "eu-central-1",
      tier: "dev",
      admin: {
        sshPublicKeys: [
          "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA test",
        ],
      },
      alarmEmail: "ops@example.org",
    },
  });
  if (aws === undefined) throw new Error("no aws");
  return aws;
})();
const cloud = {
  region: "eu-central-1",
  dnsSuffix: "amazonaws.com",
  routeTables: { main: "rtb-1", "private-1": "rtb-2" },
  networkInterface: "eni-1",
  topic: "arn:aws:sns:eu-central-1:123456789012:alarms",
  metrics: "siem-ha/test",
} as const;
const settings = {
  node: "lb-node-1",
  rank: "first",
  address: "10.42.1.11",
  vip,
  peers: ["10.42.2.11"],
  port: ports.witness.number,
  witness: "http://10.42.3.11:8406",
  cloud,
} as const;

interface Made {
  readonly type: string;
  readonly name: string;
  readonly inputs: Record<string, unknown>;
}

const value = <T>(output: pulumi.Output<T>): Promise<T> => new Promise((resolve) => output.apply(resolve));

describe("OverlayAddress", () => {
  const made: Made[] = [];
  const options = new Map<string, pulumi.CustomResourceOptions>();
  let overlay: OverlayAddress;
  let files: Record<string, string>;
  let token: pulumi.Output<string> | undefined;

  beforeAll(async () => {
    await pulumi.runtime.setMocks(
      {
        newResource: ({ type, name, inputs }) => {
          if (!type.startsWith("siem:")) made.push({ type, name, inputs: inputs as Record<string, unknown> });
          return { id: `${name}-id`, state: { ...(inputs as object), arn: `arn:${name}` } };
        },
        call: ({ token }) => {
          if (token === "aws:index/getPartition:getPartition") {
            return {
              id: "aws",
              partition: "aws",
              dnsSuffix: "amazonaws.com",
              reverseDnsPrefix: "com.amazonaws",
            };
          }
          if (token === "aws:index/getCallerIdentity:getCallerIdentity") {
            return { id: "1", accountId: "123456789012", arn: "arn", userId: "u" };
          }
          throw new Error(`unexpected call of ${token}`);
        },
      },
      "siem-ha",
      "test",
      false,
    );
    overlay = new OverlayAddress(
      "vip",
      {
        config,
        stack: "test",
        vip,
        routeTables: { main: pulumi.output("rtb-1"), "private-1": pulumi.output("rtb-2") },
        initialHolder: pulumi.output("eni-1"),
      },
      {
        transformations: [
          ({ type, name, opts }) => {
            options.set(`${type} ${name}`, opts);
            return undefined;
          },
        ],
      },
    );
    const keeper = keeperOf({
      topology,
      node: first.node,
      token: "t".repeat(40),
      cloud: overlay.cloud("eni-1"),
    });
    token = keeper.files[keeperFiles.token];
    const entries = await Promise.all(
      Object.entries(keeper.files).map(async ([file, text]) => [file, await value(text)] as const),
    );
    files = Object.fromEntries(entries);
    await pulumi.runtime.disconnect();
  });
  const of = (type: string) => made.filter((one) => one.type === type);

  it("makes exactly this", () => {
    const counts: Record<string, number> = {};
    for (const { type } of made) counts[type] = (counts[type] ?? 0) + 1;
    expect(counts).toEqual({
      "aws:kms/key:Key": 1,
      "aws:sns/topic:Topic": 1,
      "aws:sns/topicPolicy:TopicPolicy": 1,
      "aws:sns/topicSubscription:TopicSubscription": 1,
      "aws:cloudwatch/metricAlarm:MetricAlarm": 3,
      "aws:ec2/route:Route": 2,
    });
  });

  it("routes the address in every table to the first holder, and never moves it again", () => {
    expect(of("aws:ec2/route:Route").map(({ name, inputs }) => [name, inputs])).toEqual([
      ["vip-main", { routeTableId: "rtb-1", destinationCidrBlock: `${vip}/32`, networkInterfaceId: "eni-1" }],
      [
        "vip-private-1",
        { routeTableId: "rtb-2", destinationCidrBlock: `${vip}/32`, networkInterfaceId: "eni-1" },
      ],
    ]);
    for (const name of ["vip-main", "vip-private-1"]) {
      expect(options.get(`aws:ec2/route:Route ${name}`)).toMatchObject({
        ignoreChanges: ["networkInterfaceId"],
        deleteBeforeReplace: true,
      });
    }
    expect(() => overlay.route("eni-2")).toThrow("made once");
  });

  it("encrypts the alarms with a key that lets CloudWatch's through", () => {
    const [key] = of("aws:kms/key:Key");
    expect(key?.inputs).toMatchObject({ enableKeyRotation: true });
    const policy = JSON.parse(String(key?.inputs["policy"])) as { Statement: Record<string, unknown>[] };
    expect(policy.Statement).toHaveLength(2);
    expect(policy.Statement[1]).toMatchObject({
      Principal: { Service: "cloudwatch.amazonaws.com" },
      Action: ["kms:GenerateDataKey*", "kms:Decrypt"],
    });
    expect(of("aws:sns/topic:Topic")[0]?.inputs).toMatchObject({ kmsMasterKeyId: `arn:${key?.name}` });
    expect(of("aws:sns/topicSubscription:TopicSubscription")[0]?.inputs).toEqual({
      topic: "arn:vip-alarms",
      protocol: "email",
      endpoint: "ops@example.org",
    });
  });

  it("lets only this account's CloudWatch publish, and nobody without TLS", () => {
    const policy = JSON.parse(String(of("aws:sns/topicPolicy:TopicPolicy")[0]?.inputs["policy"])) as unknown;
    expect(policy).toMatchObject({
      Statement: [
        {
          Effect: "Allow",
          Principal: { Service: "cloudwatch.amazonaws.com" },
          Resource: "arn:vip-alarms",
          Condition: { StringEquals: { "aws:SourceAccount": "123456789012" } },
        },
        { Effect: "Deny", Principal: "*", Condition: { Bool: { "aws:SecureTransport": "false" } } },
      ],
    });
  });

  it("watches from outside: silence of the holder is an alarm too", () => {
    for (const { inputs } of of("aws:cloudwatch/metricAlarm:MetricAlarm")) {
      expect(inputs).toMatchObject({
        namespace: "siem-ha/test",
        alarmActions: ["arn:vip-alarms"],
        okActions: ["arn:vip-alarms"],
      });
    }
    const alarm = keeperAlarms(vip).find(({ metric }) => metric === "VipHolder");
    expect(alarm).toMatchObject({ comparison: "LessThanThreshold", missing: "breaching" });
  });

  it("allows its keepers these calls, each on what it is about", async () => {
    expect(JSON.parse(await value(overlay.policy()))).toEqual(
      keeperPolicy({
        routeTables: ["rtb-1", "rtb-2"].map(
          (id) => `arn:aws:ec2:eu-central-1:123456789012:route-table/${id}`,
        ),
        topic: "arn:vip-alarms",
        topicKey: "arn:vip-alarms",
        namespace: "siem-ha/test",
        region: "eu-central-1",
      }),
    );
    const { Statement } = keeperPolicy({
      routeTables: ["t"],
      topic: "s",
      topicKey: "k",
      namespace: "n",
      region: "r",
    });
    expect(Statement.flatMap(({ Action }) => Action)).toEqual([
      "ec2:ReplaceRoute",
      "ec2:DescribeRouteTables",
      "sns:Publish",
      "kms:GenerateDataKey",
      "kms:Decrypt",
      "cloudwatch:PutMetricData",
    ]);
    // Where a call knows no resource, a condition stands in its place.
    for (const statement of Statement.filter(({ Resource }) => Resource === "*")) {
      expect(statement.Condition).toBeDefined();
    }
  });

  it("gives a keeper its settings, and the token as a secret", async () => {
    expect(Object.keys(files)).toEqual([keeperFiles.settings, keeperFiles.token]);
    expect(files[keeperFiles.settings]).toBe(
      renderKeeperSettings({ ...settings, cloud: { ...cloud, topic: "arn:vip-alarms" } }),
    );
    expect(files[keeperFiles.token]).toBe("t".repeat(40));
    expect(await pulumi.isSecret(token as pulumi.Output<string>)).toBe(true);
  });
});

describe("the keeper's texts", () => {
  it.each([
    ["keepalived-aws-1.conf", () => renderKeepalived(topology, first, "ens5")],
    ["vip-aws-1.conf", () => renderKeeperSettings(settings)],
  ])("%s", async (name, render) => {
    await expect(render()).toMatchFileSnapshot(`../golden/${name}`);
  });

  it.each([
    ["node", "lb'; rm -rf /"],
    ["witness", "http://$(id)"],
    ["cloud", { ...cloud, topic: "" }],
  ])("refuses a %s that a shell would read otherwise", (key, value) => {
    expect(() => renderKeeperSettings({ ...settings, [key]: value })).toThrow(/are allowed/);
  });

  it("say the same number of the account as the image does", () => {
    const image = imageTag("keepalived");
    const found = spawnSync(
      "docker",
      ["run", "--rm", "--network", "none", "--entrypoint", "id", image, "-u", vipUser.name],
      {
        encoding: "utf8",
      },
    );
    if (found.status !== 0) {
      console.log(`skipped: image ${image} can't be run here`);
      return;
    }
    expect(found.stdout.trim()).toBe(String(vipUser.uid));
  });
});

describe("the witness's place", () => {
  it("is the load balancer node that never holds the address", () => {
    const { node } = topology.witness;
    expect(topology.keepalived.map((keeper) => keeper.node)).not.toContain(node);
    expect(node.alias).toBe("lb-node-3");
    expect(witnessUrl(topology)).toBe(`http://${node.address}:${ports.witness.number}`);
  });
  it("knows its callers by a token that does not show the secret it is made from", async () => {
    const one = await value(witnessToken(pulumi.output("secret-1")));
    expect(one).toMatch(/^[0-9a-f]{64}$/);
    expect(one).toBe(await value(witnessToken(pulumi.output("secret-1"))));
    expect(one).not.toBe(await value(witnessToken(pulumi.output("secret-2"))));
  });
});

const shellcheck = spawnSync("shellcheck", ["--version"]).status === 0;
if (!shellcheck) console.log("skipped: shellcheck is not on this machine");
describe.skipIf(!shellcheck)("shellcheck", () => {
  const folder = join(import.meta.dirname, "../../images/keepalived");
  const scripts = readdirSync(folder).filter((name) => name.endsWith(".sh"));
  const check = (file: string) => spawnSync("shellcheck", ["-x", "-P", folder, file], { encoding: "utf8" });
  it.each(scripts)("has nothing to say about %s", (name) => {
    const { stdout, status } = check(join(folder, name));
    expect(stdout).toBe("");
    expect(status).toBe(0);
  });
  it.each(["pair-entry.sh", "clickhouse-entry.sh"])("has nothing to say about %s either", (name) => {
    expect(check(join(import.meta.dirname, "../golden", name)).stdout).toBe("");
  });
  it("refuses a broken script, so that the check can fail", () => {
    const directory = mkdtempSync(join(tmpdir(), "siem-ha-shellcheck-"));
    writeFileSync(join(directory, "broken.sh"), "#!/bin/bash\nrm -rf $1/*\n");
    expect(check(join(directory, "broken.sh")).status).not.toBe(0);
    rmSync(directory, { recursive: true });
  });
});
