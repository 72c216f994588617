// `npm run chaos`: breaks a running stack in every way it promises to survive, and says what it cost.

import { writeFileSync } from "node:fs";
import { Command } from "commander";
import { labelOf, topologyOf } from "../../components/config.ts";
import { buildImage } from "../../images/build.ts";
import { alone, parse } from "../command.ts";
import { connect, reachOf } from "../daemon.ts";
import { entry } from "../entry.ts";
import { machine, putSection } from "../section.ts";
import { ensureDaemon, ensurePulumi } from "../toolchain.ts";
import { openStack, readSecret, stackConfig } from "../workspace.ts";
import { Harness } from "./harness.ts";
import {
  beginning,
  type Circumstances,
  renderLine,
  renderMarkdown,
  renderTable,
  renderTotals,
} from "./report.ts";
import { chosen, type Options, permit, seedOf, whole } from "./request.ts";
import { type Scenario, scenariosOf, vrrpLimit } from "./scenarios.ts";
import { exitCodeOf, type Result } from "./verdict.ts";

interface CommandOptions extends Options {
  readonly strict: boolean;
  readonly busy?: string;
  readonly json?: string;
  readonly markdown?: string;
}

/** Busy containers end by themselves after so long for each scenario. */
const longestScenarioSeconds = 600;

const print = (line: string) => process.stdout.write(`${line}\n`);
let results: Result[] = [];
let harness: Harness | undefined;

function listed(scenarios: readonly Scenario[]): string {
  const width = Math.max(...scenarios.map(({ name }) => name.length));
  return scenarios
    .map(
      ({ name, breaks, heals, fast }) =>
        `${name.padEnd(width)}  ${breaks}; heals ${heals}${fast === true ? " (fast)" : ""}`,
    )
    .join("\n");
}

/** The command as a person would type it again. */
function commandLine(names: readonly string[], options: CommandOptions, seed: number): string {
  const { stack, all, fast, pairs, rounds, busy, strict, daemonRestart, breakStack, markdown } = options;
  const words = [
    ...(stack === "local" ? [] : ["-s", stack]),
    ...names,
    ...(all ? ["--all"] : []),
    ...(fast ? ["--fast"] : []),
    ...(pairs ? ["--pairs"] : []),
    ...(rounds === undefined ? [] : ["--rounds", rounds, "--seed", String(seed)]),
    ...(busy === undefined ? [] : ["--busy", busy]),
    ...(strict ? ["--strict"] : []),
    ...(daemonRestart ? ["--daemon-restart"] : []),
    ...(breakStack === undefined ? [] : ["--break-stack", breakStack]),
    ...(markdown === undefined ? [] : ["--markdown", markdown]),
  ];
  return `npm run chaos -- ${words.join(" ")}`;
}

/** What was broken and could not be taken back after a Ctrl-C: why, and what to do by hand. */
let failures: readonly string[] = [];

function whereItStands(stack: string, scenarios: number): string {
  const left = failures.length > 0 ? failures : (harness?.byHand ?? []);
  const interrupted = `Interrupted after ${results.length} of ${scenarios} scenarios.`;
  const then = `npm run verify -- -s ${stack} shows when all is well again.`;
  return left.length === 0
    ? `${interrupted} What was broken is taken back; ${then}`
    : [
        `${interrupted} NOT everything is taken back. By hand:`,
        ...left.map((line) => `  ${line}`),
        `Then ${then}`,
      ].join("\n");
}

