// A machine's first boot: whole golden files, then every part given to the program that will read it.

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash, createHmac } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { parse } from "yaml";
import { renderReadiness, reservedPorts } from "../../components/host/machine.ts";
import {
  type CloudInitArgs,
  renderCloudInit,
  renderMetadataFirewall,
  userDataLimit,
} from "../../components/render/cloud-init.ts";
import { type Node, plan } from "../../components/topology.ts";

const topology = plan({
  machines: {
    address: (role, zone) => `10.42.${16 * (zone - 1)}.${{ lb: 11, stream: 21, store: 31 }[role]}`,
    vip: "172.25.0.222",
  },
});
const nodeOf = (alias: string): Node => {
  const node = topology.nodes.find((candidate) => candidate.alias === alias);
  if (node === undefined) throw new Error(`no node ${alias}`);
  return node;
};
const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE0 operator";
const hookUid = 4711;
const argsFor = (alias: string, sshPublicKeys: string[] = [key]): CloudInitArgs => ({
  node: nodeOf(alias),
  stack: "prod",
  config: {
    region: "eu-central-1",
    architecture: alias.startsWith("store") ? "arm64" : "x86-64",
    domain: "siem.internal",
    admin: { sshPublicKeys, clients: [], access: "instance-connect" },
  },
  volumeId: "vol-0123456789abcdef0",
  reservedPorts,
  metadataUid: alias.startsWith("lb") ? hookUid : undefined,
});
const texts = Object.fromEntries(
  topology.nodes.map((node) => [node.alias, renderCloudInit(argsFor(node.alias))]),
);
const textOf = (alias: string): string => {
  const text = texts[alias];
  if (text === undefined) throw new Error(`no text for ${alias}`);
  return text;
};

const directory = mkdtempSync(join(tmpdir(), "siem-ha-cloud-init-"));
afterAll(() => rmSync(directory, { recursive: true }));

interface WrittenFile {
  readonly path: string;
  readonly content: string;
  readonly permissions: string;
}
const parsed = parse(textOf("lb-node-1")) as { write_files: WrittenFile[]; packages: string[] };
/** The files as they are on the machine, below a directory of this test. */
for (const { path, content, permissions } of parsed.write_files) {
  const target = join(directory, path);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, content, { mode: parseInt(permissions, 8) });
}
const written = (path: string) => join(directory, path);
const scriptNames = ["data-disk", "publish-host-key", "install-ssm-agent"];
const script = (name: string) => written(`/usr/local/lib/siem-ha/${name}`);

const run = (command: string, args: readonly string[], env: Record<string, string> = {}) => {
  const result = spawnSync(command, args, { encoding: "utf8", env: { ...process.env, ...env } });
  return { status: result.status, said: result.stdout + result.stderr };
};
const lacks = (tool: string, ...args: string[]) => {
  const missing = spawnSync(tool, args).error !== undefined;
  if (missing) console.log(`skipped: ${tool} is not on this machine`);
  return missing;
};
/** Namespaces of one's own need root, and a kernel that gives them. */
const noNamespaces = () => {
  const missing = spawnSync("unshare", ["--mount", "--net", "--propagation", "private", "true"]).status !== 0;
  if (missing) console.log("skipped: this user can't make network and mount namespaces (root can)");
  return missing;
};

describe("golden files", () => {
  it.each(["lb-node-1", "store-node-2"])("cloud-init-%s.yaml", async (alias) => {
    await expect(textOf(alias)).toMatchFileSnapshot(`../golden/cloud-init-${alias}.yaml`);
  });
});

