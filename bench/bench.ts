// `npm run bench -- NAME`: measures one thing beside something comparable, and writes it into docs/benchmarks.md.

import { Command } from "commander";
import { parse, toItsEnd } from "../ops/command.ts";
import { benchEvents } from "./events.ts";
import { benchGrowth } from "./growth.ts";
import { benchIdle } from "./idle.ts";
import { benchLoop } from "./loop.ts";
import { benchUp } from "./up.ts";

const program = new Command("bench").description(
  "measures the stack beside something comparable, and writes it into docs/benchmarks.md",
);
const stack = ["-s, --stack <name>", "the stack"] as const;
program
  .command("up")
  .description("from nothing to healthy, beside plain docker; makes and removes the stack several times")
  .option(...stack, "test")
  .action(({ stack: name }: { stack: string }) => benchUp(name));
program
  .command("idle")
  .description("up and preview with nothing to do, beside a bare program")
  .option(...stack, "local")
  .action(({ stack: name }: { stack: string }) => benchIdle(name));
program
  .command("growth")
  .description(
    "up and preview with nothing to do, of 9 and of 90 nodes on recording plugins, beside bare programs",
  )
  .action(() => benchGrowth());
program
  .command("events")
  .description("throughput, delay and memory of the running stack, beside a plain Kafka producer")
  .option(...stack, "local")
  .action(({ stack: name }: { stack: string }) => benchEvents(name));
program
  .command("loop")
  .description("how long one request holds the event loop of an ingestor or API; needs no stack")
  .action(() => benchLoop());
await toItsEnd(() => parse(program));
