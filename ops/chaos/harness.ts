// Runs one scenario after the other on a running stack: load, fault, healing, settlement.

import { setTimeout as sleep } from "node:timers/promises";
import { ports } from "../../components/ports.ts";
import { names } from "../../components/topology.ts";
import { mintToken } from "../../services/token.ts";
import { type CheckContext } from "../checks.ts";
import { inContainer } from "../daemon.ts";
import { entry } from "../entry.ts";
import { type Client, type Ledger, readAll, type Settlement } from "../ledger.ts";
import { CannotBreak, Faults } from "./faults.ts";
import { untilHealthy } from "./health.ts";
import { Holders } from "./holders.ts";
import { Load } from "./load.ts";
import { type Attempt, firstAnswerAfter, seen } from "./outage.ts";
import { overlapOf } from "./overlap.ts";
import { partsNow } from "./parts.ts";
import { Probe } from "./probe.ts";
import { type Scenario } from "./scenarios.ts";
import { removeTools, type Tools } from "./tools.ts";
import { contract, judge, type Measured, type Result } from "./verdict.ts";

/** Load before anything is broken, so that there is something to lose. */
const calmMs = 500;
/** Nothing is asked of the stack right after the fault: the questions would disturb what clients see. */
const watchMs = 1_500;
const pauseSeconds = 4;
const settleMs = 90_000;
const tokenSeconds = 4 * 3600;

export interface HarnessOptions {
  readonly context: CheckContext;
  readonly tools: Tools;
  readonly log: (line: string) => void;
}

export class Harness {
  readonly #options: HarnessOptions;
  readonly #holders: Holders;
  readonly #faults: Faults;
  readonly #probe: Probe;
  /** Part of every tenant and id of this run: no two runs share one. */
  readonly #run = Date.now().toString(36);
  #count = 0;