describe("user data", () => {
  it("is smaller than EC2's limit on every machine, with room for the keys of twenty operators", () => {
    for (const node of topology.nodes) {
      const text = renderCloudInit(argsFor(node.alias, Array<string>(20).fill(key)));
      expect(Buffer.byteLength(text), node.alias).toBeLessThan(userDataLimit);
    }
  });

  it("refuses more keys than fit, saying how many characters do", () => {
    const many = Array<string>(100).fill(key);
    expect(() => renderCloudInit(argsFor("lb-node-1", many))).toThrow(
      /^the first-boot data of lb-node-1 has \d+ bytes, and EC2 takes 16384: siem-ha:aws admin\.sshPublicKeys has 8900 characters, at most \d{4} fit/,
    );
  });

  it("lets containers use the machine's credentials only where the hook runs", () => {
    expect(textOf("lb-node-1")).toContain(`meta skuid ${hookUid} accept`);
    for (const node of topology.nodes.filter(({ role }) => role !== "lb")) {
      expect(textOf(node.alias), node.alias).not.toContain(`skuid ${hookUid}`);
    }
  });

  it("reserves Wazuh's port, which clients' connections could take", () => {
    expect(textOf("store-node-2")).toMatch(/ip_local_reserved_ports = 55000$/m);
  });

  it("gives every machine a parameter of its own for its host key", () => {
    for (const node of topology.nodes) {
      expect(textOf(node.alias)).toContain(`"Name":"/siem-ha/prod/host-keys/${node.alias}"`);
    }
  });
});

describe.skipIf(lacks("cloud-init", "--version"))("cloud-init schema", () => {
  const check = (text: string) => {
    const file = written("user-data.yaml");
    writeFileSync(file, text);
    return run("cloud-init", ["schema", "--config-file", file]);
  };
  it.each(topology.nodes.map((node) => node.alias))("accepts %s", (alias) => {
    expect(check(textOf(alias))).toMatchObject({ status: 0 });
  });
  it("refuses a broken one, so the check can fail", () => {
    expect(check(textOf("lb-node-1").replace("ssh_pwauth: false", "ssh_pwauth: 7")).status).toBe(1);
  });
});

describe.skipIf(lacks("shellcheck", "--version"))("shellcheck", () => {
  const readiness = written("readiness.sh");
  writeFileSync(
    readiness,
    `#!/bin/sh\n${renderReadiness(nodeOf("lb-node-1"), { region: "eu-central-1" }, "prod")}`,
  );
  it.each([...scriptNames.map(script), readiness, "ops/ssh/ssh"])("accepts %s", (file) => {
    expect(run("shellcheck", [file])).toEqual({ status: 0, said: "" });
  });
  it("refuses a broken one, so the check can fail", () => {
    const file = written("broken.sh");
    writeFileSync(file, '#!/bin/sh\n[ -b "$device" ] && echo $(cat $undefined)\n');
    expect(run("shellcheck", [file]).status).toBe(1);
  });
});

describe.skipIf(lacks("/usr/sbin/sshd", "-V"))("sshd -t", () => {
  const hostKey = written("host-key");
  const check = (text: string) => {
    if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true });
    const file = written("sshd.conf");
    writeFileSync(file, text.replace("/etc/ssh/ssh_host_ed25519_key", hostKey));
    return run("/usr/sbin/sshd", ["-t", "-f", file]);
  };
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", hostKey]);
  const text = parsed.write_files.find(({ path }) => path.startsWith("/etc/ssh/"))?.content ?? "";
  it("accepts the rendered file", () => {
    expect(check(text)).toEqual({ status: 0, said: "" });
  });
  it("refuses a broken one, so the check can fail", () => {
    expect(check(text.replace("200:30:400", "200:30:40")).status).toBe(255);
  });
});

describe.skipIf(lacks("chronyd", "--version"))("chronyd -p", () => {
  const check = (text: string) => {
    const file = written("chrony.conf");
    writeFileSync(file, text);
    return run("chronyd", ["-p", "-f", file]);
  };
  const text = parsed.write_files.find(({ path }) => path.startsWith("/etc/chrony/"))?.content ?? "";
  it("accepts the time source", () => expect(check(text)).toEqual({ status: 0, said: text }));
  it("refuses a broken one, so the check can fail", () => {
    expect(check(text.replace("minpoll", "minpol")).status).toBe(1);
  });
});

