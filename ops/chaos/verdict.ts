// What one scenario measured, and what the contract says of it. Pure.

import { type Settlement } from "../ledger.ts";
import { type Seen } from "./outage.ts";
import { type Overlap } from "./overlap.ts";
import { type Scenario } from "./scenarios.ts";

/** The contract for every scenario. */
export const contract = {
  /** Longest time that two nodes may have the virtual IP at once, milliseconds. */
  overlapMs: 1_000,
  /** Longest time from the end of the fault until every check passes, seconds. */
  healthySeconds: 180,
} as const;

export interface Measured {
  /** What clients saw: new connections to the VIP every ten milliseconds, posts, and reads. */
  readonly vip: Seen;
  readonly posts: Seen;
  readonly reads: Seen;
  /** From the fault to the first answer through the VIP after a failed request; 0 where none failed. */
  readonly firstAnswerMs: number | undefined;
  /** From the end of the last fault until every check passed; undefined if that never was. */
  readonly healthySeconds: number | undefined;
  /** Checks that failed to the end. */
  readonly unhealthy: readonly string[];
  readonly acknowledged: number;
  /** From the last post until the API and each of the replicas had all that was acknowledged, seconds. */
  readonly settledSeconds: number;
  /** Ids that were acknowledged and are not there, by the API or on a replica. */
  readonly lost: readonly string[];
  /** Ids that readers see more than once. */
  readonly twice: readonly string[];
  /** Ids that readers see although nobody sent them. */
  readonly uninvited: readonly string[];
  /** Answers to clients that must never come. */
  readonly wrong: readonly string[];
  readonly overlap: Overlap;
  /** How often the address came to a node. */
  readonly takeovers: number;
  /** What a person would have to do after the time to get well was over. */
  readonly manualSteps: readonly string[];
}

export interface Result {
  readonly scenario: string;
  readonly breaks: string;
  readonly heals: Scenario["heals"];
  readonly began: string;
  /** All of it: load, fault, healing and settlement. */
  readonly seconds: number;
  /** Why it could not be done here. @default it was done */
  readonly skipped?: string;
  readonly measured?: Measured;
  /** Promise of the contract that was broken. */
  readonly broken: readonly string[];
  /** Time limits that were missed: a loaded machine does that too. */
  readonly missed: readonly string[];
  /** The limit for clients of the VIP. @default none */
  readonly promise?: NonNullable<Scenario["promise"]>;
  /** What it needs beyond a running stack. @default nothing */
  readonly needs?: NonNullable<Scenario["needs"]>;
}

const some = (ids: readonly string[]) =>
  `${ids.slice(0, 3).join(", ")}${ids.length > 3 ? `, and ${ids.length - 3} more` : ""}`;

/** What was broken and what was missed. */
export function judge(
  { promise }: Pick<Scenario, "promise">,
  measured: Measured,
): Pick<Result, "broken" | "missed"> {
  const broken: string[] = [];
  const missed: string[] = [];
  const { lost, twice, uninvited, wrong, overlap, healthySeconds, unhealthy, vip } = measured;
  if (measured.acknowledged === 0) broken.push("no event was acknowledged, so nothing is proved");
  if (vip.requests === vip.failed) broken.push("no request of the VIP's client was answered");
  if (lost.length > 0) broken.push(`${lost.length} acknowledged events are lost: ${some(lost)}`);
  if (twice.length > 0) broken.push(`readers see ${twice.length} events twice: ${some(twice)}`);
  if (uninvited.length > 0)
    broken.push(`readers see ${uninvited.length} events that nobody sent: ${some(uninvited)}`);
  if (wrong.length > 0) broken.push(some(wrong));
  if (overlap.longestMs > contract.overlapMs)
    broken.push(`two nodes had the VIP for ${overlap.longestMs} ms (allowed: ${contract.overlapMs})`);
  if (healthySeconds === undefined)
    broken.push(`not healthy after ${contract.healthySeconds} s: ${some(unhealthy)}`);
  if (measured.manualSteps.length > 0) broken.push(`a person has to: ${some(measured.manualSteps)}`);
  switch (promise?.limit) {
    case "outage":
      if (vip.outageMs > promise.ms)
        missed.push(`the VIP was out for ${vip.outageMs} ms (limit: ${promise.what}, ${promise.ms} ms)`);
      break;
    case "failed requests":
      if (vip.failed > promise.most)
        missed.push(`${vip.failed} of ${vip.requests} requests failed (limit: ${promise.most})`);
      break;
    case "takeovers":
      if (measured.takeovers > promise.most)
        broken.push(
          `the VIP moved ${measured.takeovers} times, though nothing of it was hit (allowed: ${promise.most})`,
        );
      break;
    case undefined:
  }
  return { broken, missed };
}

/** The limit of a scenario, as a table shows it. */
export function limitText({ promise }: Pick<Scenario, "promise">): string | undefined {
  switch (promise?.limit) {
    case "outage":
      return `${promise.ms} ms`;
    case "failed requests":
      return `${promise.most} failed`;
    case "takeovers":
      return `${promise.most} takeovers`;
    case undefined:
      return undefined;
  }
}

/** The same result, after its events were looked at once more: what was lost or came twice since then counts too. */
export function afterwards(result: Result, late: Settlement & Pick<Measured, "wrong">): Result {
  const { measured } = result;
  if (measured === undefined) return result;
  const both = (of: "lost" | "twice" | "uninvited" | "wrong") => [...new Set([...measured[of], ...late[of]])];
  const after = {
    ...measured,
    ...{ lost: both("lost"), twice: both("twice"), uninvited: both("uninvited"), wrong: both("wrong") },
  };
  return { ...result, measured: after, ...judge(result, after) };
}

/** Scenarios that were skipped although they need nothing that a machine may lack. */
export function untested(results: readonly Result[]): Result[] {
  return results.filter(({ skipped, needs }) => skipped !== undefined && needs === undefined);
}

/** 1 if the contract was broken or not tested, or, strictly, if a time limit was missed. */
export function exitCodeOf(results: readonly Result[], strict: boolean): 0 | 1 {
  const ran = results.some(({ measured }) => measured !== undefined);
  return !ran ||
    untested(results).length > 0 ||
    results.some(({ broken, missed }) => broken.length > 0 || (strict && missed.length > 0))
    ? 1
    : 0;
}