async function chaos(order: readonly Scenario[], names: readonly string[], options: CommandOptions) {
  const stackName = options.stack;
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const label = labelOf(config, stackName);
  const { dockerHost } = config.local;
  if (!entry(topology, config).throughVip) {
    throw new Error(
      "chaos watches the nodes' own addresses, which can be reached only where Docker runs on this very Linux machine. Nothing was touched.",
    );
  }
  await ensureDaemon(print, dockerHost, { start: false });
  const stack = await openStack(stackName, await ensurePulumi(print, config.target));
  const tools = { docker: connect(dockerHost), dockerHost, label, image: buildImage("chaos", print) };
  harness = new Harness({
    context: {
      config,
      topology,
      reach: await reachOf(config, stack),
      jwtSecret: await readSecret(stack, "jwtSecret"),
      stack: stackName,
    },
    tools,
    log: print,
    ...(options.busy === undefined
      ? {}
      : {
          busy: {
            containers: whole("busy", options.busy, 1),
            seconds: (order.length + 1) * longestScenarioSeconds,
          },
        }),
  });
  const seed = seedOf(options);
  const began = Date.now();
  const about: Circumstances = {
    command: commandLine(names, options, seed),
    date: new Date().toISOString().slice(0, 16).replace("T", " ") + " UTC",
    machine: machine(),
    stack: stackName,
    seed,
    vrrpLimitMs: vrrpLimit(topology),
  };
  const save = () => {
    if (options.json !== undefined)
      writeFileSync(options.json, JSON.stringify({ ...about, results }, null, 2));
  };
  let failure: Error | undefined;
  try {
    await harness.start();
    let well = true;
    for (const [index, scenario] of order.entries()) {
      print(`${index + 1}/${order.length} ${scenario.name}: ${scenario.breaks}`);
      let result: Result;
      try {
        result = await harness.run(scenario);
      } catch (error) {
        // What was measured before it is told all the same; the run has failed.
        if (results.length === 0) throw error;
        failure = error as Error;
        break;
      }
      results.push(result);
      print(`  ${renderLine(result, about.vrrpLimitMs)}`);
      save();
      if (result.measured !== undefined && result.measured.healthySeconds === undefined) {
        print(
          "the stack is not well, so nothing else is broken now, and its events are not counted once more",
        );
        well = false;
        break;
      }
    }
    if (well && failure === undefined) {
      print("counting the events of every scenario once more …");
      results = await harness.lookAgain(results);
      save();
    }
  } finally {
    for (const line of await harness.undo()) print(`NOT taken back: ${line}`);
    await harness.stop();
  }
  print(renderTable(results, about.vrrpLimitMs));
  print(renderTotals(results, about.vrrpLimitMs));
  print(`${Math.round((Date.now() - began) / 1000)} s, seed ${seed}`);
  if (options.markdown !== undefined) {
    const count = results.length < order.length ? `${results.length} of ${order.length}` : `${order.length}`;
    const [name, title] =
      options.rounds === undefined
        ? ["chaos-all", results.length < order.length ? `Each one once: ${count}` : "Each one once"]
        : options.pairs
          ? ["chaos-pairs", `${count} rounds of two faults at once`]
          : ["chaos-rounds", `${count} shuffled rounds`];
    await putSection(options.markdown, name, renderMarkdown(title, results, about), beginning);
  }
  if (failure !== undefined) throw failure;
  process.exitCode = exitCodeOf(results, options.strict);
}

const program = new Command("chaos")
  .description(
    "breaks a running stack under load and checks that nothing is lost; exit code 1 if the contract is broken. Its events stay in tenants chaos-…",
  )
  .argument("[names...]", "scenarios; a+b breaks two at once")
  .option("-s, --stack <name>", "the stack", "local")
  .option("--list", "show the scenarios and do nothing", false)
  .option("--all", "each one once", false)
  .option("--fast", "a few that take a minute", false)
  .option("--rounds <n>", "so many in a shuffled order, of the named ones or of all")
  .option("--seed <n>", "repeat the order of another run")
  .option("--pairs", "in rounds: two at once that break different things", false)
  .option("--busy <n>", "so many busy containers beside the stack all the while")
  .option("--strict", "a missed time limit fails too", false)
  .option("--daemon-restart", "allow the scenario that restarts the Docker daemon", false)
  .option("--break-stack <name>", "allow it on another stack than local: its name again")
  .option("--json <file>", "write the results as JSON")
  .option("--markdown <file>", "write them into a document, such as docs/failover.md")
  .action(async (names: string[], options: CommandOptions) => {
    let order: Scenario[];
    try {
      const config = stackConfig(options.stack);
      const known = scenariosOf(topologyOf(config));
      if (options.list) {
        print(listed(known));
        return;
      }
      permit(options, config);
      if (options.busy !== undefined) whole("busy", options.busy, 1);
      order = chosen(names, options, known);
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = 1;
      return;
    }
    await alone({
      name: "npm run chaos",
      stack: options.stack,
      whereItStands: () => whereItStands(options.stack, order.length),
      cleanUp: async () => {
        failures = (await harness?.undo()) ?? [];
        await harness?.stop();
      },
      run: () => chaos(order, names, options),
    });
  });
await parse(program);
// The engine's connections would keep the process alive.
process.exit();
