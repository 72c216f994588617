// How much memory each container may take, and what of it is for what.

import { type Topology } from "../topology.ts";

/** MB that a JVM service takes beside its heap: the container's limit is the sum. */
export const besideHeapMb = {
  /** Room for a short-lived admin tool (a second JVM) and page cache. */
  kafka: 768,
  /** 85 MiB resident was measured with a small heap. */
  zookeeper: 192,
} as const;

/** Memory limits of the containers that have the same in every configuration, MB. */
export const limitMb = {
  anchor: 32,
  /** Or the watchdog, which is the same program. */
  supervisor: 96,
  haproxy: 256,
  keepalived: 96,
  /** In a cloud there are as many calls at once as there are route tables. */
  keepalivedInCloud: 128,
  witness: 128,
  /** A replica of the API or an ingestor. */
  httpService: 512,
  /** A shell that sleeps, and a client for a moment. */
  retention: 256,
} as const;

/** The smallest values of the keys that size containers, MB. */
export const leastMb = { "clickhouse.memoryMb": 1024, "kafka.heapMb": 256, "zookeeper.heapMb": 64 } as const;

/** What of a configuration sizes containers. */
export interface Sizes {
  readonly clickhouse: { readonly memoryMb: number };
  readonly kafka: { readonly heapMb: number };
  readonly zookeeper: { readonly heapMb: number };
}

/** A container's memory limit. */
export interface MemoryLimit {
  readonly container: string;
  readonly megabytes: number;
  /** Where it comes from. @default it is the same in every configuration */
  readonly sizing?: {
    readonly key: keyof typeof leastMb;
    /** The key's value, MB. */
    readonly given: number;
    /** What the container may take on top, MB. */
    readonly beside: number;
  };
}

/** The memory limit of every container of a stack on one daemon. */
export function memoryLimits(
  topology: Topology,
  { clickhouse, kafka, zookeeper }: Sizes,
): readonly MemoryLimit[] {
  type Named = readonly { readonly name: string }[];
  const fixed = (containers: Named, megabytes: number): MemoryLimit[] =>
    containers.map(({ name }) => ({ container: name, megabytes }));
  const sized = (containers: Named, sizing: NonNullable<MemoryLimit["sizing"]>): MemoryLimit[] =>
    containers.map(({ name }) => ({ container: name, megabytes: sizing.given + sizing.beside, sizing }));
  return [
    ...sized(topology.clickhouse, { key: "clickhouse.memoryMb", given: clickhouse.memoryMb, beside: 0 }),
    ...sized(topology.kafka, { key: "kafka.heapMb", given: kafka.heapMb, beside: besideHeapMb.kafka }),
    ...sized(topology.zookeeper, {
      key: "zookeeper.heapMb",
      given: zookeeper.heapMb,
      beside: besideHeapMb.zookeeper,
    }),
    ...fixed([...topology.api, ...topology.ingestor], limitMb.httpService),
    ...fixed(topology.retention, limitMb.retention),
    ...fixed(topology.haproxy, limitMb.haproxy),
    ...fixed(topology.keepalived, limitMb.keepalived),
    ...fixed([topology.witness], limitMb.witness),
    ...fixed([topology.supervisor, topology.watchdog], limitMb.supervisor),
    ...fixed(topology.nodes, limitMb.anchor),
  ];
}

const mib = 1024 * 1024;

/** Bytes of a ClickHouse replica's memory that each may take. */
export interface ClickhouseMemory {
  /** One query. */
  readonly query: number;
  /** All queries together, of one user and of all. */
  readonly queries: number;
  /** A grouping or a sorting, before it goes on in files. Writing and merging them takes as much again. */
  readonly spill: number;
  /** Where in the columns' files the rows are, kept for all queries. */
  readonly marks: number;
  /** The server with all of this: newer ones refuse what is beyond. */
  readonly server: number;
}

/** The server's own before all else, MB: its process, what it reads from Kafka, and memory that its allocator keeps. */
const clickhouseOwnMb = 512;

/**
 * How a replica's memory is divided. Of what is beyond the server's own, half is for queries and half for merges, marks,
 * files in the page cache, and what queries take uncounted: in 1024 MB, a server that allowed them 512 was killed.
 * @param memoryMb the container's limit
 */
export function clickhouseMemory(memoryMb: number): ClickhouseMemory {
  const all = memoryMb * mib;
  const queries = ((memoryMb - clickhouseOwnMb) * mib) / 2;
  return { query: queries / 2, queries, spill: queries / 4, marks: all / 16, server: all - all / 8 };
}
