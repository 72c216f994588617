// Every image the platform runs, once: exact tags of public images, and the names of the ones built here.

/** Public images by exact tag. The offline kit builds images with the same names and interfaces. */
export const publicImages = {
  /** Holds a node's namespace; only `tail` is used. */
  anchor: "busybox:1.36.1",
  zookeeper: "zookeeper:3.9.3",
  /** The last Confluent line that runs with ZooKeeper; 8.x removed it. */
  kafka: "confluentinc/cp-kafka:7.9.0",
  clickhouse: "clickhouse/clickhouse-server:24.8.4.13",
  haproxy: "haproxy:3.0.11",
} as const;

/** Public images that our own are built from. */
export const baseImages = {
  node: "node:20.18.1-bookworm-slim",
  debian: "debian:trixie-slim",
} as const;

/** Images built from `images/<name>/Dockerfile`. */
export const ownImages = ["api", "ingestor", "keepalived", "supervisor", "witness"] as const;
export type OwnImage = (typeof ownImages)[number];

/** Built the same way, for commands on one daemon; no stack runs them, and no registry gets them. */
export const toolImages = ["chaos"] as const;
export type ToolImage = (typeof toolImages)[number];
