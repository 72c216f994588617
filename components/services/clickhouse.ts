// The ClickHouse replicas, the schema on them, and the feed from Kafka.

import type * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type SiemConfig } from "../config.ts";
import { guest, volume } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { script } from "../host/script.ts";
import { ports } from "../ports.ts";
import {
  renderClickhouseClient,
  renderClickhouseCluster,
  renderClickhouseConfig,
  renderClickhouseMemory,
  renderClickhouseUsers,
  renderMigration,
  renderSchemaScript,
} from "../render/clickhouse.ts";
import { clickhouseData, clickhouseEntry, renderClickhouseEntry } from "../render/clickhouse-entry.ts";
import { renderRecovery } from "../render/clickhouse-recovery.ts";
import { type Replica, type Topology } from "../topology.ts";
import { cpuShares } from "./cpu.ts";
import { gate, onceOn } from "./gate.ts";
import { retention } from "./retention.ts";

export interface ClickHouseArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  readonly config: SiemConfig["clickhouse"];
  readonly password: pulumi.Output<string>;
  /** What must be ready before the servers start: ZooKeeper. */
  readonly after: pulumi.Resource;
  /** What must be ready before the feed can be declared: Kafka's topics. */
  readonly feed: pulumi.Resource;
}

/** Shell: the server answers over HTTP. */
export function clickhouseAnswers(replica: Replica): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} timeout 3 wget -q -O - http://127.0.0.1:${ports.clickhouseHttp.number}/ping`;
}

/** Shell: every replicated table of the server can be written and has nothing left to fetch. */
export function clickhouseInSync(replica: Replica): string {
  return `[ "$(${dockerOn(replica.node)} exec ${replica.name} clickhouse-client --query 'SELECT count() FROM system.replicas WHERE is_readonly OR is_session_expired OR absolute_delay > 10')" = 0 ]`;
}

export class ClickHouse extends pulumi.ComponentResource {
  /** Resolves once every replica has the schema, and has caught up. */
  readonly ready: command.local.Command;

  constructor(name: string, args: ClickHouseArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:services:ClickHouse", name, {}, opts);
    const { nodes, topology, password } = args;
    const containers: docker.Container[] = [];
    let before: pulumi.Resource[] = [args.after];
    for (const [index, replica] of topology.clickhouse.entries()) {
      const place = nodes.at(replica.node);
      const data = volume(
        `${replica.alias}-data`,
        { host: place.host, volumeName: `${replica.name}-data`, keep: true },
        { parent: this },
      );
      const files: Record<string, pulumi.Input<string>> = {
        [clickhouseEntry]: renderClickhouseEntry(topology),
        "/etc/clickhouse-server/config.d/20-cluster.xml": password.apply((value) =>
          renderClickhouseCluster(topology, value),
        ),
        "/etc/clickhouse-server/users.d/10-users.xml": password.apply((value) =>
          renderClickhouseUsers(topology, value),
        ),
        "/etc/clickhouse-client/config.xml": password.apply(renderClickhouseClient),
      };
      for (const [file, text] of Object.entries(renderClickhouseConfig(topology, replica))) {
        files[`/etc/clickhouse-server/config.d/${file}`] = text;
      }
      for (const [path, text] of Object.entries(renderClickhouseMemory(args.config.memoryMb))) {
        files[`/etc/clickhouse-server/${path}`] = text;
      }
      const container = guest(
        replica.alias,
        {
          place,
          containerName: replica.name,
          image: place.host.image("clickhouse"),
          command: ["bash", clickhouseEntry],
          // Users come from users.d; the current image would otherwise write its own restricted default user.
          environment: { CLICKHOUSE_SKIP_USER_SETUP: "1" },
          files,
          volumes: [{ volume: data, path: clickhouseData }],
          capabilities: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID"],
          memoryMb: args.config.memoryMb,
          cpuShares: cpuShares.clickhouse,
          liveness: ["bash", "-c", `</dev/tcp/localhost/${ports.clickhouseHttp.number}`],
          graceSeconds: 60,
        },
        { parent: this, dependsOn: before },
      );
      containers.push(container);
      const next = topology.clickhouse[index + 1];
      if (next !== undefined) {
        before = [
          gate(
            `${replica.alias}-gate`,
            {
              nodes,
              asks: [replica.node],
              probe: clickhouseInSync(replica),
              what: `${replica.name} to have caught up`,
              containers: [container],
              next,
            },
            { parent: this },
          ),
        ];
      }
    }
    const formed = gate(
      `${name}-formed`,
      {
        nodes,
        asks: topology.clickhouse.map((replica) => replica.node),
        probe: topology.clickhouse.map(clickhouseAnswers).join(" && "),
        what: "every ClickHouse replica to answer",
        containers,
      },
      { parent: this },
    );
    const uses = topology.clickhouse.map((replica) => replica.node);
    const made = containers.map((container) => container.id);
    const recovery = script(
      `${name}-recovery`,
      {
        nodes,
        uses: [...uses, ...topology.kafka.map((broker) => broker.node)],
        shell: renderRecovery(topology),
        triggers: made,
      },
      { parent: this, dependsOn: [formed, args.feed] },
    );
    const schema = script(
      `${name}-schema`,
      {
        nodes,
        uses,
        shell: `${topology.clickhouse.map((replica) => onceOn(replica, "sh -s")).join("\n")}
echo "no ClickHouse replica is running" >&2
exit 1
`,
        stdin: renderSchemaScript(topology),
        // A replica whose data is gone has no tables, and recovery leaves the feed to this.
        triggers: made,
      },
      { parent: this, dependsOn: [recovery] },
    );
    retention(
      { topology, nodes, days: args.config.retentionDays, password, after: schema },
      { parent: this },
    );
    const migration = script(
      `${name}-migration`,
      { nodes, uses, shell: renderMigration(topology), triggers: made },
      { parent: this, dependsOn: [schema] },
    );
    // A replica that was replaced answers before it takes part: ZooKeeper must forget the one before it first.
    this.ready = gate(
      `${name}-ready`,
      {
        nodes,
        asks: uses,
        probe: topology.clickhouse.map(clickhouseInSync).join(" && "),
        what: "every ClickHouse replica to have caught up",
        containers,
      },
      { parent: this, dependsOn: [migration] },
    );
    this.registerOutputs();
  }
}
