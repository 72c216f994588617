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
/** Times remembered of all sources together: 16 MiB. A rule may want a thousand of each source. */
const maxTimes = 2_000_000;

/** Parses a rules file (YAML or JSON); without a text, the bundled rules. Throws naming the rule and field. */
export function parseRules(text?: string): Rule[] {
  const result = fileSchema.safeParse(text === undefined ? bundledRules : parse(text));
  if (result.success) return result.data.rules;
  const problems = result.error.issues.map((issue) => `${issue.path.join(".") || "file"}: ${issue.message}`);
  throw new Error(`rules file: ${problems.join("; ")}`);
}

/** Applies the rules in order; the first that matches names the threat. Bursts are counted in memory. */
export class RuleEngine {
  readonly #rules: readonly Rule[];
  /** Times of the last matches, oldest first, by rule, tenant and source. */
  readonly #recent = new Map<string, number[]>();
  readonly #most: number;
  #times = 0;

  /** @param most times to remember of all sources together */
  constructor(rules: readonly Rule[], most = maxTimes) {
    this.#rules = rules;
    this.#most = most;
  }

  /** How many times of matches are remembered. */
  get remembered(): number {
    return this.#times;
  }

  /** The finding about this event, if it is a threat. */
  find(event: SiemEvent): Finding | undefined {
    const rule = this.#rules.find(
      ({ match, ...rest }) =>
        fields.every((field) => match[field]?.test(event[field]) ?? true) && this.#bursts(rest, event),
    );
    return rule ?? (event.is_threat === 1 ? reportedBySource : undefined);
  }

  #bursts({ id, burst }: Pick<Rule, "id" | "burst">, event: SiemEvent): boolean {
    if (!burst) return true;
    if (event.source_ip === "") return false;
    const key = JSON.stringify([id, event.tenant_id, event.source_ip]);
    const times = this.#recent.get(key) ?? [];
    times.push(event.event_timestamp);
    if (times.length > burst.count) times.shift();
    else this.#times++;
    this.#recent.delete(key);
    this.#recent.set(key, times);
    for (const [oldest, { length }] of this.#recent) {
      if (this.#recent.size <= maxSources && this.#times <= this.#most) break;
      this.#recent.delete(oldest);
      this.#times -= length;
    }
    // Times come from the logs and need not be in order.
    return times.length === burst.count && Math.max(...times) - Math.min(...times) < burst.window_seconds;
  }
}
