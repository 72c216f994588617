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
import { overlapOf, takeoversIn } from "./overlap.ts";
import { partsNow } from "./parts.ts";
import { Probe } from "./probe.ts";
import { type Fault, type Parts, type Scenario } from "./scenarios.ts";
import { keepBusy, removeTools, type Tools } from "./tools.ts";
import { afterwards, contract, judge, type Measured, type Result } from "./verdict.ts";

/** Load before anything is broken, so that there is something to lose. */
const calmMs = 500;
/** Nothing is asked of the stack right after the fault: the questions would disturb what clients see. */
const watchMs = 1_500;
const pauseSeconds = 4;
const settleMs = 90_000;
/** Nothing is to come any more when it is looked at once more. */
const againMs = 10_000;
const tokenSeconds = 4 * 3600;
const nothing: Settlement = { lost: [], twice: [], uninvited: [] };

export interface HarnessOptions {
  readonly context: CheckContext;
  readonly tools: Tools;
  readonly log: (line: string) => void;
  /** So many containers beside the stack take all the processor time that they get, all the while. */
  readonly busy?: { readonly containers: number; readonly seconds: number };
}

export class Harness {
  readonly #options: HarnessOptions;
  readonly #holders: Holders;
  readonly #faults: Faults;
  readonly #probe: Probe;
  /** Part of every tenant and id of this run: no two runs share one. */
  readonly #run = Date.now().toString(36);
  #count = 0;
  /** Every load that has ended, by its scenario's result. */
  readonly #settled = new Map<Result, { readonly tenant: string; readonly ledger: Ledger }>();

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
    const { at, unhealthy } = await this.#healthy(60);
    const { busy } = this.#options;
    if (at !== undefined && busy !== undefined)
      await keepBusy(this.#options.tools, "all-the-while", busy.containers, busy.seconds);
    if (at === undefined)
      throw new Error(
        `The stack is not well, and nothing was broken yet: ${unhealthy.join("; ")}. npm run verify shows all of it; what a chaos run that was killed has left paused or cut off, npm run up or a docker unpause mends.`,
      );
  }

  /** Takes back what is broken at this moment. @returns what could not be taken back: why, and what to do by hand */
  async undo(): Promise<string[]> {
    if (this.#faults.pending) this.#options.log("taking back what is broken …");
    return this.#faults.undoAll();
  }

  /** What a person has to do to take back what is broken at this moment. */
  get byHand(): string[] {
    return this.#faults.byHand;
  }

  async stop(): Promise<void> {
    this.#probe.kill();
    this.#holders.stop();
    await removeTools(this.#options.tools);
  }

  async run(scenario: Scenario): Promise<Result> {
    const began = Date.now();
    const head = {
      scenario: scenario.name,
      breaks: scenario.breaks,
      heals: scenario.heals,
      began: new Date(began).toISOString(),
      ...(scenario.promise === undefined ? {} : { promise: scenario.promise }),
      ...(scenario.needs === undefined ? {} : { needs: scenario.needs }),
    };
    const seconds = () => Math.round((Date.now() - began) / 100) / 10;
    const name = `chaos-${this.#run}-${++this.#count}`;
    const client = await this.#client(name);
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
        // Of two faults the other one may have come.
        const { at, unhealthy } = await this.#healthy(contract.healthySeconds);
        if (at === undefined)
          throw new Error(`${error.message}; and the stack is not well since then: ${unhealthy.join("; ")}`, {
            cause: error,
          });
        return { ...head, seconds: seconds(), skipped: error.message, broken: [], missed: [] };
      }
      await sleep(watchMs);
      const { at: healthyAt, unhealthy } = await this.#healthy(contract.healthySeconds, () => load.missing());
      await load.stop();
      const until = Date.now();
      const manualSteps = healthyAt === undefined ? await this.#faults.leftToPeople(unhealthy) : [];
      const settlement = await this.#settle(client, load.ledger, name).catch((error: unknown) => {
        load.wrong.push(`can't be settled: ${(error as Error).message}`);
        return nothing;
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
        lost: settlement.lost,
        twice: [...new Set([...settlement.twice, ...load.twice])],
        uninvited: [...new Set([...settlement.uninvited, ...load.uninvited])],
        wrong: load.wrong,
        overlap: overlapOf(this.#holders.changes, began, until),
        takeovers: takeoversIn(this.#holders.changes, began, until),
        manualSteps,
      };
      const result = { ...head, seconds: seconds(), measured, ...judge(scenario, measured) };
      this.#settled.set(result, { tenant: name, ledger: load.ledger });
      return result;
    } finally {
      await load.stop();
      this.#probe.attempts.length = 0;
    }
  }

  /** Looks at the events of every scenario once more: something may have been lost, or come twice, since then. */
  async lookAgain(results: readonly Result[]): Promise<Result[]> {
    const all: Result[] = [];
    for (const result of results) {
      const found = this.#settled.get(result);
      if (found === undefined) {
        all.push(result);
        continue;
      }
      const { tenant, ledger } = found;
      const late = await this.#client(tenant)
        .then((client) => this.#settle(client, ledger, tenant, againMs))
        .then(
          (settlement) => ({ ...settlement, wrong: [] }),
          (error: unknown) => ({
            ...nothing,
            wrong: [`at the end of the run it can't be settled: ${(error as Error).message}`],
          }),
        );
      all.push(afterwards(result, late));
    }
    return all;
  }

  async #client(tenant: string): Promise<Client> {
    const { jwtSecret, topology, config } = this.#options.context;
    const token = await mintToken({
      secret: jwtSecret,
      tenantId: tenant,
      scope: "events:write events:read",
      ttlSeconds: tokenSeconds,
      subject: "npm run chaos",
    });
    return { ...entry(topology, config), token };
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
      const times = await this.#atOnce(faults, parts);
      at ??= Math.min(...times);
    }
    const ended = Date.now();
    if (scenario.needs === "--daemon-restart") await this.#holders.start();
    return { at: at ?? ended, ended };
  }

  /** All of them at the same moment. Where one can't be had, the others are taken back before that is said. */
  async #atOnce(faults: readonly Fault[], parts: Parts): Promise<number[]> {
    const failures: Error[] = [];
    const left: string[] = [];
    const applied = faults.map((fault) =>
      this.#faults.apply(fault, parts).catch(async (error: unknown) => {
        failures.push(error as Error);
        left.push(...(await this.#faults.takeBack()));
        return NaN;
      }),
    );
    const times = await Promise.all(applied);
    const worst = failures.find((error) => !(error instanceof CannotBreak)) ?? failures[0];
    if (left.length > 0) throw new Error([worst?.message, ...new Set(left)].join("; "));
    if (worst !== undefined) throw worst;
    return times;
  }

  /** What was acknowledged, beside what the API shows and what each replica has. */
  async #settle(client: Client, ledger: Ledger, tenant: string, patienceMs = settleMs): Promise<Settlement> {
    const deadline = Date.now() + patienceMs;
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
