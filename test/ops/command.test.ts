// What npm keeps of a command line, and what is asked before something is destroyed.

import { spawnSync } from "node:child_process";
import { Command } from "commander";
import { describe, expect, it } from "vitest";
import { keptByNpm } from "../../ops/command.ts";
import { root } from "../../ops/workspace.ts";

const program = new Command("down")
  .option("-s, --stack <name>", "", "local")
  .option("--keep-data", "", false)
  .option("--json", "", false)
  .option("-y, --yes", "", false);
program.command("token").option("--scope <scopes>", "");

/** As npm 10 and 11 hand it on. */
const kept = (words: string[], settings: Record<string, string>) =>
  keptByNpm(program, words, { npm_lifecycle_event: "down", npm_config_yes: "", ...settings });

describe("a flag that npm kept", () => {
  it.each([
    [[], { npm_config_stack: "x" }, "npm run down -- --stack x"],
    // Without "=" npm takes the name for a word of its own.
    [["x"], { npm_config_stack: "true" }, "npm run down -- --stack <name>"],
    [[], { npm_config_keep_data: "true" }, "npm run down -- --keep-data"],
    [["-s", "x"], { npm_config_json: "true" }, "npm run down -- --json"],
    [["dev"], { npm_config_loglevel: "silent" }, "npm run down -- -s dev"],
  ])("is refused: %j with %j", (words, settings, expected) => {
    const said = kept(words, settings);
    expect(said).toContain("Nothing was touched");
    expect(said).toMatch(new RegExp(`${expected}$`));
  });

  it.each([
    [["--stack", "y"], { npm_config_stack: "x" }],
    [["--stack=y"], { npm_config_stack: "x" }],
    // Settings of npm's, which many have in a file or in the environment. --yes is then asked for by the question.
    [[], { npm_config_yes: "true" }],
    [[], { npm_config_scope: "@team" }],
    [["dev", "-s", "x"], { npm_config_loglevel: "silent" }],
    [["no-stack"], { npm_config_loglevel: "silent" }],
    [[], { npm_config_noproxy: "", npm_config_all: "true" }],
  ])("is nothing that our commands know: %j with %j", (words, settings) => {
    expect(kept(words, settings)).toBeUndefined();
  });

  it("is only looked for below npm", () => {
    expect(keptByNpm(program, [], { npm_config_stack: "x" })).toBeUndefined();
  });

  it.each([["--stack=x"], ["--keep-data"]])("is noticed by the command itself: npm run down %s", (flag) => {
    const { status, stderr } = spawnSync("npm", ["run", "down", flag], { cwd: root, encoding: "utf8" });
    expect(stderr).toContain(`npm kept ${flag.split("=")[0]} for itself`);
    expect(status).toBe(1);
  });
});
