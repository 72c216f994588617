// Do the images keep the public images' interface? The same checks hold for stand-ins and for the real ones.

import { mkdtempSync, rmSync, writeFileSync, chmodSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { zookeeperCommand } from "../../components/render/zookeeper.ts";
import { ensureImages } from "../../offline/images/build.ts";
import {
  cleanUp,
  docker,
  droppingRoot,
  inside,
  logs,
  network,
  once,
  start,
  stack,
  until,
  withoutDocker,
  withoutRights,
} from "./docker.ts";

const all = [...Object.values(publicImages), ...Object.values(baseImages)];
const folders: string[] = [];

/** A folder of config files that any uid can read, as the platform's volumes are. */
function folder(files: Readonly<Record<string, string>>): string {
  const path = mkdtempSync(join(tmpdir(), `${stack}-`));
  folders.push(path);
  chmodSync(path, 0o755);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text);
  return path;
}

describe.skipIf(withoutDocker())("images", () => {
  beforeAll(() => ensureImages(all, (line) => console.log(line)), 900_000);
  afterEach(() => cleanUp());
  afterAll(() => {
    for (const path of folders) rmSync(path, { recursive: true, force: true });
  });

  it("are not looked for again once they are there", async () => {
    const lines: string[] = [];
    const started = Date.now();
    await ensureImages(all, (line) => lines.push(line));
    expect(lines).toEqual([]);
    expect(Date.now() - started).toBeLessThan(1500);
  });

  it("that nobody has are named in the error", async () => {
    await expect(ensureImages(["siem-ha/no-such-image:1"], () => undefined)).rejects.toThrow(
      /siem-ha\/no-such-image:1 is not in the local Docker daemon/,
    );
  }, 30_000);

  it("busybox has the applets that anchors and probes use", () => {
    const line = "for name in tail sh wget nc cat ip; do command -v $name || echo missing $name; done";
    const { output } = once(publicImages.anchor, "sh", "-c", line);
    expect(output.split("\n")).toHaveLength(6);
    expect(output).not.toContain("missing");
  });

  it("node runs scripts as uid 1000", () => {
    const { output } = once(
      "--user=node",
      ...withoutRights,
      baseImages.node,
      "node",
      "-p",
      "process.getuid()",
    );
    expect(output).toBe("1000");
  });

  it("zookeeper renders its variables, drops root and serves", async () => {
    const zookeeper = start(
      "zk",
      ...droppingRoot,
      ...["ZOO_MY_ID=7", "ZOO_TICK_TIME=1500", "ZOO_INIT_LIMIT=9", "ZOO_SYNC_LIMIT=4"].map(
        (text) => `--env=${text}`,
      ),
      ...["ZOO_MAX_CLIENT_CNXNS=11", "ZOO_ADMINSERVER_ENABLED=false", "ZK_SERVER_HEAP=96"].map(
        (text) => `--env=${text}`,
      ),
      "--env=ZOO_SERVERS=server.7=localhost:2888:3888;2181",
      "--env=ZOO_4LW_COMMANDS_WHITELIST=srvr,mntr,ruok",
      "--env=ZOO_CFG_EXTRA=maxSessionTimeout=50000 globalOutstandingLimit=900",
      "--env=JVMFLAGS=-XX:+UseSerialGC -Dtest.mark=set",
      publicImages.zookeeper,
    );
    await until(zookeeper, () => inside(zookeeper, "echo srvr | nc -w 1 localhost 2181"), /Mode: standalone/);
    const config = inside(zookeeper, "cat /conf/zoo.cfg").split("\n");
    expect(config).toEqual(
      expect.arrayContaining([
        "dataDir=/data",
        "dataLogDir=/datalog",
        "tickTime=1500",
        "initLimit=9",
        "syncLimit=4",
        "maxClientCnxns=11",
        "admin.enableServer=false",
        "server.7=localhost:2888:3888;2181",
        "4lw.commands.whitelist=srvr,mntr,ruok",
        "maxSessionTimeout=50000",
        "globalOutstandingLimit=900",
      ]),
    );
    expect(inside(zookeeper, "cat /data/myid")).toBe("7");
    expect(inside(zookeeper, "grep Uid /proc/1/status")).toMatch(/1000\s+1000/);
    expect(inside(zookeeper, "tr '\\0' ' ' < /proc/1/cmdline")).toMatch(/-Xmx96m.*-Dtest\.mark=set/);
  }, 90_000);

  it("zookeeper starts after a disk that was full when it first did", async () => {
    const zookeeper = start(
      "zk",
      ...droppingRoot,
      "--env=ZOO_MY_ID=1",
      "--env=ZOO_4LW_COMMANDS_WHITELIST=srvr",
      "--entrypoint=sleep",
      publicImages.zookeeper,
      "300",
    );
    // What the image's own entrypoint leaves when it can't write.
    inside(zookeeper, ': > /data/myid; printf "dataDir=/da" > /conf/zoo.cfg');
    docker("exec", "--detach", zookeeper, "/docker-entrypoint.sh", ...zookeeperCommand);
    await until(zookeeper, () => inside(zookeeper, "echo srvr | nc -w 1 localhost 2181"), /Mode: standalone/);
    expect(inside(zookeeper, "cat /data/myid")).toBe("1");
  }, 90_000);

  it("kafka renders its variables, waits for ZooKeeper, serves, and has its commands", async () => {
    const net = network();
    const kafka = start(
      "kafka",
      ...withoutRights,
      `--network=${net}`,
      "--network-alias=kafka",
      ...[
        "KAFKA_BROKER_ID=5",
        "KAFKA_ZOOKEEPER_CONNECT=zookeeper:2181/chroot",
        "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://kafka:9092",
        "KAFKA_HEAP_OPTS=-Xmx200m",
        "KAFKA_JVM_PERFORMANCE_OPTS=-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "KAFKA_MIN_INSYNC_REPLICAS=1",
        "KAFKA_SOME__UNDER_SCORE___DASH=kept",
        "KAFKA_LOG4J_LOGGERS=kafka.controller=WARN",
      ].map((text) => `--env=${text}`),
      publicImages.kafka,
    );
    // Started second on purpose: the broker has to wait for it.
    start(
      "zk",
      ...droppingRoot,
      `--network=${net}`,
      "--network-alias=zookeeper",
      "--env=ZOO_ADMINSERVER_ENABLED=false",
      publicImages.zookeeper,
    );
    await until(kafka, () => logs(kafka), /started \(kafka\.server\.KafkaServer\)/, 120);
    const topic = "kafka-topics --bootstrap-server kafka:9092";
    expect(inside(kafka, `${topic} --create --topic t --partitions 2 --replication-factor 1`)).toContain(
      "Created topic t",
    );
    const properties = inside(kafka, "cat /etc/kafka/kafka.properties").split("\n");
    expect(properties).toEqual(
      expect.arrayContaining([
        "broker.id=5",
        "zookeeper.connect=zookeeper:2181/chroot",
        "advertised.listeners=PLAINTEXT://kafka:9092",
        "listeners=PLAINTEXT://0.0.0.0:9092",
        "log.dirs=/var/lib/kafka/data",
        "min.insync.replicas=1",
        "some_under.score-dash=kept",
      ]),
    );
    expect(properties.join()).not.toMatch(/heap|performance|log4j/);
    expect(inside(kafka, "cat /etc/kafka/log4j.properties")).toContain("log4j.logger.kafka.controller=WARN");
    expect(inside(kafka, "id -u")).toBe("1000");
    const commands = [
      "topics",
      "configs",
      "console-producer",
      "console-consumer",
      "producer-perf-test",
      "broker-api-versions",
    ];
    const found = inside(
      kafka,
      `for name in ${commands.join(" ")} run-class; do command -v kafka-$name; done`,
    );
    expect(found.split("\n")).toHaveLength(commands.length + 1);
  }, 180_000);

  it("clickhouse merges config.d and users.d, reads the environment, takes ports, and drops root", async () => {
    const config = folder({
      "10-ports.xml":
        '<clickhouse><listen_host>0.0.0.0</listen_host><http_port>18123</http_port><tcp_port>19000</tcp_port><macros><replica from_env="REPLICA"/></macros></clickhouse>',
    });
    const users = folder({
      "10-siem.xml":
        '<clickhouse><users><default remove="remove"/><siem><password>p w</password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></siem></users></clickhouse>',
    });
    const clickhouse = start(
      "ch",
      ...droppingRoot,
      "--env=REPLICA=clickhouse-9",
      `--volume=${config}:/etc/clickhouse-server/config.d:ro`,
      `--volume=${users}:/etc/clickhouse-server/users.d:ro`,
      publicImages.clickhouse,
    );
    const query = (user: string, sql: string): string =>
      inside(clickhouse, `clickhouse-client --port 19000 ${user} --query "${sql}"`);
    await until(clickhouse, () => query("--user siem --password 'p w'", "SELECT 1"), /^1$/);
    expect(query("--user siem --password 'p w'", "SELECT substitution FROM system.macros")).toBe(
      "clickhouse-9",
    );
    expect(query("--user default", "SELECT 1")).toMatch(/exception|denied|unknown user|authentication/i);
    expect(inside(clickhouse, "wget -qO- http://127.0.0.1:18123/ping")).toContain("Ok.");
    expect(inside(clickhouse, "grep Uid /proc/1/status")).toMatch(/101\s+101/);
    // What changes two of its habits; that a steady trickle is stored is in once.test.ts.
    const maps = ["exec", "--user=101", clickhouse, "grep", "-c", "habits.so", "/proc/1/maps"];
    expect(Number(docker(...maps))).toBeGreaterThan(0);
  }, 90_000);

  it("haproxy checks configs, serves without any rights, and stops by its stop signal", async () => {
    const good = folder({
      "haproxy.cfg":
        "defaults\n  mode http\n  timeout client 5s\n  timeout server 5s\n  timeout connect 1s\n" +
        "frontend health\n  bind :8405\n  http-request return status 200 content-type text/plain string fine\n",
    });
    const bad = folder({ "haproxy.cfg": "frontend health\n  bind :8405\n  nonsense here\n" });
    const mount = (path: string): string => `--volume=${path}:/usr/local/etc/haproxy:ro`;
    const check = ["haproxy", "-c", "-f", "/usr/local/etc/haproxy/haproxy.cfg"];
    expect(once(...withoutRights, mount(good), publicImages.haproxy, ...check).code).toBe(0);
    const refused = once(...withoutRights, mount(bad), publicImages.haproxy, ...check);
    expect(refused.code).toBe(1);
    expect(refused.output).toContain("unknown keyword 'nonsense'");

    const net = network();
    const haproxy = start(
      "ha",
      ...withoutRights,
      `--network=${net}`,
      "--network-alias=ha",
      mount(good),
      publicImages.haproxy,
    );
    const probe = ["wget", "-qO-", "http://ha:8405/"];
    await until(haproxy, () => once(`--network=${net}`, publicImages.anchor, ...probe).output, /fine/, 20);
    expect(inside(haproxy, "id -u")).toBe("99");
    docker("stop", haproxy);
    expect(docker("inspect", "--format", "{{.State.ExitCode}}", haproxy)).toBe("0");
  }, 60_000);
});