describe.skipIf(lacks("systemd-analyze", "--version"))("systemd-analyze verify", () => {
  const unit = /^\/etc\/systemd\/system\/(siem[^/]*)$/;
  const check = (name: string, change: (text: string) => string = (text) => text) => {
    const folder = mkdtempSync(written("units-"));
    const files = parsed.write_files.flatMap(({ path, content }) => {
      const [, file] = unit.exec(path) ?? [];
      if (file === undefined) return [];
      // The scripts are below this test's directory, Docker's client may be missing.
      const here = content
        .replaceAll("/usr/local/lib/siem-ha/", `${written("/usr/local/lib/siem-ha")}/`)
        .replaceAll("/usr/bin/docker version", "/usr/bin/true")
        .replaceAll("/usr/sbin/nft -f", "/usr/bin/true -f");
      writeFileSync(join(folder, file), file === name ? change(here) : here);
      return [join(folder, file)];
    });
    return { files, ...run("systemd-analyze", ["verify", ...files]) };
  };
  it("accepts all units", () => {
    const { files, said } = check("");
    expect(files).toHaveLength(7);
    // Docker's own unit is not on every machine that runs the tests.
    expect(said.split("\n").filter((line) => /siem/.test(line) && !/docker\.service/.test(line))).toEqual([]);
  });
  it("refuses a broken one, so the check can fail", () => {
    const broken = check("siem-ha-data.service", (text) => text.replace("Type=oneshot", "Type=onceshot"));
    expect(broken.said).toMatch(/onceshot/);
  });
});

describe.skipIf(lacks("nft", "--version") || noNamespaces())(
  "the firewall around the metadata service",
  () => {
    /** In namespaces of its own: the machine's control groups, a metadata service on loopback, and who gets through. */
    const who = (firewall: string): Record<string, boolean> => {
      const file = written("metadata.nft");
      writeFileSync(file, firewall);
      const server =
        'require("node:http").createServer((_, response) => response.end("credentials")).listen(80, "169.254.169.254", () => console.log("up"))';
      const inside = `set -eu
mount -t cgroup2 none /sys/fs/cgroup
cd /sys/fs/cgroup
service=system.slice/siem-ha-test.service container=siem.slice/docker-1.scope other=siem-ha-test.slice
for group in $service init.scope $container $other; do mkdir -p "$group"; done
ip link set lo up
ip address add 169.254.169.254/32 dev lo
mkfifo "$1/up.$$"
'${process.execPath}' -e '${server}' > "$1/up.$$" & server=$!
read -r _ < "$1/up.$$"
try() {
  sh -c 'echo $$ > "$1/cgroup.procs"
    exec setpriv --reuid="$2" --clear-groups curl --interface 127.0.0.1 --noproxy "*" -s -o /dev/null --max-time 2 http://169.254.169.254/' sh "$1" "$2" &&
    echo "$1 $2 true" || echo "$1 $2 false"
}
nft -f "$2"
# Twice: a restart of the service must not fail or add a second set of rules.
nft -f "$2"
for user in 0 1000 ${hookUid}; do
  for group in $service $container $other; do try "$group" "$user"; done
done
kill "$server"; wait "$server" 2>/dev/null || true
# Only what was made here goes: on a machine with systemd some were there before, and are not empty.
rmdir $service $container siem.slice $other
rmdir system.slice init.scope 2>/dev/null || true
`;
      const result = spawnSync(
        "unshare",
        ["--mount", "--net", "--propagation", "private", "bash", "-c", inside, "bash", directory, file],
        { encoding: "utf8", timeout: 50_000 },
      );
      if (!result.stdout.includes(" true") && !result.stdout.includes(" false")) {
        throw new Error(`the trial did not run: ${result.stdout}${result.stderr}`);
      }
      return Object.fromEntries(
        result.stdout
          .trim()
          .split("\n")
          .map((line) => line.split(" "))
          .map(([group, user, through]) => [`${group} ${user}`, through === "true"]),
      );
    };
    const through = (answers: Record<string, boolean>) =>
      Object.keys(answers).filter((name) => answers[name]);

    it("lets through the machine's own root and the hook's user, and nobody else", () => {
      const answers = who(renderMetadataFirewall(hookUid));
      expect(Object.keys(answers)).toHaveLength(9);
      expect(through(answers).sort()).toEqual([
        `siem-ha-test.slice ${hookUid}`,
        `siem.slice/docker-1.scope ${hookUid}`,
        "system.slice/siem-ha-test.service 0",
        `system.slice/siem-ha-test.service ${hookUid}`,
      ]);
    });
    it("lets no container through where there is no hook", () => {
      expect(through(who(renderMetadataFirewall(undefined)))).toEqual([
        "system.slice/siem-ha-test.service 0",
      ]);
    });
  },
);

