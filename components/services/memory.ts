// Memory that a JVM service takes beside its heap: the container's limit is the sum.

/** MB. */
export const besideHeapMb = {
  /** Room for a short-lived admin tool (a second JVM) and page cache. */
  kafka: 768,
  /** 85 MiB resident was measured with a small heap. */
  zookeeper: 192,
} as const;