  constructor(options: HarnessOptions) {
    this.#options = options;
    const { tools, context, log } = options;
    const { topology } = context;
    this.#holders = new Holders(tools, topology);
    this.#faults = new Faults({
      tools,
      topology,
      log: (line) => log(`  ${line}`),
      // A machine without power holds nothing, however long Docker takes to end the last of its containers.
      lost: (node, at) => this.#holders.changes.push({ at, node, has: false }),
    });
    // HAProxy itself answers here: what replicas behind it lose is measured by posts and reads.
    this.#probe = new Probe({
      host: topology.vip.address,
      port: ports.haproxyStats.number,
      path: "/stats",
    });
  }

  /** Begins to watch. @throws when the stack is not well before anything was broken */
  async start(): Promise<void> {
    await removeTools(this.#options.tools);
    await Promise.all([this.#holders.start(), this.#probe.ready()]);
    const { at, unhealthy } = await this.#healthy(15);
    if (at === undefined)
      throw new Error(
        `The stack is not well, and nothing was broken yet: ${unhealthy.join("; ")}. npm run verify shows all of it; what a chaos run that was killed has left paused or cut off, npm run up or a docker unpause mends.`,
      );
  }

  /** Takes back what is broken at this moment. */
  async undo(): Promise<void> {
    if (this.#faults.pending) this.#options.log("taking back what is broken …");
    await this.#faults.undoAll();
  }

  async stop(): Promise<void> {
    this.#probe.kill();
    this.#holders.stop();
    await removeTools(this.#options.tools);
  }

  async run(scenario: Scenario): Promise<Result> {
    const { context } = this.#options;
    const { topology, config } = context;
    const began = Date.now();
    const head = {
      scenario: scenario.name,
      breaks: scenario.breaks,
      heals: scenario.heals,
      began: new Date(began).toISOString(),
      ...(scenario.promise === undefined ? {} : { promise: scenario.promise }),
    };
    const seconds = () => Math.round((Date.now() - began) / 100) / 10;
    const name = `chaos-${this.#run}-${++this.#count}`;
    const token = await mintToken({
      secret: context.jwtSecret,
      tenantId: name,
      scope: "events:write events:read",
      ttlSeconds: tokenSeconds,
      subject: "npm run chaos",
    });
    const client: Client = { ...entry(topology, config), token };
    const load = new Load(client, name);
    load.start();
    try {
      await load.flows();
      await sleep(calmMs);
      let struck: { at: number; ended: number };
      try {
        struck = await this.#strike(scenario);
      } catch (error) {
        if (!(error instanceof CannotBreak)) throw error;
        await load.stop();
        return { ...head, seconds: seconds(), skipped: error.message, broken: [], missed: [] };
      }
      await sleep(watchMs);
      const { at: healthyAt, unhealthy } = await this.#healthy(contract.healthySeconds, () => load.missing());
      await load.stop();
      const until = Date.now();
      const settlement = await this.#settle(client, load.ledger, name).catch((error: unknown) => {
        load.wrong.push(`can't be settled: ${(error as Error).message}`);
        return { lost: [], twice: [], uninvited: [] };
      });
      const vip = within(this.#probe.attempts, began, until);
      const measured: Measured = {
        vip: seen(vip),
        // The checks that settle it take the processors that the clients need: what they cost is no fault's doing.
        posts: seen(within(load.posts, began, healthyAt ?? until)),
        reads: seen(within(load.reads, began, healthyAt ?? until)),
        firstAnswerMs: firstAnswerAfter(vip, struck.at),
        healthySeconds:
          healthyAt === undefined
            ? undefined
            : Math.max(0, Math.round((healthyAt - struck.ended) / 100) / 10),
        unhealthy,
        acknowledged: load.ledger.acknowledged,
        settledSeconds: Math.round((Date.now() - until) / 100) / 10,
        ...settlement,
        wrong: load.wrong,
        overlap: overlapOf(this.#holders.changes, began, until),
        manualSteps: 0,
      };
      return { ...head, seconds: seconds(), measured, ...judge(scenario, measured) };
    } finally {
      await load.stop();
      this.#probe.attempts.length = 0;
    }
  }

  #healthy(limitSeconds: number, clients: () => readonly string[] = () => []) {
    const { context, tools } = this.#options;
    return untilHealthy({ context, tools, holders: this.#holders, clients }, limitSeconds);
  }

  /** All steps of a scenario. @returns when the first fault began to count, and when the last one was over */
  async #strike(scenario: Scenario): Promise<{ at: number; ended: number }> {
    const { context } = this.#options;
    const parts = await partsNow(context.topology, this.#holders.now);
    let at: number | undefined;
    for (const [index, faults] of scenario.steps.entries()) {
      if (index > 0) await sleep((scenario.pauseSeconds ?? pauseSeconds) * 1000);
      const times = await Promise.all(faults.map((fault) => this.#faults.apply(fault, parts)));
      at ??= Math.min(...times);
    }
    const ended = Date.now();
    if (scenario.needs === "--daemon-restart") await this.#holders.start();
    return { at: at ?? ended, ended };
  }

  /** What was acknowledged, beside what the API shows and what each replica has. */
  async #settle(client: Client, ledger: Ledger, tenant: string): Promise<Settlement> {
    const deadline = Date.now() + settleMs;
    for (;;) {
      try {
        const settlement = await this.#settlement(client, ledger, tenant);
        if (settlement.lost.length === 0 || Date.now() > deadline) return settlement;
      } catch (error) {
        if (Date.now() > deadline) throw error;
      }
      await sleep(300);
    }
  }

  async #settlement(client: Client, ledger: Ledger, tenant: string): Promise<Settlement> {
    const { topology, reach } = this.#options.context;
    const query = `SELECT DISTINCT event_id FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${tenant}'`;
    const [shown, ...stored] = await Promise.all([
      readAll(client, 1000),
      ...topology.clickhouse.map((replica) =>
        inContainer(reach, replica, ["clickhouse-client", "--query", query]),
      ),
    ]);
    const settlement = ledger.settle(shown.map(({ event_id }) => event_id));
    const missing = stored.flatMap((rows) => ledger.settle(rows.split("\n")).lost);
    return { ...settlement, lost: [...new Set([...settlement.lost, ...missing])] };
  }
}

function within(attempts: readonly Attempt[], from: number, until: number): Attempt[] {
  return attempts.filter(({ at }) => at >= from && at <= until);
}