describe.skipIf(noNamespaces() || lacks("mkfs.ext4", "-V"))("the data disk", () => {
  /** Runs shell with the disk's script as `$script` on a file as its disk, in a mount namespace of its own. */
  const trial = (steps: string) => {
    const folder = mkdtempSync(written("disk-"));
    const inside = `set -u
cd "$1"; script=$2
truncate -s 64M disk
SIEM_HA_DEVICE=$(losetup --show -f disk) || exit 77
export SIEM_HA_DEVICE SIEM_HA_DATA="$1/data" SIEM_HA_VOLUMES="$1/volumes" SIEM_HA_SECONDS=1
trap 'umount "$SIEM_HA_VOLUMES" "$SIEM_HA_DATA" 2>/dev/null; losetup -d "$SIEM_HA_DEVICE"' EXIT
${steps}`;
    return run("unshare", [
      "--mount",
      "--propagation",
      "private",
      "bash",
      "-c",
      inside,
      "bash",
      folder,
      script("data-disk"),
    ]);
  };
  const noLoop = trial("true").status === 77;
  if (noLoop) console.log("skipped: this machine has no loop devices");

  it.skipIf(noLoop)("formats a blank one, and keeps what is on it after that", () => {
    const result = trial(`"$script" && echo kept > "$SIEM_HA_VOLUMES/file" &&
      umount "$SIEM_HA_VOLUMES" && umount "$SIEM_HA_DATA" && "$script" && "$script" && cat "$SIEM_HA_DATA/docker-volumes/file" "$SIEM_HA_VOLUMES/file"`);
    expect(result.said).toMatch(/kept\nkept\n$/);
    expect(result.status).toBe(0);
  });
  it.skipIf(noLoop)("touches nothing on one that holds something else", () => {
    const before = 'head -c 65536 /dev/urandom > "$SIEM_HA_DEVICE"; before=$(sha256sum < "$SIEM_HA_DEVICE")';
    const result = trial(`${before}
      "$script" && exit 1; [ "$before" = "$(sha256sum < "$SIEM_HA_DEVICE")" ] && echo untouched`);
    expect(result.said).toMatch(/is not blank: nothing was done to it/);
    expect(result.said).toMatch(/^untouched$/m);
  });
  it.skipIf(noLoop)("touches nothing on one with another file system", () => {
    const result = trial('mkswap -q "$SIEM_HA_DEVICE"; "$script"');
    expect(result.said).toMatch(/holds swap, not ext4: nothing was done to it/);
    expect(result.status).toBe(1);
  });
  it.skipIf(noLoop)("fails, naming the disk, when none appears", () => {
    const result = trial('SIEM_HA_DEVICE=/dev/not-there "$script"');
    expect(result.said).toMatch(/the data disk \/dev\/not-there did not appear: is the volume attached\?/);
  });
});

