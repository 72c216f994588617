// Proves the stand-ins with the real engine on a real Docker daemon: a small stack's whole life. It is their conformance
// suite: what it expects was seen of the real plugin. To see it again, name that one's program:
// SIEM_HA_DOCKER_PLUGIN=/path/to/pulumi-resource-docker npx vitest run --project unit test/offline/stack.test.ts
// The real one is then also made to take over what the stand-in recorded, and the other way round.

import { execFile, execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { OutputMap } from "@pulumi/pulumi/automation/index.js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { ensurePlugins, installStandIn } from "../../offline/plugins.ts";
import { packageVersion } from "../../offline/plugins/version.ts";
import { healthImage, image, type Options, type Request, secret, type Step } from "./engine.ts";

const run = promisify(execFile);
const id = `siem-ha-offline-${process.pid}`;
const label = { label: "siem-ha.stack", value: id };
/** The real plugin's program, where it is to be had. */
const real = process.env["SIEM_HA_DOCKER_PLUGIN"];
const tested = real === undefined ? "stand-in" : "real";

const missing = ((): string | undefined => {
  try {
    execFileSync("docker", ["image", "inspect", image], { stdio: "pipe" });
    return undefined;
  } catch (error) {
    return String((error as { stderr?: Buffer }).stderr ?? error).trim();
  }
})();
if (missing !== undefined) console.warn(`stand-ins are not tried on Docker, it has no ${image}: ${missing}`);

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

interface Result {
  readonly changes: Record<string, number>;
  readonly steps: Record<string, Step>;
  readonly outputs: OutputMap;
}

const home = mkdtempSync(join(tmpdir(), "siem-ha-offline-"));
let options: Options = {};
const change = (to: Options): void => void (options = to);
async function engine(operation: string): Promise<Result> {
  const request: Request = { id, home, options };
  const child = run(
    process.execPath,
    ["--import", "tsx", join(import.meta.dirname, "engine.ts"), operation],
    { maxBuffer: 64 * 1024 * 1024 },
  );
  child.child.stdin?.end(JSON.stringify(request));
  const { stdout } = await child;
  return JSON.parse(stdout) as Result;
}
const stack = {
  up: () => engine("up"),
  preview: () => engine("preview"),
  refresh: () => engine("refresh"),
  destroy: () => engine("destroy"),
};
const empty = { same: 8 };
// Not `exportStack`: that one decrypts.
const stateFile = (): string =>
  readFileSync(join(home, ".pulumi", "stacks", "offline-kit", "offline.json"), "utf8");

/** Which Docker plugin the engine finds from now on. */
async function use(kind: "stand-in" | "real"): Promise<void> {
  const folder = join(home, "plugins", `resource-docker-v${packageVersion("@pulumi/docker")}`);
  rmSync(folder, { recursive: true, force: true });
  if (kind === "stand-in") return installStandIn(folder, "docker");
  mkdirSync(folder, { recursive: true });
  copyFileSync(real ?? "", join(folder, "pulumi-resource-docker"));
  chmodSync(join(folder, "pulumi-resource-docker"), 0o755);
}

beforeAll(async () => {
  if (missing !== undefined) return;
  const log = (line: string): void => console.info(line);
  const cli = await ensurePulumiCli(log);
  await ensurePlugins(log, home, cli.command.command);
  await use(tested);
  const context = mkdtempSync(join(home, "image-"));
  const dockerfile = `FROM ${image}\nHEALTHCHECK --interval=7s --timeout=6s --start-period=5s --retries=4 CMD ["true"]\n`;
  writeFileSync(join(context, "Dockerfile"), dockerfile);
  await sh("build", "--quiet", "--tag", healthImage(id), context);
}, 30 * 60_000);

afterAll(async () => {
  if (missing !== undefined) return;
  await run("sh", [
    "-c",
    `docker ps -aq --filter label=${label.label}=${id} | xargs -r docker rm -f;` +
      `docker volume ls -q --filter label=${label.label}=${id} | xargs -r docker volume rm;` +
      `docker network ls -q --filter label=${label.label}=${id} | xargs -r docker network rm;` +
      `docker image rm ${healthImage(id)}`,
  ]);
  rmSync(home, { recursive: true, force: true });
});

const minutes = { timeout: 180_000 };

describe.skipIf(missing !== undefined)(`a small stack on the ${tested} plugin`, () => {
  let first: Record<string, unknown>;

  it("previews without a daemon", minutes, async () => {
    change({ host: "tcp://127.0.0.1:9" });
    expect((await stack.preview()).changes).toEqual({ create: 8 });
    change({});
  });

  it("comes up", minutes, async () => {
    const result = await stack.up();
    expect(result.changes).toEqual({ create: 8 });
    first = values(result.outputs);
    expect(first.address).toBe("172.31.213.11");
    expect(first.imageId).toMatch(/^sha256:/);
    expect(first.stdout).toBe(`in create:${secret}:`);
    expect(result.outputs.stdout?.secret).toBe(true);
    await expect.poll(() => sh("exec", `${id}-guest`, "cat", "/data/seen"), minutes).toBe(secret);
    expect(await sh("exec", `${id}-guest`, "stat", "-c", "%a", "/run/secret")).toBe("400");
    expect(await sh("exec", `${id}-guest`, "hostname")).toBe("node-1");
    // It is born on the default bridge and joins its network afterwards.
    expect(await sh("inspect", "-f", "{{.HostConfig.NetworkMode}}", `${id}-anchor`)).toBe("bridge");
  });

  it("keeps secrets out of the state", () => {
    const state = stateFile();
    expect(state).toContain(`${id}-guest`);
    expect(state).not.toContain(secret);
    expect(state).not.toContain(Buffer.from(secret).toString("base64"));
  });

  it("is empty at the second up, and after a refresh", minutes, async () => {
    expect((await stack.up()).changes).toEqual(empty);
    expect((await stack.refresh()).changes).toEqual(empty);
    expect((await stack.up()).changes).toEqual(empty);
    expect((await stack.preview()).changes).toEqual(empty);
  });

  const guestAgain = { gate: { op: "replace", because: [] } };
  it.each<[Options, Record<string, Step>]>([
    [{ env: "two" }, { guest: { op: "replace", because: ["envs"] }, ...guestAgain }],
    [{ guestLabel: "2" }, { guest: { op: "replace", because: ["labels"] }, ...guestAgain }],
    [{ upload: "other" }, { guest: { op: "replace", because: ["uploads"] }, ...guestAgain }],
    [{ startPeriod: "9s" }, { guest: { op: "update", because: ["healthcheck"] } }],
    // The image's own, which Docker filled in: no change. With what this guest gave, it is one.
    [{ startPeriod: "0s" }, { guest: { op: "update", because: ["healthcheck"] } }],
    [{ tmpfs: "size=2m" }, { guest: { op: "update", because: ["tmpfs"] } }],
    [{ cpuShares: 2048 }, { guest: { op: "update", because: ["cpuShares"] } }],
    [{ memory: 48 }, { anchor: { op: "update", because: ["memory", "memorySwap"] } }],
    [{ restart: "no" }, { anchor: { op: "update", because: ["restart"] } }],
  ])("plans the real plugin's steps for %j", minutes, async (to, steps) => {
    change(to);
    expect((await stack.preview()).steps).toEqual(steps);
    change({});
  });

  it(
    "plans replacements for a subnet and a volume's label, and of all that is on them",
    minutes,
    async () => {
      change({ subnet: "172.31.214", volumeLabel: "2" });
      const { steps } = await stack.preview();
      expect(steps).toMatchObject({
        net: { op: "replace", because: ["ipamConfigs"] },
        data: { op: "replace", because: ["labels"] },
        anchor: { op: "replace" },
        guest: { op: "replace" },
        gate: { op: "replace" },
      });
      change({});
    },
  );

  it("has the real plugin's spurious changes for what must not be written so", minutes, async () => {
    change({ sloppy: true });
    await stack.up();
    expect((await stack.preview()).steps).toEqual({
      sloppy: { op: "replace", because: ["cpus", "healthcheck", "memorySwap"] },
    });
    await stack.refresh();
    expect((await stack.preview()).steps).toEqual({
      sloppy: { op: "replace", because: ["capabilities", "cpus", "healthcheck", "memorySwap"] },
    });
    change({});
    expect((await stack.up()).changes).toMatchObject({ delete: 1 });
  });

  it("updates memory in place, and reruns a changed command with its old output", minutes, async () => {
    change({ memory: 48, update: 'echo "again:$PULUMI_COMMAND_STDOUT"' });
    const result = await stack.up();
    expect(result.changes).toEqual({ same: 6, update: 2 });
    expect(values(result.outputs).stdout).toBe(`again:in create:${secret}:`);
    expect(values(result.outputs).anchor).toBe(first.anchor);
    expect(await sh("inspect", "-f", "{{.HostConfig.Memory}}", `${id}-anchor`)).toBe(
      String(48 * 1024 * 1024),
    );
    expect((await stack.up()).changes).toEqual(empty);
  });

  it(
    "replaces a guest whose environment changed, gracefully, and the gate it triggers",
    minutes,
    async () => {
      change({ memory: 48, update: "true", env: "two" });
      const result = await stack.up();
      expect(result.changes).toEqual({ same: 6, replace: 2 });
      expect(values(result.outputs).guest).not.toBe(first.guest);
      expect(await sh("exec", `${id}-guest`, "cat", "/data/stopped")).toBe("stopped");
    },
  );

  it("sees after a refresh what happened outside", minutes, async () => {
    await sh("rm", "-f", `${id}-guest`);
    expect((await stack.preview()).changes).toEqual(empty);
    expect((await stack.refresh()).changes).toMatchObject({ delete: 1 });
    expect((await stack.up()).changes).toMatchObject({ create: 1 });
    await sh("stop", "-t", "1", `${id}-guest`);
    const guest = await sh("inspect", "-f", "{{.Id}}", `${id}-guest`);
    await stack.refresh();
    expect((await stack.preview()).steps).toEqual({ guest: { op: "update", because: ["mustRun"] } });
    expect(values((await stack.up()).outputs).guest).toBe(guest);
    expect(await sh("inspect", "-f", "{{.State.Running}}", `${id}-guest`)).toBe("true");
    expect((await stack.up()).changes).toEqual(empty);
  });

  it("records a guest that did not come up, and deals with it next time", minutes, async () => {
    change({ memory: 48, update: "true", env: "two", brokenGuest: true });
    await expect(stack.up()).rejects.toThrow(/Unable to start container/);
    expect(stateFile()).toContain("initErrors");
    expect(stateFile()).not.toContain(secret);
    change({ memory: 48, update: "true", env: "two" });
    expect((await stack.up()).changes).toMatchObject({ replace: 2 });
    expect((await stack.up()).changes).toEqual(empty);
  });

  it("loses a volume's data when its label changes, while up stays green", minutes, async () => {
    const guest = `${id}-guest`;
    await sh("exec", guest, "sh", "-c", "echo precious > /data/precious");
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await expect(sh("exec", guest, "cat", "/data/precious")).rejects.toThrow(/No such file/);
  });

  it.skipIf(tested === "real")("refuses an input it does not know, by name", minutes, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2", unknownField: true });
    await expect(stack.preview()).rejects.toThrow(/has no "gpus"/);
  });

  it("fails a command with what it said on stderr", minutes, async () => {
    change({ memory: 48, env: "two", volumeLabel: "2", update: "echo broken-gate >&2; exit 3" });
    await expect(stack.up()).rejects.toThrow(/exit status 3[\s\S]*broken-gate/);
  });

  it("does not take over a leftover of the same name", minutes, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await sh("rename", `${id}-guest`, `${id}-away`);
    await sh("run", "-d", "--name", `${id}-guest`, "--label", `${label.label}=${id}`, image, "sleep", "600");
    change({ memory: 48, update: "true", env: "three", volumeLabel: "2" });
    await expect(stack.up()).rejects.toThrow(/Unable to create container: .*Conflict/);
    await sh("rm", "-f", `${id}-guest`);
  });

  it("goes down and leaves nothing", minutes, async () => {
    await stack.destroy();
    expect(await left()).toEqual(["", "", ""]);
  });

  it("makes a protected anchor again that could not start, once its leftover is gone", minutes, async () => {
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as { port: number };
    change({ protect: true, port });
    await expect(stack.up()).rejects.toThrow(/Unable to start container/);
    await new Promise((resolve) => server.close(resolve));
    // By itself the engine can't go on: it would have to replace what is protected.
    await stack.refresh();
    await expect(stack.up()).rejects.toThrow(/protect/);
    // So `npm run up` removes what Docker never started (ops/leftovers.ts), and the refresh forgets it.
    expect(await sh("inspect", "-f", "{{.State.Status}}", `${id}-anchor`)).toBe("created");
    await sh("rm", `${id}-anchor`);
    await stack.refresh();
    await stack.up();
    expect((await stack.up()).changes).toEqual(empty);
    change({ port });
    await stack.up();
    await stack.destroy();
  });
});

describe.skipIf(missing !== undefined || real === undefined)("state that another plugin recorded", () => {
  it.each([
    ["stand-in", "real"],
    ["real", "stand-in"],
  ] as const)("by the %s is no change to the %s", { timeout: 600_000 }, async (before, after) => {
    await use(before);
    change({});
    await stack.up();
    await use(after);
    expect((await stack.preview()).steps).toEqual({});
    expect((await stack.up()).changes).toEqual(empty);
    expect((await stack.refresh()).changes).toEqual(empty);
    expect((await stack.preview()).steps).toEqual({});
    await stack.destroy();
    expect(await left()).toEqual(["", "", ""]);
  });
});
