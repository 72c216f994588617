// Every port of the platform, once. On a node all guests share a namespace, so ports must be distinct there;
// everything that listens, connects, publishes or opens a firewall reads this table.

import type { Role } from "./topology.ts";

/** One listening port: what it speaks, and who may call it. */
export interface Port {
  /** Port number on the node. Replicas of a stateless service listen on `number + slot` (slots count from 1). */
  readonly number: number;
  readonly protocol: "tcp" | "http";
  /** Roles of the nodes that listen on it. */
  readonly on: readonly Role[];
  /**
   * Who may connect: `client` (the configured ranges, and any node), `admin` (the operators' ranges), `node` (the
   * platform's own nodes), `peer` (the same service), `self`.
   */
  readonly from: "client" | "admin" | "node" | "peer" | "self";
  /** Roles of the nodes that call it, where `from` is `node` and not every node does. @default any node */
  readonly callers?: readonly Role[];
  readonly purpose: string;
}

export const ports = {
  haproxyApi: { number: 8080, protocol: "http", on: ["lb"], from: "client", purpose: "API entry on the VIP" },
  haproxyIngest: {
    number: 8081,
    protocol: "http",
    on: ["lb"],
    from: "client",
    purpose: "event entry on the VIP",
  },
  syslog: {
    number: 514,
    protocol: "tcp",
    on: ["lb"],
    from: "client",
    purpose: "syslog over TCP on the VIP, if the configuration asks for it",
  },
  haproxyStats: {
    number: 8404,
    protocol: "http",
    on: ["lb"],
    from: "admin",
    purpose: "HAProxy statistics page, with a password",
  },
  haproxyHealth: {
    number: 8405,
    protocol: "http",
    on: ["lb"],
    from: "self",
    purpose: "Keepalived's check of the local HAProxy",
  },
  witness: {
    number: 8406,
    protocol: "http",
    on: ["lb"],
    from: "node",
    callers: ["lb"],
    purpose: "lease of the VIP, on lb-node-3",
  },
  api: {
    number: 8090,
    protocol: "http",
    on: ["lb"],
    from: "node",
    callers: ["lb"],
    purpose: "siem_api replica (base, + slot)",
  },
  ingestor: {
    number: 8190,
    protocol: "http",
    on: ["lb"],
    from: "node",
    callers: ["lb"],
    purpose: "siem_ingestor replica (base, + slot)",
  },
  ingestorSyslog: {
    number: 5514,
    protocol: "tcp",
    on: ["lb"],
    from: "node",
    callers: ["lb"],
    purpose: "syslog of a siem_ingestor replica (base, + slot)",
  },
  zookeeperClient: {
    number: 2181,
    protocol: "tcp",
    on: ["stream"],
    from: "node",
    callers: ["stream", "store"],
    purpose: "ZooKeeper clients",
  },
  zookeeperPeer: {
    number: 2888,
    protocol: "tcp",
    on: ["stream"],
    from: "peer",
    purpose: "ZooKeeper followers to leader",
  },
  zookeeperElection: {
    number: 3888,
    protocol: "tcp",
    on: ["stream"],
    from: "peer",
    purpose: "ZooKeeper leader election",
  },
  kafka: {
    number: 9092,
    protocol: "tcp",
    on: ["stream"],
    from: "node",
    purpose: "Kafka clients and brokers",
  },
  clickhouseHttp: {
    number: 8123,
    protocol: "http",
    on: ["store"],
    from: "node",
    callers: ["lb"],
    purpose: "ClickHouse queries over HTTP",
  },
  clickhouseNative: {
    number: 9000,
    protocol: "tcp",
    on: ["store"],
    from: "node",
    callers: ["store"],
    purpose: "ClickHouse native protocol",
  },
  clickhouseInterserver: {
    number: 9009,
    protocol: "http",
    on: ["store"],
    from: "peer",
    purpose: "ClickHouse part exchange",
  },
} as const satisfies Record<string, Port>;

/**
 * Ports of what is still to come (Wazuh's API): reserved on a machine from birth, because its first boot is read once.
 */
export const futurePorts: readonly number[] = [55000];

export type PortName = keyof typeof ports;

/** Entry ports and what they lead to: the public entry has these, in a namespace of its own. */
export const publicPorts = {
  api: { tls: 443, leadsTo: "haproxyApi" },
  ingest: { tls: 8443, leadsTo: "haproxyIngest" },
} as const satisfies Record<string, { tls: number; leadsTo: PortName }>;

/** The port of a stateless replica: base + slot, so that several replicas fit on one node. */
export function slotPort(name: "api" | "ingestor" | "ingestorSyslog", slot: number): number {
  const span = 100;
  if (!Number.isInteger(slot) || slot < 1 || slot >= span) {
    throw new RangeError(`slot of ${name} must be a whole number from 1 to ${span - 1}, but is ${slot}`);
  }
  return ports[name].number + slot;
}
