// SSH to machines, tried on a real sshd on loopback: host keys are verified, and one connection carries everything.

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { renderReadiness } from "../../components/host/machine.ts";
import { daemonAddress, providerOptions, sshEnvironment } from "../../components/host/ssh.ts";
import { type Node, plan } from "../../components/topology.ts";

const [node] = plan().nodes as [Node];
const wrapper = resolve("ops/ssh");
const sshd = "/usr/sbin/sshd";
const user = userInfo().username;
/** A name that no other test and no real machine has: the shared connection's socket is named after it. */
const instance = `i-0${process.pid.toString(16).padStart(16, "0")}`;

const missing = [sshd, "ssh", "ssh-keygen"].find((tool) => spawnSync(tool, ["-V"]).error !== undefined);
if (missing !== undefined) console.log(`skipped: ${missing} is not on this machine`);
const docker = spawnSync("docker", ["version", "--format", "{{.Server.Version}}"], { encoding: "utf8" });
if (docker.status !== 0) console.log("skipped in part: no Docker daemon answers on this machine");

describe("sshOpts of the Docker provider", () => {
  const options = providerOptions("aws tunnel --instance-id %h", "i-0abc ssh-ed25519 AAAA");
  it("has one argument an element, and no option of the plugin's own choice", () => {
    expect(options.filter((_, index) => index % 2 === 0).every((flag) => flag === "-o")).toBe(true);
    expect(options).toContain("ProxyCommand=aws tunnel --instance-id %h");
    expect(options).toContain("KnownHostsCommand=/bin/echo i-0abc ssh-ed25519 AAAA");
    expect(options).toContain("StrictHostKeyChecking=yes");
  });
  it("has nothing of the machine that it was made on", () => {
    expect(options.join("\n")).not.toContain(process.cwd());
    expect(options.join("\n")).not.toContain(process.env["HOME"]);
  });
});

describe("the environment of several machines", () => {
  it("is the union of each one's: the same options, and a host key each", () => {
    const environments = plan().nodes.map((each) => sshEnvironment(each, "proxy", `i-${each.alias} key`));
    const merged = Object.assign({}, ...environments) as Record<string, string>;
    expect(Object.keys(merged)).toHaveLength(1 + plan().nodes.length);
    expect(merged["SIEM_HA_KNOWN_HOST_STORE_NODE_2"]).toBe("i-store-node-2 key");
  });
});

