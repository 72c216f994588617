// The whole program under mocks: exact counts, unique names, and the inputs that matter.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { parseConfig } from "../components/config.ts";
import { memoryLimits } from "../components/services/memory.ts";
import { plan } from "../components/topology.ts";
import { goDuration, nanoseconds } from "../offline/plugins/docker/duration.ts";
import { namesOf } from "../ops/preflight.ts";
import { addressLabel } from "../services/supervisor/labels.ts";
import { type Registration, runProgram, testSecrets } from "./mocks.ts";

let resources: readonly Registration[];
let urns: readonly string[];

beforeAll(async () => {
  ({ resources, urns } = await runProgram({ "siem-ha:target": "local" }));
});

const ofType = (type: string) => resources.filter((resource) => resource.type === type);
const containers = () => ofType("docker:index/container:Container");
const find = (name: string): Record<string, unknown> => {
  const found = containers().find((resource) => resource.name === name);
  if (found === undefined) throw new Error(`no container ${name}`);
  return found.inputs;
};

describe("the local stack", () => {
  it("has exactly these resources", () => {
    const counts: Record<string, number> = {};
    for (const { type } of resources) counts[type] = (counts[type] ?? 0) + 1;
    expect(counts).toEqual({
      "pulumi:providers:docker": 1,
      "docker:index/network:Network": 1,
      // Five public ones, five of our own.
      "docker:index/remoteImage:RemoteImage": 5 + 5,
      // Nine anchors; three each of ZooKeeper, Kafka, ClickHouse, API, ingestor; retention beside each ClickHouse; two
      // HAProxy, two Keepalived; the witness, the supervisor and its watchdog.
      "docker:index/container:Container": 9 + 15 + 3 + 4 + 3,
      // ZooKeeper data and log, Kafka, ClickHouse: three each; two HAProxy configurations, what HAProxy and
      // Keepalived of each share, and the supervisor's memory.
      "docker:index/volume:Volume": 12 + 2 + 2 + 1,
      // Five image builds; gates between replicas 5 × 2; one "formed" or "ready" a service 5, of ClickHouse both;
      // the topics' check, topics, recovery, schema, migration; HAProxy: two configurations, two gates, one "ready"; the witness's gate.
      "command:local:Command": 5 + 10 + 6 + 5 + 5 + 1,
    });
  });

  it("has no name that `up` doesn't look at beforehand", () => {
    const { containers: looked, volumes, network } = namesOf(plan());
    const named = (type: string) => ofType(type).map(({ inputs }) => inputs["name"]);
    // Those that write HAProxy's configuration are no resources: they live for a second.
    expect(looked.filter((name) => !name.endsWith("-config")).sort()).toEqual(
      named("docker:index/container:Container").sort(),
    );
    expect([...volumes].sort()).toEqual(named("docker:index/volume:Volume").sort());
    expect([network]).toEqual(named("docker:index/network:Network"));
  });

  it("has no memory limit that `up` doesn't look at beforehand", () => {
    const looked = memoryLimits(plan(), parseConfig({ target: "local" }));
    const set = containers().map(({ inputs }) => [inputs["name"], inputs["memory"], inputs["memorySwap"]]);
    expect(looked.map(({ container, megabytes }) => [container, megabytes, megabytes]).sort()).toEqual(
      set.sort(),
    );
  });

  it("gives every resource a URN of its own", () => {
    expect(new Set(urns).size).toBe(urns.length);
  });

  it("uses the host's provider, never the default one", () => {
    for (const resource of resources.filter((r) => r.type.startsWith("docker:"))) {
      expect(resource.provider, resource.name).toContain("host-docker");
    }
  });

  it("drops every capability and forbids new privileges everywhere", () => {
    for (const { name, inputs } of containers()) {
      expect((inputs["capabilities"] as { drops: string[] }).drops, name).toEqual(["ALL"]);
      expect(inputs["securityOpts"], name).toEqual(["no-new-privileges"]);
      expect(inputs["privileged"], name).toBeUndefined();
    }
    const added = Object.fromEntries(
      containers().map(({ name, inputs }) => [
        name,
        (inputs["capabilities"] as { adds?: string[] }).adds ?? [],
      ]),
    );
    expect(added["keepalived-1"]).toEqual(["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"]);
    expect(added["haproxy-1"]).toEqual([]);
    expect(added["siem-api-1"]).toEqual([]);
    expect(added["kafka-1"]).toEqual([]);
  });

  it("gives Docker's socket to the supervisor and its watchdog alone, and nothing else to them", () => {
    const mounting = containers().filter(({ inputs }) => JSON.stringify(inputs).includes("docker.sock"));
    expect(mounting.map(({ name }) => name).sort()).toEqual(["supervisor", "watchdog"]);
    for (const { name, inputs } of mounting) {
      expect(inputs, name).toMatchObject({
        networkMode: "none",
        readOnly: true,
        capabilities: { drops: ["ALL"] },
        securityOpts: ["no-new-privileges"],
        restart: "always",
      });
      expect(inputs["capabilities"], name).not.toHaveProperty("adds");
    }
  });

  it("has the watchdog look after the supervisor, and remember beside it", () => {
    const stack = "STACK=local";
    expect(find("supervisor")["envs"]).toEqual([stack, "STATE_FILE=/var/lib/siem-ha/supervisor.json"]);
    expect(find("watchdog")["envs"]).toEqual([
      stack,
      "STATE_FILE=/var/lib/siem-ha/watchdog.json",
      "WATCHES=supervisor",
    ]);
  });

  it("tells the supervisor which address a node must not have without its Keepalived", () => {
    const labelled = containers().flatMap(({ name, inputs }) =>
      (inputs["labels"] as { label: string; value: string }[])
        .filter(({ label }) => label === addressLabel)
        .map(({ value }) => [name, value]),
    );
    expect(labelled).toEqual([
      ["keepalived-1", "172.25.0.222/24 eth0"],
      ["keepalived-2", "172.25.0.222/24 eth0"],
    ]);
  });

  it("lets those go first whose silence counts as their death, then who serves, and weighs nobody else", () => {
    const weights = new Map(containers().map(({ name, inputs }) => [name, inputs["cpuShares"]]));
    const heavy = {
      ...{ "haproxy-1": 20480, "haproxy-2": 20480, "keepalived-1": 20480, "keepalived-2": 20480 },
      ...{ witness: 20480, supervisor: 20480, watchdog: 20480 },
      ...{ "zookeeper-1": 8192, "zookeeper-2": 8192, "zookeeper-3": 8192 },
      ...{ "kafka-1": 4096, "kafka-2": 4096, "kafka-3": 4096 },
      ...{ "clickhouse-1": 4096, "clickhouse-2": 4096, "clickhouse-3": 4096 },
      ...{ "siem-api-1": 4096, "siem-api-2": 4096, "siem-api-3": 4096 },
      ...{ "siem-ingestor-1": 4096, "siem-ingestor-2": 4096, "siem-ingestor-3": 4096 },
    };
    expect(Object.fromEntries([...weights].filter(([, weight]) => weight !== undefined))).toEqual(heavy);
  });

  it("leaves no image or daemon anything to fill in, and writes as Docker does: else no second `up` is empty", () => {
    for (const { name, inputs } of containers()) {
      const { healthcheck, capabilities } = inputs as {
        healthcheck?: Record<string, string | number>;
        capabilities: { adds?: readonly string[] };
      };
      for (const key of ["interval", "timeout", "startPeriod"]) {
        if (healthcheck === undefined) continue;
        const text = String(healthcheck[key] ?? "0s");
        expect(text, `${name}: healthcheck.${key}`).toBe(goDuration(nanoseconds(text)));
        // Docker takes what is zero from the image.
        expect(nanoseconds(text), `${name}: healthcheck.${key}`).toBeGreaterThan(0);
      }
      if (healthcheck !== undefined) expect(healthcheck["retries"], name).toBeGreaterThan(0);
      for (const capability of capabilities.adds ?? []) expect(capability, name).toMatch(/^CAP_/);
      expect(inputs, name).not.toHaveProperty("platform");
      expect(inputs["image"], name).toMatch(/^sha256:/);
    }
    // What this makes Docker 25 fill in, Docker 20 knows nothing of: no program can give it to both.
    const folders = ["images", "offline/images"].map((path) => join(import.meta.dirname, "..", path));
    const dockerfiles = folders
      .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name, "Dockerfile")))
      .filter((file) => existsSync(file));
    expect(dockerfiles.length).toBeGreaterThan(0);
    for (const file of dockerfiles)
      expect(readFileSync(file, "utf8"), file).not.toContain("--start-interval");
  });

  it("limits memory without swap, and rotates logs", () => {
    for (const { name, inputs } of containers()) {
      expect(inputs["memory"], name).toBeGreaterThan(0);
      expect(inputs["memorySwap"], name).toBe(inputs["memory"]);
      expect(inputs["logOpts"], name).toHaveProperty("max-size");
    }
  });

  it("puts every guest into its anchor's namespace, with nothing of its own that an anchor owns", () => {
    const anchors = new Set([...plan().nodes.map((node) => node.alias), "supervisor", "watchdog"]);
    for (const { name, inputs } of containers().filter((resource) => !anchors.has(resource.name))) {
      expect(inputs["networkMode"], name).toMatch(/^container:(lb|stream|store)-node-[123]-id$/);
      for (const field of ["hostname", "ports", "hosts", "dns", "networksAdvanced"]) {
        expect(inputs[field], `${name} ${field}`).toBeUndefined();
      }
    }
  });

  it("publishes only the balancers' entry ports, on loopback", () => {
    const published = containers().flatMap(({ name, inputs }) =>
      ((inputs["ports"] as { external: number; ip: string }[] | undefined) ?? []).map((p) => [
        name,
        p.external,
        p.ip,
      ]),
    );
    expect(published).toEqual([
      ["lb-node-1", 8080, "127.0.0.1"],
      ["lb-node-1", 8081, "127.0.0.1"],
      ["lb-node-1", 8404, "127.0.0.1"],
      ["lb-node-2", 18080, "127.0.0.1"],
      ["lb-node-2", 18081, "127.0.0.1"],
      ["lb-node-2", 18404, "127.0.0.1"],
    ]);
  });

  it("keeps the VIP out of Docker's address management", () => {
    const network = ofType("docker:index/network:Network")[0]?.inputs;
    expect(network?.["ipamConfigs"]).toEqual([
      {
        subnet: "172.25.0.0/24",
        gateway: "172.25.0.1",
        ipRange: "172.25.0.64/26",
        auxAddress: { vip: "172.25.0.222" },
      },
    ]);
  });

  it("waits for stateful services when it stops them", () => {
    for (const name of ["kafka-1", "clickhouse-1"]) expect(find(name)["destroyGraceSeconds"]).toBe(60);
  });

  it("never puts a secret into a command, a variable or a label", () => {
    for (const { name, inputs } of resources) {
      const { stdin: _stdin, uploads: _uploads, ...rest } = inputs;
      const text = JSON.stringify(rest);
      for (const secret of Object.values(testSecrets)) expect(text.includes(secret), name).toBe(false);
    }
    // The check above can fail: the same secrets are there in the files and on standard input.
    expect(JSON.stringify(resources)).toContain(testSecrets["siem-ha:databasePassword"]);
  });
});
