// Writes what a benchmark measured into docs/benchmarks.md, with the command, the date and the machine.

import { machine, putSection } from "../ops/section.ts";

const file = "docs/benchmarks.md";

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

/** Puts a section into docs/benchmarks.md in place of the one before, and prints it. */
export async function report(name: string, title: string, text: string): Promise<void> {
  const section = `## ${title}

\`npm run bench -- ${name}\` on ${new Date().toISOString().slice(0, 10)}, ${machine()}.

${text.trim()}`;
  await putSection(file, name, section, "# Benchmarks\n");
  process.stdout.write(`${section}\n`);
}
