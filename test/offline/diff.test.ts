// What the real plugins were measured to do, asked of the stand-ins' pure parts: the diff tables.

import { describe, expect, it } from "vitest";
import { diffCommand } from "../../offline/plugins/command/local.ts";
import {
  containerKind,
  createRequest,
  diffContainer,
  recorded,
  refreshed,
} from "../../offline/plugins/docker/container.ts";
import { checkConfig, Daemon } from "../../offline/plugins/docker/daemon.ts";
import { canonicalDuration, nanoseconds } from "../../offline/plugins/docker/duration.ts";
import { volumeKind } from "../../offline/plugins/docker/volume.ts";
import type { Change, Props } from "../../offline/plugins/server.ts";
import { conceal, reveal, unknown } from "../../offline/plugins/server.ts";

const base: Props = {
  name: "kafka-1",
  image: "sha256:abc",
  networkMode: "container:0123",
  cpus: "0.5",
  memory: 512,
  memorySwap: 512,
  restart: "always",
  envs: ["A=1", "B=2"],
  healthcheck: { tests: ["CMD", "true"], interval: "1m0s" },
  capabilities: { adds: ["CAP_NET_ADMIN"] },
};
const context = {
  urn: "urn:pulumi:t::p::docker:index/container:Container::kafka-1",
  name: "kafka-1",
  timeout: undefined,
  log: () => undefined,
};

function verdict(change: Change): Record<string, "replace" | "update"> {
  return Object.fromEntries(
    [...change.properties].map(([key, replace]) => [key, replace ? "replace" : "update"]),
  );
}
/** The second preview after a create with these inputs. */
const second = (news: Props) => verdict(diffContainer(recorded(news), news));
/** A preview after a create and a refresh. */
const afterRefresh = (news: Props) => verdict(diffContainer(refreshed(recorded(news)), news));

describe("a second preview of a container", () => {
  it("is empty when everything is written as Docker spells it, after a refresh too", () => {
    expect(second(base)).toEqual({});
    expect(afterRefresh(base)).toEqual({});
  });

  it.each([
    ["cpus", { cpus: "0.50" }, { cpus: "replace" }, { cpus: "replace" }],
    ["platform", { platform: "linux/amd64" }, { platform: "replace" }, { platform: "replace" }],
    ["memory alone", { memorySwap: undefined }, { memorySwap: "update" }, { memorySwap: "update" }],
    [
      "interval",
      { healthcheck: { tests: ["CMD", "true"], interval: "60s" } },
      { healthcheck: "update" },
      { healthcheck: "update" },
    ],
    ["NET_ADMIN", { capabilities: { adds: ["NET_ADMIN"] } }, {}, { capabilities: "replace" }],
  ])("has the real plugin's spurious change for %s", (_name, change, atOnce, refreshedToo) => {
    const news = JSON.parse(JSON.stringify({ ...base, ...change })) as Props;
    expect(second(news)).toEqual(atOnce);
    expect(afterRefresh(news)).toEqual(refreshedToo);
  });
});

describe("a change to a container", () => {
  it.each([
    [{ envs: ["A=2", "B=2"] }, { envs: "replace" }],
    [{ labels: [{ label: "a", value: "b" }] }, { labels: "replace" }],
    [{ uploads: [{ file: "/x", content: "y" }] }, { uploads: "replace" }],
    [{ networkMode: unknown }, { networkMode: "replace" }],
    [{ restart: "no" }, { restart: "update" }],
    [
      { memory: 600, memorySwap: 600 },
      { memory: "update", memorySwap: "update" },
    ],
    [{ healthcheck: { tests: ["CMD", "false"], interval: "1m0s" } }, { healthcheck: "update" }],
    [{ envs: ["B=2", "A=1"] }, {}],
  ])("%j is %j", (change, expected) => {
    expect(verdict(diffContainer(recorded(base), { ...base, ...change }))).toEqual(expected);
  });

  it("deletes first if the name stays, and not if it changes", () => {
    const news = { ...base, image: "sha256:def" };
    expect(diffContainer(base, news).deleteBeforeReplace).toBe(true);
    expect(diffContainer(base, { ...news, name: "other" }).deleteBeforeReplace).toBe(false);
  });

  it("replaces a container that was made but did not come up", () => {
    expect(verdict(diffContainer({ ...base, __failed: "unhealthy" }, base))).toEqual({ __failed: "replace" });
  });
});

