// How the results of a chaos run look to a person: a line each, a table, and a section of docs/failover.md.

import Table from "cli-table3";
import { type Scenario } from "./scenarios.ts";
import { contract, limitText, type Measured, type Result, untested } from "./verdict.ts";

/** How and where the results came to be. */
export interface Circumstances {
  /** As a person types it. */
  readonly command: string;
  readonly date: string;
  readonly machine: string;
  readonly stack: string;
  readonly seed: number;
  /** VRRP's own limit here, milliseconds. */
  readonly vrrpLimitMs: number;
}

/** All runs of one scenario: the worst of each. */
export interface Summary {
  readonly scenario: string;
  readonly breaks: string;
  readonly heals: Scenario["heals"];
  readonly promise?: NonNullable<Scenario["promise"]>;
  readonly runs: number;
  readonly skipped?: string;
  readonly worst?: {
    readonly vipOutageMs: number;
    readonly vipFailed: number;
    readonly vipRequests: number;
    readonly firstAnswerMs: number | undefined;
    readonly postsFailed: number;
    readonly postsGapMs: number;
    readonly readsFailed: number;
    readonly readsGapMs: number;
    readonly healthySeconds: number | undefined;
    readonly overlapMs: number;
    readonly settledSeconds: number;
  };
  readonly manualSteps: number;
  readonly acknowledged: number;
  readonly lost: number;
  readonly twice: number;
  readonly broken: readonly string[];
  readonly missed: readonly string[];
}

/** Puts runs of the same scenario together, in the order in which they were first run. */
export function summarize(results: readonly Result[]): Summary[] {
  const groups = new Map<string, Result[]>();
  for (const result of results) groups.set(result.scenario, [...(groups.get(result.scenario) ?? []), result]);
  return [...groups.values()].map((group) => {
    const [first] = group;
    if (first === undefined) throw new Error("a group without a result");
    const all = group.flatMap(({ measured }) => (measured === undefined ? [] : [measured]));
    const skipped = group.find((one) => one.skipped !== undefined)?.skipped;
    const most = (of: (measured: Measured) => number) => Math.max(...all.map(of));
    const sum = (of: (measured: Measured) => number) => all.reduce((total, one) => total + of(one), 0);
    /** The worst of all is that it never came. */
    const mostOrNever = (of: (measured: Measured) => number | undefined) =>
      all.some((one) => of(one) === undefined) ? undefined : most((one) => of(one) ?? 0);
    return {
      scenario: first.scenario,
      breaks: first.breaks,
      heals: first.heals,
      ...(first.promise === undefined ? {} : { promise: first.promise }),
      runs: all.length,
      ...(skipped === undefined ? {} : { skipped }),
      ...(all.length === 0
        ? {}
        : {
            worst: {
              vipOutageMs: most(({ vip }) => vip.outageMs),
              vipFailed: sum(({ vip }) => vip.failed),
              vipRequests: sum(({ vip }) => vip.requests),
              firstAnswerMs: mostOrNever(({ firstAnswerMs }) => firstAnswerMs),
              postsFailed: sum(({ posts }) => posts.failed),
              postsGapMs: most(({ posts }) => posts.longestGapMs),
              readsFailed: sum(({ reads }) => reads.failed),
              readsGapMs: most(({ reads }) => reads.longestGapMs),
              healthySeconds: mostOrNever(({ healthySeconds }) => healthySeconds),
              overlapMs: most(({ overlap }) => overlap.longestMs),
              settledSeconds: most(({ settledSeconds }) => settledSeconds),
            },
          }),
      manualSteps: sum(({ manualSteps }) => manualSteps.length),
      acknowledged: sum(({ acknowledged }) => acknowledged),
      lost: sum(({ lost }) => lost.length),
      twice: sum(({ twice }) => twice.length),
      broken: group.flatMap(({ broken }) => broken),
      missed: group.flatMap(({ missed }) => missed),
    };
  });
}

const secondsOf = (ms: number) => `${(ms / 1000).toFixed(1)} s`;

function verdictOf({ skipped, worst, broken, missed }: Summary): string {
  if (broken.length > 0) return "BROKEN";
  if (missed.length > 0) return "limit missed";
  return worst === undefined && skipped !== undefined ? "skipped" : "kept";
}

const columns = [
  "scenario",
  "runs",
  "VIP out",
  "of its limit",
  "of VRRP's limit",
  "failed of requests",
  "posts: failed, longest wait",
  "reads: failed, longest wait",
  "all well after",
  "all stored after",
  "two holders",
  "manual steps",
  "acknowledged",
  "lost",
  "twice",
  "contract",
];

