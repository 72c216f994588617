// Proves the stand-ins with the real engine on a real Docker daemon: a small stack's whole life.

import { execFile, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { OutputMap } from "@pulumi/pulumi/automation/index.js";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { ensurePlugins } from "../../offline/plugins.ts";
import { image, type Options, type Request, secret } from "./engine.ts";

const run = promisify(execFile);
const id = `siem-ha-offline-${process.pid}`;
const label = { label: "siem-ha.stack", value: id };

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

describe.skipIf(missing !== undefined)("a small stack on the stand-ins", () => {
  const home = mkdtempSync(join(tmpdir(), "siem-ha-offline-"));
  let options: Options = {};
  const change = (to: Options): void => void (options = to);
  const engine = async (
    operation: string,
  ): Promise<{ changes: Record<string, number>; outputs: OutputMap }> => {
    const request: Request = { id, home, options };
    const child = run(
      process.execPath,
      ["--import", "tsx", join(import.meta.dirname, "engine.ts"), operation],
      {
        maxBuffer: 64 * 1024 * 1024,
      },
    );
    child.child.stdin?.end(JSON.stringify(request));
    const { stdout } = await child;
    return JSON.parse(stdout) as { changes: Record<string, number>; outputs: OutputMap };
  };
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

  beforeAll(async () => {
    const log = (line: string): void => console.info(line);
    const cli = await ensurePulumiCli(log);
    await ensurePlugins(log, home, cli.command.command);
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

  it("previews without a daemon", { timeout: 180_000 }, async () => {
    change({ host: "tcp://127.0.0.1:9" });
    expect((await stack.preview()).changes).toEqual({ create: 8 });
    change({});
  });

  it("comes up", { timeout: 180_000 }, async () => {
    const result = await stack.up();
    expect(result.changes).toEqual({ create: 8 });
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

  it("is empty at the second up, and after a refresh", { timeout: 180_000 }, async () => {
    expect((await stack.up()).changes).toEqual(empty);
    expect((await stack.refresh()).changes).toEqual(empty);
    expect((await stack.up()).changes).toEqual(empty);
    expect((await stack.preview()).changes).toEqual(empty);
  });

  it(
    "updates memory in place, and reruns a changed command with its old output",
    { timeout: 180_000 },
    async () => {
      change({ memory: 48, update: 'echo "again:$PULUMI_COMMAND_STDOUT"' });
      const result = await stack.up();
      expect(result.changes).toEqual({ same: 6, update: 2 });
      expect(values(result.outputs).stdout).toBe(`again:in create:${secret}:`);
      expect(values(result.outputs).anchor).toBe(first.anchor);
      expect(await sh("inspect", "-f", "{{.HostConfig.Memory}}", `${id}-anchor`)).toBe(
        String(48 * 1024 * 1024),
      );
    },
  );

  it(
    "replaces a guest whose environment changed, gracefully, and the gate it triggers",
    { timeout: 180_000 },
    async () => {
      change({ memory: 48, update: "true", env: "two" });
      const result = await stack.up();
      expect(result.changes).toEqual({ same: 6, replace: 2 });
      expect(values(result.outputs).guest).not.toBe(first.guest);
      expect(await sh("exec", `${id}-guest`, "cat", "/data/stopped")).toBe("stopped");
    },
  );

  it("sees after a refresh what happened outside", { timeout: 180_000 }, async () => {
    await sh("rm", "-f", `${id}-guest`);
    expect((await stack.preview()).changes).toEqual(empty);
    expect((await stack.refresh()).changes).toMatchObject({ delete: 1 });
    await stack.up();
    const anchor = await sh("inspect", "-f", "{{.Id}}", `${id}-anchor`);
    await sh("rm", "-f", `${id}-guest`);
    await sh("stop", "-t", "0", `${id}-anchor`);
    await stack.refresh();
    const result = await stack.up();
    expect(result.changes).toMatchObject({ update: 1, create: 1 });
    expect(values(result.outputs).anchor).toBe(anchor);
    expect(await sh("inspect", "-f", "{{.State.Running}}", `${id}-anchor`)).toBe("true");
    expect((await stack.up()).changes).toEqual(empty);
  });

  it("records a guest that did not come up, and replaces it next time", { timeout: 180_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", brokenGuest: true });
    await expect(stack.up()).rejects.toThrow(/Unable to start container/);
    expect(stateFile()).toContain("initErrors");
    expect(stateFile()).not.toContain(secret);
    change({ memory: 48, update: "true", env: "two" });
    expect((await stack.up()).changes).toMatchObject({ replace: 2 });
    expect((await stack.up()).changes).toEqual(empty);
  });

  it("loses a volume's data when its label changes, while up stays green", { timeout: 180_000 }, async () => {
    const guest = `${id}-guest`;
    await sh("exec", guest, "sh", "-c", "echo precious > /data/precious");
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await expect(sh("exec", guest, "cat", "/data/precious")).rejects.toThrow(/No such file/);
  });

  it("refuses an input it does not know, by name", { timeout: 180_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2", unknownField: true });
    await expect(stack.preview()).rejects.toThrow(/has no "gpus"/);
  });

  it("fails a command with what it said on stderr", { timeout: 180_000 }, async () => {
    change({ memory: 48, env: "two", volumeLabel: "2", update: "echo broken-gate >&2; exit 3" });
    await expect(stack.up()).rejects.toThrow(/exit status 3[\s\S]*broken-gate/);
  });

  it("does not take over a leftover of the same name", { timeout: 180_000 }, async () => {
    change({ memory: 48, update: "true", env: "two", volumeLabel: "2" });
    await stack.up();
    await sh("rename", `${id}-guest`, `${id}-away`);
    await sh("run", "-d", "--name", `${id}-guest`, "--label", `${label.label}=${id}`, image, "sleep", "600");
    change({ memory: 48, update: "true", env: "three", volumeLabel: "2" });
    await expect(stack.up()).rejects.toThrow(/Unable to create container: .*Conflict/);
    await sh("rm", "-f", `${id}-guest`);
  });

  it("goes down and leaves nothing", { timeout: 180_000 }, async () => {
    await stack.destroy();
    expect(await left()).toEqual(["", "", ""]);
  });
});
