// `npm run verify`: is everything there, healthy, and does an event get through?

import { Command } from "commander";
import { topologyOf } from "../components/config.ts";
import { runChecks } from "./checks.ts";
import { parse } from "./command.ts";
import { reachOf } from "./daemon.ts";
import { renderResults } from "./report.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, readSecret, stackConfig } from "./workspace.ts";

const program = new Command("verify")
  .description(
    "checks every replica, the quorums and one event's way through the VIP; exit code 1 if any check fails",
  )
  .option("-s, --stack <name>", "the stack", "local")
  .option("--json", "print the results as JSON", false)
  .action(async ({ stack: stackName, json }: { stack: string; json: boolean }) => {
    try {
      const config = stackConfig(stackName);
      const stack = await openStack(
        stackName,
        await ensurePulumi((line) => process.stderr.write(`${line}\n`), config.target),
      );
      const results = await runChecks({
        config,
        topology: topologyOf(config),
        reach: await reachOf(config, stack),
        jwtSecret: await readSecret(stack, "jwtSecret"),
        stack: stackName,
      });
      process.stdout.write(`${json ? JSON.stringify(results, null, 2) : renderResults(results)}\n`);
      if (results.some((result) => !result.ok)) process.exitCode = 1;
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = 1;
    }
  });
await parse(program);
process.exit();
