// Every port of the platform, once. On a node all guests share a namespace, so ports must be distinct there;
// everything that listens, connects, publishes or opens a firewall reads this table.

/** One listening port: what it speaks, and who may call it. */
export interface Port {
  /** Port number on the node. Replicas of a stateless service listen on `number + slot` (slots count from 1). */
  readonly number: number;
  readonly protocol: "tcp" | "http";
  /** Who may connect: `client` (the configured ranges), `node` (any node), `peer` (the same service), `self`. */
  readonly from: "client" | "node" | "peer" | "self";
  readonly purpose: string;
}

export const ports = {
  haproxyApi: { number: 8080, protocol: "http", from: "client", purpose: "API entry on the VIP" },
  haproxyIngest: { number: 8081, protocol: "http", from: "client", purpose: "event entry on the VIP" },
  haproxyStats: {
    number: 8404,
    protocol: "http",
    from: "client",
    purpose: "HAProxy statistics page, with a password",
  },
  haproxyHealth: {
    number: 8405,
    protocol: "http",
    from: "self",
    purpose: "Keepalived's check of the local HAProxy",
  },
  api: { number: 8090, protocol: "http", from: "node", purpose: "siem_api replica (base, + slot)" },
  ingestor: { number: 8190, protocol: "http", from: "node", purpose: "siem_ingestor replica (base, + slot)" },
  zookeeperClient: { number: 2181, protocol: "tcp", from: "node", purpose: "ZooKeeper clients" },
  zookeeperPeer: { number: 2888, protocol: "tcp", from: "peer", purpose: "ZooKeeper followers to leader" },
  zookeeperElection: { number: 3888, protocol: "tcp", from: "peer", purpose: "ZooKeeper leader election" },
  kafka: { number: 9092, protocol: "tcp", from: "node", purpose: "Kafka clients and brokers" },
  clickhouseHttp: { number: 8123, protocol: "http", from: "node", purpose: "ClickHouse queries over HTTP" },
  clickhouseNative: { number: 9000, protocol: "tcp", from: "node", purpose: "ClickHouse native protocol" },
  clickhouseInterserver: {
    number: 9009,
    protocol: "http",
    from: "peer",
    purpose: "ClickHouse part exchange",
  },
} as const satisfies Record<string, Port>;

export type PortName = keyof typeof ports;

/** The port of a stateless replica: base + slot, so that several replicas fit on one node. */
export function slotPort(name: "api" | "ingestor", slot: number): number {
  const span = 100;
  if (!Number.isInteger(slot) || slot < 1 || slot >= span) {
    throw new RangeError(`slot of ${name} must be a whole number from 1 to ${span - 1}, but is ${slot}`);
  }
  return ports[name].number + slot;
}