/** The longest outage beside its own limit. */
function ofLimit({ promise, worst }: Pick<Summary, "promise" | "worst">): string {
  const limit = limitText(promise === undefined ? {} : { promise });
  if (limit === undefined) return "no limit is promised";
  return promise?.limit === "outage" ? ratio(worst?.vipOutageMs ?? 0, promise.ms) : limit;
}

const ratio = (ms: number, limitMs: number) => `${(ms / limitMs).toFixed(2)} × ${Math.round(limitMs)} ms`;

function cells(summary: Summary, vrrpLimitMs: number): string[] {
  const { scenario, runs, worst, manualSteps, acknowledged, lost, twice, skipped } = summary;
  if (worst === undefined)
    return [scenario, "0", ...Array<string>(columns.length - 3).fill("–"), `skipped: ${skipped ?? ""}`];
  return [
    scenario,
    String(runs),
    `${worst.vipOutageMs} ms`,
    ofLimit(summary),
    worst.vipOutageMs === 0 ? "–" : ratio(worst.vipOutageMs, vrrpLimitMs),
    `${worst.vipFailed} of ${worst.vipRequests}`,
    `${worst.postsFailed}, ${secondsOf(worst.postsGapMs)}`,
    `${worst.readsFailed}, ${secondsOf(worst.readsGapMs)}`,
    worst.healthySeconds === undefined ? "never" : `${worst.healthySeconds.toFixed(1)} s`,
    `${worst.settledSeconds.toFixed(1)} s`,
    `${worst.overlapMs} ms`,
    String(manualSteps),
    String(acknowledged),
    String(lost),
    String(twice),
    verdictOf(summary),
  ];
}

/** One line as soon as a scenario is done. */
export function renderLine(result: Result, vrrpLimitMs: number): string {
  const [summary] = summarize([result]);
  if (summary === undefined) return "";
  const { worst } = summary;
  if (worst === undefined) return `skipped: ${result.skipped ?? ""}`;
  const problems = [
    ...result.broken.map((text) => `BROKEN: ${text}`),
    ...result.missed.map((text) => `missed: ${text}`),
  ];
  const limits = [
    limitText(result) === undefined ? "no limit is promised" : `limit ${limitText(result)}`,
    ...(worst.vipOutageMs === 0 ? [] : [`${ratio(worst.vipOutageMs, vrrpLimitMs)} of VRRP's`]),
  ];
  const byHand = summary.manualSteps === 0 ? "" : `; manual steps: ${summary.manualSteps}`;
  return [
    `VIP out ${worst.vipOutageMs} ms (${limits.join("; ")}), ${worst.vipFailed} of ${worst.vipRequests} failed; posts ${worst.postsFailed} failed, longest wait ${secondsOf(worst.postsGapMs)}; reads ${worst.readsFailed} failed, ${secondsOf(worst.readsGapMs)}; well after ${worst.healthySeconds ?? "never"} s; two holders ${worst.overlapMs} ms${byHand}; ${summary.acknowledged} acknowledged, ${summary.lost} lost, ${summary.twice} twice (${result.seconds} s in all)`,
    ...problems,
  ].join("\n  ");
}

/** The table for a terminal. */
export function renderTable(results: readonly Result[], vrrpLimitMs: number): string {
  const table = new Table({ head: columns, style: { head: [], border: [], compact: true } });
  for (const summary of summarize(results)) table.push(cells(summary, vrrpLimitMs));
  return table.toString();
}

