// What a Ctrl-C does to the engine and to the command, by real signals to real processes.

import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "siem-ha-interruption-"));
  // An engine that counts: it ends in order after the first signal if it is given the time, at once after the second.
  writeFileSync(
    join(folder, "pulumi"),
    `#!/usr/bin/env node
let signals = 0;
const timer = setTimeout(() => {}, 20000);
process.on("SIGINT", () => {
  console.log("signal " + ++signals);
  if (process.argv[3] === "orderly" || signals === 2) { clearTimeout(timer); setTimeout(() => process.exit(1), 700); }
});
console.log("engine");
`,
  );
  chmodSync(join(folder, "pulumi"), 0o755);
  writeFileSync(
    join(folder, "command.mts"),
    `import { apart, interrupted, listen } from ${JSON.stringify(join(import.meta.dirname, "../../ops/interruption.ts"))};
const [kind, manner] = process.argv.slice(2);
const print = (line) => console.log(line);
// As if it took something back.
const cleanUp = () => {
  print("cleans up");
  return new Promise((resolve) => setTimeout(() => (print("cleaned up"), resolve()), manner === "slowly" ? 15000 : 300));
};
listen(print, () => "it stands here", kind === "breaks" ? cleanUp : undefined);
if (kind === "nothing" || kind === "breaks") {
  print("engine");
  setTimeout(() => undefined, 20000);
} else {
  const command = apart({ command: ${JSON.stringify(join(folder, "pulumi"))} });
  try {
    await command.run([kind, manner], ".", {}, (text) => process.stdout.write(text));
  } catch (error) {
    const stop = await interrupted();
    print(stop === undefined ? String(error) : "stopped");
    process.exit(stop?.code ?? 1);
  }
}
`,
  );
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Signals a process, or a group (negative), that may have ended by now: the first signal can be all it needs. */
function signal(pid: number, name: NodeJS.Signals) {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Runs the command, and signals its whole group, as a terminal does, each time that it has said so much. */
function run(args: string[], signals: [after: string, signal: NodeJS.Signals][]) {
  return new Promise<{ code: number | null; said: string }>((resolve) => {
    const child = spawn(process.execPath, ["--import", "tsx", join(folder, "command.mts"), ...args], {
      detached: true,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    let sent = 0;
    child.stdout.on("data", (chunk: Buffer) => {
      said += chunk.toString();
      const next = signals[sent];
      if (next === undefined || !said.includes(next[0]) || child.pid === undefined) return;
      sent++;
      const { pid } = child;
      // Twice within a moment, as npm passes on what the terminal has sent already; a person's next one comes later.
      const beat = sent === 1 ? 0 : 600;
      setTimeout(() => signal(-pid, next[1]), beat);
      setTimeout(() => signal(pid, next[1]), beat + 20);
    });
    child.once("close", (code) => resolve({ code, said }));
  });
}

describe("a signal", () => {
  it("reaches the engine once however often it is delivered, and its end is waited for", async () => {
    const { code, said } = await run(["up", "orderly"], [["engine", "SIGINT"]]);
    expect(said).toContain("stopping: what is being made right now is finished");
    expect(said).toContain("signal 1");
    expect(said).not.toContain("signal 2");
    expect(said).toContain("stopped");
    expect(code).toBe(130);
  });

  it("that comes again stops the engine at once", async () => {
    const { code, said } = await run(
      ["up", "stubborn"],
      [
        ["engine", "SIGINT"],
        ["signal 1", "SIGINT"],
      ],
    );
    expect(said).toContain("stopping at once");
    expect(said).toContain("signal 2");
    expect(code).toBe(130);
  });

  it("ends a command at once when no engine is at work, and says where things stand", async () => {
    expect(await run(["nothing"], [["engine", "SIGINT"]])).toEqual({
      code: 130,
      said: "engine\nit stands here\n",
    });
  });

  it("lets a command take back what it has done before it ends", async () => {
    expect(await run(["breaks", "quickly"], [["engine", "SIGINT"]])).toEqual({
      code: 130,
      said: "engine\ncleans up\ncleaned up\nit stands here\n",
    });
  });

  it("that comes again does not wait for that", async () => {
    const signals: [string, NodeJS.Signals][] = [
      ["engine", "SIGINT"],
      ["cleans up", "SIGINT"],
    ];
    expect(await run(["breaks", "slowly"], signals)).toEqual({
      code: 130,
      said: "engine\ncleans up\nit stands here\n",
    });
  });

  it("has an exit code of its own for SIGTERM", async () => {
    expect((await run(["up", "orderly"], [["engine", "SIGTERM"]])).code).toBe(143);
  });
});