describe("inputs of a container", () => {
  const kind = containerKind(new Daemon());
  const reasons = (news: Props) => kind.check(news, {}, context).failures.map(({ property }) => property);

  it("are refused by name when unknown, however deep", () => {
    expect(reasons({ ...base, gpus: "all" })).toEqual(["gpus"]);
    expect(reasons({ ...base, mounts: [{ type: "bind", target: "/x", bogus: 1 }] })).toEqual([
      "mounts[0].bogus",
    ]);
  });

  it("are refused when wrong", () => {
    expect(reasons({ ...base, memory: "512" })).toEqual(["memory"]);
    expect(reasons({ ...base, cpus: "many" })).toEqual(["cpus"]);
    expect(reasons({ ...base, healthcheck: { interval: "60" } })).toEqual(["healthcheck.interval"]);
    expect(reasons({ ...base, hostname: "x" })).toEqual(["hostname"]);
    expect(reasons({ ...base, uploads: [{ file: "/x" }] })).toEqual(["uploads[0]"]);
  });

  it("may be unknown while previewing", () => {
    expect(reasons({ ...base, networkMode: unknown, image: unknown, cpus: unknown, envs: unknown })).toEqual(
      [],
    );
  });

  it("get a name made from the resource's, once", () => {
    const first = kind.check({ image: "x" }, {}, context).defaults?.name;
    expect(first).toMatch(/^kafka-1-[0-9a-f]{7}$/);
    expect(kind.check({ image: "x" }, { name: first }, context).defaults?.name).toBe(first);
  });

  it("become Docker's request with its units", () => {
    const request = createRequest({
      name: "n",
      image: "i",
      memory: 64,
      memorySwap: -1,
      cpus: "0.5",
      healthcheck: { tests: ["CMD", "true"], interval: "1m30s" },
      ports: [{ internal: 80, external: 8080, ip: "127.0.0.1" }],
      volumes: [
        { volumeName: "v", containerPath: "/v" },
        { hostPath: "/h", containerPath: "/c", readOnly: true },
      ],
    });
    expect(request.HostConfig).toMatchObject({
      Memory: 64 * 1024 * 1024,
      MemorySwap: -1,
      NanoCpus: 5e8,
      PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "8080" }] },
      Binds: ["v:/v:rw", "/h:/c:ro"],
    });
    expect(request.Healthcheck?.Interval).toBe(90e9);
  });
});

it("a changed label of a volume deletes it first, data and all", () => {
  const kind = volumeKind(new Daemon());
  const old = { name: "data", labels: [{ label: "a", value: "1" }] };
  const change = kind.diff(
    { ...old, driver: "local" },
    { ...old, labels: [{ label: "a", value: "2" }] },
    old,
  );
  expect(verdict(change)).toEqual({ labels: "replace" });
  expect(change.deleteBeforeReplace).toBe(true);
  expect(verdict(kind.diff({ ...old, driver: "local" }, old, old))).toEqual({});
});

it("a command's triggers replace it, create before delete; other inputs update it", () => {
  const state = { create: "a", triggers: [1], stdout: "x" };
  const replaced = diffCommand(state, { create: "a", triggers: [2] });
  expect(verdict(replaced)).toEqual({ triggers: "replace" });
  expect(replaced.deleteBeforeReplace).toBe(false);
  expect(verdict(diffCommand(state, { create: "b", triggers: [1] }))).toEqual({ create: "update" });
  expect(verdict(diffCommand(state, { create: "a", triggers: [1] }))).toEqual({});
});

it("durations are spelled as Go spells them", () => {
  expect(["60s", "10s", "1h", "90s", "500ms", "1.5s", "0s", "250us"].map(canonicalDuration)).toEqual([
    "1m0s",
    "10s",
    "1h0m0s",
    "1m30s",
    "500ms",
    "1.5s",
    "0s",
    "250µs",
  ]);
  expect(() => nanoseconds("60")).toThrow(/"60" is no duration/);
});

it("a secret anywhere in a property makes the whole property secret, and what is derived from it", () => {
  const secret = (value: unknown) => ({
    "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270",
    value,
  });
  const news = { envs: ["A=1", secret("B=2")], name: "n" };
  expect(reveal(news)).toEqual({ envs: ["A=1", "B=2"], name: "n" });
  expect(conceal({ ...(reveal(news) as Props), stdout: "o" }, news, ["stdout"])).toEqual({
    envs: secret(["A=1", "B=2"]),
    name: "n",
    stdout: secret("o"),
  });
});

it("provider config that would not be honoured is refused by name", () => {
  expect(checkConfig({ host: "unix:///var/run/docker.sock", disableDockerDaemonCheck: "true" })).toEqual([]);
  expect(checkConfig({ host: "ssh://ops@host", certPath: "/x" }).map(({ property }) => property)).toEqual([
    "certPath",
    "host",
  ]);
});

it("a daemon that can't be reached never counts as a container that is gone", async () => {
  const daemon = new Daemon();
  // Port 9 of the loopback refuses: nothing listens there.
  await daemon.configure({ host: "tcp://127.0.0.1:9", disableDockerDaemonCheck: "true" });
  await expect(containerKind(daemon).read("0123", base, base)).rejects.toThrow(/ECONNREFUSED/);
  const checked = new Daemon().configure({ host: "tcp://127.0.0.1:9" });
  await expect(checked).rejects.toThrow(/Error pinging Docker server at tcp:\/\/127.0.0.1:9/);
});
