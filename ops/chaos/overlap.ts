// For how long two nodes had the virtual IP at once, from the times at which it came to a node or left it. Pure.

/** The address came to a node, or left it. */
export interface Change {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly node: string;
  readonly has: boolean;
}

export interface Overlap {
  /** The longest time with more than one holder, milliseconds. */
  readonly longestMs: number;
  /** All such times together. */
  readonly totalMs: number;
}

/** The nodes that have the address after these changes. */
export function holdersAfter(changes: readonly Change[]): string[] {
  const have = new Set<string>();
  for (const { node, has } of [...changes].sort((a, b) => a.at - b.at)) {
    if (has) have.add(node);
    else have.delete(node);
  }
  return [...have];
}

/** How often the address came to a node that had not got it, within the span. */
export function takeoversIn(changes: readonly Change[], from: number, until: number): number {
  const have = new Set<string>();
  let count = 0;
  for (const { at, node, has } of [...changes].sort((a, b) => a.at - b.at)) {
    if (has && !have.has(node) && at >= from && at <= until) count++;
    if (has) have.add(node);
    else have.delete(node);
  }
  return count;
}

/** Counts only what lies within the span; changes before it say who held the address when it began. */
export function overlapOf(changes: readonly Change[], from: number, until: number): Overlap {
  const have = new Set<string>();
  let since: number | undefined;
  let longestMs = 0;
  let totalMs = 0;
  const close = (at: number) => {
    if (since === undefined) return;
    const ms = Math.min(at, until) - Math.max(since, from);
    if (ms > 0) {
      totalMs += ms;
      longestMs = Math.max(longestMs, ms);
    }
    since = undefined;
  };
  for (const { at, node, has } of [...changes].sort((a, b) => a.at - b.at)) {
    if (has) have.add(node);
    else have.delete(node);
    if (have.size > 1) since ??= at;
    else close(at);
  }
  close(until);
  return { longestMs: Math.round(longestMs), totalMs: Math.round(totalMs) };
}