/** What all runs come to, in sentences. */
export function renderTotals(results: readonly Result[], vrrpLimitMs: number): string {
  const all = summarize(results);
  const sum = (of: (summary: Summary) => number) => all.reduce((total, one) => total + of(one), 0);
  const worst = all.flatMap((one) => (one.worst === undefined ? [] : [one.worst]));
  const most = (of: (one: NonNullable<Summary["worst"]>) => number) => Math.max(0, ...worst.map(of));
  const broken = all.filter((one) => one.broken.length > 0);
  const missed = all.filter((one) => one.missed.length > 0);
  const runs = sum((one) => one.runs);
  const healthy = worst.some((one) => one.healthySeconds === undefined)
    ? "at least once never"
    : `${most((one) => one.healthySeconds ?? 0).toFixed(1)} s`;
  const node = all.find(({ scenario }) => scenario === "lb-node-holder-kill")?.worst?.vipOutageMs;
  const byHand = all.filter((one) => one.manualSteps > 0);
  const skipped = results.filter((one) => one.skipped !== undefined);
  const why = (one: Result) => `${one.scenario} (${one.skipped})`;
  const lines = [
    `${runs} runs of ${all.length - all.filter((one) => one.runs === 0).length} scenarios; ${sum((one) => one.acknowledged)} events acknowledged, **${sum((one) => one.lost)} lost, ${sum((one) => one.twice)} seen twice**.`,
    `Longest time with two holders of the VIP: ${most((one) => one.overlapMs)} ms (allowed: ${contract.overlapMs} ms). Longest time until every check passed again: ${healthy} (allowed: ${contract.healthySeconds} s). Manual steps: ${sum((one) => one.manualSteps)}${byHand.length === 0 ? "" : ` (${byHand.map(({ scenario }) => scenario).join(", ")})`}.`,
    ...(node === undefined
      ? []
      : [
          `The holder's whole node lost: the VIP was out for ${node} ms, ${(node / vrrpLimitMs).toFixed(2)} × VRRP's own limit of ${Math.round(vrrpLimitMs)} ms.`,
        ]),
    ...(skipped.length === 0
      ? []
      : [
          `${untested(results).length === 0 ? "" : "**"}${skipped.length} not tested${untested(results).length === 0 ? "" : "**"}: ${[...new Set(skipped.map(why))].join(", ")}.`,
        ]),
    broken.length === 0
      ? runs === 0
        ? "Nothing was tested, so nothing is known of the contract."
        : `The contract was kept every time${skipped.length === 0 ? "" : " that it was tested"}.`
      : `**The contract was broken by** ${broken.map(({ scenario, broken: texts }) => `${scenario} (${texts.join("; ")})`).join(", ")}.`,
    ...(missed.length === 0
      ? runs === 0
        ? []
        : ["Every time limit was kept."]
      : [
          `Time limits missed: ${missed.map(({ scenario, missed: texts }) => `${scenario} (${texts.join("; ")})`).join(", ")}.`,
        ]),
  ];
  return lines.join("\n");
}

/** How docs/failover.md begins. */
export const beginning = `# What breaks, and what it costs

The failover contract, measured: \`npm run chaos\` breaks a running stack in every way below, under steady load through
the virtual IP, and keeps account of every event.

- **Load**: three senders post numbered events (five a post) and try again until the platform has decided, some posts
  twice on purpose; two readers walk from page to page through the API, five pages of twenty, then again from the newest;
  a third client opens a new connection to the VIP's HAProxy every ten milliseconds.
- **VIP out**: from the first failed request of that client to the next one that was answered. Each is shown beside its
  own limit, where one is promised, and beside VRRP's. **Longest wait**: the longest time in which no post, or no read,
  was answered by success.
- **All well after**: from the end of the fault until every check of \`npm run verify\` passes (without its probe event,
  because the load proves more), and until both load balancers may have the address.
- **All stored after**: from the last post until the API and every ClickHouse replica had all that was acknowledged.
- **Two holders**: the longest time in which the address stood on both nodes, by the kernel's own messages.
- **Lost, twice**: acknowledged events, id by id, that the API doesn't show or that any of the three ClickHouse replicas
  lacks; events that readers see more than once, in one walk from page to page under load or in all pages afterwards. At
  the end of a run all of it is counted once more for every scenario, so that what came or went late shows too.
- **Manual steps**: what was left to a person where not all was well after three minutes: to start what was still down or
  frozen, or to find out about a check that failed. What was killed the command never starts itself. What it does to end
  a fault of its own is none: it thaws, starts what it stopped, mends a cut.
- **The contract**: nothing lost, nothing twice, never two holders for more than a second, no takeover where nothing of
  the VIP was hit, all well again within three minutes, and no manual step. Anything else makes it end with 1, and so
  does a scenario that could not be tried, unless it needs root or a flag. A missed time limit is marked, and counts only
  with \`--strict\`, because a busy machine misses it too.
`;

/** A section of docs/failover.md. */
export function renderMarkdown(title: string, results: readonly Result[], about: Circumstances): string {
  const all = summarize(results);
  const row = (texts: readonly string[]) =>
    `| ${texts.map((text) => text.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = (count: number) => row(Array<string>(count).fill("---"));
  return `## ${title}

\`${about.command}\` on ${about.date}, stack \`${about.stack}\`, seed ${about.seed}; ${about.machine}.

${renderTotals(results, about.vrrpLimitMs).split("\n").join("\n\n")}

${row(columns)}
${rule(columns.length)}
${all.map((summary) => row(cells(summary, about.vrrpLimitMs))).join("\n")}

### What each one breaks

${row(["scenario", "what breaks", "heals"])}
${rule(3)}
${all.map(({ scenario, breaks, heals }) => row([scenario, breaks, heals])).join("\n")}
`;
}
