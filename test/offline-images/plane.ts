// ZooKeeper, Kafka and ClickHouse as the stack runs them, in containers of a test: rendered configurations, real feed.

import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyInstance } from "fastify";
import { parseConfig, type SiemConfig } from "../../components/config.ts";
import { reachAt } from "../../components/host/host.ts";
import { publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import {
  renderClickhouseClient,
  renderClickhouseCluster,
  renderClickhouseConfig,
  renderClickhouseMemory,
  renderClickhouseUsers,
  renderMigration,
  renderSchemaScript,
} from "../../components/render/clickhouse.ts";
import { renderRecovery } from "../../components/render/clickhouse-recovery.ts";
import { renderKafka, renderTopics } from "../../components/render/kafka.ts";
import { renderZookeeper } from "../../components/render/zookeeper.ts";
import { names, plan, type Replica, type Topology } from "../../components/topology.ts";
import { type Keys } from "../../services/common/auth.ts";
import { createIngestor } from "../../services/ingestor/app.ts";
import { KafkaPublisher } from "../../services/ingestor/kafka.ts";
import { Pipeline } from "../../services/ingestor/pipeline.ts";
import { parseRules } from "../../services/ingestor/rules.ts";
import { mintToken } from "../../services/token.ts";
import { droppingRoot, logs, network, stack, start, tryDocker, until, withoutRights } from "./docker.ts";

export interface PlaneOptions {
  /** First three octets of the network, another one for each test file. */
  readonly net: string;
  /** How many; without any the feed waits for them. */
  readonly brokers: number;
  readonly replicas: number;
  readonly kafka?: Partial<SiemConfig["kafka"]>;
  /** Shell, run in the first ClickHouse: what an earlier release left there, which is then brought up to date. */
  readonly earlier?: string;
  /** Directories of this machine for a service's data, by alias. @default the container's own */
  readonly data?: Readonly<Record<string, string>>;
}

/** What runs, and how a test reaches it. */
export interface Plane {
  readonly topology: Topology;
  readonly config: SiemConfig;
  /** `address:port` of each broker. */
  readonly brokers: readonly string[];
  /** Base URLs of the ClickHouse replicas. */
  readonly urls: readonly string[];
  /** A service's container, by alias. */
  readonly container: (alias: string) => string;
  /** Runs a statement on the replica with this slot; an error's text is the answer. */
  readonly query: (slot: number, sql: string) => string;
  /** Runs a shell script in a container, fed by standard input. @throws with what it said */
  readonly run: (alias: string, shell: string, ...args: string[]) => string;
  /** Removes the files that the containers read. */
  readonly remove: () => void;
}

/** The real ingestor in this process, connected to the plane's brokers. */
export interface Ingest {
  /** Posts events with a tenant's token. */
  post(events: readonly object[]): Promise<Answer>;
  close(): Promise<void>;
}

type Answer = Awaited<ReturnType<FastifyInstance["inject"]>>;

const dockerHost = process.env["DOCKER_HOST"] ?? "unix:///var/run/docker.sock";
export const password = "password-of-the-tests";

/** Starts everything, waits until each serves, and applies topics and schema. */
export async function startPlane(options: PlaneOptions): Promise<Plane> {
  const { net } = options;
  const whole = plan({ net, prefix: `${stack}-` });
  const topology: Topology = {
    ...whole,
    // Beside Kafka in the stack; here each has an address of its own.
    zookeeper: whole.zookeeper
      .slice(0, 1)
      .map((one) => ({ ...one, node: { ...one.node, address: `${net}.20` } })),
    kafka: whole.kafka.slice(0, Math.max(1, options.brokers)),
    clickhouse: whole.clickhouse.slice(0, options.replicas),
  };
  const config = parseConfig({
    target: "local",
    kafka: {
      replicationFactor: Math.max(1, options.brokers),
      minInsyncReplicas: Math.max(1, options.brokers - 1),
      ...options.kafka,
    },
  });
  const folder = mkdtempSync(join(tmpdir(), `${stack}-plane-`));
  chmodSync(folder, 0o755);
  const container = (alias: string): string => `${stack}-${alias}`;
  const address = ({ node }: Replica): string => node.address;
  const on = (replica: Replica): string[] => [
    `--network=${stack}`,
    `--network-alias=${replica.alias}`,
    `--ip=${address(replica)}`,
    "--restart=always",
  ];
  const data = (replica: Replica, ...paths: string[]): string[] => {
    const directory = options.data?.[replica.alias];
    if (directory === undefined) return [];
    return paths.map((path) => {
      const source = join(directory, replica.alias, path);
      mkdirSync(source, { recursive: true });
      // As a named volume would: owned by whom the image made its owner. Not every entrypoint may change it.
      chownSync(source, 1000, 1000);
      return `--volume=${source}:${path}`;
    });
  };
  const environment = (values: Readonly<Record<string, string>>): string[] =>
    Object.entries(values).map(([key, value]) => `--env=${key}=${value}`);
  const run = (alias: string, shell: string, ...args: string[]): string =>
    execFileSync("docker", ["exec", "-i", container(alias), "sh", "-s", ...args], {
      input: shell,
      encoding: "utf8",
      stdio: "pipe",
    }).trim();
  /** Runs a script as the deploying side does. */
  const here = (shell: string): void => {
    const env = { ...process.env, ...reachAt(topology.nodes, () => dockerHost) };
    execFileSync("sh", ["-c", shell], { env, stdio: "pipe" });
  };
  const query = (slot: number, sql: string): string =>
    tryDocker("exec", container(`clickhouse-${slot}`), "clickhouse-client", "--query", sql).output;

  network(`--subnet=${net}.0/24`);
  for (const zk of topology.zookeeper) {
    start(
      zk.alias,
      ...droppingRoot,
      ...on(zk),
      ...data(zk, "/data", "/datalog"),
      ...environment(renderZookeeper(topology, zk, 128)),
      publicImages.zookeeper,
    );
  }
  // As the stack's gates do: an old ClickHouse that finds no ZooKeeper at a statement for the cluster ends by a signal.
  const [keeper] = topology.zookeeper;
  if (keeper !== undefined) {
    const mode = ["sh", "-c", `echo srvr | nc -w 2 localhost ${ports.zookeeperClient.number}`];
    const name = container(keeper.alias);
    await until(name, () => tryDocker("exec", name, ...mode).output, /^Mode: /m);
  }
  const running = topology.kafka.slice(0, options.brokers);
  for (const broker of running) {
    const rendered = renderKafka(topology, broker, config.kafka);
    const listener = `PLAINTEXT://${address(broker)}:${ports.kafka.number}`;
    start(
      broker.alias,
      ...withoutRights,
      ...on(broker),
      ...data(broker, "/var/lib/kafka/data"),
      // The test runs outside the network, where its names mean nothing.
      ...environment({ ...rendered, KAFKA_ADVERTISED_LISTENERS: listener }),
      publicImages.kafka,
    );
  }
  for (const replica of topology.clickhouse) {
    const files: Record<string, string> = {
      "/etc/clickhouse-server/config.d/20-cluster.xml": renderClickhouseCluster(topology, password),
      "/etc/clickhouse-server/users.d/10-users.xml": renderClickhouseUsers(topology, password),
      "/etc/clickhouse-client/config.xml": renderClickhouseClient(password),
    };
    for (const [file, text] of Object.entries(renderClickhouseConfig(topology, replica))) {
      files[`/etc/clickhouse-server/config.d/${file}`] = text;
    }
    for (const [path, text] of Object.entries(renderClickhouseMemory(config.clickhouse.memoryMb))) {
      files[`/etc/clickhouse-server/${path}`] = text;
    }
    const mounts = Object.entries(files).map(([file, text]) => {
      const source = join(folder, replica.alias, basename(dirname(file)), basename(file));
      mkdirSync(dirname(source), { recursive: true, mode: 0o755 });
      writeFileSync(source, text, { mode: 0o644 });
      return `--volume=${source}:${file}:ro`;
    });
    start(
      replica.alias,
      ...droppingRoot,
      ...on(replica),
      ...data(replica, "/var/lib/clickhouse"),
      "--env=CLICKHOUSE_SKIP_USER_SETUP=1",
      ...mounts,
      publicImages.clickhouse,
    );
  }
  for (const { alias } of running) {
    await until(
      container(alias),
      () => logs(container(alias)),
      /started \(kafka\.server\.KafkaServer\)/,
      120,
    );
  }
  const [broker] = running;
  if (broker !== undefined) run(broker.alias, renderTopics(config.kafka));
  for (const { alias, slot } of topology.clickhouse)
    await until(container(alias), () => query(slot, "SELECT 1"), /^1$/);
  const [first] = topology.clickhouse;
  if (first !== undefined) {
    if (options.earlier !== undefined) {
      run(first.alias, options.earlier);
      here(renderRecovery(topology));
    }
    run(first.alias, renderSchemaScript(topology));
    here(renderMigration(topology));
  }
  return {
    topology,
    config,
    brokers: running.map((replica) => `${address(replica)}:${ports.kafka.number}`),
    urls: topology.clickhouse.map((replica) => `http://${address(replica)}:${ports.clickhouseHttp.number}`),
    container,
    query,
    run,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

const secret = "0123456789abcdef0123456789abcdef";
export const keys: Keys = { current: new TextEncoder().encode(secret) };

/** A token for both services. */
export function token(tenant: string): Promise<string> {
  const scope = "events:write events:read";
  return mintToken({ secret, tenantId: tenant, scope, ttlSeconds: 3600, subject: "test" });
}

/** Starts the ingestor and waits until it has found Kafka. */
export async function startIngest(plane: Plane, tenant: string, now?: () => Date): Promise<Ingest> {
  const topics = [names.eventsTopic, names.alertsTopic];
  const publisher = new KafkaPublisher({ brokers: plane.brokers, topics, warn: () => undefined });
  void publisher.run();
  const rules = parseRules(undefined);
  const app = createIngestor({
    pipeline: new Pipeline({
      publisher,
      rules,
      eventsTopic: names.eventsTopic,
      alertsTopic: names.alertsTopic,
    }),
    keys,
    lifecycle: { draining: false },
    quiet: true,
    ...(now === undefined ? {} : { now }),
  });
  const authorization = `Bearer ${await token(tenant)}`;
  for (const deadline = Date.now() + 60_000; !publisher.connected; await sleep(100)) {
    if (Date.now() > deadline) throw new Error("the ingestor found no Kafka within a minute");
  }
  return {
    post: (events) =>
      app.inject({
        method: "POST",
        url: "/v1/events",
        headers: { authorization, "content-type": "application/json" },
        payload: JSON.stringify(events),
      }),
    close: async () => {
      await app.close();
      await publisher.close();
    },
  };
}
