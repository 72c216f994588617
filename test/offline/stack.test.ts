// Proves the stand-ins with the real engine on a real Docker daemon: a small stack's whole life.

import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import type { OutputMap, PulumiFn, Stack } from "@pulumi/pulumi/automation/index.js";
import { LocalWorkspace } from "@pulumi/pulumi/automation/index.js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { ensurePlugins } from "../../offline/plugins.ts";

const run = promisify(execFile);
const image = "busybox:1.36.1";
const id = `siem-ha-offline-${process.pid}`;
const label = { label: "siem-ha.stack", value: id };
const secret = "correct-horse-battery";

const missing = ((): string | undefined => {
  try {
    execFileSync("docker", ["image", "inspect", image], { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return String((error as { stderr?: Buffer }).stderr ?? error).trim();
  }
})();
if (missing !== undefined) console.warn(`stand-ins are not tried on Docker, it has no ${image}: ${missing}`);

interface Options {
  /** @default the daemon of this machine */
  readonly host?: string;
  readonly memory?: number;
  readonly env?: string;
  readonly trigger?: string;
  readonly update?: string;
  readonly volumeLabel?: string;
  readonly brokenGuest?: boolean;
  readonly unknownField?: boolean;
}

function program(options: Options): PulumiFn {
  // The Automation API takes promises only.
  // eslint-disable-next-line @typescript-eslint/require-await
  return async () => {
    const provider = new docker.Provider("local", {
      host: options.host ?? "unix:///var/run/docker.sock",
      disableDockerDaemonCheck: true,
    });
    const opts = { provider, deleteBeforeReplace: true };
    const busybox = new docker.RemoteImage("image", { name: image, keepLocally: true }, { provider });
    const network = new docker.Network(
      "net",
      {
        name: `${id}-net`,
        driver: "bridge",
        ipamConfigs: [{ subnet: "172.31.213.0/24", gateway: "172.31.213.1", ipRange: "172.31.213.64/26" }],
        labels: [label],
      },
      opts,
    );
    const volume = new docker.Volume(
      "data",
      { name: `${id}-data`, labels: [label, { label: "generation", value: options.volumeLabel ?? "1" }] },
      { provider },
    );
    const anchor = new docker.Container(
      "anchor",
      {
        name: `${id}-anchor`,
        image: busybox.imageId,
        hostname: "node-1",
        command: ["tail", "-f", "/dev/null"],
        restart: "always",
        memory: options.memory ?? 32,
        memorySwap: options.memory ?? 32,
        cpus: "0.5",
        networksAdvanced: [{ name: network.name, ipv4Address: "172.31.213.11", aliases: ["kafka-1"] }],
        ports: [{ internal: 8080, external: 42813, ip: "127.0.0.1" }],
        labels: [label],
        capabilities: { adds: ["CAP_NET_ADMIN"] },
        init: true,
        ...(options.unknownField === true && { gpus: "all" }),
      },
      opts,
    );
    const guest = new docker.Container(
      "guest",
      {
        name: `${id}-guest`,
        image: busybox.imageId,
        networkMode: pulumi.interpolate`container:${anchor.id}`,
        command:
          options.brokenGuest === true
            ? ["/no/such/command"]
            : [
                "sh",
                "-c",
                "trap 'echo stopped > /data/stopped; exit 0' TERM; cat /run/secret > /data/seen; while :; do sleep 1; done",
              ],
        envs: [`MODE=${options.env ?? "one"}`],
        destroyGraceSeconds: 10,
        labels: [label],
        volumes: [{ volumeName: volume.name, containerPath: "/data" }],
        uploads: [{ file: "/run/secret", content: pulumi.secret(secret), permissions: "0400" }],
        healthcheck: {
          tests: ["CMD", "test", "-f", "/data/seen"],
          interval: "1s",
          timeout: "5s",
          retries: 30,
        },
        wait: true,
        waitTimeout: 60,
      },
      opts,
    );
    const gate = new command.local.Command("gate", {
      create: 'cat; echo "create:$TOKEN:$PULUMI_COMMAND_STDOUT"',
      update: options.update ?? 'echo "update:$PULUMI_COMMAND_STDOUT"',
      delete: "true",
      stdin: "in ",
      environment: { TOKEN: pulumi.secret(secret) },
      triggers: [guest.id, options.trigger ?? "1"],
    });
    return {
      anchor: anchor.id,
      guest: guest.id,
      address: anchor.networkDatas.apply((datas) => datas[0]?.ipAddress),
      imageId: busybox.imageId,
      stdout: gate.stdout,
    };
  };
}

const values = (outputs: OutputMap): Record<string, unknown> =>
  Object.fromEntries(Object.entries(outputs).map(([key, { value }]) => [key, value as unknown]));
const sh = async (...args: string[]): Promise<string> => (await run("docker", args)).stdout.trim();
const left = (): Promise<string[]> =>
  Promise.all(
    [
      ["ps", "-aq"],
      ["volume", "ls", "-q"],
      ["network", "ls", "-q"],
    ].map((list) => sh(...list, "--filter", `label=${label.label}=${id}`)),
  );

describe.skipIf(missing !== undefined)("a small stack on the stand-ins", () => {
  const home = mkdtempSync(join(tmpdir(), "siem-ha-offline-"));
  let stack: Stack;
  const change = (options: Options): void => void (stack.workspace.program = program(options));
  const empty = { same: 8 };
  // Not `exportStack`: that one decrypts.
  const stateFile = (): string =>
    readFileSync(join(home, ".pulumi", "stacks", "offline-kit", "offline.json"), "utf8");

  beforeAll(async () => {
    const log = (line: string): void => console.info(line);
    const cli = await ensurePulumiCli(log);
    await ensurePlugins(log, home, cli.command.command);
    stack = await LocalWorkspace.createOrSelectStack(
      { stackName: "offline", projectName: "offline-kit", program: program({}) },
      {
        pulumiCommand: cli.command,
        pulumiHome: home,
        projectSettings: { name: "offline-kit", runtime: "nodejs", backend: { url: `file://${home}` } },
        envVars: {
          PULUMI_CONFIG_PASSPHRASE: "test",
          PULUMI_BACKEND_URL: `file://${home}`,
          PULUMI_SKIP_UPDATE_CHECK: "true",
        },
      },
    );
  }, 30 * 60_000);

  afterAll(async () => {
    await run("sh", ["-c", `docker ps -aq --filter label=${label.label}=${id} | xargs -r docker rm -fv`]);
    await run("sh", [
      "-c",
      `docker volume ls -q --filter label=${label.label}=${id} | xargs -r docker volume rm`,
    ]);
    await run("sh", [
      "-c",
      `docker network ls -q --filter label=${label.label}=${id} | xargs -r docker network rm`,
    ]);
    rmSync(home, { recursive: true, force: true });
  });

  let first: Record<string, unknown>;

  it("previews without a daemon", { timeout: 60_000 }, async () => {
    change({ host: "tcp://127.0.0.1:9" });
    expect((await stack.preview()).changeSummary).toEqual({ create: 8 });
    change({});
  });

  it("comes up", { timeout: 60_000 }, async () => {
    const result = await stack.up();
    expect(result.summary.resourceChanges).toEqual({ create: 8 });
    first = values(result.outputs);
    expect(first.address).toBe("172.31.213.11");
    expect(first.imageId).toMatch(/^sha256:/);
    expect(first.stdout).toBe(`in create:${secret}:`);
    expect(result.outputs.stdout?.secret).toBe(true);
    expect(await sh("exec", `${id}-guest`, "cat", "/data/seen")).toBe(secret);
    expect(await sh("exec", `${id}-guest`, "stat", "-c", "%a", "/run/secret")).toBe("400");
    expect(await sh("exec", `${id}-guest`, "hostname")).toBe("node-1");
  });

  it("keeps secrets out of the state", () => {
    const state = stateFile();
    expect(state).toContain(`${id}-guest`);
    expect(state).not.toContain(secret);
    expect(state).not.toContain(Buffer.from(secret).toString("base64"));
  });

  it("is empty at the second up, and after a refresh", { timeout: 60_000 }, async () => {
    expect((await stack.up()).summary.resourceChanges).toEqual(empty);
    expect((await stack.refresh()).summary.resourceChanges).toEqual(empty);
    expect((await stack.up()).summary.resourceChanges).toEqual(empty);
    expect((await stack.preview()).changeSummary).toEqual(empty);
  });

  it(
    "updates memory in place, and reruns a changed command with its old output",
    { timeout: 60_000 },
    async () => {
      change({ memory: 48, update: 'echo "again:$PULUMI_COMMAND_STDOUT"' });
      const result = await stack.up();
      expect(result.summary.resourceChanges).toEqual({ same: 6, update: 2 });
      expect(values(result.outputs).stdout).toBe(`again:in create:${secret}:`);
      expect(values(result.outputs).anchor).toBe(first.anchor);
      expect(await sh("inspect", "-f", "{{.HostConfig.Memory}}", `${id}-anchor`)).toBe(
        String(48 * 1024 * 1024),
      );
    },
  );

  it(
    "replaces a guest whose environment changed, gracefully, and the gate it triggers",
    { timeout: 60_000 },
    async () => {
      change({ memory: 48, update: "true", env: "two" });
      const result = await stack.up();
      expect(result.summary.resourceChanges).toEqual({ same: 6, replace: 2 });
      expect(values(result.outputs).guest).not.toBe(first.guest);
      expect(await sh("exec", `${id}-guest`, "cat", "/data/stopped")).toBe("stopped");
    },
  );

  it("sees after a refresh what happened outside", { timeout: 90_000 }, async () => {
    await sh("rm", "-f", `${id}-guest`);
    expect((await stack.preview()).changeSummary).toEqual(empty);
    expect((await stack.refresh()).summary.resourceChanges).toMatchObject({ delete: 1 });
    await stack.up();
    const anchor = await sh("inspect", "-f", "{{.Id}}", `${id}-anchor`);
    await sh("rm", "-f", `${id}-guest`);
    await sh("stop", "-t", "0", `${id}-anchor`);
    await stack.refresh();
    const result = await stack.up();
    expect(result.summary.resourceChanges).toMatchObject({ update: 1, create: 1 });
    expect(values(result.outputs).anchor).toBe(anchor);
    expect(await sh("inspect", "-f", "{{.State.Running}}", `${id}-anchor`)).toBe("true");
    expect((await stack.up()).summary.resourceChanges).toEqual(empty);
  });

  it("records a guest that did not come up, and replaces it next time", { timeout: 90_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", brokenGuest: true });
    await expect(stack.up()).rejects.toThrow(/Unable to start container/);
    expect(stateFile()).toContain("initErrors");
    expect(stateFile()).not.toContain(secret);
    change({ memory: 48, update: "true", env: "two" });
    expect((await stack.up()).summary.resourceChanges).toMatchObject({ replace: 2 });
    expect((await stack.up()).summary.resourceChanges).toEqual(empty);
  });

  it("loses a volume's data when its label changes, while up stays green", { timeout: 90_000 }, async () => {
    const guest = `${id}-guest`;
    await sh("exec", guest, "sh", "-c", "echo precious > /data/precious");
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await expect(sh("exec", guest, "cat", "/data/precious")).rejects.toThrow(/No such file/);
  });

  it("refuses an input it does not know, by name", { timeout: 60_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2", unknownField: true });
    await expect(stack.preview()).rejects.toThrow(/has no "gpus"/);
  });

  it("fails a command with what it said on stderr", { timeout: 60_000 }, async () => {
    change({ memory: 48, env: "two", volumeLabel: "2", update: "echo broken-gate >&2; exit 3" });
    await expect(stack.up()).rejects.toThrow(/exit status 3[\s\S]*broken-gate/);
  });

  it("does not take over a leftover of the same name", { timeout: 60_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await sh("rename", `${id}-guest`, `${id}-away`);
    await sh("run", "-d", "--name", `${id}-guest`, "--label", `${label.label}=${id}`, image, "sleep", "600");
    change({ memory: 48, update: "true", env: "three", volumeLabel: "2" });
    await expect(stack.up()).rejects.toThrow(/Unable to create container: .*Conflict/);
    await sh("rm", "-f", `${id}-guest`);
  });

  it("goes down and leaves nothing", { timeout: 60_000 }, async () => {
    await stack.destroy();
    expect(await left()).toEqual(["", "", ""]);
  });
});
