// Our own images reach machines by registry: what is asked of AWS, and the whole way against a real registry and daemon.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as aws from "@pulumi/aws";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Host } from "../../components/host/host.ts";
import { expiryPolicy, pullPolicy, pullScript, Registry } from "../../components/host/registry.ts";
import { ownImages } from "../../components/images.ts";
import { type Platform, publishedTag, publishImage } from "../../images/build.ts";
import { account, counts, only, record, valueOf } from "../storage/mocked.ts";

const config = { region: "eu-central-1", architecture: "x86-64" } as const;
const url = (image: string) => `${account}.dkr.ecr.eu-central-1.amazonaws.com/siem-ha-prod-${image}`;

/** A machine, as far as the registry looks at one. */
function machine(name: string): Host {
  return {
    provider: new docker.Provider(`${name}-docker`, { host: `ssh://ops@${name}` }),
    address: `ssh://ops@${name}`,
    environment: { SIEM_HA_KNOWN_HOSTS: "known" },
    stack: "prod",
    machine: new aws.ec2.Instance(name, { ami: "ami-0", instanceType: "t3.medium" }),
    image: () => pulumi.output("sha256:0"),
    ownImage: () => pulumi.output("sha256:0"),
  };
}

describe("Registry", () => {
  it("has an immutable, scanned repository for each image, and one role that pulls from just these", async () => {
    const { resources } = await record(() => new Registry("registry", { config, stack: "prod" }));
    expect(counts(resources)).toEqual({
      "aws:ecr/repository:Repository": ownImages.length,
      "aws:ecr/lifecyclePolicy:LifecyclePolicy": ownImages.length,
      "command:local:Command": ownImages.length,
      "aws:iam/role:Role": 1,
      "aws:iam/rolePolicy:RolePolicy": 1,
    });
    for (const image of ownImages) {
      const repository = only(resources, "aws:ecr/repository:Repository", `repository-${image}`);
      expect(repository.inputs).toMatchObject({
        name: `siem-ha-prod-${image}`,
        imageTagMutability: "IMMUTABLE",
        imageScanningConfiguration: { scanOnPush: true },
        encryptionConfigurations: [{ encryptionType: "AES256" }],
      });
      const publish = only(resources, "command:local:Command", `image-${image}`);
      expect(publish.inputs).toMatchObject({
        environment: { REPOSITORY: url(image) },
        triggers: [publishedTag(image, "linux/amd64"), "AES256"],
      });
      expect(publish.inputs["create"]).toContain(
        `images/build.ts ${image} --push "$REPOSITORY" --platform linux/amd64`,
      );
    }
    const policy = JSON.parse(
      only(resources, "aws:iam/rolePolicy:RolePolicy").inputs["policy"] as string,
    ) as {
      Statement: { Action: string | string[]; Resource: string | string[] }[];
    };
    expect(policy.Statement.map(({ Resource }) => Resource)).toEqual([
      "*",
      ownImages.map((image) => `arn:aws:ecr:eu-central-1:${account}:repository/siem-ha-prod-${image}`),
    ]);
    expect(policy.Statement[0]?.Action).toBe("ecr:GetAuthorizationToken");
  });

  it("builds for the machines' processors, and encrypts with the stack's key", async () => {
    const key = `arn:aws:kms:eu-central-1:${account}:key/0a1b`;
    const { resources } = await record(
      () =>
        new Registry("registry", {
          config: { ...config, architecture: "arm64" },
          stack: "prod",
          key: pulumi.output(key),
        }),
    );
    expect(only(resources, "aws:ecr/repository:Repository", "repository-api").inputs).toMatchObject({
      encryptionConfigurations: [{ encryptionType: "KMS", kmsKey: key }],
    });
    const publish = only(resources, "command:local:Command", "image-api").inputs;
    expect(publish["create"]).toContain("--platform linux/arm64");
    expect(publish["triggers"]).toEqual([publishedTag("api", "linux/arm64"), key]);
    expect(publishedTag("api", "linux/arm64")).not.toBe(publishedTag("api", "linux/amd64"));
  });

  it("pulls on a machine by digest, again when the machine is another, and hands out the id there", async () => {
    const { resources, result } = await record(() => {
      const registry = new Registry("registry", { config, stack: "prod" });
      return registry.pulledOn(machine("i-0abc"), "lb-node-1", "api", {});
    });
    expect(only(resources, "command:local:Command", "lb-node-1-image-api").inputs).toEqual({
      create: pullScript,
      environment: {
        SIEM_HA_KNOWN_HOSTS: "known",
        DOCKER_HOST: "ssh://ops@i-0abc",
        REFERENCE: "stdout of image-api",
        REGION: "eu-central-1",
        PULL_ROLE: `arn:aws:iam::${account}:role/siem-ha-prod-pull`,
      },
      triggers: ["stdout of image-api", "Instance/i-0abc"],
    });
    expect(await valueOf(result)).toBe("stdout of lb-node-1-image-api");
  });

  it("leaves an image that the team brings where it is", async () => {
    const { resources, result } = await record(() => {
      const registry = new Registry("registry", {
        config,
        stack: "prod",
        replacements: { api: "registry.example.com/team/api:1.4.2" },
      });
      expect(() => registry.published("api")).toThrow("the team brings registry.example.com/team/api:1.4.2");
      return registry.pulledOn(machine("i-0abc"), "lb-node-1", "api", {});
    });
    expect(counts(resources)["aws:ecr/repository:Repository"]).toBe(ownImages.length - 1);
    expect(only(resources, "docker:index/remoteImage:RemoteImage").inputs).toMatchObject({
      name: "registry.example.com/team/api:1.4.2",
    });
    expect(await valueOf(result)).toBe("sha256:registry.example.com/team/api:1.4.2");
  });

  it("keeps a number of versions, and grants no writing", () => {
    expect(JSON.parse(expiryPolicy(20))).toMatchObject({
      rules: [{ selection: { tagStatus: "any", countType: "imageCountMoreThan", countNumber: 20 } }],
    });
    expect(pullPolicy(["arn"])).not.toMatch(/Put|Upload|Delete|\*"\]/);
  });
});

const shellcheck = spawnSync("shellcheck", ["--version"]).status === 0;
if (!shellcheck) console.warn("the pull script is not checked by shellcheck: there is no such command");
it.skipIf(!shellcheck)("the pull script is good shell", () => {
  const { stdout, status } = spawnSync("shellcheck", ["--shell=sh", "-"], {
    input: pullScript,
    encoding: "utf8",
  });
  expect(stdout).toBe("");
  expect(status).toBe(0);
});

const password = "password-of-the-registry-in-the-tests";
const tried = spawnSync("docker", ["version", "--format", "{{.Server.Version}}"], { encoding: "utf8" });
const missing =
  tried.status !== 0
    ? `no Docker daemon answers (${tried.stderr?.trim() ?? "no docker command"})`
    : spawnSync("docker-registry", ["--version"]).status !== 0
      ? "there is no docker-registry command (Debian's package docker-registry)"
      : undefined;
if (missing !== undefined) console.warn(`the tests with a real registry are left out: ${missing}`);

describe.skipIf(missing !== undefined)("against a real registry", () => {
  const work = mkdtempSync(join(tmpdir(), "siem-ha-registry-test-"));
  const bin = join(work, "bin");
  const scratch = join(work, "tmp");
  const root = join(work, "project");
  const lines: string[] = [];
  const args = (platform: Platform = "linux/amd64") => ({
    repository,
    platform,
    password,
    log: (line: string) => lines.push(line),
    root,
    // The image is made from nothing.
    pullBase: false,
  });
  let registry: ChildProcess;
  let repository: string;

  const write = (file: string, text: string, mode = 0o644) => {
    writeFileSync(file, text);
    chmodSync(file, mode);
  };
  const dockerOut = (...command: string[]) =>
    spawnSync("docker", command, { encoding: "utf8" }).stdout.trim();
  /** Removes everything of the repository from the daemon, which makes it a machine that never saw it. */
  const forget = () => {
    const ids = dockerOut("image", "ls", "--quiet", "--no-trunc", repository).split("\n");
    for (const id of new Set(ids.filter((id) => id !== ""))) dockerOut("image", "rm", "--force", id);
  };
  /** Runs the machine's command with an AWS CLI that writes down what it is called with. */
  const pull = (reference: string, environment: Record<string, string> = {}) => {
    const ran = spawnSync("sh", ["-c", pullScript], {
      encoding: "utf8",
      env: {
        PATH: `${bin}:${process.env["PATH"]}`,
        TMPDIR: scratch,
        WORK: work,
        SIEM_HA_ROOT: root,
        DOCKER_HOST: process.env["DOCKER_HOST"] ?? "unix:///var/run/docker.sock",
        REFERENCE: reference,
        REGION: "eu-central-1",
        PULL_ROLE: `arn:aws:iam::${account}:role/siem-ha-test-pull`,
        RETRY_SECONDS: "0.1",
        AWS_PROFILE: "of-whoever-deploys",
        ...environment,
      },
    });
    return { code: ran.status, stdout: ran.stdout.trim(), stderr: ran.stderr.trim() };
  };

  beforeAll(async () => {
    for (const folder of [bin, scratch, join(root, "ops/ssh"), join(root, "images/keepalived")]) {
      mkdirSync(folder, { recursive: true });
    }
    cpSync(
      join(import.meta.dirname, "../../images/keepalived/entrypoint.sh"),
      join(root, "images/keepalived/entrypoint.sh"),
    );
    write(
      join(root, "images/keepalived/Dockerfile"),
      'ARG BASE\nFROM scratch\nCOPY entrypoint.sh /\nCMD ["/entrypoint.sh"]\n',
    );
    // What crosses a command line ends up in a log.
    const note = 'echo "$(basename "$0") $*" >> "$WORK/called"\n';
    write(
      join(bin, "aws"),
      `#!/bin/sh
${note}case "$1 $2" in
"sts assume-role")
  if [ -e "$WORK/refuse" ] && [ "$(grep -c assume-role "$WORK/called")" -le "$(cat "$WORK/refuse")" ]; then
    echo "An error occurred (\${REFUSAL:-AccessDenied}) when calling the AssumeRole operation" >&2
    exit 254
  fi
  printf 'key-of-the-role\\tsecret-of-the-role\\ttoken-of-the-role\\n' ;;
"ecr get-login-password")
  [ "$AWS_ACCESS_KEY_ID/$AWS_SECRET_ACCESS_KEY/$AWS_SESSION_TOKEN/\${AWS_PROFILE-none}" = key-of-the-role/secret-of-the-role/token-of-the-role/none ] || exit 3
  echo ${password} ;;
*) exit 4 ;;
esac
`,
      0o755,
    );
    const real = spawnSync("sh", ["-c", "command -v docker"], { encoding: "utf8" }).stdout.trim();
    write(join(bin, "docker"), `#!/bin/sh\n${note}exec ${real} "$@"\n`, 0o755);

    const port = await new Promise<number>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const address = server.address();
        server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
      });
    });
    repository = `127.0.0.1:${port}/siem-ha-test-keepalived`;
    const hash = spawnSync(
      "perl",
      ["-e", "print crypt($ARGV[0], q($2b$05$abcdefghijklmnopqrstuu))", password],
      {
        encoding: "utf8",
      },
    ).stdout;
    write(join(work, "htpasswd"), `AWS:${hash}\n`);
    write(
      join(work, "registry.yml"),
      `version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: ${work}/registry } }
auth: { htpasswd: { realm: test, path: ${work}/htpasswd } }
http: { addr: "127.0.0.1:${port}" }
`,
    );
    registry = spawn("docker-registry", ["serve", join(work, "registry.yml")], { stdio: "ignore" });
    for (let attempt = 0; ; attempt++) {
      const answer = await fetch(`http://127.0.0.1:${port}/v2/`).catch(() => undefined);
      if (answer?.status === 401) break;
      if (attempt > 100) throw new Error("the registry does not start");
      await sleep(100);
    }
  });
  afterAll(() => {
    forget();
    registry.kill();
    rmSync(work, { recursive: true, force: true });
  });

  it("publishes what is not there, once, by digest", async () => {
    const reference = await publishImage("keepalived", args());
    expect(reference).toMatch(new RegExp(`^${repository}@sha256:[0-9a-f]{64}$`));
    expect(lines.splice(0)).toEqual([expect.stringMatching(/: built and pushed in \d+ s$/)]);
    // Nothing is left here, as on another operator's machine, and still nothing is built.
    forget();
    expect(await publishImage("keepalived", args())).toBe(reference);
    expect(lines.splice(0)).toEqual([expect.stringMatching(/: published already$/)]);
    expect(dockerOut("image", "ls", "--quiet", repository)).toBe("");
  });

  it("publishes for other processors beside it", async () => {
    const reference = await publishImage("keepalived", args("linux/arm64"));
    expect(reference).not.toBe(await publishImage("keepalived", args()));
    const tag = `${repository}:${publishedTag("keepalived", "linux/arm64", root)}`;
    expect(dockerOut("image", "inspect", "--format", "{{.Architecture}}", tag)).toBe("arm64");
    lines.splice(0);
  });

  it("says why it can't", async () => {
    await expect(publishImage("keepalived", { ...args(), password: "wrong" })).rejects.toThrow(
      /^the registry 127\.0\.0\.1:\d+ answers 401 for /,
    );
    await expect(publishImage("keepalived", { ...args(), repository: "127.0.0.1:1/siem" })).rejects.toThrow(
      /^can't reach the registry 127\.0\.0\.1:1: /,
    );
  });

  it("brings it to a machine without the password ever being in an argument or left on a disk", async () => {
    const reference = await publishImage("keepalived", args());
    forget();
    const first = pull(reference);
    expect(first).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^sha256:[0-9a-f]{64}$/) as string,
    });
    expect(dockerOut("image", "inspect", "--format", "{{.Id}}", reference)).toBe(first.stdout);
    const called = readFileSync(join(work, "called"), "utf8");
    expect(called).toContain("docker pull");
    expect(called).not.toMatch(
      new RegExp(`${password}|${Buffer.from(`AWS:${password}`).toString("base64")}|of-the-role`),
    );
    expect(readdirSync(scratch)).toEqual([]);
    // The same again changes nothing.
    expect(pull(reference)).toMatchObject({ code: 0, stdout: first.stdout });
  });

  it("removes versions that no container uses", async () => {
    const old = await publishImage("keepalived", args());
    forget();
    expect(pull(old).code).toBe(0);
    const container = dockerOut("create", old);
    writeFileSync(join(root, "images/keepalived/more"), "new\n");
    const next = await publishImage("keepalived", args());
    expect(next).not.toBe(old);
    const there = () =>
      dockerOut("image", "ls", "--digests", "--format", "{{.Repository}}@{{.Digest}}", repository).split(
        "\n",
      );
    expect(pull(next).code).toBe(0);
    expect(there()).toContain(old);
    dockerOut("rm", container);
    expect(pull(next).code).toBe(0);
    expect(new Set(there())).toEqual(new Set([next]));
  });

  it("waits for a role that was just made, and not for one that it may not have", async () => {
    const reference = await publishImage("keepalived", args());
    const refused = (times: number, environment: Record<string, string> = {}) => {
      rmSync(join(work, "called"), { force: true });
      writeFileSync(join(work, "refuse"), String(times));
      const result = pull(reference, environment);
      const asked = readFileSync(join(work, "called"), "utf8").split("assume-role").length - 1;
      rmSync(join(work, "refuse"));
      return { ...result, asked };
    };
    expect(refused(2)).toMatchObject({ code: 0, asked: 3 });
    expect(refused(99)).toMatchObject({
      code: 1,
      asked: 8,
      stdout: "",
      stderr: expect.stringContaining(
        `can't take the role arn:aws:iam::${account}:role/siem-ha-test-pull; whoever deploys must be allowed sts:AssumeRole on it`,
      ) as string,
    });
    expect(refused(99, { REFUSAL: "ExpiredToken" })).toMatchObject({ code: 1, asked: 1 });
    expect(readdirSync(scratch)).toEqual([]);
    expect(existsSync(join(scratch, "config.json"))).toBe(false);
  });
});
