// What of a container's memory is for what.

/** MB that a JVM service takes beside its heap: the container's limit is the sum. */
export const besideHeapMb = {
  /** Room for a short-lived admin tool (a second JVM) and page cache. */
  kafka: 768,
  /** 85 MiB resident was measured with a small heap. */
  zookeeper: 192,
} as const;

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