describe.skipIf(lacks("dockerd", "--version") || noNamespaces())("the Docker daemon", () => {
  const start = async (text: string, trial: (host: string) => void): Promise<string> => {
    const folder = mkdtempSync(join(tmpdir(), "siem-ha-dockerd-"));
    const config = join(folder, "daemon.json");
    writeFileSync(config, text);
    const host = `unix://${folder}/docker.sock`;
    const places = ["data-root", "exec-root", "pidfile"].map((place) => `--${place}=${folder}/${place}`);
    // A network namespace of its own, so that a wrong setting can't touch this machine's.
    const daemon: ChildProcess = spawn(
      "unshare",
      ["--net", "dockerd", `--config-file=${config}`, `--host=${host}`, ...places],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    let said = "";
    daemon.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const ended = new Promise((resolve) => daemon.once("exit", resolve));
    for (let i = 0; i < 150 && daemon.exitCode === null; i++) {
      if (spawnSync("docker", ["-H", host, "version"]).status === 0) {
        trial(host);
        break;
      }
      await sleep(200);
    }
    daemon.kill("SIGTERM");
    await ended;
    rmSync(folder, { recursive: true, force: true });
    return said;
  };
  const text = parsed.write_files.find(({ path }) => path.endsWith("/daemon.json"))?.content ?? "";

  it("starts with the rendered settings, and has no network of its own", async () => {
    let live = "";
    let networks = "";
    const said = await start(text, (host) => {
      live = run("docker", [
        "-H",
        host,
        "info",
        "--format",
        "{{.LiveRestoreEnabled}} {{.LoggingDriver}}",
      ]).said;
      networks = run("docker", ["-H", host, "network", "ls", "--format", "{{.Name}}"]).said;
    });
    expect(live, said).toBe("true json-file\n");
    expect(networks.trim().split("\n").sort()).toEqual(["host", "none"]);
  });
  it("refuses a broken one, so the check can fail", async () => {
    const broken = text.replace('"live-restore"', '"life-restore"');
    expect(await start(broken, () => {})).toMatch(/life-restore/);
  });
});

describe.skipIf(lacks("curl", "--version"))("the host key's publication", () => {
  const secret = "secret-of-the-test/with+signs=";
  const publicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE root@lb-node-1";

  /** What AWS would compute from the request (Signature Version 4), without its code. */
  const signature = (
    method: string,
    headers: Record<string, string | string[] | undefined>,
    body: string,
    signed: string[],
    scope: string,
  ) => {
    const hash = (data: string) => createHash("sha256").update(data).digest("hex");
    const mac = (by: string | Buffer, data: string) => createHmac("sha256", by).update(data).digest();
    const canonical = [
      method,
      "/",
      "",
      ...signed.map((name) => `${name}:${String(headers[name]).trim()}`),
      "",
      signed.join(";"),
      hash(body),
    ].join("\n");
    const toSign = ["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hash(canonical)].join("\n");
    const signingKey = scope.split("/").reduce<string | Buffer>(mac, `AWS4${secret}`);
    return createHmac("sha256", signingKey).update(toSign).digest("hex");
  };

  /** Runs the script against a metadata service and a parameter store on loopback. */
  const publish = async (status: number) => {
    const asked: string[] = [];
    let put:
      { target: unknown; body: unknown; authorization: string; expected: string; token: unknown } | undefined;
    const server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const { url = "", method = "", headers } = request;
        asked.push(`${method} ${url}`);
        const body = Buffer.concat(chunks).toString();
        if (method === "PUT") return response.end("token-of-the-test");
        if (method === "POST") {
          const authorization = headers.authorization ?? "";
          const [, scope = "", signed = ""] =
            /Credential=AKIATEST\/([^,]+), SignedHeaders=([^,]+)/.exec(authorization) ?? [];
          put = {
            target: headers["x-amz-target"],
            body: JSON.parse(body),
            authorization,
            expected: signature(method, headers, body, signed.split(";"), scope),
            token: headers["x-amz-security-token"],
          };
          response.statusCode = status;
          return response.end("{}");
        }
        if (headers["x-aws-ec2-metadata-token"] !== "token-of-the-test") {
          response.statusCode = 401;
          return response.end();
        }
        const answers: Record<string, string> = {
          "/latest/meta-data/instance-id": "i-0123456789abcdef0",
          "/latest/meta-data/iam/security-credentials/": "prod-lb-node-1",
          "/latest/meta-data/iam/security-credentials/prod-lb-node-1": JSON.stringify(
            { Code: "Success", AccessKeyId: "AKIATEST", SecretAccessKey: secret, Token: "session/token+==" },
            null,
            2,
          ),
        };
        response.end(answers[url]);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const here = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    writeFileSync(written("host-key-of-the-test.pub"), `${publicKey}\n`);
    const child = spawn("sh", [script("publish-host-key")], {
      env: {
        PATH: process.env["PATH"],
        SIEM_HA_METADATA: here,
        SIEM_HA_SSM: here,
        SIEM_HA_HOST_KEY: written("host-key-of-the-test.pub"),
      },
    });
    const code = await new Promise((resolve) => child.once("exit", resolve));
    server.close();
    return { asked, put, code };
  };

  it("writes its id and key, signed as AWS checks it, with a session of the machine's own role", async () => {
    const { put, code } = await publish(200);
    expect(code).toBe(0);
    expect(put?.target).toBe("AmazonSSM.PutParameter");
    expect(put?.body).toEqual({
      Name: "/siem-ha/prod/host-keys/lb-node-1",
      Value: "i-0123456789abcdef0 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE",
      Type: "String",
      Overwrite: true,
    });
    expect(put?.token).toBe("session/token+==");
    expect(put?.authorization).toContain("/eu-central-1/ssm/aws4_request");
    expect(put?.authorization.endsWith(`Signature=${put.expected}`), put?.authorization).toBe(true);
  });
  it("fails when it is refused, so that systemd runs it again", async () => {
    const { code } = await publish(400);
    expect(code).not.toBe(0);
  });
});
