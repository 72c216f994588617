// Decides which events are threats, by a rules file a person can read and change.

import { parse } from "yaml";
import { z } from "zod";
import { maxEventBytes, maxLabelLength, type SiemEvent } from "./event.ts";
import { tooExpensive } from "./pattern.ts";
import bundledRules from "./rules.json" with { type: "json" };

const pattern = z.string().transform((text, context) => {
  try {
    return new RegExp(text, "i");
  } catch (error) {
    context.addIssue({ code: "custom", message: `not a regular expression: ${(error as Error).message}` });
    return z.NEVER;
  }
});
const fields = [
  "source_ip",
  "source_type",
  "event_category",
  "event_outcome",
  "event_action",
  "raw_event",
] as const;
const ruleSchema = z.strictObject({
  id: z.string().regex(/^[a-z0-9-]{1,64}$/),
  severity: z.enum(["low", "medium", "high", "critical"]),
  summary: z.string().min(1).max(200),
  /** Every named field must match its pattern. */
  match: z
    .partialRecord(z.enum(fields), pattern)
    .refine((match) => Object.keys(match).length > 0, "names no field")
    .superRefine((match, context) => {
      for (const field of fields) {
        const length = field === "raw_event" ? maxEventBytes : maxLabelLength;
        const why = match[field] && tooExpensive(match[field].source, length);
        if (why) context.addIssue({ code: "custom", path: [field], message: `costs too much: ${why}` });
      }
    }),
  /** Only the count-th match from one source within the window, and those after it, are threats. */
  burst: z
    .strictObject({ count: z.int().min(2).max(1000), window_seconds: z.int().min(1).max(86_400) })
    .optional(),
});
const fileSchema = z.strictObject({ rules: z.array(ruleSchema).min(1) });

export type Rule = z.infer<typeof ruleSchema>;
export type Finding = Pick<Rule, "id" | "severity" | "summary">;

/** What an event that its sender already marked is filed under, when no rule says more. */
const reportedBySource: Finding = {
  id: "reported-by-source",
  severity: "medium",
  summary: "the sender marked this event as a threat",
};
/** Sources remembered at once; the ones silent longest are forgotten first. */
const maxSources = 100_000;
/** Matches remembered of all sources together, a time and a mark each: 32 MiB. A rule may want a thousand of a source. */
const maxMatches = 2_000_000;

/** A match that counts towards a burst. What belongs together is settled together: see {@link RuleEngine.settle}. */
export interface Match {
  /** Rule, tenant and source. */
  readonly source: string;
  /** How many the rule wants. */
  readonly most: number;
  /** Stands for the event; negative if it was found a threat. */
  readonly mark: number;
  readonly time: number;
}

/** What counts of one source, towards one rule. */
class Source {
  /** Times of the last matches that count for good, in the order in which they were accepted. */
  readonly times: number[] = [];
  /** Their marks. */
  readonly marks: number[] = [];
  /** Matches in posts that are not answered yet, by the mark without its sign. @default none */
  open?: Map<number, { readonly match: Match; posts: number }> | undefined;
  /** Times of the last matches of both kinds, while there are open ones; made anew after one was taken back. */
  last?: number[] | undefined;

  /** The mark that this event was counted with. */
  find(mark: number): number | undefined {
    const open = this.open?.get(mark);
    if (open) return open.match.mark;
    return this.marks.includes(mark) ? mark : this.marks.includes(-mark) ? -mark : undefined;
  }

  get isEmpty(): boolean {
    return this.times.length === 0 && this.open === undefined;
  }
}

/** Parses a rules file (YAML or JSON); without a text, the bundled rules. Throws naming the rule and field. */
export function parseRules(text?: string): Rule[] {
  const result = fileSchema.safeParse(text === undefined ? bundledRules : parse(text));
  if (result.success) return result.data.rules;
  const problems = result.error.issues.map((issue) => `${issue.path.join(".") || "file"}: ${issue.message}`);
  throw new Error(`rules file: ${problems.join("; ")}`);
}

/**
 * Applies the rules in order; the first that matches names the threat. Bursts are counted in memory, each event once: one
 * that comes again, by its id, is judged as it was before.
 */
export class RuleEngine {
  readonly #rules: readonly Rule[];
  readonly #sources = new Map<string, Source>();
  readonly #most: number;
  #remembered = 0;

