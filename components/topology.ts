// The architecture on one screen: nine nodes, their zones, addresses, and what is placed on each. Pure.

import { ports, slotPort } from "./ports.ts";

export type Role = "lb" | "stream" | "store";

/** A node is a network namespace with an address; guests share it. */
export interface Node {
  /** Container name of the anchor: `lb-node-1`, after the stack's prefix. */
  readonly name: string;
  /** Host name, and name of its resources: `lb-node-1`. */
  readonly alias: string;
  readonly role: Role;
  /** 1-based index within the role; also the zone, because each role has one node a zone. */
  readonly index: number;
  readonly zone: number;
  readonly address: string;
  /** Names of this node's guests, given to the anchor at birth. */
  readonly aliases: readonly string[];
  /** Ports published on the Docker host's loopback at birth (local only). */
  readonly published: readonly { readonly external: number; readonly internal: number }[];
}

/** One running copy of a service, placed on a node. */
export interface Replica {
  /** Container name: `kafka-2`, after the stack's prefix. */
  readonly name: string;
  /** Name on the stack's own network, and of its resources: `kafka-2`. */
  readonly alias: string;
  readonly slot: number;
  readonly node: Node;
}

/** A stateless replica has a port of its own. */
export interface HttpReplica extends Replica {
  readonly port: number;
  /** Where an ingestor takes syslog, if the configuration asks for it. */
  readonly syslogPort?: number;
}

export interface Topology {
  /** The bridge that anchors sit on; machines have a network of their own. */
  readonly network?: {
    readonly name: string;
    readonly subnet: string;
    readonly gateway: string;
    /** Docker's IPAM hands out addresses from here only: outside every fixed address and the VIP. */
    readonly dynamicRange: string;
  };
  readonly vip: { readonly address: string; readonly prefix: number; readonly name: string };
  readonly nodes: readonly Node[];
  readonly haproxy: readonly Replica[];
  readonly keepalived: readonly Replica[];
  /** Settles who holds the VIP; on the first lb node that never does. */
  readonly witness: Replica;
  readonly api: readonly HttpReplica[];
  readonly ingestor: readonly HttpReplica[];
  readonly zookeeper: readonly Replica[];
  readonly kafka: readonly Replica[];
  readonly clickhouse: readonly Replica[];
  /** What removes old events, beside each ClickHouse replica. */
  readonly retention: readonly Replica[];
  /** Mends what Docker leaves broken: one a host, by the same name on each. */
  readonly supervisor: { readonly name: string; readonly alias: string };
  /** Starts the supervisor where that was killed, and is started by it: one beside each. */
  readonly watchdog: { readonly name: string; readonly alias: string };
}

/** Zones, and nodes of each role: one a zone. */
export const zones = 3;
/** Last octet of each role's first address on the bridge, and offset in a machine's subnet. */
export const firstHost: Record<Role, number> = { lb: 11, stream: 21, store: 31 };
/** Load balancers that share the VIP: the first nodes of role `lb`. */
export const balancers = 2;
const published = [ports.haproxyApi.number, ports.haproxyIngest.number, ports.haproxyStats.number];

/** Names and counts that are not per node. */
export const names = {
  network: "siem-net",
  vip: "siem.vip",
  clickhouseCluster: "siem_cluster",
  clickhouseShard: "01",
  database: "dev",
  databaseUser: "siem",
  eventsTable: "events_replicated",
  alertsTable: "alerts_replicated",
  /** What came over Kafka and is neither. */
  unreadableTable: "unreadable_replicated",
  eventsTopic: "ingest-events",
  alertsTopic: "alerts",
  /** Label on everything the stack makes in Docker; `down` and the tests look for leftovers by it. */
  label: "siem-ha.stack",
} as const;

/** A consumer group, and the topic that it reads. */
export interface Reader {
  readonly group: string;
  readonly topic: string;
}

/** Who reads Kafka: ClickHouse, with a group for each of its queues. The ingestors watch how far these have come. */
export const readers = {
  events: { group: `clickhouse-${names.eventsTopic}`, topic: names.eventsTopic },
  alerts: { group: `clickhouse-${names.alertsTopic}`, topic: names.alertsTopic },
} as const satisfies Record<string, Reader>;

