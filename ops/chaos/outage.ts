// What clients lost, from the times of their requests. Pure.

/** One request of a client. */
export interface Attempt {
  /** When it began, milliseconds since 1970. */
  readonly at: number;
  /** How long it took, milliseconds. */
  readonly ms: number;
  /** Why it failed. @default it was answered */
  readonly error?: string;
}

/** What a client saw within a span of time. */
export interface Seen {
  readonly requests: number;
  readonly failed: number;
  /** Longest time from the first of some failed requests to the next one that was answered, milliseconds. */
  readonly outageMs: number;
  /** Longest time without any answer, milliseconds: slow answers count here, and so does a client that stood still. */
  readonly longestGapMs: number;
  /** How the failed ones failed: message → count. */
  readonly errors: Readonly<Record<string, number>>;
}

/** Works it out from requests in any order. One that failed to the very end counts until it gave up. */
export function seen(attempts: readonly Attempt[]): Seen {
  const errors: Record<string, number> = {};
  let failed = 0;
  let outageMs = 0;
  let since: number | undefined;
  const byStart = [...attempts].sort((a, b) => a.at - b.at);
  for (const { at, error } of byStart) {
    if (error === undefined) {
      if (since !== undefined) outageMs = Math.max(outageMs, at - since);
      since = undefined;
      continue;
    }
    failed++;
    errors[error] = (errors[error] ?? 0) + 1;
    since ??= at;
  }
  const last = byStart.at(-1);
  if (since !== undefined && last !== undefined) outageMs = Math.max(outageMs, last.at + last.ms - since);

  const answers = byStart
    .filter(({ error }) => error === undefined)
    .map(({ at, ms }) => at + ms)
    .sort((a, b) => a - b);
  const ends = byStart.map(({ at, ms }) => at + ms);
  const marks = [byStart[0]?.at ?? 0, ...answers, Math.max(0, ...ends)];
  const longestGapMs = marks
    .slice(1)
    .reduce((longest, mark, index) => Math.max(longest, mark - (marks[index] ?? mark)), 0);
  return {
    requests: attempts.length,
    failed,
    outageMs: Math.round(outageMs),
    longestGapMs: attempts.length === 0 ? 0 : Math.round(longestGapMs),
    errors,
  };
}

/**
 * How long after a fault the first request was answered that came after a failed one, milliseconds; 0 where none
 * failed, undefined where none was answered any more.
 */
export function firstAnswerAfter(attempts: readonly Attempt[], faultAt: number): number | undefined {
  const after = [...attempts].filter(({ at }) => at >= faultAt).sort((a, b) => a.at - b.at);
  const first = after.findIndex(({ error }) => error !== undefined);
  if (first === -1) return 0;
  const answered = after.slice(first).find(({ error }) => error === undefined);
  return answered === undefined ? undefined : Math.round(answered.at + answered.ms - faultAt);
}
