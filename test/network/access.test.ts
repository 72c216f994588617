// The way in: what is made for each of the two, and that the commands it consists of really work.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { type AwsConfig } from "../../components/config.ts";
import { Access, jumpCommand, renderHostKeyCommand, tunnelCommand } from "../../components/network/access.ts";
import { renderBastion } from "../../components/render/bastion.ts";
import { awsConfig, counts, inputsOf, prodConfig, record, region, valueOf } from "./mocked.ts";

const hostKey = `ssh-ed25519 ${"C".repeat(68)}`;
/** Whether a tool is there; what can't be checked without it is left out, and said once. */
const has = (tool: string, ...args: string[]): boolean => {
  const found = spawnSync(tool, args, { stdio: "ignore" }).error === undefined;
  if (!found) console.warn(`skipped what needs ${tool}: it is not on this machine`);
  return found;
};
const make = (config: AwsConfig) =>
  record(
    (opts) =>
      new Access(
        "access",
        {
          config,
          stack: "test",
          publicSubnetIds: ["public-1", "public-2", "public-3"],
          privateSubnetIds: ["private-1", "private-2", "private-3"],
          securityGroupId: "sg-1",
          ami: "ami-1",
          after: [],
        },
        opts,
      ),
  );

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "siem-access-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("the Instance Connect Endpoint", () => {
  it("stands in the zone without a load balancer of the pair, and opens nothing", async () => {
    const { resources, result } = await make(awsConfig());
    expect(counts(resources)).toEqual({ InstanceConnectEndpoint: 1 });
    expect(inputsOf(resources, "InstanceConnectEndpoint")["access"]).toMatchObject({
      subnetId: "private-3",
      securityGroupIds: ["sg-1"],
      preserveClientIp: false,
    });
    expect(await valueOf(result.proxyCommand)).toBe(
      "aws ec2-instance-connect open-tunnel --instance-id %h --region eu-central-1",
    );
    expect(result.ready).toHaveLength(1);
  });
});

describe("the bastion", () => {
  const config = prodConfig({
    architecture: "arm64",
    lb: { type: "t4g.medium" },
    stream: { type: "m6g.large" },
    store: { type: "m6g.xlarge" },
    admin: { access: "bastion", clients: ["198.51.100.7/32"] },
  });

  it("is one machine that may do nothing in AWS, with an address that stays", async () => {
    const { resources, result } = await make(config);
    expect(counts(resources)).toEqual({ Instance: 1, Eip: 1, Command: 1 });
    const inputs = inputsOf(resources, "Instance")["access-bastion"];
    expect(inputs).toMatchObject({
      ami: "ami-1",
      instanceType: "t4g.micro",
      subnetId: "public-3",
      vpcSecurityGroupIds: ["sg-1"],
      metadataOptions: { httpTokens: "required", httpPutResponseHopLimit: 1 },
      rootBlockDevice: { encrypted: true, volumeType: "gp3" },
    });
    expect(inputs).not.toHaveProperty("iamInstanceProfile");
    expect(inputs).not.toHaveProperty("keyName");
    const instance = resources.find(({ type }) => type.endsWith(":Instance"));
    expect(instance?.opts.ignoreChanges).toEqual(["ami", "userData", "userDataBase64"]);
    expect(inputsOf(resources, "Eip")["access-bastion"]).toMatchObject({
      instance: "Instance/access-bastion",
    });
    expect(await valueOf(result.proxyCommand)).toContain(
      "-W %h.eu-central-1.compute.internal:22 jump@198.51.100.9",
    );
    expect(result.ready).toHaveLength(3);
  });

  it("asks for its host key again when it is another machine", async () => {
    const command = inputsOf((await make(config)).resources, "Command")["access-bastion-host-key"];
    expect(command).toMatchObject({
      environment: { INSTANCE_ID: "Instance/access-bastion" },
      triggers: ["Instance/access-bastion"],
    });
  });
});

describe("the command through the bastion", () => {
  const bastion = { region, id: "i-0abc", host: "198.51.100.9", key: hostKey };

  it.skipIf(!has("ssh", "-V"))("is what ssh understands, and verifies the bastion's key", () => {
    const words = jumpCommand(bastion).replace("%h", "i-0def");
    const shown = spawnSync("sh", ["-c", words.replace(" ssh ", " ssh -G -F none ")], { encoding: "utf8" });
    expect(shown.stderr).toBe("");
    const settings = shown.stdout.split("\n");
    for (const line of [
      "user jump",
      "hostname 198.51.100.9",
      "hostkeyalias i-0abc",
      "stricthostkeychecking true",
      `knownhostscommand /bin/echo i-0abc ${hostKey}`,
      "hostkeyalgorithms ssh-ed25519",
    ]) {
      expect(settings).toContain(line);
    }
  });

  it("has no sign that ssh would expand but the name of the machine", () => {
    expect(jumpCommand(bastion).match(/%./g)).toEqual(["%h"]);
    expect(tunnelCommand(region).match(/%./g)).toEqual(["%h"]);
  });

  it("knows that one region's names are different", () => {
    expect(jumpCommand({ ...bastion, region: "us-east-1" })).toContain("-W %h.ec2.internal:22 ");
  });
});

