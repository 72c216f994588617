// The Kafka cluster and its topics.

import type * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type SiemConfig } from "../config.ts";
import { guest, volume } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { script } from "../host/script.ts";
import { ports } from "../ports.ts";
import { renderKafka, renderTopics, renderTopicsCheck } from "../render/kafka.ts";
import { type Replica, type Topology } from "../topology.ts";
import { cpuShares } from "./cpu.ts";
import { gate, onceOn } from "./gate.ts";
import { besideHeapMb } from "./memory.ts";

export interface KafkaArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  readonly config: SiemConfig["kafka"];
  /** What must be ready before the first broker starts. */
  readonly after: pulumi.Resource;
}

/**
 * Shell: this broker is in sync in every partition that it has a copy of. Anything printed is a partition where it
 * lags. Another broker's absence doesn't count: its own replacement may be what heals it, and comes later.
 */
export function kafkaInSyncProbe(replica: Replica): string {
  const docker = dockerOn(replica.node);
  const list = `kafka-topics --bootstrap-server localhost:${ports.kafka.number} --describe --under-replicated-partitions`;
  // Lines end in "Replicas: 1,2,3  Isr: 1,2": broker ids are the slots.
  const lags = `awk '{ r = ""; s = ""; for (i = 1; i < NF; i++) { if ($i == "Replicas:") r = "," $(i + 1) ","; if ($i == "Isr:") s = "," $(i + 1) "," } if (r ~ /,${replica.slot},/ && s !~ /,${replica.slot},/) print }'`;
  return `out=$(${docker} exec -e KAFKA_HEAP_OPTS='-Xms32m -Xmx128m' ${replica.name} ${list}) && out=$(printf '%s\\n' "$out" | ${lags}) && { [ -z "$out" ] || { printf '%s' "$out"; false; }; }`;
}

/** Shell: the broker takes connections. */
function listening(replica: Replica): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} sh -c "nc -w 1 127.0.0.1 ${ports.kafka.number} </dev/null"`;
}

export class Kafka extends pulumi.ComponentResource {
  /** Resolves once every broker is there and the topics are as declared. */
  readonly ready: command.local.Command;

  constructor(name: string, args: KafkaArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:services:Kafka", name, {}, opts);
    const { nodes, topology, config } = args;
    const uses = topology.kafka.map((replica) => replica.node);
    const containers: docker.Container[] = [];
    const check = script(
      `${name}-topics-check`,
      {
        nodes,
        uses,
        // Where no broker runs yet there is nothing to refuse.
        shell: `${topology.kafka.map((broker) => onceOn(broker, "sh -s")).join("\n")}
exit 0
`,
        stdin: renderTopicsCheck(config),
      },
      { parent: this, dependsOn: [args.after] },
    );
    let before: pulumi.Resource[] = [check];
    for (const [index, replica] of topology.kafka.entries()) {
      const place = nodes.at(replica.node);
      const data = volume(
        `${replica.alias}-data`,
        { host: place.host, volumeName: `${replica.name}-data`, keep: true },
        { parent: this },
      );
      const container = guest(
        replica.alias,
        {
          place,
          containerName: replica.name,
          image: place.host.image("kafka"),
          environment: renderKafka(topology, replica, config),
          volumes: [{ volume: data, path: "/var/lib/kafka/data" }],
          memoryMb: config.heapMb + besideHeapMb.kafka,
          cpuShares: cpuShares.kafka,
          liveness: ["bash", "-c", `</dev/tcp/localhost/${ports.kafka.number}`],
          // A controlled shutdown moves every partition's leadership first.
          graceSeconds: 60,
        },
        { parent: this, dependsOn: before },
      );
      containers.push(container);
      const next = topology.kafka[index + 1];
      if (next !== undefined) {
        before = [
          gate(
            `${replica.alias}-gate`,
            {
              nodes,
              asks: [replica.node],
              probe: kafkaInSyncProbe(replica),
              what: `${replica.name} to be in sync`,
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
        asks: uses,
        probe: topology.kafka.map(listening).join(" && "),
        what: "every Kafka broker to take connections",
        containers,
      },
      { parent: this },
    );
    this.ready = script(
      `${name}-topics`,
      {
        nodes,
        uses,
        shell: `${topology.kafka.map((broker) => onceOn(broker, "sh -s")).join("\n")}
echo "no Kafka broker is running" >&2
exit 1
`,
        stdin: renderTopics(config),
        // Brokers whose data is gone have no topics.
        triggers: containers.map((container) => container.id),
      },
      { parent: this, dependsOn: [formed] },
    );
    this.registerOutputs();
  }
}