describe.skipIf(missing !== undefined)("with a real sshd", () => {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-ssh-"));
  const file = (name: string) => join(directory, name);
  const log = () => readFileSync(file("sshd.log"), "utf8");
  const connections = () => log().match(/Accepted publickey/g)?.length ?? 0;
  let server: ChildProcess;
  let proxy: string;
  let knownHost: string;

  beforeAll(async () => {
    for (const name of ["host", "other", "client"])
      execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", file(name)]);
    const port = await new Promise<number>((found) => {
      const probe = createServer().listen(0, "127.0.0.1", () => {
        const address = probe.address();
        probe.close(() => found(typeof address === "object" && address !== null ? address.port : 0));
      });
    });
    writeFileSync(file("authorized"), readFileSync(file("client.pub")));
    if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true });
    writeFileSync(
      file("sshd.conf"),
      `Port ${port}
ListenAddress 127.0.0.1
HostKey ${file("host")}
AuthorizedKeysFile ${file("authorized")}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 200:30:400
MaxSessions 100
`,
    );
    server = spawn(sshd, ["-D", "-f", file("sshd.conf"), "-E", file("sshd.log")], { stdio: "ignore" });
    // What stands between: here a few lines of Node, on AWS a tunnel.
    writeFileSync(
      file("proxy.mjs"),
      `import net from "node:net";
const socket = net.connect(${port}, "127.0.0.1");
process.stdin.pipe(socket).pipe(process.stdout);
socket.on("close", () => process.exit());
`,
    );
    proxy = `${process.execPath} ${file("proxy.mjs")}`;
    knownHost = `${instance} ${readFileSync(file("host.pub"), "utf8").split(" ").slice(0, 2).join(" ")}`;
    for (
      let i = 0;
      i < 50 && spawnSync("sh", ["-c", `grep -q listening '${file("sshd.log")}'`]).status !== 0;
      i++
    )
      await sleep(100);
  });

  const endMaster = () => {
    const stop = [...providerOptions(proxy, knownHost), "-O", "exit", `${user}@${instance}`];
    spawnSync("ssh", stop, { stdio: "ignore" });
  };
  afterEach(endMaster);
  afterAll(() => {
    server.kill();
    rmSync(directory, { recursive: true });
  });

  const identity = () => `IdentityFile=${file("client")}`;
  const environment = (known = knownHost) => {
    const { SIEM_HA_SSH_OPTIONS: options, ...rest } = sshEnvironment(node, proxy, known);
    return {
      ...process.env,
      ...rest,
      SIEM_HA_SSH_OPTIONS: `${options}\n${identity()}`,
      PATH: `${wrapper}:${process.env["PATH"]}`,
    };
  };
  const ssh = (args: readonly string[], env: NodeJS.ProcessEnv = environment()) =>
    spawnSync("ssh", args, { encoding: "utf8", env, timeout: 30_000 });
  const later = (command: string, args: readonly string[]) =>
    new Promise<string>((done) => {
      const child = spawn(command, args, { env: environment() });
      let said = "";
      child.stdout.on("data", (chunk: Buffer) => (said += chunk.toString()));
      child.stderr.resume();
      // Only when nothing holds the output open any more: a shared connection that did would hang every command.
      child.once("close", () => done(said.trim()));
    });

  it("reaches the machine as the Docker provider's plugin calls ssh", () => {
    const args = ["-o", "ConnectTimeout=30", "-T", "-l", user, "--", instance, "echo", "reached"];
    const own = [...providerOptions(proxy, knownHost), "-o", identity(), ...args];
    expect(spawnSync("ssh", own, { encoding: "utf8" })).toMatchObject({ stdout: "reached\n", status: 0 });
  });

  it("reaches it as the docker command calls ssh, and keeps standard input and exit codes", () => {
    const args = ["-o", "ConnectTimeout=30", "-T", "-l", user, "--", instance];
    expect(ssh([...args, "echo", "reached"])).toMatchObject({ stdout: "reached\n", status: 0 });
    expect(ssh([...args, "exit", "7"]).status).toBe(7);
    const piped = spawnSync("ssh", [...args, "cat"], { input: "text", encoding: "utf8", env: environment() });
    expect(piped.stdout).toBe("text");
  });

  it("refuses a machine with another key, on the first connection and for both callers", () => {
    const wrong = `${instance} ${readFileSync(file("other.pub"), "utf8").split(" ").slice(0, 2).join(" ")}`;
    const target = ["-l", user, "--", instance, "true"];
    expect(ssh(target, environment(wrong))).toMatchObject({ status: 255 });
    expect(ssh(target, environment(wrong)).stderr).toMatch(/Host key verification failed/);
    const provider = [...providerOptions(proxy, wrong), "-o", identity(), ...target];
    expect(spawnSync("ssh", provider, { encoding: "utf8" }).stderr).toMatch(/Host key verification failed/);
  });

  it("refuses a machine that nothing is known about", () => {
    expect(
      ssh(["-l", user, "--", instance, "true"], environment("i-0another ssh-ed25519 AAAA")).stderr,
    ).toMatch(/No ED25519 host key is known/);
  });

  it("makes one connection for twenty callers at once, and shares it with the provider", async () => {
    const before = connections();
    const args = ["-T", "-l", user, "--", instance, "echo", "reached"];
    const said = await Promise.all(Array.from({ length: 20 }, () => later("ssh", args)));
    expect(said).toEqual(Array<string>(20).fill("reached"));
    const provider = spawnSync("ssh", [...providerOptions(proxy, knownHost), "-o", identity(), ...args]);
    expect(provider.status).toBe(0);
    expect(connections() - before).toBe(1);
  });

  it("goes on after a process that was killed while it connected", async () => {
    const socket = /^controlpath (.*)$/m.exec(ssh(["-G", `${user}@${instance}`]).stdout)?.[1] ?? "";
    const lock = `${socket}.lock`;
    mkdirSync(lock);
    execFileSync("touch", ["-d", "5 minutes ago", lock]);
    expect(await later("ssh", ["-l", user, "--", instance, "echo", "reached"])).toBe("reached");
  });

  it("says what is missing where there is no ssh", () => {
    const result = spawnSync(join(wrapper, "ssh"), [instance], {
      encoding: "utf8",
      env: { PATH: `${wrapper}:${directory}` },
    });
    expect(result.stderr).toMatch(/there is no ssh on PATH: install the OpenSSH client/);
    expect(result.status).toBe(127);
  });

  it("never calls itself, whatever PATH names it twice or relatively", () => {
    const copy = join(directory, "copy");
    mkdirSync(copy, { recursive: true });
    execFileSync("cp", [join(wrapper, "ssh"), copy]);
    for (const PATH of [`${wrapper}:${copy}:${wrapper}`, `${wrapper}:ops/ssh:${copy}`]) {
      const env = { ...process.env, PATH: `${PATH}:${process.env["PATH"]}` };
      expect(spawnSync("ssh", ["-V"], { encoding: "utf8", env, timeout: 5000 }).stderr).toMatch(/^OpenSSH/);
    }
  });

  it("leaves a call alone that is for none of the machines", () => {
    const env = { ...process.env, PATH: `${wrapper}:${process.env["PATH"]}` };
    expect(ssh(["-V"], env).stderr).toMatch(/^OpenSSH/);
  });

  it.skipIf(docker.status !== 0)("carries the docker command's connections", async () => {
    const before = connections();
    const host = daemonAddress(instance).replace(/\/\/.*@/, `//${user}@`);
    const args = ["-H", host, "version", "--format", "{{.Server.Version}}"];
    const said = await Promise.all(Array.from({ length: 8 }, () => later("docker", args)));
    expect(said).toEqual(Array<string>(8).fill(docker.stdout.trim()));
    expect(connections() - before).toBe(1);
  });

  describe("readiness of a new machine", () => {
    const bin = () => file("bin");
    const marker = () => file("ready");
    /** Runs it with a parameter store of one file, as this user, and with the marker below this test's directory. */
    const readiness = (published: string, seconds: number) => {
      writeFileSync(file("parameter"), published);
      mkdirSync(bin(), { recursive: true });
      writeFileSync(
        join(bin(), "aws"),
        `#!/bin/sh
case $1 in
  --version) echo aws-cli/2.22.1 ;;
  ssm) printf '%s\\n' "$*" >> '${file("asked")}'; cat '${file("parameter")}' ;;
esac
`,
      );
      chmodSync(join(bin(), "aws"), 0o755);
      const text = renderReadiness(node, { region: "eu-central-1" }, "prod", seconds)
        .replaceAll("ops@", `${user}@`)
        .replaceAll("/run/siem-ha/ready", marker());
      const env = environment();
      const rest = Object.fromEntries(
        Object.entries(env).filter(([name]) => !name.startsWith("SIEM_HA_KNOWN_HOST")),
      );
      const child = spawn("sh", ["-c", text], {
        env: {
          ...rest,
          PATH: `${bin()}:${process.env["PATH"]}`,
          INSTANCE: instance,
          SIEM_HA_ROOT: resolve("."),
        },
      });
      let stdout = "";
      let stderr = "";
      child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
      child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
      return new Promise<{ status: number | null; stdout: string; stderr: string }>((done) =>
        child.once("close", (status) => done({ status, stdout, stderr })),
      );
    };

    it.skipIf(docker.status !== 0)(
      "waits for the new key and the marker, and prints the known host",
      async () => {
        const stale = knownHost.replace(instance, "i-0ffffffffffffffff");
        rmSync(marker(), { force: true });
        const waiting = readiness(stale, 40);
        await sleep(1500);
        writeFileSync(file("parameter"), knownHost);
        await sleep(4000);
        writeFileSync(marker(), "");
        expect(await waiting).toEqual({ status: 0, stdout: `${knownHost}\n`, stderr: "" });
        expect(readFileSync(file("asked"), "utf8")).toContain(
          "ssm get-parameter --region eu-central-1 --name /siem-ha/prod/host-keys/lb-node-1",
        );
      },
    );

    it("gives up on a machine that never publishes its key, saying where to look", async () => {
      const result = await readiness("not published yet", 1);
      expect(result).toMatchObject({ status: 1, stdout: "" });
      expect(result.stderr).toMatch(
        /waited 1 s for lb-node-1; the last check said: it has not published its host key/,
      );
      expect(result.stderr).toMatch(/get-console-output .* --instance-id i-0/);
    });

    it("takes nothing from the parameter that is not exactly an id and a key", async () => {
      const result = await readiness(`${knownHost}; touch ${file("pwned")}`, 1);
      expect(result.status).toBe(1);
      expect(() => readFileSync(file("pwned"))).toThrow(/ENOENT/);
    });

    it("says that a machine is still being set up when only its marker is missing", async () => {
      rmSync(marker(), { force: true });
      expect((await readiness(knownHost, 1)).stderr).toMatch(/SSH works, but it is still being set up/);
    });
  });
});
