// Every rendered config against a whole file that a reviewer can read; `vitest -u` writes them anew.

import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { renderConfigWriter } from "../../components/edge/load-balancers.ts";
import {
  renderClickhouseClient,
  renderClickhouseCluster,
  renderClickhouseConfig,
  renderClickhouseMemory,
  renderClickhouseUsers,
  renderMigration,
  renderSchemaScript,
} from "../../components/render/clickhouse.ts";
import { renderClickhouseEntry } from "../../components/render/clickhouse-entry.ts";
import { renderHaproxy, renderStatsUsers } from "../../components/render/haproxy.ts";
import { renderKafka, renderTopics, renderTopicsCheck } from "../../components/render/kafka.ts";
import { renderKeepalived } from "../../components/render/keepalived.ts";
import { renderRecovery } from "../../components/render/clickhouse-recovery.ts";
import { renderRetention } from "../../components/render/retention.ts";
import { renderPairEntry } from "../../components/render/pair-entry.ts";
import { renderZookeeper } from "../../components/render/zookeeper.ts";
import { renderGate } from "../../components/services/gate.ts";
import { plan } from "../../components/topology.ts";

const topology = plan();
const config = parseConfig({ target: "local" });
const first = <T>(items: readonly T[]): T => {
  const [item] = items;
  if (item === undefined) throw new Error("empty");
  return item;
};
const environment = (values: Record<string, string>) =>
  Object.entries(values)
    .map(([key, value]) => `${key}=${value}\n`)
    .join("");

const files: Record<string, string> = {
  "haproxy.cfg": renderHaproxy(topology),
  "haproxy-syslog.cfg": renderHaproxy(plan({ syslog: true })),
  "haproxy-users.cfg": renderStatsUsers("PASSWORD"),
  "haproxy-config-writer.sh": renderConfigWriter(
    first(topology.haproxy),
    { config: "haproxy-1-config", pair: "haproxy-1-pair" },
    "local",
  ),
  "pair-entry.sh": renderPairEntry(topology),
  "zookeeper-1.env": environment(
    renderZookeeper(topology, first(topology.zookeeper), config.zookeeper.heapMb),
  ),
  "kafka-1.env": environment(renderKafka(topology, first(topology.kafka), config.kafka)),
  "kafka-topics.sh": renderTopics(config.kafka),
  "kafka-topics-check.sh": renderTopicsCheck(config.kafka),
  "clickhouse-entry.sh": renderClickhouseEntry(topology),
  "clickhouse-cluster.xml": renderClickhouseCluster(topology, "PASSWORD"),
  "clickhouse-users.xml": renderClickhouseUsers(topology, "PASSWORD"),
  "clickhouse-client.xml": renderClickhouseClient("PASSWORD"),
  "clickhouse-schema.sh": renderSchemaScript(topology),
  "clickhouse-recovery.sh": renderRecovery(topology),
  "clickhouse-retention.sh": renderRetention(config.clickhouse.retentionDays),
  "clickhouse-migration.sh": renderMigration(topology),
  "gate.sh": renderGate({ probe: "true", what: "kafka-1 to be in sync", next: topology.kafka[1] }),
};
for (const keeper of topology.keepalived)
  files[`${keeper.alias}.conf`] = renderKeepalived(topology, keeper, "eth0");
for (const [name, text] of Object.entries(renderClickhouseConfig(topology, first(topology.clickhouse)))) {
  files[`clickhouse-1-${name}`] = text;
}
for (const [path, text] of Object.entries(renderClickhouseMemory(config.clickhouse.memoryMb))) {
  files[`clickhouse-${path.replace("/", "-")}`] = text;
}

describe("golden files", () => {
  it.each(Object.entries(files))("%s", async (name, text) => {
    await expect(text).toMatchFileSnapshot(`../golden/${name}`);
  });
});