  /** @param most matches to remember of all sources together */
  constructor(rules: readonly Rule[], most = maxMatches) {
    this.#rules = rules;
    this.#most = most;
  }

  /** How many matches are remembered for good. Those of posts on their way have the bound of these. */
  get remembered(): number {
    return this.#remembered;
  }

  /** How many sources are known. */
  get sources(): number {
    return this.#sources.size;
  }

  /**
   * The finding about this event, if it is a threat.
   * @param counted gets what counts from now on, until it is settled. @default it counts for good
   */
  find(event: SiemEvent, counted?: Match[]): Finding | undefined {
    const own: Match[] = [];
    const rule = this.#rules.find(
      ({ match, ...rest }) =>
        fields.every((field) => match[field]?.test(event[field]) ?? true) &&
        this.#bursts(rest, event, counted ?? own),
    );
    this.settle(own, true);
    return rule ?? (event.is_threat === 1 ? reportedBySource : undefined);
  }

  /**
   * Keeps what a post counted, or takes it back: what was refused is sent again, and would count twice. What was taken
   * back may be kept after all.
   */
  settle(counted: readonly Match[], isKept: boolean): void {
    for (const match of counted) {
      const source = isKept ? this.#at(match.source) : this.#sources.get(match.source);
      if (source === undefined) continue;
      const mark = Math.abs(match.mark);
      const open = source.open?.get(mark);
      // Another post with the same event may still be on its way.
      if (open && (isKept || --open.posts === 0)) {
        source.open!.delete(mark);
        if (source.open!.size === 0) source.open = undefined;
        if (!isKept || source.open === undefined) source.last = undefined;
      }
      if (isKept && source.find(mark) === undefined) this.#keep(source, match);
      if (source.isEmpty) this.#sources.delete(match.source);
    }
    for (const [name, { times }] of this.#sources) {
      if (this.#sources.size <= maxSources && this.#remembered <= this.#most) break;
      this.#sources.delete(name);
      this.#remembered -= times.length;
    }
  }

  #bursts({ id, burst }: Pick<Rule, "id" | "burst">, event: SiemEvent, counted: Match[]): boolean {
    if (!burst) return true;
    if (event.source_ip === "") return false;
    const name = JSON.stringify([id, event.tenant_id, event.source_ip]);
    const source = this.#at(name);
    // Moved to the end: it is not silent.
    this.#sources.delete(name);
    this.#sources.set(name, source);
    const time = event.event_timestamp;
    const mark = markOf(event);
    const known = source.find(mark);
    const again = source.open?.get(mark);
    if (again) again.posts++;
    if (known !== undefined) {
      if (again) counted.push(again.match);
      return known < 0;
    }
    const last = (source.last ??= lastTimes(source, burst.count));
    last.push(time);
    if (last.length > burst.count) last.shift();
    // Times come from the logs and need not be in order.
    const found = last.length === burst.count && Math.max(...last) - Math.min(...last) < burst.window_seconds;
    const match = { source: name, most: burst.count, mark: found ? -mark : mark, time };
    (source.open ??= new Map()).set(mark, { match, posts: 1 });
    counted.push(match);
    return found;
  }

  #at(name: string): Source {
    const known = this.#sources.get(name);
    if (known) return known;
    const source = new Source();
    this.#sources.set(name, source);
    return source;
  }

  #keep(source: Source, { time, mark, most }: Match): void {
    source.times.push(time);
    source.marks.push(mark);
    if (source.times.length > most) {
      source.times.shift();
      source.marks.shift();
    } else this.#remembered++;
  }
}

function lastTimes({ times, open }: Source, count: number): number[] {
  return [...times, ...[...(open?.values() ?? [])].map(({ match }) => match.time)].slice(-count);
}

/**
 * A number for an event, from 1 to 2^53: its id and time. Two halves of FNV-1a; a source
 * has at most a few thousand of them, and a token's owner who looks for two that are equal hides only his own events.
 */
function markOf({ event_id, event_timestamp }: SiemEvent): number {
  const text = `${event_id} ${event_timestamp}`;
  let [low, high] = [0x811c9dc5, 0x2f0b4a27];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    low = Math.imul(low ^ code, 0x01000193);
    high = Math.imul(high ^ code, 0x85ebca6b);
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0) + 1;
}
