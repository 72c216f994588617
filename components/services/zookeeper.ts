// The ZooKeeper ensemble: the quorum that Kafka and ClickHouse's replication stand on.

import type * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type SiemConfig } from "../config.ts";
import { guest, volume } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { ports } from "../ports.ts";
import { renderZookeeper, zookeeperCommand } from "../render/zookeeper.ts";
import { type Replica, type Topology } from "../topology.ts";
import { cpuShares } from "./cpu.ts";
import { gate } from "./gate.ts";
import { besideHeapMb } from "./memory.ts";

export interface ZooKeeperArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  readonly config: SiemConfig["zookeeper"];
}

/** Shell: the server serves as leader or follower. `ruok` would not do: a lone server of three answers it too. */
export function zookeeperProbe(replica: Replica): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} sh -c 'echo mntr | nc -w 2 127.0.0.1 ${ports.zookeeperClient.number}' | grep -E 'zk_server_state.(leader|follower)'`;
}

export class ZooKeeper extends pulumi.ComponentResource {
  /** Resolves once every server serves. */
  readonly ready: command.local.Command;

  constructor(name: string, args: ZooKeeperArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:services:ZooKeeper", name, {}, opts);
    const { nodes, topology, config } = args;
    const containers: docker.Container[] = [];
    let before: pulumi.Resource[] = [];
    for (const [index, replica] of topology.zookeeper.entries()) {
      const place = nodes.at(replica.node);
      const data = volume(
        `${replica.alias}-data`,
        { host: place.host, volumeName: `${replica.name}-data`, keep: true },
        { parent: this },
      );
      const log = volume(
        `${replica.alias}-log`,
        { host: place.host, volumeName: `${replica.name}-log`, keep: true },
        { parent: this },
      );
      const container = guest(
        replica.alias,
        {
          place,
          containerName: replica.name,
          image: place.host.image("zookeeper"),
          command: zookeeperCommand,
          environment: renderZookeeper(topology, replica, config.heapMb),
          volumes: [
            { volume: data, path: "/data" },
            { volume: log, path: "/datalog" },
          ],
          tmpfs: { "/logs": "rw,mode=1777,size=64m" },
          capabilities: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETGID", "CAP_SETUID"],
          memoryMb: config.heapMb + besideHeapMb.zookeeper,
          cpuShares: cpuShares.zookeeper,
          liveness: [
            "sh",
            "-c",
            `echo ruok | nc -w 2 localhost ${ports.zookeeperClient.number} | grep -q imok`,
          ],
          graceSeconds: 20,
        },
        { parent: this, dependsOn: before },
      );
      containers.push(container);
      const next = topology.zookeeper[index + 1];
      if (next !== undefined) {
        before = [
          gate(
            `${replica.alias}-gate`,
            {
              nodes,
              asks: [replica.node],
              probe: zookeeperProbe(replica),
              what: `${replica.name} to serve in the quorum`,
              containers: [container],
              next,
            },
            { parent: this },
          ),
        ];
      }
    }
    this.ready = gate(
      `${name}-ready`,
      {
        nodes,
        asks: topology.zookeeper.map((replica) => replica.node),
        probe: topology.zookeeper.map(zookeeperProbe).join(" && "),
        what: "the ZooKeeper quorum",
        containers,
      },
      { parent: this },
    );
    this.registerOutputs();
  }
}
