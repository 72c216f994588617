// Writes what a benchmark measured into docs/benchmarks.md, with the command, the date and the machine.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { format, resolveConfig } from "prettier";
import { root } from "../ops/workspace.ts";

const path = join(root, "docs/benchmarks.md");

/** The middle one; of an even number, the mean of the two. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const low = sorted[Math.ceil(middle) - 1];
  const high = sorted[Math.floor(middle)];
  if (low === undefined || high === undefined) throw new RangeError("the median of nothing");
  return (low + high) / 2;
}

/** A ratio and what was asked of it. */
export function verdict(
  ratio: number,
  asked: { readonly most: number } | { readonly least: number },
): string {
  const [ok, limit] =
    "most" in asked ? [ratio <= asked.most, `≤ ${asked.most}`] : [ratio >= asked.least, `≥ ${asked.least}`];
  return `${ratio.toFixed(2)} × (asked: ${limit} ×, ${ok ? "met" : "**missed**"})`;
}

function machine(): string {
  const [cpu] = cpus();
  const server = execFileSync("docker", ["version", "--format", "{{.Server.Version}}"], { encoding: "utf8" });
  return `${cpus().length} × ${cpu?.model.trim() ?? "unknown processor"}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Linux ${release()}, Docker ${server.trim()}, Node ${process.versions.node}`;
}

/** Puts a section into docs/benchmarks.md in place of the one before, and prints it. */
export async function report(name: string, title: string, text: string): Promise<void> {
  const marker = (part: string) => `<!-- ${name} ${part} -->`;
  const section = `${marker("begin")}

## ${title}

\`npm run bench -- ${name}\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}.

${text.trim()}

${marker("end")}`;
  const before = existsSync(path) ? readFileSync(path, "utf8") : "# Benchmarks\n";
  const from = before.indexOf(marker("begin"));
  const to = before.indexOf(marker("end"));
  const after =
    from === -1
      ? `${before}\n${section}\n`
      : before.slice(0, from) + section + before.slice(to + marker("end").length);
  writeFileSync(path, await format(after, { ...(await resolveConfig(path)), filepath: path }));
  process.stdout.write(`${section}\n`);
}