/** How a tenant may be called: its name ends up in keys and queries. The configuration and the services ask for it. */
export const tenantPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export interface TopologyOptions {
  /** Prefix of every Docker name, so that a test stack can stand beside another. @default no prefix */
  readonly prefix?: string;
  /** First three octets of the local /24. @default 172.25.0 */
  readonly net?: string;
  /** Offset added to published host ports. @default ports are published as they are */
  readonly portOffset?: number;
  /** The ingestors take syslog too. @default HTTP only */
  readonly syslog?: boolean;
  /** Machines instead of anchors on a bridge: where each has its address, and the overlay address that moves. */
  readonly machines?: { readonly address: (role: Role, zone: number) => string; readonly vip: string };
}

function aliasesOf(role: Role, index: number): string[] {
  switch (role) {
    case "lb":
      return [
        `siem-api-${index}`,
        `siem-ingestor-${index}`,
        ...(index <= balancers ? [`haproxy-${index}`, `keepalived-${index}`] : []),
      ];
    case "stream":
      return [`zookeeper-${index}`, `kafka-${index}`];
    case "store":
      return [`clickhouse-${index}`, "clickhouse-cluster"];
  }
}

/** Computes the whole placement. Throws nothing: options are validated by the config. */
export function plan(options: TopologyOptions = {}): Topology {
  const net = options.net ?? "172.25.0";
  const prefix = options.prefix ?? "";
  const { machines } = options;
  const nodes: Node[] = [];
  for (const role of ["lb", "stream", "store"] as const) {
    for (let index = 1; index <= zones; index++) {
      const offset = (options.portOffset ?? 0) + (index - 1) * 10000;
      nodes.push({
        name: `${prefix}${role}-node-${index}`,
        alias: `${role}-node-${index}`,
        role,
        index,
        zone: index,
        address: machines?.address(role, index) ?? `${net}.${firstHost[role] + index - 1}`,
        aliases: aliasesOf(role, index),
        published:
          machines === undefined && role === "lb" && index <= balancers
            ? published.map((port) => ({ external: port + offset, internal: port }))
            : [],
      });
    }
  }
  const place = (service: string, role: Role, count: number): Replica[] =>
    nodes
      .filter((node) => node.role === role)
      .slice(0, count)
      .map((node) => {
        const alias = `${service}-${node.index}`;
        return { name: prefix + alias, alias, slot: node.index, node };
      });
  const http = (service: string, port: "api" | "ingestor"): HttpReplica[] =>
    place(service, "lb", zones).map((replica) => ({ ...replica, port: slotPort(port, replica.slot) }));
  const clickhouse = place("clickhouse", "store", zones);
  const [witness] = place("witness", "lb", zones).slice(balancers);
  if (witness === undefined) throw new Error(`no lb node is left beside the ${balancers} that share the VIP`);
  return {
    ...(machines === undefined
      ? {
          network: {
            name: `${prefix}${names.network}`,
            subnet: `${net}.0/24`,
            gateway: `${net}.1`,
            dynamicRange: `${net}.64/26`,
          },
          vip: { address: `${net}.222`, prefix: 24, name: names.vip },
        }
      : { vip: { address: machines.vip, prefix: 32, name: names.vip } }),
    nodes,
    haproxy: place("haproxy", "lb", balancers),
    keepalived: place("keepalived", "lb", balancers),
    witness: { ...witness, name: `${prefix}witness`, alias: "witness" },
    api: http("siem-api", "api"),
    ingestor: http("siem-ingestor", "ingestor").map((replica) =>
      options.syslog === true
        ? { ...replica, syslogPort: slotPort("ingestorSyslog", replica.slot) }
        : replica,
    ),
    zookeeper: place("zookeeper", "stream", zones),
    kafka: place("kafka", "stream", zones),
    clickhouse,
    retention: clickhouse.map(({ name, alias, ...rest }) => ({
      ...rest,
      name: `${name}-retention`,
      alias: `${alias}-retention`,
    })),
    supervisor: { name: `${prefix}supervisor`, alias: "supervisor" },
    watchdog: { name: `${prefix}watchdog`, alias: "watchdog" },
  };
}
