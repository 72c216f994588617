// How check results look to a person.

import Table from "cli-table3";
import { type CheckResult } from "./checks.ts";

/** A table of check results, failures marked. */
export function renderResults(results: readonly CheckResult[]): string {
  const table = new Table({
    head: ["check", "target", "", "detail"],
    style: { head: [], border: [], compact: true },
  });
  for (const { check, target, ok, detail } of results)
    table.push([check, target, ok ? "ok" : "FAILED", detail]);
  return table.toString();
}