describe("the host key from the console", () => {
  const console = (body: string) => `[   12.3] cloud-init[600]: ready\r
ci-info: | ssh-ed25519 | SHA256:abc | - | operator@example |\r
${body}`;
  const block = `-----BEGIN SSH HOST KEY KEYS-----\r
ssh-ed25519 ${"C".repeat(68)} root@ip-10-42-96-9\r
-----END SSH HOST KEY KEYS-----\r
`;
  /** Runs the command with an `aws` that answers one text after the other. */
  const run = (answers: readonly string[], region_ = region) => {
    const here = mkdtempSync(join(directory, "aws-"));
    for (const [index, answer] of answers.entries()) writeFileSync(join(here, `answer-${index}`), answer);
    writeFileSync(
      join(here, "aws"),
      `#!/bin/sh
n=$(cat "${here}/n" 2>/dev/null || echo 0)
echo $((n + 1)) > "${here}/n"
echo "$*" >> "${here}/asked"
cat "${here}/answer-$n"
`,
    );
    chmodSync(join(here, "aws"), 0o755);
    const result = spawnSync("sh", ["-c", renderHostKeyCommand(region_)], {
      encoding: "utf8",
      timeout: 20_000,
      env: {
        PATH: `${here}${delimiter}${process.env["PATH"]}`,
        INSTANCE_ID: "i-0abc",
        SIEM_HA_POLL_SECONDS: "0",
      },
    });
    return { ...result, asked: spawnSync("cat", [join(here, "asked")], { encoding: "utf8" }).stdout };
  };

  it("is waited for, and printed alone", () => {
    const { stdout, status, asked } = run(["None\n", console(""), console(block)]);
    expect(status).toBe(0);
    expect(stdout).toBe(`ssh-ed25519 ${"C".repeat(68)}`);
    expect(asked.trim().split("\n")).toEqual(
      Array.from(
        { length: 3 },
        () =>
          "ec2 get-console-output --latest --region eu-central-1 --instance-id i-0abc --query Output --output text",
      ),
    );
  });

  it("is not just any key that stands there", () => {
    const other = `ssh-ed25519 ${"D".repeat(68)} somebody\r\n`;
    expect(run([console(other + block + other)]).stdout).toBe(`ssh-ed25519 ${"C".repeat(68)}`);
  });

  it("ends the deployment when AWS refuses to say", () => {
    // The third answer is missing: `aws` fails.
    const { status, stdout } = run(["None\n", "None\n"]);
    expect(status).not.toBe(0);
    expect(stdout).toBe("");
  });

  it.skipIf(!has("shellcheck", "--version"))("is asked for by a script without findings", () => {
    const checked = spawnSync("shellcheck", ["-s", "sh", "-"], {
      input: renderHostKeyCommand(region),
      encoding: "utf8",
    });
    expect(checked.stdout).toBe("");
    expect(checked.status).toBe(0);
  });
});

describe("the bastion's cloud-init", () => {
  const text = renderBastion({
    user: "jump",
    sshPublicKeys: ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"],
  });
  const config = parse(text) as {
    users: Record<string, unknown>[];
    ssh_genkeytypes: string[];
    write_files: { path: string; content: string }[];
  };
  const sshd = config.write_files.find(({ path }) => path.startsWith("/etc/ssh/"))?.content ?? "";

  it("makes one account without a shell, for the operators' keys", () => {
    expect(text.startsWith("#cloud-config\n")).toBe(true);
    expect(config.users).toEqual([
      expect.objectContaining({
        name: "jump",
        shell: "/usr/sbin/nologin",
        lock_passwd: true,
        ssh_authorized_keys: ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"],
      }),
    ]);
    expect(config.ssh_genkeytypes).toEqual(["ed25519"]);
  });

  it.skipIf(!has("cloud-init", "--version"))("is valid", () => {
    const file = join(directory, "bastion.yaml");
    writeFileSync(file, text);
    const checked = spawnSync("cloud-init", ["schema", "--config-file", file], { encoding: "utf8" });
    expect(checked.stdout + checked.stderr).toContain("Valid");
    expect(checked.status).toBe(0);
  });

  it.skipIf(!has("sshd", "-V") || !has("ssh-keygen", "-V"))(
    "lets the account pass on to SSH ports and do nothing else",
    () => {
      const key = join(directory, "host_key");
      spawnSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", key]);
      const file = join(directory, "sshd_config");
      writeFileSync(file, sshd.replace("/etc/ssh/ssh_host_ed25519_key", key));
      const sshdPath = spawnSync("sh", ["-c", "command -v sshd"], { encoding: "utf8" }).stdout.trim();
      const shown = spawnSync(sshdPath, ["-T", "-f", file, "-C", "user=jump,host=h,addr=198.51.100.7"], {
        encoding: "utf8",
      });
      expect(shown.status, shown.stderr).toBe(0);
      const settings = shown.stdout.split("\n");
      for (const line of [
        "allowusers jump",
        "permitrootlogin no",
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "allowtcpforwarding local",
        "permitopen *:22",
        "allowagentforwarding no",
        "permittty no",
      ]) {
        expect(settings).toContain(line);
      }
    },
  );
});
