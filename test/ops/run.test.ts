// The first step of every command on a clone whose dependencies are not there, or not its own.

import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { root } from "../../ops/workspace.ts";

let directory = "";
/** A clone of nothing but the first step, and an `npm` that only says what it was asked for. */
let clone = "";
beforeEach(() => {
  // As Node names its main module: without links on the way.
  directory = realpathSync(mkdtempSync(join(tmpdir(), "siem-ha-run-")));
  clone = join(directory, "clone");
  for (const made of ["bin", "clone/ops", "theirs"]) mkdirSync(join(directory, made), { recursive: true });
  copyFileSync(join(root, "ops/run.mjs"), join(clone, "ops/run.mjs"));
  writeFileSync(join(clone, "package-lock.json"), "{}");
  writeFileSync(join(directory, "bin/npm"), `#!/bin/sh\necho "npm $1"\nexit 3\n`);
  chmodSync(join(directory, "bin/npm"), 0o755);
});
afterEach(() => rmSync(directory, { recursive: true }));

function run(): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(clone, "ops/run.mjs"), "ops/verify.ts"], {
    encoding: "utf8",
    env: { ...process.env, PATH: `${join(directory, "bin")}:${process.env["PATH"] ?? ""}` },
  });
}

describe("the first step of a command", () => {
  it("installs the dependencies of a fresh clone, and ends as npm did when that failed", () => {
    const { status, stdout, stderr } = run();
    expect(stdout).toContain("npm ci\n");
    expect(status).toBe(3);
    expect(stderr).toContain("npm ci failed");
  });

  it.each([
    ["with other dependencies", "theirs"],
    ["that leads nowhere", "gone"],
  ])("does not install through a link %s", (_what, name) => {
    const theirs = join(directory, name);
    symlinkSync(theirs, join(clone, "node_modules"));
    const { status, stdout, stderr } = run();
    expect(stderr).toContain(
      `node_modules is a symbolic link to ${theirs}: npm ci would empty that directory`,
    );
    expect(stderr).toContain(`rm ${join(clone, "node_modules")}`);
    expect(stdout).not.toContain("npm");
    expect(status).toBe(1);
    expect(existsSync(join(clone, "node_modules"))).toBe(name === "theirs");
  });

  it("uses linked dependencies that are those of the lock file", () => {
    symlinkSync(join(directory, "theirs"), join(clone, "node_modules"));
    writeFileSync(join(directory, "theirs/.package-lock.json"), "{}");
    const { stdout, stderr } = run();
    expect(stdout).not.toContain("npm");
    // It went on to what it needs first of them.
    expect(stderr).toContain("tsx");
    expect(stderr).not.toContain("symbolic link");
  });
});
