// What the real plugins were measured to do, asked of the stand-ins' pure parts: the diff tables.

import { describe, expect, it } from "vitest";
import { diffCommand } from "../../offline/plugins/command/local.ts";
import {
  containerKind,
  containerRules,
  type ContainerInputs,
  createRequest,
  observed,
} from "../../offline/plugins/docker/container.ts";
import { checkConfig, Daemon } from "../../offline/plugins/docker/daemon.ts";
import { goDuration, nanoseconds } from "../../offline/plugins/docker/duration.ts";
import { plain } from "../../offline/plugins/docker/table.ts";
import { volumeRules } from "../../offline/plugins/docker/volume.ts";
import type { Change, Props } from "../../offline/plugins/server.ts";
import { conceal, reveal, unknown } from "../../offline/plugins/server.ts";

const base: Props = {
  name: "kafka-1",
  image: "sha256:abc",
  networkMode: "container:0123",
  memory: 512,
  memorySwap: 512,
  restart: "always",
  envs: ["A=1", "B=2"],
  command: ["sh", "-c", "true"],
  ports: [
    { internal: 80, external: 8080 },
    { internal: 90, external: 9090 },
  ],
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
/** The inputs as the engine records them. */
const checked = (news: Props): Props => ({
  ...news,
  ...containerRules.check(news, {}, context).defaults,
});
/** What a preview says, after this was recorded. */
const preview = (recorded: Props, news: Props): ReturnType<typeof verdict> =>
  verdict(containerRules.diff(recorded, checked(news), {}));
const asGiven = plain(checked(base));

it("what the program leaves out is filled in, and that it was is noted, at every level", () => {
  const { defaults } = containerRules.check(
    { name: "n", image: "i", ports: [{ internal: 80 }] },
    {},
    context,
  );
  expect(defaults).toMatchObject({
    networkMode: "bridge",
    mustRun: true,
    waitTimeout: 60,
    removeVolumes: true,
  });
  expect(defaults?.["__defaults"]).toContain("networkMode");
  expect(defaults?.["ports"]).toEqual([
    { internal: 80, ip: "0.0.0.0", protocol: "tcp", __defaults: ["ip", "protocol"] },
  ]);
  // What is zero or false is never said to be filled in.
  expect(defaults).not.toHaveProperty("healthcheck");
  expect(defaults).not.toHaveProperty("wait");
});

it("what the program ignores comes back as it was recorded, notes and all, and is no mistake", () => {
  const given = { name: "kafka-1-data", labels: [{ label: "siem-ha.stack", value: "local" }] };
  const recorded = { ...given, ...volumeRules.check(given, {}, context).defaults };
  expect(JSON.stringify(recorded["labels"])).toContain("__defaults");
  const { failures, defaults } = volumeRules.check({ ...given, labels: recorded["labels"] }, {}, context);
  expect(failures).toEqual([]);
  expect({ ...given, ...defaults }).toEqual(recorded);
});

describe("a change to a container", () => {
  it.each<[Props, Record<string, string>]>([
    [{}, {}],
    [{ envs: ["B=2", "A=1"] }, {}],
    [{ ports: [...(base["ports"] as Props[])].reverse() }, {}],
    [{ command: ["-c", "sh", "true"] }, { command: "replace" }],
    [{ envs: ["A=2", "B=2"] }, { envs: "replace" }],
    [{ labels: [{ label: "a", value: "b" }] }, { labels: "replace" }],
    [{ uploads: [{ file: "/x", content: "y" }] }, { uploads: "replace" }],
    [{ networkMode: unknown }, { networkMode: "replace" }],
    [{ networkMode: undefined }, { networkMode: "replace" }],
    [{ restart: "no" }, { restart: "update" }],
    [{ cpuShares: 2048 }, { cpuShares: "update" }],
    [
      { memory: 600, memorySwap: 600 },
      { memory: "update", memorySwap: "update" },
    ],
    [{ healthcheck: { tests: ["CMD", "false"], interval: "1m0s" } }, { healthcheck: "update" }],
    // What is left out is the image's or the daemon's business.
    [{ healthcheck: undefined, envs: undefined, command: undefined }, {}],
    [
      { memory: undefined, memorySwap: undefined },
      { memory: "update", memorySwap: "update" },
    ],
  ])("%j is %j", (change, expected) => {
    const news = Object.fromEntries(
      Object.entries({ ...base, ...change }).filter(([, value]) => value !== undefined),
    );
    expect(preview(asGiven, news)).toEqual(expected);
  });

  it("deletes first if the name stays, and not if it changes", () => {
    const news = checked({ ...base, image: "sha256:def" });
    expect(containerRules.diff(asGiven, news, {}).deleteBeforeReplace).toBe(true);
    expect(containerRules.diff(asGiven, { ...news, name: "other" }, {}).deleteBeforeReplace).toBe(false);
  });
});

describe("what Docker says of a container", () => {
  const minute = 60e9;
  const found = (change: { readonly config?: Props; readonly host?: Props; readonly running?: boolean }) =>
    ({
      Id: "0123",
      Name: "/kafka-1",
      Image: "sha256:abc",
      State: { Running: change.running ?? true, ExitCode: 0 },
      Config: {
        Image: "sha256:abc",
        Hostname: "h",
        Cmd: base["command"],
        Healthcheck: { Test: ["CMD", "true"], Interval: minute },
        ...change.config,
      },
      HostConfig: {
        NetworkMode: "container:0123",
        RestartPolicy: { Name: "always" },
        Memory: 512 * 1024 * 1024,
        MemorySwap: 512 * 1024 * 1024,
        CapAdd: ["CAP_NET_ADMIN"],
        ...change.host,
      },
      NetworkSettings: {
        Networks: {},
        Ports:
          change.running === false
            ? {}
            : {
                "90/tcp": [{ HostIp: "0.0.0.0", HostPort: "9090" }],
                "80/tcp": [{ HostIp: "0.0.0.0", HostPort: "8080" }],
              },
      },
    }) as unknown as Parameters<typeof observed>[1];
  const after = (change: Parameters<typeof found>[0], news = base) =>
    preview(observed(plain(checked(news)), found(change)), news);

  it("is no change where it is what was asked for", () => {
    expect(after({})).toEqual({});
  });

  it("is a change where the image filled something in", () => {
    const Healthcheck = { Test: ["CMD", "true"], Interval: minute, StartPeriod: 5e9 };
    expect(after({ config: { Healthcheck } })).toEqual({ healthcheck: "update" });
    const { healthcheck: _none, ...without } = base;
    expect(after({ config: { Healthcheck } }, without)).toEqual({});
  });

  it("is a change where Docker spells it otherwise", () => {
    const healthcheck = { tests: ["CMD", "true"], interval: "60s" };
    expect(after({}, { ...base, healthcheck })).toEqual({ healthcheck: "update" });
    expect(after({ host: { NanoCpus: 5e8 } }, { ...base, cpus: "0.50" })).toEqual({ cpus: "replace" });
    expect(after({ host: { NanoCpus: 5e8 } }, { ...base, cpus: "0.5" })).toEqual({});
    expect(after({}, { ...base, capabilities: { adds: ["NET_ADMIN"] } })).toEqual({
      capabilities: "replace",
    });
    const { memorySwap: _none, ...alone } = base;
    expect(after({}, alone)).toEqual({ memorySwap: "update" });
  });

  it("is to be started again where it stands still, and to be made again where it has ports", () => {
    const { ports: _none, ...portless } = base;
    expect(after({ running: false }, portless)).toEqual({ mustRun: "update" });
    expect(after({ running: false })).toEqual({ mustRun: "update", ports: "replace" });
  });
});

describe("inputs of a container", () => {
  const kind = containerKind(new Daemon());
  const reasons = (news: Props) => kind.check(news, {}, context).failures.map(({ property }) => property);

  it("are refused by name when unknown, however deep", () => {
    expect(reasons({ ...base, gpus: "all" })).toEqual(["gpus"]);
    expect(reasons({ ...base, volumes: [{ containerPath: "/x", bogus: 1 }] })).toEqual(["volumes[0].bogus"]);
    expect(reasons({ image: "x" })).toEqual(["name"]);
  });

  it("are refused when wrong", () => {
    expect(reasons({ ...base, memory: "512" })).toEqual(["memory"]);
    expect(reasons({ ...base, cpus: "many" })).toEqual(["cpus"]);
    expect(reasons({ ...base, healthcheck: { interval: "60" } })).toEqual(["healthcheck.interval"]);
    expect(reasons({ ...base, hostname: "x" })).toEqual(["hostname"]);
    expect(reasons({ ...base, networkMode: "host", uploads: [{ file: "/x" }] })).toEqual([
      "uploads[0].content",
    ]);
    expect(reasons({ ...base, wait: true })).toEqual(["wait"]);
  });

  it("may be unknown while previewing", () => {
    expect(reasons({ ...base, networkMode: unknown, image: unknown, cpus: unknown, envs: unknown })).toEqual(
      [],
    );
  });

  it("become Docker's request with its units", () => {
    const request = createRequest(
      checked({
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
      }) as unknown as ContainerInputs,
    );
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
  const old = { name: "data", labels: [{ label: "a", value: "1" }] };
  const change = volumeRules.diff(
    { ...old, driver: "local" },
    { ...old, labels: [{ label: "a", value: "2" }] },
    old,
  );
  expect(verdict(change)).toEqual({ labels: "replace" });
  expect(change.deleteBeforeReplace).toBe(true);
  expect(verdict(volumeRules.diff({ ...old, driver: "local" }, old, old))).toEqual({});
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
  const written = ["60s", "10s", "1h", "90s", "500ms", "1.5s", "0s", "250us"];
  expect(written.map((text) => goDuration(nanoseconds(text)))).toEqual([
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
