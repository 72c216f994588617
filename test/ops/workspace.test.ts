// What must hold for a stack's files and program, whatever breaks while they are used.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { mendState, sweep } from "../../ops/workspace.ts";

const made: string[] = [];
function directory(): string {
  const path = mkdtempSync(join(tmpdir(), "siem-ha-workspace-"));
  made.push(path);
  return path;
}
afterAll(() => {
  for (const path of made) rmSync(path, { recursive: true });
});

const past = new Date(Date.now() - 60_000);
function put(path: string, text: string, when = past): void {
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, text);
  utimesSync(path, when, when);
}

describe("mendState", () => {
  const stateOf = (path: string) => join(path, ".pulumi/stacks/siem-ha/local.json");

  it("leaves a whole state alone", () => {
    const path = directory();
    put(stateOf(path), '{"whole":1}');
    put(`${stateOf(path)}.bak`, '{"older":1}');
    expect(mendState("local", path)).toBe(false);
    expect(readFileSync(stateOf(path), "utf8")).toBe('{"whole":1}');
  });

  it("takes the version before an empty one, as a full disk leaves it", () => {
    const path = directory();
    put(stateOf(path), "");
    put(`${stateOf(path)}.bak`, '{"older":1}');
    expect(mendState("local", path)).toBe(true);
    expect(readFileSync(stateOf(path), "utf8")).toBe('{"older":1}');
  });

  it("takes the newest whole backup where that is broken too", () => {
    const path = directory();
    put(stateOf(path), '{"half":');
    put(`${stateOf(path)}.bak`, "");
    for (const [time, text] of Object.entries({ 17: '{"n":17}', 18: '{"n":18}', 19: "" })) {
      put(join(path, ".pulumi/backups/siem-ha/local", `local.${time}.json`), text);
    }
    expect(mendState("local", path)).toBe(true);
    expect(readFileSync(stateOf(path), "utf8")).toBe('{"n":18}');
  });

  it("says so when there is nothing to mend it with", () => {
    const path = directory();
    put(stateOf(path), "");
    expect(() => mendState("local", path)).toThrow(
      /state of the stack local is broken .*Nothing was touched/,
    );
    expect(readFileSync(stateOf(path), "utf8")).toBe("");
  });
});

describe("sweep", () => {
  it("removes what nobody will finish writing, and nothing else", () => {
    const path = directory();
    const locks = join(path, ".pulumi/locks/organization/siem-ha/local");
    const stacks = join(path, ".pulumi/stacks/siem-ha");
    put(join(locks, "a.json"), '{"pid":1}');
    put(join(locks, "a.json.attrs"), '{"user.cache_control":""}');
    put(join(locks, "b.json.18ea.tmp"), "");
    put(join(locks, "c.json"), "{");
    put(join(locks, "d.json.18eb.tmp"), "", new Date());
    put(join(stacks, "local.json"), "{}");
    put(join(stacks, "local.json.attrs"), "");
    put(join(stacks, "other.json.attrs"), "");
    put(join(path, ".pulumi/meta.yaml"), "version: 1");
    put(join(path, ".pulumi/meta.yaml.attrs"), "");
    put(join(stacks, "local.json.18ea.tmp"), "{");
    put(join(stacks, "other.json.18ea.tmp"), "{");
    expect(sweep("local", path)).toBe(1);
    expect(readdirSync(locks).sort()).toEqual(["a.json", "a.json.attrs", "d.json.18eb.tmp"]);
    expect(readdirSync(stacks).sort()).toEqual(["local.json", "other.json.18ea.tmp", "other.json.attrs"]);
    expect(readdirSync(join(path, ".pulumi")).sort()).toEqual(["locks", "meta.yaml", "stacks"]);
    expect(existsSync(join(path, ".pulumi/locks"))).toBe(true);
  });
});

describe("a program whose connection to the engine breaks half-way", () => {
  function deploy(path: string, where: string) {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      ["--import", "tsx", join(import.meta.dirname, "broken-connection.ts"), path, where],
      { encoding: "utf8", timeout: 50_000 },
    );
    expect(status, stderr).toBe(0);
    return { stderr, ...(JSON.parse(stdout) as { failed: boolean; errors: string[]; parts: string[] }) };
  }
  const all = ["broken-broken", "first", "second", "third"];

  it("fails and deletes nothing when the program throws it", async () => {
    await ensurePulumiCli(() => undefined);
    const path = directory();
    expect(deploy(path, "nowhere").parts.sort()).toEqual(all);
    const { failed, errors, parts } = deploy(path, "program");
    expect(failed).toBe(true);
    expect(errors.join()).toContain("the connection to Pulumi's engine broke");
    expect(parts.sort()).toEqual(all);
  });

  it("ends and deletes nothing when a resource meets it", async () => {
    await ensurePulumiCli(() => undefined);
    const path = directory();
    expect(deploy(path, "nowhere").parts.sort()).toEqual(all);
    const { failed, stderr, parts } = deploy(path, "part");
    expect(failed).toBe(true);
    expect(stderr).toContain("the connection to Pulumi's engine broke");
    expect(parts.sort()).toEqual(all);
  });
});
