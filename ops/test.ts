// `npm test`: types, lint, format, unit and integration tests, and one closing line that counts them all.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { ensureCheckers } from "./checkers.ts";
import { ensureDaemon, ensureDocker, ensurePulumi } from "./toolchain.ts";
import { root, stackConfig } from "./workspace.ts";
import { buildImage } from "../images/build.ts";
import { ownImages } from "../components/images.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);
const given = process.argv.slice(2);
if (given.length > 0) {
  print(
    `npm test takes no arguments, but got "${given.join(" ")}". Single files: npx vitest run --project unit FILE`,
  );
  process.exit(1);
}
const total = { passed: 0, failed: 0, skipped: 0 };

function run(title: string, command: string, args: readonly string[]): boolean {
  const began = Date.now();
  print(`\n── ${title}`);
  const ok = spawnSync(command, args, { cwd: root, stdio: "inherit" }).status === 0;
  print(`── ${title}: ${ok ? "ok" : "FAILED"} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  return ok;
}

function check(title: string, ...args: string[]): void {
  if (run(title, "npx", ["--no-install", ...args])) total.passed++;
  else total.failed++;
}

interface VitestReport {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numTotalTests: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    /** Why a file could not be run. */
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

/** Failed and skipped ones by name, for the end: what a log shows last is what people read. */
const notPassed: string[] = [];

function list(project: string, { testResults }: VitestReport): void {
  for (const { name: file, status: whole, message, assertionResults } of testResults) {
    const path = relative(root, file);
    for (const { fullName, status, failureMessages } of assertionResults) {
      if (status === "passed") continue;
      const why = failureMessages?.[0]?.split("\n").slice(0, 6).join("\n    ");
      notPassed.push(
        `${status === "failed" ? "failed" : "skipped"}: ${path} (${project}): ${fullName}${why === undefined ? "" : `\n    ${why}`}`,
      );
    }
    // A file that can't be loaded, or what must be done before its tests.
    if (whole === "failed" && assertionResults.every((one) => one.status !== "failed"))
      notPassed.push(
        `failed: ${path} (${project}): ${message || "what it does before its tests failed, see above"}`,
      );
  }
}

function vitest(project: string): void {
  const directory = mkdtempSync(join(tmpdir(), "siem-ha-report-"));
  const file = join(directory, "report.json");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${file}`];
  const ok = run(`${project} tests`, "npx", [
    "--no-install",
    "vitest",
    "run",
    "--project",
    project,
    ...reporters,
  ]);
  try {
    const report = JSON.parse(readFileSync(file, "utf8")) as VitestReport;
    list(project, report);
    total.passed += report.numPassedTests;
    total.failed += report.numFailedTests;
    total.skipped += report.numTotalTests - report.numPassedTests - report.numFailedTests;
    // A file that can't be loaded has no tests to count, but has failed.
    if (!ok && report.numFailedTests === 0) total.failed++;
  } catch {
    total.failed++;
  }
  rmSync(directory, { recursive: true });
}

check("types", "tsc", "--noEmit");
check("lint", "eslint", ".", "--max-warnings", "0");
check("format", "prettier", "--check", "--log-level", "warn", ".");
print("\n── toolchain");
let docker = true;
try {
  await ensureDaemon(print, stackConfig("test").local.dockerHost);
} catch (error) {
  docker = false;
  const reason = (error as Error).message;
  // The tests that need Docker skip with this as their reason.
  process.env["SIEM_HA_NO_DOCKER"] = reason;
  print(`tests that need Docker are skipped: ${reason}`);
  if (process.env["CI"] === "true") {
    print("on CI that is a failure");
    total.failed++;
  }
}
try {
  await ensureCheckers(print);
  await ensurePulumi(print);
  if (docker) {
    await ensureDocker(print, stackConfig("test").local.dockerHost);
    for (const name of ownImages) buildImage(name, print);
  }
} catch (error) {
  print(`FAILED: ${(error as Error).message}`);
  total.failed++;
}
vitest("unit");
vitest("engine");
vitest("integration");
if (notPassed.length > 0) print(`\n${notPassed.join("\n")}`);
print(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exit(total.failed === 0 ? 0 : 1);
